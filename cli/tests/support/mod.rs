//! Runs `critic` in a folder of its own, with a cache of its own.
#![allow(dead_code, reason = "each test file uses a part of this")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A folder to work in, which vanishes; its cache is a folder inside.
pub struct Place(tempfile::TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a file is written");
    }

    /// Every file below the folder, sorted.
    pub fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, root: &Path, out: &mut Vec<String>) {
            for entry in fs::read_dir(folder).expect("the folder is read").flatten() {
                match entry.path() {
                    path if path.is_dir() => walk(&path, root, out),
                    path => out.push(path.strip_prefix(root).expect("below").to_string_lossy().replace('\\', "/")),
                }
            }
        }
        let mut files = Vec::new();
        walk(self.0.path(), self.0.path(), &mut files);
        files.sort();
        files
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.run_with_input(args, b"")
    }

    pub fn run_with_input(&self, args: &[&str], input: &[u8]) -> Output {
        Output::of(self.command(args).write_stdin(input).output().expect("critic runs"))
    }

    pub fn run_with_environment(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        Output::of(self.command(args).envs(environment.iter().copied()).output().expect("critic runs"))
    }

    /// A run that takes at most seconds; one that hangs fails.
    fn command(&self, args: &[&str]) -> assert_cmd::Command {
        let mut command = assert_cmd::Command::from_std(critic(self));
        command.args(args).timeout(Duration::from_secs(600));
        command
    }
}

/// The program, in `place`, without what the environment would add.
pub fn critic(place: &Place) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("critic"));
    command.current_dir(place.0.path()).env("CRITIC_HOME", place.path("cache"));
    // Whoever runs the tests may have a token or a proxy; no test may use them.
    for name in ["HF_TOKEN", "HF_ENDPOINT", "CRITIC_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

/// What a run said.
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn of(output: std::process::Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// The exit code, a word of the message, and nothing of a panic.
    #[track_caller]
    pub fn check(&self, code: i32, named: &str) {
        let Self { stderr, .. } = self;
        assert_eq!(self.code, Some(code), "{stderr}");
        assert!(stderr.contains(named), "{named:?} is not in {stderr:?}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        if code == 1 {
            assert!(stderr.lines().count() <= 3 && stderr.contains("error: "), "{stderr}");
        }
    }
}

/// A small model of the repository, as a Hugging Face folder.
pub fn tiny_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/hf/llama-gqa-tied")
}

/// The same as a model file `tiny.critic` in `place`.
pub fn tiny(place: &Place) -> PathBuf {
    let out = place.path("tiny.critic");
    place.run(&["convert", &tiny_folder().to_string_lossy(), "-o", &out.to_string_lossy()]).check(0, "");
    out
}

/// A small model with room for a real conversation, in `place`.
pub fn roomy(place: &Place) {
    let bytes = critic_tests::small_bytes_with_context("qwen2-bias", critic_import::Quant::Keep, 8192);
    place.write("roomy.critic", &bytes);
}

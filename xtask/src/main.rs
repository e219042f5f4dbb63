//! `cargo xtask TASK`: what a contributor or CI runs.

mod arm;
mod check;
mod cinstall;
mod peers;
mod python;
mod wgpu;

use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask check          everything that CI checks, cheapest first
cargo xtask arm            the runtime's tests for AArch64, under qemu
cargo xtask bench-peers    this program and llama.cpp on the same file, alternately
                           [--repeat N] [--threads T] [--part speed|growth|cases|free|accuracy] [--out FILE.md]
                           [--svg FILE.svg] [--no-build]
cargo xtask check-export   llama.cpp loads what `critic export` wrote, and writes the same text
cargo xtask check-cinstall libcritic installed by cargo-c, which is built first (minutes)
cargo xtask check-peft     PEFT loads adapters that were trained here, and computes the same (fetches PyTorch)
cargo xtask check-wgpu     ten training steps on the CPU and on WebGPU agree (builds burn anew: many minutes)
cargo xtask bench-step     one training step here and in PyTorch, alternately [--repeat N]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.first().map(String::as_str) {
        Some("check") => check::all(),
        Some("arm") => arm::run(),
        Some("check-cinstall") => cinstall::check(),
        Some("check-peft") => python::check_peft(),
        Some("check-wgpu") => wgpu::check(),
        Some("bench-step") => python::bench_step(&arguments[1..]),
        Some("check-export") => peers::export(),
        Some("bench-peers") => peers::run(&arguments[1..]),
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command, shown first, and fails where it fails.
fn run(command: &mut Command) -> Result<(), String> {
    let words: Vec<_> = std::iter::once(command.get_program()).chain(command.get_args()).collect();
    let shown = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    eprintln!("\n$ {shown}");
    let status = command.status().map_err(|error| format!("{shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown}: {status}")) }
}

/// A cargo command.
fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

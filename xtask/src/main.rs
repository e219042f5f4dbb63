//! `cargo xtask TASK`: what a contributor or CI runs.

mod arm;
mod check;
mod cinstall;
mod peers;
mod python;
mod wgpu;

use std::process::{Command, ExitCode};

use clap::Parser;

/// What a contributor or CI runs.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Everything that CI checks, cheapest first
    Check,
    /// The runtime's tests for AArch64, under qemu
    Arm,
    /// This program and llama.cpp on the same file, alternately
    BenchPeers(peers::Options),
    /// llama.cpp loads what `critic export` wrote, and writes the same text
    CheckExport,
    /// libcritic installed by cargo-c, which is built first (minutes)
    CheckCinstall,
    /// PEFT loads adapters that were trained here, and computes the same (fetches PyTorch)
    CheckPeft,
    /// Ten training steps on the CPU and on WebGPU agree (builds burn anew: many minutes)
    CheckWgpu,
    /// One training step here and in PyTorch, alternately
    BenchStep {
        /// Rounds, whose medians are given
        #[arg(long, default_value_t = 3, value_name = "N")]
        repeat: usize,
    },
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Check => check::all(),
        Task::Arm => arm::run(),
        Task::BenchPeers(options) => peers::run(&options),
        Task::CheckExport => peers::export(),
        Task::CheckCinstall => cinstall::check(),
        Task::CheckPeft => python::check_peft(),
        Task::CheckWgpu => wgpu::check(),
        Task::BenchStep { repeat } => python::bench_step(repeat),
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

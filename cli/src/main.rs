//! `critic`: the command line. A thin front-end: it reads arguments and text, calls the
//! runtime and the importer, and prints what they say.
//!
//! Standard output is the answer alone; progress and diagnostics go to standard error.
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 findings (`--fail-on`), 130 interrupted.

mod args;
mod commands;
mod failure;
mod interrupt;
mod model;
mod output;
mod progress;
mod report;
mod text;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::install();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Critique(args) => commands::critique::run(&args),
        Command::Refine(args) => commands::refine::run(&args),
        Command::Improve(args) => commands::improve::run(&args),
        Command::Demo(args) => commands::demo::run(&args),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Info(args) => commands::info::run(&args),
        Command::Pull(args) => commands::pull::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Tokenize(args) => commands::tokenize::run(&args),
        Command::Score(args) => commands::score::run(&args),
        Command::Logits(args) => commands::logits::run(&args),
        Command::Kl(args) => commands::kl::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Lsp(args) => commands::lsp::run(&args),
    }
}

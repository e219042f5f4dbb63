//! `critic-train`: the command line. Results that a program reads are files; what a person reads goes to
//! standard error, and to standard output the one line that says where the result is.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by a signal.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("critic-train: {error}");
            ExitCode::FAILURE
        }
    }
}

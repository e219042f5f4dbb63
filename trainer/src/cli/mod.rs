//! Subcommands: arguments to options, and what a person sees meanwhile.

mod authors;
mod collect;
mod devices;
mod eval;
mod export;
mod progress;
mod recipe;
mod signal;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use critic_trainer::{Error, Result};

/// Trains critics: a critique is worth what its refinement gains.
#[derive(Debug, Parser)]
#[command(name = "critic-train", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes problems of a task.
    Problems(collect::ProblemsArgs),
    /// Collects critiques and what they are worth; begun again with the same options, it goes on where it was.
    Collect(Box<collect::CollectArgs>),
    /// Trains a critic on scored critiques; begun again with the same options, it goes on where it was.
    Train(Box<train::TrainArgs>),
    /// Goes on with a run as it was begun.
    Resume(train::ResumeArgs),
    /// Compares critics on held-out problems.
    Eval(Box<eval::EvalArgs>),
    /// Runs all steps of a recipe, from nothing to a table.
    Run(recipe::RecipeArgs),
    /// Writes what a run trained as a model file, an adapter file, or GGUF.
    Export(export::ExportArgs),
    /// Writes a run's report.html, as far as the run has come.
    Report(ReportArgs),
    /// Lists the devices that this program can train on here.
    Devices,
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// Run directory.
    run: PathBuf,
}

/// Runs one subcommand.
pub fn run(cli: Cli) -> Result<ExitCode> {
    match subcommand(cli.command) {
        Err(Error::Cancelled) => {
            eprintln!("stopped; the same command goes on from here");
            Ok(ExitCode::from(signal::INTERRUPTED))
        }
        ended => ended,
    }
}

fn subcommand(command: Command) -> Result<ExitCode> {
    match command {
        Command::Problems(args) => collect::problems(&args),
        Command::Collect(args) => collect::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Run(args) => recipe::run(&args),
        Command::Train(args) => train::train(&args),
        Command::Resume(args) => train::resume(args),
        Command::Export(args) => export::run(&args),
        Command::Report(args) => {
            critic_trainer::report::write_report(&args.run)?;
            println!("{}", args.run.join("report.html").display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Devices => {
            devices::list();
            Ok(ExitCode::SUCCESS)
        }
    }
}

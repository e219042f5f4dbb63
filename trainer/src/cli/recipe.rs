//! `critic-train run`

use std::ops::ControlFlow::Continue;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use critic_trainer::Result;
use critic_trainer::recipe::{Event, Recipe, run as run_recipe};

use super::progress::{Phase, duration};
use super::signal;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// A recipe, TOML, or the name of a built-in one: tiny.
    recipe: PathBuf,
    /// Folder of the run; one that was begun is gone on with.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seeds, in place of the recipe's.
    #[arg(long, value_delimiter = ',')]
    seeds: Option<Vec<u64>>,
    /// Where tensors are computed, in place of the recipe's.
    #[arg(long)]
    device: Option<String>,
}

/// `critic-train run`
pub fn run(args: &RecipeArgs) -> Result<ExitCode> {
    let stop = signal::install();
    let mut recipe = Recipe::load(&args.recipe)?;
    if let Some(seeds) = &args.seeds {
        recipe.seeds.clone_from(seeds);
    }
    if let Some(device) = &args.device {
        recipe.device.clone_from(device);
    }
    let mut phase: Option<Phase> = None;
    let mut label = String::new();
    let outcome = run_recipe(&recipe, &args.out, stop, &mut |event| {
        match event {
            Event::Begin { seed, step } => {
                label = format!("seed {seed}: {step}");
                phase = None;
            }
            Event::Progress { done, total, note } => {
                phase
                    .get_or_insert_with(|| Phase::new(label.as_str(), "", done.saturating_sub(1), total))
                    .set(done, note);
            }
            Event::End { seed, step, seconds } => {
                phase = None;
                match seconds {
                    Some(seconds) => eprintln!("seed {seed}: {step} done in {}", duration(seconds)),
                    None => eprintln!("seed {seed}: {step} was done before"),
                }
            }
        }
        Continue(())
    });
    drop(phase);
    outcome?;
    println!("{}", args.out.display());
    Ok(ExitCode::SUCCESS)
}

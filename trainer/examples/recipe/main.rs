//! Runs a recipe: `cargo run -p critic-trainer --example recipe -- RECIPE.toml FOLDER`.

use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use critic_trainer::recipe::{Event, Recipe, run};

fn main() -> critic_trainer::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let recipe = Recipe::load(Path::new(&arguments[1]))?;
    let mut last = 0;
    run(&recipe, Path::new(&arguments[2]), &AtomicBool::new(false), &mut |event| {
        match event {
            Event::Begin { seed, step } => eprintln!("seed {seed}: {step}"),
            Event::Progress { done, total, note } => {
                let tenth = done * 10 / total.max(1);
                if tenth != last {
                    eprintln!("  {done}/{total} {note}");
                }
                last = tenth;
            }
            Event::End { seed, step, seconds } => eprintln!("seed {seed}: {step} done {seconds:?}"),
        }
        Continue(())
    })
}

//! A whole recipe on the smallest scale: every step, again, and anew where something changed.

use std::collections::BTreeMap;
use std::ops::ControlFlow::{Break, Continue};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use critic_trainer::Error;
use critic_trainer::recipe::{Event, Manifest, Recipe, run};

const RECIPE: &str = r#"
name = "test"
seeds = [1, 2]

[[steps]]
name = "base"
kind = "pretrain"
shape = { hidden_size = 32, intermediate_size = 32, layers = 1, heads = 2, context = 48 }
steps = 6
texts_per_step = 4
learning_rate = 1e-2
warmup = 2
floor = 0.1
clean_share = 0.5
clean = { draft = 0.1, keep = 0.1, vague = 0.1, miss = 0.0, corrupt = 0.0 }
noisy = { draft = 0.1, keep = 0.3, vague = 0.2, miss = 0.4, corrupt = 0.1 }

[[steps]]
name = "problems"
kind = "problems"
task = "steps"
part = "test"
count = 6

[[steps]]
name = "collected"
kind = "collect"
problems = "problems"
actor = "base"
critic = "base"
critiques = 3
refinements = 2
max_tokens = 8
filter = { keep_flat = true }
critique_judge = { who = "task", accuracy = 0.7 }

[[steps]]
name = "rco"
kind = "train"
model = "base"
data = "collected"
held_out = "collected"
objective = "rco"
normalizer = "centred"
beta = 0.1
steps = 3
critiques_per_step = 6
learning_rate = 1e-3
warmup = 1
floor = 0.1
rank = 4
alpha = 8
keep_flat = true

[[steps]]
name = "rco-2"
kind = "train"
model = "base"
from = "rco"
data = "collected"
held_out = "collected"
objective = "rco"
beta = 0.1
steps = 2
critiques_per_step = 6
learning_rate = 1e-3
warmup = 1
floor = 0.1
rank = 4
alpha = 8
keep_flat = true

[[steps]]
name = "table"
kind = "eval"
problems = "problems"
actor = "base"
critics = ["keep", "oracle", "base", "rco", "rco-2"]
baseline = "base"
scored = "collected"
critiques = 2
rounds = 2
max_tokens = 8
"#;

fn load(folder: &Path, text: &str) -> Recipe {
    let path = folder.join("recipe.toml");
    std::fs::write(&path, text).unwrap();
    Recipe::load(&path).unwrap()
}

/// Names of the steps that were done, and of those that had been.
fn steps(recipe: &Recipe, folder: &Path) -> (Vec<String>, usize) {
    let (mut done, mut before) = (Vec::new(), 0);
    run(recipe, folder, &AtomicBool::new(false), &mut |event| {
        if let Event::End { seed, step, seconds } = event {
            match seconds {
                Some(_) => done.push(format!("{seed} {step}")),
                None => before += 1,
            }
        }
        Continue(())
    })
    .unwrap();
    (done, before)
}

/// SHA-256 of what each step of a seed made.
fn outputs(folder: &Path, seed: u64) -> BTreeMap<String, BTreeMap<String, String>> {
    let manifest = Manifest::read(&folder.join(format!("seed-{seed}"))).unwrap();
    manifest.steps.into_iter().map(|step| (step.name, step.outputs)).collect()
}

#[test]
fn every_step_is_done_once() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = load(folder.path(), RECIPE);
    let whole = folder.path().join("whole");
    let (done, before) = steps(&recipe, &whole);
    assert_eq!((done.len(), before), (12, 0), "{done:?}");
    let page = std::fs::read_to_string(whole.join("table/summary.md")).unwrap();
    for part in ["2 training runs", "| keep | 0.500 [0.500, 0.500] |", "| rco, gated |", "round 2 of refinement"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    for file in ["summary.json", "cu.svg", "advantage-rco.svg"] {
        assert!(whole.join("table").join(file).exists(), "{file}");
    }
    assert_eq!(steps(&recipe, &whole), (Vec::new(), 12));
    // What depends on the change is done anew, and nothing else.
    let changed = load(folder.path(), &RECIPE.replace("beta = 0.1\nsteps = 2\n", "beta = 0.2\nsteps = 2\n"));
    assert_eq!(steps(&changed, &whole).0, ["1 rco-2", "1 table", "2 rco-2", "2 table"]);

    // Stopped at every event of one kind or another, it ends with the same bytes.
    let stopped = folder.path().join("stopped");
    for limit in (1..200).step_by(7) {
        let mut events = 0;
        let outcome = run(&recipe, &stopped, &AtomicBool::new(false), &mut |_| {
            events += 1;
            if events > limit { Break(()) } else { Continue(()) }
        });
        match outcome {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, Error::Cancelled), "{error}"),
        }
    }
    steps(&recipe, &stopped);
    steps(&recipe, &whole);
    assert_eq!(outputs(&stopped, 1), outputs(&whole, 1));
    assert_eq!(outputs(&stopped, 2), outputs(&whole, 2));
    assert_ne!(outputs(&whole, 1)["base"], outputs(&whole, 2)["base"]);
}

//! What the trainer's tests share: scored critiques, and the model that they are for.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use critic_trainer::job::JobOptions;
use critic_trainer::model::AdapterOptions;
use critic_trainer::train::TrainOptions;
use serde_json::json;

/// The Hugging Face directory of a small random model.
pub fn hf(name: &str) -> PathBuf {
    critic_tests::data().join("hf").join(name)
}

/// Scored critiques of `drafts` drafts, four each, as JSONL in `folder`.
pub fn scored(folder: &Path, drafts: usize) -> PathBuf {
    let path = folder.join("scored.jsonl");
    let line = |at: usize| {
        let (a, b) = (at + 2, 3 * at + 1);
        let critiques = [
            (format!("The sum of {a} and {b} is {}.", a + b), 1.0),
            ("No changes needed.".to_owned(), 0.5),
            (format!("It should be {}.", a * b), 0.0),
            ("Something is wrong here.".to_owned(), 0.25 * (at % 3) as f64),
        ];
        let critiques: Vec<_> = critiques.iter().map(|(text, cu)| json!({"text": text, "cu": cu})).collect();
        let prompt = format!("What is {a} + {b}?");
        let draft = json!({
            "id": format!("d{at}"), "task": "math", "prompt": prompt, "response": format!("{}", a + b + at % 2),
            "critiques": critiques,
        });
        format!("{draft}\n")
    };
    std::fs::write(&path, (0..drafts).map(line).collect::<String>()).expect("written");
    path
}

/// A short job: `steps` steps of two groups, an adapter of rank 4.
pub fn options(steps: u64, activated: bool) -> JobOptions {
    JobOptions {
        train: TrainOptions {
            steps,
            groups_per_step: 2,
            learning_rate: 5e-4,
            warmup: 1,
            evaluate_every: 4,
            checkpoint_every: 2,
            ..TrainOptions::default()
        },
        adapter: Some(AdapterOptions { rank: 4, alpha: 8.0, activated, ..AdapterOptions::default() }),
        held_out: 0.25,
        ..JobOptions::default()
    }
}

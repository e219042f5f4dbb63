//! Trains small adapters, saves them in PEFT's layout, and writes what they make of some critiques, for
//! `trainer/tests/check_peft.py` to compute again: `cargo xtask check-peft` runs both.
//!
//! usage: peft_values FOLDER

use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use critic::critique::Request;
use critic::{Model, Precision, Session, SessionOptions};
use critic_trainer::data::{DataFile, EncodedGroup};
use critic_trainer::export::{ExportOptions, export_model};
use critic_trainer::job::{Job, JobOptions, Trained};
use critic_trainer::memory::Limits;
use critic_trainer::model::{AdapterOptions, load};
use critic_trainer::score::score;
use critic_trainer::train::TrainOptions;
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).ok_or("usage: peft_values FOLDER")?);
    std::fs::create_dir_all(&folder)?;
    let data = folder.join("scored.jsonl");
    let critiques = json!([
        {"text": "The sum is wrong: 17 and 25 are 42.", "cu": 1.0}, {"text": "No changes needed.", "cu": 0.5},
        {"text": "Write it in words.", "cu": 0.0},
    ]);
    let draft =
        json!({"id": "a", "task": "math", "prompt": "What is 17 + 25?", "response": "32", "critiques": critiques});
    std::fs::write(&data, format!("{draft}\n"))?;
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/hf/llama-gqa-tied").canonicalize()?;
    let adapters: Result<Vec<_>, Box<dyn std::error::Error>> = [true, false]
        .into_iter()
        .map(|activated| {
            let run = folder.join(if activated { "activated" } else { "whole" });
            let options = JobOptions {
                train: TrainOptions { steps: 5, learning_rate: 5e-3, warmup: 1, ..TrainOptions::default() },
                adapter: Some(AdapterOptions { rank: 4, alpha: 8.0, activated, ..AdapterOptions::default() }),
                held_out: 0.0,
                ..JobOptions::default()
            };
            let job = Job { run: run.clone(), model: base.clone(), data: data.clone(), init: None, options };
            job.run(&AtomicBool::new(false), &mut |_| Continue(()))?;
            Ok(json!({"directory": run.join("adapter"), "sequences": sequences(&job)?}))
        })
        .collect();
    let values = json!({"base": base, "adapters": adapters?});
    let path = folder.join("values.json");
    std::fs::write(&path, serde_json::to_vec_pretty(&values)?)?;
    println!("{}", path.display());
    Ok(())
}

/// Tokens, and log p by the trainer and by the runtime, of each critique.
fn sequences(job: &Job) -> Result<Vec<serde_json::Value>, Box<dyn std::error::Error>> {
    let source = load(&job.model)?;
    let policy = Trained::read(&job.run)?.policy(&source, &Device::flex())?;
    let path = job.run.join("critic.critic");
    export_model(job, &path, &ExportOptions::default(), &mut |_| Continue(()))?;
    let options = SessionOptions { precision: Precision::Exact, ..SessionOptions::default() };
    let mut session = Session::new(&Model::open(&path)?, &options)?;
    let mut found = Vec::new();
    for draft in DataFile::open(&job.data)? {
        let draft = draft?;
        let group = EncodedGroup::new(&source, &draft, &job.data)?;
        let trainer = score(&policy, &group, &group.critiques, &Limits::default())?;
        let request = Request {
            task: draft.task.clone(),
            prompt: draft.prompt.clone(),
            response: draft.response.clone(),
            ..Request::default()
        };
        let texts: Vec<&str> = draft.critiques.iter().map(|critique| critique.text.as_str()).collect();
        let runtime = session.critique_scores(&request, &texts, &mut |_| Continue(()))?;
        for ((critique, trainer), runtime) in group.critiques.iter().zip(trainer).zip(runtime) {
            let tokens = [&group.prefix[..], &group.instruction, critique].concat();
            found.push(json!({
                "tokens": tokens, "target": critique.len(), "trainer": trainer, "runtime": runtime.log_policy,
            }));
        }
    }
    Ok(found)
}

//! The training step of a recipe: an activated adapter on the collected critiques, calibrated on held-out
//! ones, beside the model in one file.

use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::sync::Arc;

use critic_import::{AdapterPart, ConvertOptions, convert};
use serde_json::{Value, json};

use super::run::{Event, OnEvent, Run};
use super::{Train, locate};
use crate::checkpoint;
use crate::data::{DataFile, EncodeOptions, EncodedGroup, encode};
use crate::device;
use crate::error::{Error, Result};
use crate::evaluate::evaluate;
use crate::exchange::{About, to_lora};
use crate::files;
use crate::memory::Limits;
use crate::model::{Adapter, AdapterOptions, Base, Policy};
use crate::objective::{Normalizer, Objective};
use crate::optim::Optimizer;
use crate::reference::{GroupReference, Reference};
use crate::score::score_with_keep;
use crate::train::{Data, Event as TrainEvent, Outcome, TrainOptions, Trainer};

fn objective(step: &Train) -> Result<Objective> {
    let beta = step.beta;
    let normalizer = match step.normalizer.as_deref() {
        None | Some("estimated") => Normalizer::Estimated,
        Some("centred") => Normalizer::Centred,
        Some(other) => {
            return Err(Error::invalid(format!("unknown normalizer {other:?}, expected estimated or centred")));
        }
    };
    match step.objective.as_str() {
        "rco" => Ok(Objective::Rco { beta, normalizer }),
        "dpco" => Ok(Objective::Dpco { beta }),
        "cu-dpo" => Ok(Objective::CuDpo { beta }),
        "sft" => Ok(Objective::Sft),
        other => Err(Error::invalid(format!("unknown objective {other:?}, expected rco, dpco, cu-dpo or sft"))),
    }
}

/// Leaves those critiques of a group that the objective looks at; `None` where it finds no signal. What
/// it ignores is not computed.
fn narrow(objective: Objective, mut group: EncodedGroup) -> Option<EncodedGroup> {
    let extremes = |values: &[f64]| {
        let pick = |better: fn(f64, f64) -> bool| {
            (1..values.len()).fold(0, |best, at| if better(values[at], values[best]) { at } else { best })
        };
        let (best, worst) = (pick(|a, b| a > b), pick(|a, b| a < b));
        (values[best] > values[worst]).then_some(vec![best, worst])
    };
    let kept = match objective {
        Objective::Rco { .. } => return Some(group),
        Objective::CuDpo { .. } => extremes(&group.utilities)?,
        Objective::Dpco { .. } => extremes(group.preferred.as_deref()?)?,
        Objective::Sft => vec![extremes(&group.utilities)?[0]],
    };
    group.critiques = kept.iter().map(|&at| group.critiques[at].clone()).collect();
    group.utilities = kept.iter().map(|&at| group.utilities[at]).collect();
    group.preferred = group.preferred.map(|shares| kept.iter().map(|&at| shares[at]).collect());
    Some(group)
}

/// Runs the step, and returns what is worth knowing.
pub(super) fn train(run: &Run, step: &Train, folder: &Path, out: &Path, on_event: &mut OnEvent) -> Result<Value> {
    let objective = objective(step)?;
    let path = locate(run.recipe, run.folder, &step.model)?;
    let model = critic::Model::open(&path)?;
    let device = device::open(&run.recipe.device)?;
    let base = Base::new(&model, &device, Default::default())?;
    let limits = Limits::default();
    let groups = |name: &str, keep_flat| -> Result<Vec<EncodedGroup>> {
        let data = locate(run.recipe, run.folder, name)?;
        let options = EncodeOptions { max_tokens: step.max_tokens, keep_flat };
        Ok(encode(&model, DataFile::open(&data)?, &data, &options)?.groups)
    };
    let training: Vec<EncodedGroup> =
        groups(&step.data, step.keep_flat)?.into_iter().filter_map(|group| narrow(objective, group)).collect();
    if training.is_empty() {
        let why = "has no groups that say something to this objective";
        return Err(Error::invalid(format!(
            "{} {why}: collect more, or from an actor that errs less or more",
            step.data
        )));
    }
    let held_out = groups(&step.held_out, true)?;
    let options = AdapterOptions { rank: step.rank, alpha: step.alpha, ..AdapterOptions::default() };
    let adapter = Adapter::new(&base.config, &options, run.seed, &device)?;
    let mut policy = Policy { base, adapter: Some(adapter) };
    if let Some(from) = &step.from {
        let checkpoints = run.folder.join(from).join(CHECKPOINTS);
        let found = checkpoint::newest(&checkpoints, &policy, &step.optimizer)?;
        policy = found.ok_or_else(|| Error::invalid(format!("step {from} has no checkpoint")))?.policy;
    }
    let reference = match &step.from {
        None => Reference::compute(&policy, &training, &limits, &mut |_| Ok(()))?,
        // The critic that wrote the critiques.
        Some(_) => {
            let one = |group: &EncodedGroup| {
                let (critiques, keep) = score_with_keep(&policy, group, &limits)?;
                Ok(GroupReference { critiques, keep })
            };
            Reference(training.iter().map(one).collect::<Result<_>>()?)
        }
    };
    let critiques = match objective {
        Objective::Rco { .. } => {
            training.iter().map(|group| group.critiques.len()).sum::<usize>().div_ceil(training.len().max(1))
        }
        Objective::CuDpo { .. } | Objective::Dpco { .. } => 2,
        Objective::Sft => 1,
    };
    let train_options = TrainOptions {
        seed: run.seed,
        steps: step.steps,
        groups_per_step: (step.critiques_per_step / critiques.max(1)).max(1),
        learning_rate: step.learning_rate,
        warmup: step.warmup,
        floor: step.floor,
        beta: step.beta,
        evaluate_every: 0,
        checkpoint_every: 100,
        keep_checkpoints: 1,
        ..TrainOptions::default()
    };
    let mut trainer = Trainer {
        options: train_options,
        limits,
        objective,
        policy,
        optimizer: Optimizer::new(&step.optimizer),
        step: 0,
        checkpoints: Some(folder.join(CHECKPOINTS)),
    };
    if let Some(restored) = checkpoint::newest(&folder.join(CHECKPOINTS), &trainer.policy, &step.optimizer)? {
        (trainer.policy, trainer.optimizer) = (restored.policy, restored.optimizer);
        trainer.step = restored.state.step;
    }
    let nothing = Reference(Vec::new());
    let mut metrics = Vec::new();
    let outcome = trainer.run(
        Data { groups: &training, reference: &reference },
        Data { groups: &[], reference: &nothing },
        run.stop,
        &mut |event| match event {
            TrainEvent::Step(found) => {
                metrics.push(found.clone());
                let note = format!("loss {:.3}, KL {:.2}, CU {:.3}", found.loss, found.kl, found.mean_cu);
                on_event(Event::Progress { done: found.step, total: step.steps, note: &note })
            }
            _ => Continue(()),
        },
    )?;
    if outcome == Outcome::Stopped {
        return Err(Error::Cancelled);
    }
    files::write_lines(&folder.join("metrics.jsonl"), &metrics)?;
    // What the runtime compares with is the base, whatever the objective did.
    let bases = Reference::compute(&trainer.policy, &held_out, &limits, &mut |_| Ok(()))?;
    let found = evaluate(&trainer.policy, &held_out, &bases.0, objective, step.beta, step.steps, &limits)?;
    let about = About {
        base_model: step.model.clone(),
        fingerprint: model.weights().fingerprint(),
        invocation_tokens: training[0].instruction.clone(),
        beta: step.beta,
        threshold: found.threshold,
    };
    let adapter = trainer.policy.adapter.as_ref().expect("it was made above");
    let part = AdapterPart { adapter: Arc::new(to_lora(adapter, about)), merge: false, force: false };
    let name = Some(format!("{}-{}", run.recipe.name, folder.file_name().unwrap_or_default().to_string_lossy()));
    let conversion = ConvertOptions { adapter: Some(part), name, ..Default::default() };
    convert(&path, out, &conversion, &mut |_, _| Continue(()))?;
    Ok(json!({
        "groups": training.len(),
        "threshold": found.threshold,
        "threshold_utility": found.threshold_utility,
        "rank_within": found.rank_within,
        "rank_overall": found.rank_overall,
        "kl": found.kl,
        "mean_cu": found.mean_cu,
        "best_cu": found.best_cu,
        "reference_cu": found.reference_cu,
    }))
}

const CHECKPOINTS: &str = "checkpoints";

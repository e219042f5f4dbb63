//! Training from nothing: next-token prediction on whole texts of prompt, draft, critique and
//! refinement that are made as they are needed.
//!
//! Texts of a step stand side by side in one pass. Each of the three parts that the model writes is
//! followed by the end token as a target, though in the text the next part follows at once: that is
//! how the runtime's conversation goes on.
//!
//! A step is a function of the seed, its number, the weights and the optimizer's state: its examples are
//! drawn from a generator keyed by it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use critic::tokenizer::{Special, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::lanes::{self, beside};
use crate::memory::Limits;
use crate::model::{Cache, Policy, Tree, forward, log_probs, output_gradient};
use crate::optim::{Gradient, Optimizer, OptimizerOptions};
use crate::random::Random;
use crate::schedule::Schedule;
use crate::scratch::Controls;
use crate::tasks::steps::{Example, Noise, example};
use crate::train::Outcome;

/// What pre-training is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainOptions {
    /// What examples are drawn from.
    pub seed: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Texts of a step.
    pub texts_per_step: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Steps over which it rises to that.
    pub warmup: u64,
    /// The learning rate of the last step, as a share of the largest.
    pub floor: f64,
    /// Share of the steps whose critic is mostly right: a noisy one hides at first what there is to
    /// learn.
    pub clean_share: f64,
    /// How often whom errs in those steps.
    pub clean: Noise,
    /// How often whom errs in the rest: what the model is to be like.
    pub noisy: Noise,
    /// AdamW.
    pub optimizer: OptimizerOptions,
    /// Steps between checkpoints; 0: only after the last, and where it is stopped.
    pub checkpoint_every: u64,
}

/// A step that was made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PretrainStep {
    /// Its number, from 1.
    pub step: u64,
    /// Mean −log p of a target, natural.
    pub loss: f64,
    /// The same over the targets of drafts, critiques and refinements.
    pub parts: [f64; 3],
    /// Learning rate.
    pub learning_rate: f64,
    /// Norm of the whole gradient before it is limited.
    pub gradient_norm: f64,
    /// Targets.
    pub tokens: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Texts of one length with what is predicted in them.
struct Batch {
    tree: Tree,
    /// Rows that predict. `[targets]`
    rows: Vec<i32>,
    targets: Vec<u32>,
    /// 0 draft, 1 critique, 2 refinement. `[targets]`
    parts: Vec<u8>,
}

impl Batch {
    fn new(tokenizer: &Tokenizer, controls: Controls, examples: &[Example]) -> Self {
        let mut texts = Vec::with_capacity(examples.len());
        for example in examples {
            let mut text = vec![controls.prompt];
            tokenizer.encode_into(&example.prompt, Special::Text, false, &mut text);
            let mut targets = Vec::new();
            let parts = [
                (controls.draft, &example.draft),
                (controls.critique, &example.critique),
                (controls.refinement, &example.refinement),
            ];
            for (part, (control, written)) in (0..).zip(parts) {
                let start = text.len();
                text.push(control);
                tokenizer.encode_into(written, Special::Text, false, &mut text);
                for row in start..text.len() {
                    targets.push((row, text.get(row + 1).copied().unwrap_or(controls.end), part));
                }
            }
            texts.push((text, targets));
        }
        let length = texts.iter().map(|(text, _)| text.len()).max().unwrap_or(1);
        let mut tokens = Vec::with_capacity(length * texts.len());
        let (mut rows, mut targets, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (mut text, predicted)) in texts.into_iter().enumerate() {
            for (row, target, part) in predicted {
                rows.push((index * length + row) as i32);
                targets.push(target);
                parts.push(part);
            }
            // Behind the text's own rows, which cannot see it.
            text.resize(length, controls.end);
            tokens.extend(text);
        }
        Self { tree: Tree::side_by_side(&tokens, length), rows, targets, parts }
    }
}

/// Pre-trains `policy`, which has no adapter, from its newest checkpoint in `folder` on.
pub fn pretrain(
    mut policy: Policy,
    tokenizer: &Tokenizer,
    controls: Controls,
    options: &PretrainOptions,
    folder: &Path,
    stop: &AtomicBool,
    on_step: &mut dyn FnMut(&PretrainStep) -> ControlFlow<()>,
) -> Result<(Policy, Outcome)> {
    let mut optimizer = Optimizer::new(&options.optimizer);
    let mut done = 0;
    if let Some(restored) = checkpoint::newest(folder, &policy, &options.optimizer)? {
        (policy, optimizer, done) = (restored.policy, restored.optimizer, restored.state.step);
    }
    let limits = Limits::default();
    let clean_steps = (options.steps as f64 * options.clean_share).round() as u64;
    let PretrainOptions { learning_rate: peak, warmup, steps, floor, .. } = *options;
    let schedule = Schedule { peak, warmup, steps, floor };
    while done < options.steps {
        let start = Instant::now();
        let noise = if done < clean_steps { &options.clean } else { &options.noisy };
        let mut random = Random::new(options.seed, "pretrain", &[done]);
        let examples: Vec<Example> = (0..options.texts_per_step).map(|_| example(noise, &mut random)).collect();
        let batches: Vec<Batch> = examples
            .chunks(options.texts_per_step.div_ceil(lanes::on(&policy.device())).max(1))
            .map(|examples| Batch::new(tokenizer, controls, examples))
            .collect();
        let count = batches.iter().map(|batch| batch.targets.len()).sum();
        let found = beside(batches.iter().collect(), |batch| differentiate(&policy, batch, count, &limits));
        let (mut gradient, mut log_p) = (Gradient::default(), Vec::with_capacity(count));
        for (of_batch, values) in found {
            gradient.append(of_batch);
            log_p.extend(values);
        }
        let parts: Vec<u8> = batches.iter().flat_map(|batch| &batch.parts).copied().collect();
        let norm = gradient.norm();
        let loss = -mean(log_p.iter().copied());
        if !norm.is_finite() || !loss.is_finite() {
            let newest = checkpoint::list(folder)?.pop().map(|(_, path)| path);
            let group = "of the step's texts".to_owned();
            return Err(Error::NotFinite { what: "the loss", group, step: done + 1, checkpoint: newest });
        }
        let learning_rate = schedule.learning_rate(done + 1);
        policy = optimizer.step(&policy, &gradient, norm, learning_rate);
        done += 1;
        let part = |part: u8| {
            let of_part = log_p.iter().zip(&parts).filter(|(_, p)| **p == part);
            -mean(of_part.map(|(log_p, _)| *log_p))
        };
        let metrics = PretrainStep {
            step: done,
            loss,
            parts: [part(0), part(1), part(2)],
            learning_rate,
            gradient_norm: norm,
            tokens: count as u64,
            seconds: start.elapsed().as_secs_f64(),
        };
        let stopped = on_step(&metrics).is_break() || stop.load(Ordering::Relaxed);
        let due = options.checkpoint_every > 0 && done.is_multiple_of(options.checkpoint_every);
        if stopped || due || done == options.steps {
            checkpoint::write(folder, done, options.seed, &policy, &optimizer)?;
            checkpoint::prune(folder, 2)?;
        }
        if stopped && done < options.steps {
            return Ok((policy, Outcome::Stopped));
        }
    }
    Ok((policy, Outcome::Finished))
}

fn mean(values: impl Iterator<Item = f32>) -> f64 {
    let (count, sum) = values.fold((0u32, 0.0), |(count, sum), value| (count + 1, sum + f64::from(value)));
    sum / f64::from(count.max(1))
}

/// The gradient of the batch's targets' −log p, divided by the `count` of the step's, and each target's log p.
fn differentiate(policy: &Policy, batch: &Batch, count: usize, limits: &Limits) -> (Gradient, Vec<f32>) {
    let device = policy.device();
    let leaves = policy.tracked();
    let hidden = forward(&leaves, &batch.tree, &Cache::default(), None);
    let rows = Tensor::from_data(TensorData::new(batch.rows.clone(), [batch.rows.len()]), &device);
    let hidden = hidden.select(0, rows);
    let output = policy.base.output();
    let inner = hidden.clone().inner();
    let found = log_probs(&inner, output, &batch.targets, limits.logits, true);
    let directions = found.directions.expect("directions were asked for");
    let factor = -1.0 / count as f32;
    let mut gradient = Gradient::default();
    let name = if policy.base.output.is_some() { "output" } else { "embedding" };
    let index = policy.parameters().iter().position(|(parameter, _)| parameter == name);
    let factors = vec![factor; batch.targets.len()];
    gradient.add_to(
        index.expect("the base has it"),
        output_gradient(&inner, output, &batch.targets, &factors, limits.logits),
    );
    let mut backward = (hidden * (directions * factor)).sum().backward();
    gradient.add(&leaves, &mut backward);
    (gradient, found.values)
}

/// The trained weights by their names, as a conversion takes them.
pub fn weights(policy: &Policy) -> BTreeMap<String, Vec<f32>> {
    crate::tensors::to_host(policy.parameters()).into_iter().map(|(name, (_, values))| (name, values)).collect()
}

//! The loop: steps over groups, evaluations, checkpoints. A step is a function of seed, step
//! number, weights and optimizer state.
//!
//! Groups go through the model one at a time, so nothing is padded, and the bits of a group do not depend
//! on its neighbours.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::data::{Batching, EncodedGroup, batches};
use crate::error::{Error, Result};
use crate::evaluate::{Estimates, Losses, evaluate, normalizers};
use crate::memory::{Limits, parts};
use crate::metrics::{EvaluationMetrics, StepMetrics};
use crate::model::{Dropout, Policy};
use crate::objective::{Objective, ScoredGroup};
use crate::optim::{Gradient, Optimizer};
use crate::reference::Reference;
use crate::schedule::Schedule;
use crate::score::{Differentiated, differentiate};

/// What the loop is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainOptions {
    /// What order and dropout are drawn from.
    pub seed: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Groups whose mean loss a step goes down; the last step of an epoch has what is left.
    pub groups_per_step: usize,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Steps over which it rises to that.
    pub warmup: u64,
    /// The learning rate of the last step, as a share of the largest.
    pub floor: f64,
    /// Steps of an epoch within which groups are sorted by length; 1: none are.
    pub length_window: usize,
    /// β: scales the utility advantage.
    pub beta: f64,
    /// Steps between evaluations; 0: only after the last.
    pub evaluate_every: u64,
    /// Steps between checkpoints; 0: only after the last, and where the run is stopped.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept.
    pub keep_checkpoints: usize,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            steps: 100,
            groups_per_step: 8,
            learning_rate: 2e-4,
            warmup: 10,
            floor: 0.1,
            length_window: 8,
            beta: 0.1,
            evaluate_every: 50,
            checkpoint_every: 50,
            keep_checkpoints: 3,
        }
    }
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A step was made.
    Step(&'a StepMetrics),
    /// Held-out groups were evaluated.
    HeldOut(&'a EvaluationMetrics),
    /// A checkpoint was written.
    Checkpoint(&'a std::path::Path),
}

/// How the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were made.
    Finished,
    /// It was asked to stop; a checkpoint has what was done.
    Stopped,
}

/// Scored groups and their log p_ref.
#[derive(Clone, Copy)]
pub struct Data<'a> {
    /// The groups.
    pub groups: &'a [EncodedGroup],
    /// Of the same groups, in the same order.
    pub reference: &'a Reference,
}

/// A run: what changes from step to step, and where its checkpoints go.
pub struct Trainer {
    /// What the loop is asked for.
    pub options: TrainOptions,
    /// What a pass may take.
    pub limits: Limits,
    /// The loss.
    pub objective: Objective,
    /// The policy, as it is now.
    pub policy: Policy,
    /// The optimizer, as it is now.
    pub optimizer: Optimizer,
    /// Steps that were made.
    pub step: u64,
    /// Folder of the checkpoints; `None`: none are written.
    pub checkpoints: Option<PathBuf>,
}

impl Trainer {
    /// Steps that an epoch over `groups` groups takes.
    pub fn steps_per_epoch(&self, groups: usize) -> u64 {
        groups.div_ceil(self.options.groups_per_step.max(1)) as u64
    }

    /// The groups of step `step`: each epoch goes through all of them in an order of its own.
    fn groups_of(&self, step: u64, groups: &[EncodedGroup]) -> Vec<usize> {
        let (epoch, within) = {
            let steps = self.steps_per_epoch(groups.len());
            (step / steps, (step % steps) as usize)
        };
        let lengths: Vec<usize> = groups.iter().map(EncodedGroup::tokens).collect();
        let batching = Batching { size: self.options.groups_per_step, window: self.options.length_window };
        batches(&lengths, batching, self.options.seed, epoch).swap_remove(within)
    }

    /// Runs to the end, or until `on_event` breaks or `stop` is set; then a checkpoint has all that
    /// was done.
    pub fn run(
        &mut self,
        training: Data,
        held_out: Data,
        stop: &AtomicBool,
        on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
    ) -> Result<Outcome> {
        if training.groups.is_empty() {
            return Err(Error::invalid("there are no groups to train on"));
        }
        for data in [training, held_out] {
            if data.groups.len() != data.reference.0.len() {
                let (groups, found) = (data.groups.len(), data.reference.0.len());
                return Err(Error::invalid(format!(
                    "{groups} groups have log-probabilities of the reference for {found}"
                )));
            }
        }
        for group in training.groups {
            parts(&self.policy, group, self.limits.memory)?;
        }
        let due = |every: u64, step: u64| every > 0 && step.is_multiple_of(every);
        let mut saved = self.step;
        while self.step < self.options.steps {
            let metrics = self.make_step(training)?;
            let last = self.step == self.options.steps;
            let mut go_on = on_event(Event::Step(&metrics));
            if !held_out.groups.is_empty() && (last || due(self.options.evaluate_every, self.step)) {
                let found = self.evaluate(held_out)?;
                if on_event(Event::HeldOut(&found)).is_break() {
                    go_on = ControlFlow::Break(());
                }
            }
            let stopped = go_on.is_break() || stop.load(Ordering::Relaxed);
            if last || stopped || due(self.options.checkpoint_every, self.step) {
                self.write_checkpoint(on_event)?;
                saved = self.step;
            }
            if stopped && !last {
                return Ok(Outcome::Stopped);
            }
        }
        debug_assert!(saved == self.step);
        Ok(Outcome::Finished)
    }

    /// Scores held-out groups with the policy as it is.
    pub fn evaluate(&self, data: Data) -> Result<EvaluationMetrics> {
        let (beta, step) = (self.options.beta, self.step);
        evaluate(&self.policy, data.groups, &data.reference.0, self.objective, beta, step, &self.limits)
    }

    fn write_checkpoint(&self, on_event: &mut dyn FnMut(Event) -> ControlFlow<()>) -> Result<()> {
        let Some(folder) = &self.checkpoints else { return Ok(()) };
        let path = checkpoint::write(folder, self.step, self.options.seed, &self.policy, &self.optimizer)?;
        checkpoint::prune(folder, self.options.keep_checkpoints)?;
        // It is written: whether to go on was asked at the step.
        _ = on_event(Event::Checkpoint(&path));
        Ok(())
    }

    /// One step of the optimizer.
    fn make_step(&mut self, data: Data) -> Result<StepMetrics> {
        let start = Instant::now();
        let chosen = self.groups_of(self.step, data.groups);
        let (mut gradient, mut found) = (Gradient::default(), Vec::new());
        for &index in &chosen {
            let done = self.differentiate(data, index, chosen.len(), &mut gradient)?;
            if !done.log_policy.iter().all(|log_p| log_p.is_finite()) {
                return Err(self.not_finite(data, index, "a critique's log-probability"));
            }
            if done.evaluation.as_ref().is_some_and(|evaluation| !evaluation.loss.is_finite()) {
                return Err(self.not_finite(data, index, "the loss"));
            }
            found.push(done);
        }
        let norm = gradient.norm();
        if !norm.is_finite() {
            return Err(self.blame(data, &chosen)?);
        }
        let TrainOptions { learning_rate: peak, warmup, steps, floor, .. } = self.options;
        let learning_rate = Schedule { peak, warmup, steps, floor }.learning_rate(self.step + 1);
        self.policy = self.optimizer.step(&self.policy, &gradient, norm, learning_rate);
        self.step += 1;

        let [estimated, centred] = normalizers(self.options.beta);
        let mut losses = [Losses::default(); 2];
        let mut estimates = Estimates::default();
        let (mut loss, mut square) = (0.0, 0.0);
        for (&index, done) in chosen.iter().zip(&found) {
            let scored = scored(data, index, &done.log_policy);
            let of_group = Estimates::new(&scored.log_ratios(), &scored.utilities);
            estimates.kl += of_group.kl;
            estimates.mean_cu += of_group.mean_cu;
            losses[0].add(estimated, &scored);
            losses[1].add(centred, &scored);
            if let Some(evaluation) = &done.evaluation {
                loss += evaluation.loss;
                square += evaluation.residual.powi(2);
            }
        }
        let count = chosen.len() as f64;
        Ok(StepMetrics {
            step: self.step,
            // What the gradient is of: a group without signal counts as 0.
            loss: loss / count,
            residual: (square / count).sqrt(),
            loss_estimated: Some(losses[0].loss()),
            loss_centred: Some(losses[1].loss()),
            kl: estimates.kl / count,
            mean_cu: estimates.mean_cu / count,
            learning_rate,
            gradient_norm: norm,
            tokens: found.iter().map(|done| done.tokens as u64).sum(),
            seconds: start.elapsed().as_secs_f64(),
            groups: chosen.len(),
            dropped: found.iter().filter(|done| done.evaluation.is_none()).count(),
        })
    }

    /// Adds the gradient of group `index`, one of `of` in this step.
    fn differentiate(&self, data: Data, index: usize, of: usize, gradient: &mut Gradient) -> Result<Differentiated> {
        let rate = self.policy.adapter.as_ref().map_or(0.0, |adapter| adapter.options.dropout);
        let dropout =
            (rate > 0.0).then_some(Dropout { rate, seed: self.options.seed, step: self.step, group: index as u64 });
        differentiate(
            &self.policy,
            &data.groups[index],
            &data.reference.0[index].critiques,
            self.objective,
            1.0 / of as f64,
            dropout.as_ref(),
            &self.limits,
            gradient,
        )
    }

    /// The first group of a step whose own gradient is not finite: it is looked for only then.
    fn blame(&self, data: Data, chosen: &[usize]) -> Result<Error> {
        for &index in chosen {
            let mut gradient = Gradient::default();
            self.differentiate(data, index, chosen.len(), &mut gradient)?;
            if !gradient.norm().is_finite() {
                return Ok(self.not_finite(data, index, "the gradient"));
            }
        }
        Ok(self.not_finite(data, chosen[0], "the gradient of the step that begins with it"))
    }

    fn not_finite(&self, data: Data, index: usize, what: &'static str) -> Error {
        let newest = |folder: &PathBuf| checkpoint::list(folder).ok()?.pop().map(|(_, path)| path);
        let checkpoint = self.checkpoints.as_ref().and_then(newest);
        Error::NotFinite { what, group: data.groups[index].id.clone(), step: self.step + 1, checkpoint }
    }
}

/// A group's critiques with what the policy says of them.
fn scored(data: Data, index: usize, log_policy: &[f64]) -> ScoredGroup {
    let group = &data.groups[index];
    ScoredGroup {
        log_policy: log_policy.to_vec(),
        log_reference: data.reference.0[index].critiques.clone(),
        utilities: group.utilities.clone(),
        lengths: group.critiques.iter().map(Vec::len).collect(),
        preferred: group.preferred.clone(),
    }
}

//! Critics on the same drafts: what each says, what comes of it, round by round.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};

use super::measure::{Sample, Tally};
use crate::collect::pipeline::OnProgress;
use crate::collect::{Author, Cast, CollectOptions, Collected, CollectedCritique, Ledger, Pipeline, Subject};
use crate::data::ScoredDraft;
use crate::error::{Error, Result};
use crate::metrics::spearman;
use crate::tasks::{Problem, Verifier};

/// What is evaluated, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrialOptions {
    /// Key of everything that is drawn.
    #[serde(default)]
    pub seed: u64,
    /// Temperatures of critiques and refinements; drafts are drawn at 1, and the same for all.
    #[serde(default = "both")]
    pub temperatures: Vec<f32>,
    /// Critiques of each draft above temperature 0, of which the best by utility advantage is a row of
    /// its own.
    #[serde(default = "four")]
    pub critiques: usize,
    /// Rounds of critique and refinement.
    #[serde(default = "one")]
    pub rounds: usize,
    /// Most tokens of each text.
    #[serde(default = "many")]
    pub max_tokens: usize,
    /// Problems that are worked on together.
    #[serde(default = "some")]
    pub problems_per_batch: usize,
}

fn both() -> Vec<f32> {
    vec![0.0, 1.0]
}
fn four() -> usize {
    4
}
fn one() -> usize {
    1
}
fn many() -> usize {
    1024
}
fn some() -> usize {
    32
}

/// What is done with the utility advantage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Nothing: every critique that asks for a change is acted on.
    Open,
    /// Critiques at or below the threshold are not acted on.
    Threshold,
    /// Of several critiques the best one counts, if it is above the threshold.
    Best,
}

/// A critic under one way of using it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the critic.
    pub critic: String,
    /// Temperature of critiques and refinements.
    pub temperature: f32,
    /// Round, from 1: its drafts are what the round before led to.
    pub round: usize,
    /// What is done with the utility advantage.
    pub gate: Gate,
    /// Of each prompt, in the order of the problems.
    pub tallies: Vec<Tally>,
}

/// How well a critic's utility advantage ranks measured utilities of critiques that the reference wrote.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Correlation {
    /// Spearman's correlation within a draft's critiques, averaged over drafts that have one.
    pub within: Option<f64>,
    /// The same over all critiques.
    pub overall: Option<f64>,
    /// Critiques.
    pub critiques: usize,
}

/// What an evaluation found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Ids of the prompts.
    pub prompts: Vec<String>,
    /// Every critic in every way.
    pub rows: Vec<Row>,
    /// By critic.
    pub correlations: BTreeMap<String, Correlation>,
    /// By critic: predicted advantage and measured utility of critiques, for a plot.
    pub points: BTreeMap<String, Vec<(f64, f64)>>,
}

/// A critic that takes part.
pub struct Contender<'a> {
    /// Its name.
    pub name: String,
    /// It.
    pub critic: &'a dyn Author,
}

/// Everybody else.
#[derive(Clone, Copy)]
pub struct Trial<'a> {
    /// Writes drafts and refinements.
    pub actor: &'a dyn Author,
    /// Prefers, where no verifier does.
    pub judge: Option<&'a dyn Author>,
    /// Checks answers.
    pub verifier: &'a Verifier,
    /// How a critique says that nothing needs to change.
    pub keep: &'a str,
    /// What is written is kept here, so that an evaluation goes on where it was stopped.
    pub folder: &'a Path,
    /// Stops it where nothing is lost.
    pub stop: &'a AtomicBool,
}

/// Evaluates `contenders` on `problems`.
pub fn evaluate(
    trial: Trial,
    problems: &[Problem],
    contenders: &[Contender],
    options: &TrialOptions,
    on_progress: &mut OnProgress,
) -> Result<Evaluation> {
    if problems.is_empty() {
        return Err(Error::invalid("there are no problems to evaluate on"));
    }
    let subjects: Vec<Subject> =
        problems.iter().map(|problem| Subject { problem: problem.clone(), draft: None }).collect();
    let collect = |critiques, temperature| CollectOptions {
        seed: options.seed,
        critiques,
        refinements: 1,
        draft_temperature: 1.0,
        critique_temperature: temperature,
        refinement_temperature: temperature,
        max_tokens: options.max_tokens,
        problems_per_batch: options.problems_per_batch,
        judge_retries: 2,
        critique_judge: Default::default(),
    };
    let run =
        |ledger: &str, critic: &dyn Author, subjects: &[Subject], options: &CollectOptions, tell: &mut OnProgress| {
            fs::create_dir_all(trial.folder).map_err(Error::io(trial.folder))?;
            let mut ledger = Ledger::open(&trial.folder.join(ledger))?;
            let Trial { actor, judge, verifier, keep, stop, .. } = trial;
            let cast = Cast { actor, critic, judge, verifier, keep };
            let mut tell = |progress: &_| tell(progress);
            let (collected, _) = Pipeline::new(cast, options, &mut ledger, stop, &mut tell).run(subjects)?;
            Ok::<_, Error>(collected)
        };
    let drafts = run("drafts.jsonl", trial.actor, &subjects, &collect(0, 1.0), on_progress)?;
    let subjects: Vec<Subject> = drafts
        .into_iter()
        .flatten()
        .map(|collected| Subject { problem: collected.problem, draft: Some(collected.draft) })
        .collect();
    let mut evaluation = Evaluation {
        prompts: subjects.iter().map(|subject| subject.problem.id.clone()).collect(),
        ..Evaluation::default()
    };
    for contender in contenders {
        for &temperature in &options.temperatures {
            let mut subjects = subjects.clone();
            for round in 1..=options.rounds.max(1) {
                // Later rounds go on from one text.
                let count = if temperature > 0.0 && round == 1 { options.critiques.max(1) } else { 1 };
                let ledger = format!("{}-t{temperature}-round-{round}.jsonl", contender.name);
                let collected = run(&ledger, contender.critic, &subjects, &collect(count, temperature), on_progress)?;
                let samples = collected
                    .iter()
                    .map(|collected| samples(trial, contender.critic, collected.as_ref()))
                    .collect::<Result<Vec<_>>>()?;
                let threshold = contender.critic.threshold();
                let mut row = |gate, choose: &dyn Fn(&[Sample]) -> Vec<Sample>| {
                    let tallies = samples.iter().map(|samples| Tally::new(&choose(samples))).collect();
                    evaluation.rows.push(Row { critic: contender.name.clone(), temperature, round, gate, tallies });
                };
                row(Gate::Open, &|samples| samples.to_vec());
                if samples.iter().flatten().any(|sample| sample.advantage.is_some()) {
                    row(Gate::Threshold, &|samples| samples.iter().map(|s| gated(s, threshold)).collect());
                    if count > 1 {
                        row(Gate::Best, &|samples| best(samples, threshold).into_iter().collect());
                    }
                }
                for (subject, collected) in subjects.iter_mut().zip(&collected) {
                    let Some(critique) = collected.as_ref().and_then(|collected| collected.critiques.first()) else {
                        continue;
                    };
                    if let Some(refinement) = critique.refinements.first() {
                        subject.draft = Some(refinement.text.clone());
                    }
                }
            }
        }
    }
    Ok(evaluation)
}

/// What each critique of a draft led to.
fn samples(trial: Trial, critic: &dyn Author, collected: Option<&Collected>) -> Result<Vec<Sample>> {
    let Some(collected) = collected else { return Ok(Vec::new()) };
    let texts: Vec<&str> = collected.critiques.iter().map(|critique| critique.text.as_str()).collect();
    let advantages =
        if texts.is_empty() { None } else { critic.advantages(&collected.problem, &collected.draft, &texts)? };
    let mut samples = Vec::new();
    for (at, critique) in collected.critiques.iter().enumerate() {
        let advantage = advantages.as_ref().map(|advantages| advantages[at]);
        samples.extend(sample(trial.verifier, collected, critique, advantage));
    }
    if samples.is_empty() {
        // A critic that says nothing leaves the draft as it is.
        samples.push(unchanged(trial.verifier, collected));
    }
    Ok(samples)
}

fn unchanged(verifier: &Verifier, collected: &Collected) -> Sample {
    let right = collected.score.map(|score| verifier.is_right(&collected.problem, &collected.draft, score));
    Sample {
        preference: 0.5,
        score: collected.score,
        score_before: collected.score,
        right: right.map(|right| (right, right)),
        length_ratio: 1.0,
        ..Sample::default()
    }
}

fn sample(
    verifier: &Verifier,
    collected: &Collected,
    critique: &CollectedCritique,
    advantage: Option<f64>,
) -> Vec<Sample> {
    let said = Sample {
        flagged: critique.flags,
        critique_tokens: critique.tokens as f64,
        advantage,
        ..unchanged(verifier, collected)
    };
    if critique.keep || critique.refinements.is_empty() {
        return vec![said];
    }
    let length = |text: &str| text.chars().count().max(1) as f64;
    let refined = critique.refinements.iter().map(|refinement| Sample {
        acted: true,
        preference: refinement.preference,
        score: refinement.score,
        right: said
            .right
            .zip(refinement.score)
            .map(|((before, _), score)| (before, verifier.is_right(&collected.problem, &refinement.text, score))),
        orders_agree: refinement.orders_agree,
        length_ratio: length(&refinement.text) / length(&collected.draft),
        ..said.clone()
    });
    refined.collect()
}

/// The sample if its advantage is above the threshold; else the draft stays.
fn gated(sample: &Sample, threshold: f64) -> Sample {
    if !sample.acted || sample.advantage.is_none_or(|advantage| advantage > threshold) {
        return sample.clone();
    }
    Sample {
        acted: false,
        preference: 0.5,
        score: sample.score_before,
        right: sample.right.map(|(before, _)| (before, before)),
        length_ratio: 1.0,
        orders_agree: None,
        ..sample.clone()
    }
}

fn best(samples: &[Sample], threshold: f64) -> Option<Sample> {
    let value = |sample: &Sample| sample.advantage.unwrap_or(f64::NEG_INFINITY);
    let best = samples.iter().max_by(|a, b| value(a).total_cmp(&value(b)))?;
    Some(gated(best, threshold))
}

/// How well `critic` ranks critiques whose utility was measured, and each critique's advantage and utility;
/// `None` of a critic that estimates none.
pub fn correlate(critic: &dyn Author, drafts: &[ScoredDraft]) -> Result<Option<(Correlation, Vec<(f64, f64)>)>> {
    let (mut within, mut points) = (Vec::new(), Vec::new());
    for draft in drafts {
        let (task, prompt) = (draft.task.clone(), draft.prompt.clone());
        let problem = Problem { id: draft.id.clone(), task, prompt, ..Problem::default() };
        let texts: Vec<&str> = draft.critiques.iter().map(|critique| critique.text.as_str()).collect();
        let Some(advantages) = critic.advantages(&problem, &draft.response, &texts)? else { return Ok(None) };
        let utilities: Vec<f64> = draft.critiques.iter().map(|critique| critique.cu).collect();
        within.extend(spearman(&advantages, &utilities));
        points.extend(advantages.into_iter().zip(utilities));
    }
    let (advantages, utilities): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    let correlation = Correlation {
        within: (!within.is_empty()).then(|| within.iter().sum::<f64>() / within.len() as f64),
        overall: spearman(&advantages, &utilities),
        critiques: points.len(),
    };
    Ok(Some((correlation, points)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_leaves_what_is_not_worth_it() {
        let sample = |advantage: f64, after: bool| Sample {
            acted: true,
            preference: if after { 0.5 } else { 0.0 },
            score: Some(0.0),
            right: Some((true, after)),
            advantage: Some(advantage),
            ..Sample::default()
        };
        let (low, high) = (sample(-0.2, false), sample(0.3, true));
        assert_eq!(gated(&low, 0.0).right, Some((true, true)));
        assert_eq!((gated(&low, 0.0).preference, gated(&low, 0.0).acted), (0.5, false));
        assert_eq!(gated(&low, -0.5), low);
        assert_eq!(best(&[low.clone(), high.clone()], 0.0), Some(high.clone()));
        assert!(!best(&[low, high], 0.4).unwrap().acted);
        assert_eq!(best(&[], 0.0), None);
    }
}

//! Log-probabilities of a group's critiques, and their gradient.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};

use crate::data::EncodedGroup;
use crate::error::{Error, Result};
use crate::lanes::{beside, lanes};
use crate::memory::{Limits, parts};
use crate::model::{Cache, Dropout, GroupTree, LogProbs, Policy, forward, log_probs, output_gradient, prefill};
use crate::objective::{Evaluation, Objective, ScoredGroup};
use crate::optim::Gradient;

/// What comes before the critiques of a group: a cache of the tokens that are not adapted, and the
/// tokens that are, from position `start` on.
struct Context {
    cache: Cache,
    start: usize,
    trunk: Vec<u32>,
}

impl Context {
    fn new(policy: &Policy, group: &EncodedGroup) -> Result<Self> {
        if group.instruction.is_empty() {
            return Err(Error::invalid(format!("group {}: there is no critique instruction to adapt", group.id)));
        }
        Ok(if policy.is_activated() {
            let cache = prefill(&policy.base, &group.prefix);
            Self { cache, start: group.prefix.len(), trunk: group.instruction.clone() }
        } else {
            Self { cache: Cache::default(), start: 0, trunk: [&group.prefix[..], &group.instruction].concat() }
        })
    }
}

/// Hidden states that predict the tree's targets. `[targets, hidden]`
fn predict(policy: &Policy, group: &GroupTree, cache: &Cache, dropout: Option<&Dropout>) -> Tensor<2> {
    let hidden = forward(policy, &group.tree, cache, dropout);
    let rows: Vec<i32> = group.predictors.iter().map(|&row| row as i32).collect();
    let rows = Tensor::from_data(TensorData::new(rows, [group.predictors.len()]), &policy.device());
    hidden.select(0, rows)
}

/// log p_θ of `critiques` after the group's context: natural logarithms, summed over tokens.
pub fn score(policy: &Policy, group: &EncodedGroup, critiques: &[Vec<u32>], limits: &Limits) -> Result<Vec<f64>> {
    let context = Context::new(policy, group)?;
    Ok(score_in(policy, &context, critiques, None, limits))
}

/// log p_θ of the group's critiques, and of *keep* in a pass of its own: the passes that
/// training makes, so that equal weights give equal bits.
pub fn score_with_keep(policy: &Policy, group: &EncodedGroup, limits: &Limits) -> Result<(Vec<f64>, f64)> {
    let context = Context::new(policy, group)?;
    let critiques = score_in(policy, &context, &group.critiques, None, limits);
    let keep = score_in(policy, &context, std::slice::from_ref(&group.keep), None, limits);
    Ok((critiques, keep[0]))
}

fn score_in(
    policy: &Policy,
    context: &Context,
    critiques: &[Vec<u32>],
    dropout: Option<&Dropout>,
    limits: &Limits,
) -> Vec<f64> {
    let one = |lane: Range<usize>| {
        let tree = GroupTree::new(context.start, &context.trunk, lane.start, &critiques[lane]);
        let hidden = predict(policy, &tree, &context.cache, dropout);
        tree.sums(&log_probs(&hidden, policy.base.output(), &tree.targets, limits.logits, false).values)
    };
    beside(halves(policy, critiques, 0..critiques.len()), one).concat()
}

/// Critiques of a part that go through at the same time. Where they are cut is a function of the critiques
/// alone, because it decides the last bits of a gradient.
fn halves(policy: &Policy, critiques: &[Vec<u32>], part: Range<usize>) -> Vec<Range<usize>> {
    if lanes(policy) < 2 || part.len() < 2 {
        return vec![part];
    }
    let tokens = |range: Range<usize>| critiques[range].iter().map(Vec::len).sum::<usize>();
    let half = tokens(part.clone()).div_ceil(2);
    let cut = (part.start + 1..part.end).find(|&cut| tokens(part.start..cut) >= half).unwrap_or(part.end - 1);
    vec![part.start..cut, cut..part.end]
}

/// A lane between its forward and its backward pass.
struct Lane {
    range: Range<usize>,
    leaves: Policy,
    tree: GroupTree,
    /// `[targets, hidden]`
    hidden: Tensor<2>,
    found: LogProbs,
}

/// A group after its forward and backward pass.
#[derive(Clone, Debug)]
pub struct Differentiated {
    /// log p_θ of each critique.
    pub log_policy: Vec<f64>,
    /// What the objective said; `None` where the group says nothing.
    pub evaluation: Option<Evaluation>,
    /// Tokens that went through the model.
    pub tokens: usize,
}

/// Adds the gradient of `weight` times the group's loss to `gradient`.
///
/// The objective sees numbers only. Its factors ∂loss/∂log p_θ are held constant, and the
/// gradient is that of Σ factor · log p_θ, so a group may go through in parts.
#[allow(clippy::too_many_arguments, reason = "what a group's gradient depends on, and nothing else")]
pub fn differentiate(
    policy: &Policy,
    group: &EncodedGroup,
    log_reference: &[f64],
    objective: Objective,
    weight: f64,
    dropout: Option<&Dropout>,
    limits: &Limits,
    gradient: &mut Gradient,
) -> Result<Differentiated> {
    let parts = parts(policy, group, limits.memory)?;
    let context = Context::new(policy, group)?;
    let evaluate = |log_policy: &[f64]| {
        objective.evaluate(&ScoredGroup {
            log_policy: log_policy.to_vec(),
            log_reference: log_reference.to_vec(),
            utilities: group.utilities.clone(),
            lengths: group.critiques.iter().map(Vec::len).collect(),
            preferred: group.preferred.clone(),
        })
    };
    let prefix = context.cache.tokens();
    // The factors need every critique's log p. One part has them itself; several need a pass before.
    let mut known = (parts.len() > 1).then(|| {
        let log_policy = score_in(policy, &context, &group.critiques, dropout, limits);
        let evaluation = evaluate(&log_policy);
        (log_policy, evaluation)
    });
    let mut tokens = prefix;
    for part in parts {
        let forth = beside(halves(policy, &group.critiques, part), |range| {
            let leaves = policy.tracked();
            let tree = GroupTree::new(context.start, &context.trunk, range.start, &group.critiques[range.clone()]);
            let hidden = predict(&leaves, &tree, &context.cache, dropout);
            let found = log_probs(&hidden.clone().inner(), policy.base.output(), &tree.targets, limits.logits, true);
            Lane { range, leaves, tree, hidden, found }
        });
        tokens += forth.iter().map(|lane| lane.tree.tree.rows()).sum::<usize>();
        let (_, evaluation) = known.get_or_insert_with(|| {
            let log_policy: Vec<f64> = forth.iter().flat_map(|lane| lane.tree.sums(&lane.found.values)).collect();
            let evaluation = evaluate(&log_policy);
            (log_policy, evaluation)
        });
        let Some(evaluation) = evaluation else { break };
        let factors = &evaluation.gradient;
        let back = beside(forth, |lane| {
            let factors: Vec<f64> = factors[lane.range.clone()].iter().map(|factor| factor * weight).collect();
            lane.backward(policy, &factors, limits)
        });
        back.into_iter().for_each(|found| gradient.append(found));
    }
    let (log_policy, evaluation) = known.expect("a group has at least one part");
    Ok(Differentiated { log_policy, evaluation, tokens })
}

impl Lane {
    /// The gradient of Σ factor · log p; `factors` are `[critiques]`.
    fn backward(self, policy: &Policy, factors: &[f64], limits: &Limits) -> Gradient {
        let mut gradient = Gradient::default();
        let Some(directions) = self.found.directions else { return gradient };
        let factors = self.tree.spread(factors);
        if policy.adapter.is_none() {
            let output = if policy.base.output.is_some() { "output" } else { "embedding" };
            let index = policy.parameters().iter().position(|(name, _)| name == output);
            let rows = self.hidden.clone().inner();
            let found = output_gradient(&rows, policy.base.output(), &self.tree.targets, &factors, limits.logits);
            gradient.add_to(index.expect("the base has it"), found);
        }
        let rows = factors.len();
        let column = Tensor::<2>::from_data(TensorData::new(factors, [rows, 1]), &policy.device());
        let mut found = (self.hidden * (directions * column)).sum().backward();
        gradient.add(&self.leaves, &mut found);
        gradient
    }
}

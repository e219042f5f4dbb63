//! Held-out groups: what the objective, the ratios and the utility advantage say of them.

use serde::{Deserialize, Serialize};

use crate::data::EncodedGroup;
use crate::error::Result;
use crate::memory::Limits;
use crate::metrics::{EvaluationMetrics, Point};
use crate::model::Policy;
use crate::objective::{Normalizer, Objective, ScoredGroup, utility_advantage};
use crate::reference::GroupReference;
use crate::score::score_with_keep;

/// Estimates from N critiques that the reference p wrote, with r_i = log p_θ/p of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimates {
    /// KL(p_θ‖p) = E_p[w log w], w = p_θ/p, with weights ŵ = softmax(r) that sum to one:
    /// Σ ŵ_i r_i − log (1/N) Σ exp r_i. Never negative and at most log N: what the policy does
    /// outside the N critiques is not seen.
    pub kl: f64,
    /// Mean critique utility under the policy, Σ ŵ_i · CU_i (self-normalised importance weights).
    pub mean_cu: f64,
}

impl Estimates {
    /// The estimates of one group, from log p_θ/p and the utility of each critique.
    pub fn new(log_ratios: &[f64], utilities: &[f64]) -> Self {
        let most = log_ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = log_ratios.iter().map(|r| (r - most).exp()).sum();
        let weights = || log_ratios.iter().map(|r| (r - most).exp() / sum);
        let mean = |values: &[f64]| weights().zip(values).map(|(w, v)| w * v).sum::<f64>();
        let log_mean = most + (sum / log_ratios.len() as f64).ln();
        Self { kl: (mean(log_ratios) - log_mean).max(0.0), mean_cu: mean(utilities) }
    }
}

/// The mean loss and root mean squared residual of groups, those without signal left out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    loss: f64,
    square: f64,
    groups: usize,
}

impl Losses {
    /// Counts what `objective` says of `group`.
    pub(crate) fn add(&mut self, objective: Objective, group: &ScoredGroup) {
        if let Some(evaluation) = objective.evaluate(group) {
            self.loss += evaluation.loss;
            self.square += evaluation.residual.powi(2);
            self.groups += 1;
        }
    }

    pub(crate) fn loss(&self) -> f64 {
        self.loss / self.groups.max(1) as f64
    }

    pub(crate) fn residual(&self) -> f64 {
        (self.square / self.groups.max(1) as f64).sqrt()
    }
}

/// RCO with both normalisers, which are always reported.
pub(crate) fn normalizers(beta: f64) -> [Objective; 2] {
    [Normalizer::Estimated, Normalizer::Centred].map(|normalizer| Objective::Rco { beta, normalizer })
}

/// Scores `groups` after `step` steps, without dropout. `beta` scales the utility advantage.
pub fn evaluate(
    policy: &Policy,
    groups: &[EncodedGroup],
    reference: &[GroupReference],
    objective: Objective,
    beta: f64,
    step: u64,
    limits: &Limits,
) -> Result<EvaluationMetrics> {
    let [estimated, centred] = normalizers(beta);
    let mut losses = [Losses::default(); 3];
    let mut sum = Estimates::default();
    let mut points = Vec::new();
    for (group, reference) in groups.iter().zip(reference) {
        let (log_policy, keep) = score_with_keep(policy, group, limits)?;
        let scored = ScoredGroup {
            log_policy,
            log_reference: reference.critiques.clone(),
            utilities: group.utilities.clone(),
            lengths: group.critiques.iter().map(Vec::len).collect(),
            preferred: group.preferred.clone(),
        };
        let log_ratios = scored.log_ratios();
        let estimates = Estimates::new(&log_ratios, &group.utilities);
        sum.kl += estimates.kl;
        sum.mean_cu += estimates.mean_cu;
        for (losses, objective) in losses.iter_mut().zip([objective, estimated, centred]) {
            losses.add(objective, &scored);
        }
        let keep = keep - reference.keep;
        points.extend(log_ratios.iter().zip(&group.utilities).map(|(&ratio, &utility)| Point {
            group: group.id.clone(),
            advantage: utility_advantage(ratio, keep, beta),
            utility,
        }));
    }
    let count = groups.len().max(1) as f64;
    let metrics = EvaluationMetrics {
        step,
        loss: losses[0].loss(),
        residual: losses[0].residual(),
        loss_estimated: losses[1].loss(),
        loss_centred: losses[2].loss(),
        kl: sum.kl / count,
        mean_cu: sum.mean_cu / count,
        ..EvaluationMetrics::default()
    };
    Ok(metrics.with_points(points))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ratios_mean_no_divergence() {
        let estimates = Estimates::new(&[3.0, 3.0], &[0.0, 1.0]);
        assert_eq!((estimates.kl, estimates.mean_cu), (0.0, 0.5));
        let estimates = Estimates::new(&[100.0, 0.0], &[0.25, 1.0]);
        assert!((estimates.kl - 2f64.ln()).abs() < 1e-12 && (estimates.mean_cu - 0.25).abs() < 1e-12);
    }
}

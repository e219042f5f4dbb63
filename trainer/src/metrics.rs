//! What is measured at each step and each evaluation, and how well advantages rank utilities.

use serde::{Deserialize, Serialize};

use crate::objective::calibrate_threshold;

/// One step: a line of `metrics.jsonl`. Means are over the groups of the step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepMetrics {
    /// Number of the step, from 1.
    pub step: u64,
    /// The objective's loss.
    pub loss: f64,
    /// Root mean square of the residuals.
    pub residual: f64,
    /// The loss with log Z estimated from the utilities, whatever was optimised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_estimated: Option<f64>,
    /// The loss with log Z fitted, whatever was optimised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_centred: Option<f64>,
    /// Estimate of KL(p_θ‖p) over critiques that the reference wrote, in nats a critique.
    pub kl: f64,
    /// Mean CU under the policy, estimated from the critiques by their log-ratios.
    pub mean_cu: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Norm of the whole gradient before it is limited.
    pub gradient_norm: f64,
    /// Tokens that were computed.
    pub tokens: u64,
    /// Wall time.
    pub seconds: f64,
    /// Groups of the step.
    pub groups: usize,
    /// Groups of them that had no signal for the objective.
    pub dropped: usize,
}

/// One evaluation on held-out groups: a line of `evaluations.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaluationMetrics {
    /// Steps taken before it.
    pub step: u64,
    /// The objective's loss.
    pub loss: f64,
    /// Root mean square of the residuals.
    pub residual: f64,
    /// The loss with log Z estimated from the utilities.
    pub loss_estimated: f64,
    /// The loss with log Z fitted.
    pub loss_centred: f64,
    /// Estimate of KL(p_θ‖p), in nats a critique.
    pub kl: f64,
    /// Mean CU under the policy, estimated from the critiques by their log-ratios.
    pub mean_cu: f64,
    /// Mean CU of the critiques as they were sampled: what acting on any of them is worth.
    pub reference_cu: f64,
    /// Mean CU of the critique with the highest advantage of each group.
    pub best_cu: f64,
    /// Spearman's rank correlation of advantage and utility within a group, averaged over the
    /// groups that have one.
    pub rank_within: Option<f64>,
    /// The same over all critiques.
    pub rank_overall: Option<f64>,
    /// Utility advantage above which acting is best.
    pub threshold: f64,
    /// Mean utility of acting above it and keeping the draft otherwise.
    pub threshold_utility: f64,
    /// Held-out groups.
    pub groups: usize,
    /// Each held-out critique.
    pub points: Vec<Point>,
}

/// A held-out critique.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Point {
    /// Id of its draft.
    pub group: String,
    /// Predicted utility advantage A(c), which estimates CU − ½.
    pub advantage: f64,
    /// Measured CU.
    pub utility: f64,
}

impl EvaluationMetrics {
    /// Fills in what follows from `points`, which stand group by group.
    pub fn with_points(mut self, points: Vec<Point>) -> Self {
        let pairs = |points: &[Point]| -> (Vec<f64>, Vec<f64>) {
            points.iter().map(|point| (point.advantage, point.utility)).unzip()
        };
        let groups: Vec<&[Point]> = points.chunk_by(|a, b| a.group == b.group).collect();
        let within: Vec<f64> = groups
            .iter()
            .filter_map(|group| {
                let (advantages, utilities) = pairs(group);
                spearman(&advantages, &utilities)
            })
            .collect();
        let best = |group: &&[Point]| -> Option<f64> {
            Some(group.iter().max_by(|a, b| a.advantage.total_cmp(&b.advantage))?.utility)
        };
        let (advantages, utilities) = pairs(&points);
        let calibrated = calibrate_threshold(&advantages, &utilities);
        self.reference_cu = mean(utilities.iter().copied()).unwrap_or(0.0);
        self.best_cu = mean(groups.iter().filter_map(best)).unwrap_or(0.0);
        self.rank_within = mean(within.iter().copied());
        self.rank_overall = spearman(&advantages, &utilities);
        self.threshold = calibrated.threshold;
        self.threshold_utility = calibrated.utility;
        self.groups = groups.len();
        self.points = points;
        self
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / f64::from(count))
}

/// Spearman's rank correlation, ties sharing the mean of their ranks; none where either side
/// is constant, or fewer than two pairs are there.
///
/// # Panics
/// Where the two differ in length.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&ranks(a), &ranks(b))
}

/// Pearson's correlation; none where either side is constant.
///
/// # Panics
/// Where the two differ in length.
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    assert_eq!(a.len(), b.len(), "pairs");
    let (mean_a, mean_b) = (mean(a.iter().copied())?, mean(b.iter().copied())?);
    let (mut aa, mut ab, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b).map(|(x, y)| (x - mean_a, y - mean_b)) {
        aa += x * x;
        ab += x * y;
        bb += y * y;
    }
    let spread = (aa * bb).sqrt();
    (spread > 0.0).then(|| (ab / spread).clamp(-1.0, 1.0))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = start as f64 + (tied.len() - 1) as f64 / 2.0;
        tied.iter().for_each(|&at| ranks[at] = rank);
        start += tied.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(group: &str, advantage: f64, utility: f64) -> Point {
        Point { group: group.into(), advantage, utility }
    }

    #[test]
    fn rank_correlation() {
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[10.0, 100.0, 1000.0]), Some(1.0));
        assert_eq!(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), Some(-1.0));
        assert_eq!(spearman(&[1.0, 2.0], &[0.5, 0.5]), None);
        assert_eq!(spearman(&[], &[]), None);
        // A textbook's example with ties: ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
        let found = spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((found - 0.9f64.sqrt()).abs() < 1e-12, "{found}");
    }

    #[test]
    fn evaluations_follow_from_their_points() {
        let points = vec![point("a", 0.4, 1.0), point("a", -0.2, 0.25), point("b", -0.3, 0.0), point("b", -0.1, 0.5)];
        let found = EvaluationMetrics { step: 3, ..Default::default() }.with_points(points);
        assert_eq!((found.step, found.groups, found.reference_cu, found.best_cu), (3, 2, 0.4375, 0.75));
        assert_eq!((found.rank_within, found.threshold, found.threshold_utility), (Some(1.0), 0.0, 0.625));
        let json = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<EvaluationMetrics>(&json).unwrap(), found);
    }
}

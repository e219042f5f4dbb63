//! Objectives: what a critic's log-probabilities should be, given what its critiques are worth.
//!
//! Pure functions of f64. They get the log-probabilities of one group's critiques (those of the
//! same draft) under the critic and under the reference, and return a loss and its derivative
//! with respect to each log-probability. Tensors, batches and optimizers are elsewhere.
//!
//! Logarithms are natural; log-probabilities are sums over a critique's tokens, its end token
//! included.

mod advantage;
mod dpo;
mod rco;
mod sft;

pub use advantage::{Threshold, calibrate_threshold, utility_advantage};
pub use rco::{Normalizer, log_normalizer, predicted_utility};

/// What is optimised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// Refinement-oriented Critique Optimization: the log-ratio of a critique is its utility over β.
    Rco {
        /// Strength of the pull to the reference.
        beta: f64,
        /// How log Z of a group is found.
        normalizer: Normalizer,
    },
    /// DPO on critiques that were preferred themselves, without a look at refinements.
    Dpco {
        /// Strength of the pull to the reference.
        beta: f64,
    },
    /// DPO on the critiques of highest and lowest utility.
    CuDpo {
        /// Strength of the pull to the reference.
        beta: f64,
    },
    /// Likelihood of the critique of highest utility.
    Sft,
}

/// One group's critiques, scored; every vector has one element for each.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredGroup {
    /// log p_θ(c).
    pub log_policy: Vec<f64>,
    /// log p(c) under the reference.
    pub log_reference: Vec<f64>,
    /// CU(c), in \[0, 1\].
    pub utilities: Vec<f64>,
    /// Tokens, the end token included.
    pub lengths: Vec<usize>,
    /// Share of judgements in favour of the critique itself, where it was judged.
    pub preferred: Option<Vec<f64>>,
}

/// An objective's value for a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// The loss.
    pub loss: f64,
    /// ∂loss/∂log p_θ of each critique.
    pub gradient: Vec<f64>,
    /// Root mean square of the residuals; 0 where the objective has none.
    pub residual: f64,
}

impl Objective {
    /// Loss and gradient of `group`; `None` where it has no signal for this objective: no
    /// critiques, one alone where they are compared, or no best and worst among them.
    ///
    /// # Panics
    /// Where the vectors of `group` differ in length.
    pub fn evaluate(&self, group: &ScoredGroup) -> Option<Evaluation> {
        let count = group.len();
        if count == 0 {
            return None;
        }
        match *self {
            Self::Rco { beta, normalizer } => rco::evaluate(group, beta, normalizer),
            Self::Dpco { beta } => dpo::evaluate(group, group.preferred.as_deref()?, beta),
            Self::CuDpo { beta } => dpo::evaluate(group, &group.utilities, beta),
            Self::Sft => Some(sft::evaluate(group)),
        }
    }

    /// β, where the objective has one.
    pub fn beta(&self) -> Option<f64> {
        match *self {
            Self::Rco { beta, .. } | Self::Dpco { beta } | Self::CuDpo { beta } => Some(beta),
            Self::Sft => None,
        }
    }

    /// The name by which the command line knows it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Rco { .. } => "rco",
            Self::Dpco { .. } => "dpco",
            Self::CuDpo { .. } => "cu-dpo",
            Self::Sft => "sft",
        }
    }
}

impl ScoredGroup {
    /// Number of critiques.
    fn len(&self) -> usize {
        let count = self.log_policy.len();
        assert_eq!(self.log_reference.len(), count, "a reference for each critique");
        assert_eq!(self.utilities.len(), count, "a utility for each critique");
        assert_eq!(self.lengths.len(), count, "a length for each critique");
        assert!(self.preferred.as_ref().is_none_or(|shares| shares.len() == count), "a preference for each critique");
        count
    }

    /// log p_θ(c)/p(c) of each critique.
    pub fn log_ratios(&self) -> Vec<f64> {
        self.log_policy.iter().zip(&self.log_reference).map(|(policy, reference)| policy - reference).collect()
    }
}

/// Indices of the first largest and the first smallest value.
fn extremes(values: &[f64]) -> (usize, usize) {
    let first = |better: fn(&f64, &f64) -> bool| {
        (1..values.len()).fold(0, |best, at| if better(&values[at], &values[best]) { at } else { best })
    };
    (first(|a, b| a > b), first(|a, b| a < b))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A group of 1 to 6 critiques.
    fn groups() -> impl Strategy<Value = ScoredGroup> {
        let critique = (-60.0..-0.1f64, -60.0..-0.1f64, 0.0..=1.0f64, 1..40usize, 0.0..=1.0f64);
        prop::collection::vec(critique, 1..6).prop_map(|critiques| ScoredGroup {
            log_policy: critiques.iter().map(|c| c.0).collect(),
            log_reference: critiques.iter().map(|c| c.1).collect(),
            utilities: critiques.iter().map(|c| c.2).collect(),
            lengths: critiques.iter().map(|c| c.3).collect(),
            preferred: Some(critiques.iter().map(|c| c.4).collect()),
        })
    }

    fn objectives() -> impl Strategy<Value = Objective> {
        (0.05..2.0f64, 0..5usize).prop_map(|(beta, which)| match which {
            0 => Objective::Rco { beta, normalizer: Normalizer::Estimated },
            1 => Objective::Rco { beta, normalizer: Normalizer::Centred },
            2 => Objective::Dpco { beta },
            3 => Objective::CuDpo { beta },
            _ => Objective::Sft,
        })
    }

    const CENTRED: fn(f64) -> Objective = |beta| Objective::Rco { beta, normalizer: Normalizer::Centred };

    proptest! {
        #[test]
        fn gradients_are_the_central_differences(group in groups(), objective in objectives()) {
            let Some(evaluation) = objective.evaluate(&group) else { return Ok(()) };
            let step = 1e-4;
            for at in 0..group.log_policy.len() {
                let moved = |by: f64| {
                    let mut group = group.clone();
                    group.log_policy[at] += by;
                    objective.evaluate(&group).unwrap().loss
                };
                let difference = (moved(step) - moved(-step)) / (2.0 * step);
                let found = evaluation.gradient[at];
                let scale = 1.0 + evaluation.loss.abs();
                prop_assert!((found - difference).abs() < 1e-6 * scale, "{at}: {found}, expected {difference}");
            }
        }

        #[test]
        fn centring_does_not_see_a_constant(group in groups(), beta in 0.05..2.0f64, shift in -30.0..30.0f64) {
            let mut shifted = group.clone();
            shifted.log_policy.iter_mut().for_each(|value| *value += shift);
            match (CENTRED(beta).evaluate(&group), CENTRED(beta).evaluate(&shifted)) {
                (Some(before), Some(after)) => {
                    prop_assert!((before.loss - after.loss).abs() < 1e-7 * (1.0 + before.loss));
                    prop_assert!(before.gradient.iter().sum::<f64>().abs() < 1e-9 * (1.0 + before.loss));
                }
                (before, after) => prop_assert!(before.is_none() && after.is_none()),
            }
        }

        /// The fitted normaliser leaves less than any other, the estimated one included.
        #[test]
        fn centred_is_never_above_estimated(group in groups(), beta in 0.05..2.0f64) {
            let estimated = Objective::Rco { beta, normalizer: Normalizer::Estimated }.evaluate(&group).unwrap();
            let Some(centred) = CENTRED(beta).evaluate(&group) else { return Ok(()) };
            prop_assert!(centred.loss <= estimated.loss * (1.0 + 1e-12));
        }

        #[test]
        fn equal_utilities_only_pull_back(group in groups(), beta in 0.001..2.0f64, utility in 0.0..=1.0f64) {
            let mut group = group;
            group.utilities.fill(utility);
            let found = Objective::Rco { beta, normalizer: Normalizer::Estimated }.evaluate(&group).unwrap();
            let mean_square = group.log_ratios().iter().map(|ratio| ratio * ratio).sum::<f64>() / group.len() as f64;
            prop_assert!((found.loss - mean_square / 2.0).abs() < 1e-6 * (1.0 + mean_square));
            prop_assert_eq!(Objective::CuDpo { beta }.evaluate(&group), None);
        }

        #[test]
        fn residual_is_the_root_of_twice_the_loss(group in groups(), beta in 0.05..2.0f64) {
            for normalizer in [Normalizer::Estimated, Normalizer::Centred] {
                let Some(found) = (Objective::Rco { beta, normalizer }).evaluate(&group) else { continue };
                prop_assert!((found.residual.powi(2) - 2.0 * found.loss).abs() < 1e-9 * (1.0 + found.loss));
            }
        }

        /// The optimum of RCO is where every critique's predicted utility is its own.
        #[test]
        fn at_the_optimum_the_loss_is_zero(group in groups(), beta in 0.05..2.0f64) {
            let mut group = group;
            let log_z = log_normalizer(&group.utilities, beta);
            for at in 0..group.len() {
                group.log_policy[at] = group.log_reference[at] + group.utilities[at] / beta - log_z;
                let ratio = group.log_policy[at] - group.log_reference[at];
                prop_assert!((predicted_utility(ratio, log_z, beta) - group.utilities[at]).abs() < 1e-9);
            }
            let found = Objective::Rco { beta, normalizer: Normalizer::Estimated }.evaluate(&group).unwrap();
            prop_assert!(found.loss < 1e-18, "{found:?}");
        }
    }

    #[test]
    fn a_group_without_signal_has_no_value() {
        let one = ScoredGroup {
            log_policy: vec![-1.0],
            log_reference: vec![-2.0],
            utilities: vec![0.5],
            lengths: vec![3],
            preferred: None,
        };
        assert_eq!(CENTRED(0.1).evaluate(&one), None);
        assert_eq!(Objective::CuDpo { beta: 0.1 }.evaluate(&one), None);
        assert_eq!(Objective::Dpco { beta: 0.1 }.evaluate(&one), None);
        assert!(Objective::Sft.evaluate(&one).is_some());
        let empty = ScoredGroup {
            log_policy: vec![],
            log_reference: vec![],
            utilities: vec![],
            lengths: vec![],
            preferred: None,
        };
        assert_eq!(Objective::Sft.evaluate(&empty), None);
    }
}

//! Supervised fine-tuning on the best of N: L = −log p_θ(best) / tokens(best).
//!
//! By token, so that a group with a long critique weighs no more than one with a short.

use super::{Evaluation, ScoredGroup, extremes};

pub(super) fn evaluate(group: &ScoredGroup) -> Evaluation {
    let (best, _) = extremes(&group.utilities);
    let tokens = group.lengths[best].max(1) as f64;
    let mut gradient = vec![0.0; group.utilities.len()];
    gradient[best] = -1.0 / tokens;
    Evaluation { loss: -group.log_policy[best] / tokens, gradient, residual: 0.0 }
}

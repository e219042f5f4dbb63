//! Direct Preference Optimization (arXiv 2305.18290) on the best and the worst of a group.
//!
//! ```text
//! L = −log σ(m),   m = β·[log p_θ/p (best) − log p_θ/p (worst)],   ∂L/∂log p_θ(best) = −β·σ(−m)
//! ```
//!
//! and the opposite for the worst. DPCO takes as best what judges preferred, CU-DPO what led to
//! the best refinements.

use std::cmp::Ordering;

use super::{Evaluation, ScoredGroup, extremes};

pub(super) fn evaluate(group: &ScoredGroup, scores: &[f64], beta: f64) -> Option<Evaluation> {
    let (best, worst) = extremes(scores);
    // Not greater: equal, or no number.
    if scores[best].partial_cmp(&scores[worst]) != Some(Ordering::Greater) {
        return None;
    }
    let ratios = group.log_ratios();
    let margin = beta * (ratios[best] - ratios[worst]);
    let push = beta * (-softplus(margin)).exp();
    let mut gradient = vec![0.0; scores.len()];
    (gradient[best], gradient[worst]) = (-push, push);
    Some(Evaluation { loss: softplus(-margin), gradient, residual: 0.0 })
}

/// log(1 + eˣ) = −log σ(−x), without overflow for large x or cancellation for small.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extreme_margins_stay_finite() {
        assert_eq!(softplus(1e4), 1e4);
        assert_eq!(softplus(-1e4), 0.0);
        assert_eq!(softplus(0.0), 2f64.ln());
        assert_eq!(softplus(-40.0), (-40f64).exp());
    }
}

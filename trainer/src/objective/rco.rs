//! Refinement-oriented Critique Optimization (arXiv 2506.22157).
//!
//! The critic that maximises E\[CU\] − β·KL(p_θ‖p) is p*(c) = p(c)·exp(CU(c)/β)/Z. The loss of
//! N critiques of one draft is the squared distance from it in log space,
//!
//! ```text
//! L = 1/(2N) Σ_i r_i²,   r_i = log p_θ(c_i)/p(c_i) + log Z − CU_i/β,   ∂L/∂log p_θ(c_i) = r_i/N
//! ```

use serde::{Deserialize, Serialize};

use super::{Evaluation, ScoredGroup, mean};

/// How the logarithm of a group's normaliser Z is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalizer {
    /// From the utilities of the group's own critiques, which the reference wrote:
    /// Ẑ = (1/N) Σ exp(CU_i/β).
    #[default]
    Estimated,
    /// The value that makes the loss smallest: log Z = −mean(log p_θ/p − CU/β). What remains is
    /// the regression of differences in REBEL (arXiv 2404.16767), over all pairs of the group.
    Centred,
}

pub(super) fn evaluate(group: &ScoredGroup, beta: f64, normalizer: Normalizer) -> Option<Evaluation> {
    let count = group.utilities.len();
    if count == 1 && normalizer == Normalizer::Centred {
        return None;
    }
    let mut residuals: Vec<f64> =
        group.log_ratios().iter().zip(&group.utilities).map(|(ratio, utility)| ratio - utility / beta).collect();
    let log_z = match normalizer {
        Normalizer::Estimated => log_normalizer(&group.utilities, beta),
        Normalizer::Centred => -mean(&residuals),
    };
    residuals.iter_mut().for_each(|residual| *residual += log_z);
    let mean_square = residuals.iter().map(|residual| residual * residual).sum::<f64>() / count as f64;
    Some(Evaluation {
        loss: mean_square / 2.0,
        gradient: residuals.iter().map(|residual| residual / count as f64).collect(),
        residual: mean_square.sqrt(),
    })
}

/// log Ẑ = log (1/N) Σ exp(CU_i/β), with the largest exponent taken out: at β = 0.001 the sum
/// itself is beyond f64.
pub fn log_normalizer(utilities: &[f64], beta: f64) -> f64 {
    let largest = utilities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = utilities.iter().map(|utility| ((utility - largest) / beta).exp()).sum();
    largest / beta + (sum / utilities.len() as f64).ln()
}

/// β·(log p_θ/p + log Z): what the critic takes a critique's utility to be. At the optimum it is
/// the utility.
pub fn predicted_utility(log_ratio: f64, log_z: f64, beta: f64) -> f64 {
    beta * (log_ratio + log_z)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_beta_does_not_overflow() {
        let log_z = log_normalizer(&[1.0, 0.0], 1e-4);
        assert!((log_z - (1e4 - 2f64.ln())).abs() < 1e-9, "{log_z}");
        assert_eq!(log_normalizer(&[0.5; 4], 0.05), 10.0);
    }
}

//! The utility advantage, and when to act on it.

/// A(c) = β·\[log p_θ/p (c) − log p_θ/p (keep)\], which estimates CU(c) − ½.
///
/// Z is the same for every critique of a draft, and *keep* leaves the draft as it is, so that
/// its utility is known to be ½: the difference needs no normaliser.
pub fn utility_advantage(log_ratio: f64, log_ratio_keep: f64, beta: f64) -> f64 {
    beta * (log_ratio - log_ratio_keep)
}

/// When a critique is acted on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Threshold {
    /// Act where the utility advantage is above this.
    pub threshold: f64,
    /// Mean utility of doing so on the critiques that it was calibrated on.
    pub utility: f64,
}

/// The threshold that maximises the mean of (utility where A > threshold, else ½).
///
/// It lies midway between two neighbouring advantages; among equals the one nearest to 0, where
/// it would lie if advantages were exact, and of two as near the more cautious, higher one.
/// With nothing to learn from it is 0, with utility ½.
///
/// Pairs in which either is not a finite number are left out.
///
/// # Panics
/// Where the two differ in length.
pub fn calibrate_threshold(advantages: &[f64], utilities: &[f64]) -> Threshold {
    assert_eq!(advantages.len(), utilities.len(), "an advantage for each utility");
    let finite = |pair: &(f64, f64)| pair.0.is_finite() && pair.1.is_finite();
    let mut points: Vec<(f64, f64)> =
        advantages.iter().copied().zip(utilities.iter().copied()).filter(finite).collect();
    points.sort_by(|a, b| b.0.total_cmp(&a.0));
    let Some((&(highest, _), &(lowest, _))) = points.first().zip(points.last()) else {
        return Threshold { threshold: 0.0, utility: 0.5 };
    };
    let nearer = |a: f64, b: f64| if b.abs() < a.abs() { b } else { a };
    // Above all: nothing is acted on.
    let mut best = (0.0, highest.max(0.0));
    let mut gain = 0.0;
    for (at, &(advantage, utility)) in points.iter().enumerate() {
        gain += utility - 0.5;
        let threshold = match points.get(at + 1) {
            Some(&(next, _)) if next == advantage => continue,
            // Whichever place between the two is nearest to 0, if 0 itself is there.
            Some(&(next, _)) if next <= 0.0 && 0.0 < advantage => 0.0,
            Some(&(next, _)) => next + (advantage - next) / 2.0,
            None if lowest > 0.0 => 0.0,
            None => lowest - MARGIN,
        };
        // Sums of the same utilities in another order differ by rounding.
        if gain > best.0 + 1e-12 {
            best = (gain, threshold);
        } else if (gain - best.0).abs() <= 1e-12 {
            best.1 = nearer(best.1, threshold);
        }
    }
    Threshold { threshold: best.1, utility: 0.5 + best.0 / points.len() as f64 }
}

/// How far below the lowest advantage a threshold lies that lets everything pass.
const MARGIN: f64 = 1e-3;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn utility(points: &[(f64, f64)], threshold: f64) -> f64 {
        points.iter().map(|&(a, u)| if a > threshold { u } else { 0.5 }).sum::<f64>() / points.len() as f64
    }

    fn calibrate(points: &[(f64, f64)]) -> Threshold {
        let (advantages, utilities): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
        calibrate_threshold(&advantages, &utilities)
    }

    proptest! {
        #[test]
        fn no_threshold_is_better(points in prop::collection::vec((-5i8..5, 0u8..=4), 1..12)) {
            let points: Vec<(f64, f64)> = points.iter().map(|&(a, u)| (f64::from(a) / 8.0, f64::from(u) / 4.0)).collect();
            let found = calibrate(&points);
            prop_assert!((utility(&points, found.threshold) - found.utility).abs() < 1e-9);
            for step in -60..60 {
                prop_assert!(utility(&points, f64::from(step) / 64.0) <= found.utility + 1e-9, "{found:?} {points:?}");
            }
        }
    }

    #[test]
    fn thresholds_are_near_zero_and_cautious() {
        assert_eq!(calibrate(&[]), Threshold { threshold: 0.0, utility: 0.5 });
        assert_eq!(calibrate(&[(0.2, 1.0), (-0.2, 0.0)]), Threshold { threshold: 0.0, utility: 0.75 });
        // Advantages that are too high: harmful ones reach up to 0.2.
        let found = calibrate(&[(0.4, 1.0), (0.2, 0.0), (-0.3, 0.0)]);
        assert!((found.threshold - 0.3).abs() < 1e-12, "{found:?}");
        assert!(calibrate(&[(-0.2, 1.0), (-0.1, 1.0)]).threshold < -0.2);
        // Nothing helps: nothing passes.
        assert_eq!(calibrate(&[(0.3, 0.0), (0.1, 0.25)]), Threshold { threshold: 0.3, utility: 0.5 });
        assert_eq!(calibrate(&[(f64::NAN, 1.0)]).utility, 0.5);
    }
}

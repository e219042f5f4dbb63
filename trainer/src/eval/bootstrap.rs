//! Intervals by resampling prompts (Efron 1979): the 2.5th and 97.5th percentile of a measure over
//! resamples with replacement.
//!
//! Resample r draws the same prompts for every critic, so that a difference of two is one of paired
//! measurements. Strata, the seeds of training runs, are resampled each by itself.

use serde::{Deserialize, Serialize};

use super::measure::{Measure, Tally};
use crate::random::Random;

/// A value and where it probably lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// On all prompts.
    pub value: f64,
    /// 2.5th percentile.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

/// Resamples.
pub const RESAMPLES: usize = 1000;

/// A measure's value in all strata, and in each resample of them: the mean over strata of what each
/// gives. `strata[s][p]` is the tally of prompt p.
pub fn resample(strata: &[&[Tally]], measures: &[Measure], resamples: usize, seed: u64) -> Vec<Vec<Option<f64>>> {
    let of = |sums: &[Tally], measure: Measure| -> Option<f64> {
        let values: Option<Vec<f64>> = sums.iter().map(|tally| measure.of(tally)).collect();
        values.filter(|values| !values.is_empty()).map(|values| values.iter().sum::<f64>() / values.len() as f64)
    };
    let whole: Vec<Tally> = strata
        .iter()
        .map(|prompts| {
            let mut sum = Tally::default();
            prompts.iter().for_each(|&tally| sum += tally);
            sum
        })
        .collect();
    let mut found = vec![measures.iter().map(|&measure| of(&whole, measure)).collect::<Vec<_>>()];
    for number in 0..resamples {
        let sums: Vec<Tally> = (0..)
            .zip(strata)
            .map(|(stratum, prompts)| {
                let mut random = Random::new(seed, "bootstrap", &[number as u64, stratum]);
                let mut sum = Tally::default();
                (0..prompts.len()).for_each(|_| sum += prompts[random.below(prompts.len())]);
                sum
            })
            .collect();
        found.push(measures.iter().map(|&measure| of(&sums, measure)).collect());
    }
    found
}

/// The interval of values whose first is that of all prompts, and the rest of resamples.
pub fn interval(values: &[Option<f64>]) -> Option<Interval> {
    let (&value, resamples) = values.split_first()?;
    let mut known: Vec<f64> = resamples.iter().filter_map(|value| *value).collect();
    known.sort_by(f64::total_cmp);
    let value = value?;
    let at = |share: f64| percentile(&known, share).unwrap_or(value);
    Some(Interval { value, low: at(0.025), high: at(0.975) })
}

/// The percentile of sorted values, linear between neighbours.
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * (sorted.len().checked_sub(1)?) as f64;
    let (below, rest) = (place.floor() as usize, place.fract());
    let above = sorted[(below + 1).min(sorted.len() - 1)];
    Some(sorted[below] + rest * (above - sorted[below]))
}

/// Intervals of `measures` of one critic.
pub fn bootstrap(strata: &[&[Tally]], measures: &[Measure], seed: u64) -> Vec<Option<Interval>> {
    let found = resample(strata, measures, RESAMPLES, seed);
    (0..measures.len()).map(|at| interval(&found.iter().map(|row| row[at]).collect::<Vec<_>>())).collect()
}

/// Intervals of the differences between a critic and a baseline on the same prompts.
///
/// # Panics
/// Where the two were not measured on as many prompts.
pub fn paired(critic: &[&[Tally]], baseline: &[&[Tally]], measures: &[Measure], seed: u64) -> Vec<Option<Interval>> {
    assert!(critic.iter().map(|s| s.len()).eq(baseline.iter().map(|s| s.len())), "the same prompts");
    let [a, b] = [critic, baseline].map(|strata| resample(strata, measures, RESAMPLES, seed));
    let difference = |at: usize| -> Vec<Option<f64>> { a.iter().zip(&b).map(|(a, b)| Some(a[at]? - b[at]?)).collect() };
    (0..measures.len()).map(|at| interval(&difference(at))).collect()
}

/// The mean of few independent values and its 95 % interval by Student's t; of one, itself.
pub fn over_seeds(values: &[f64]) -> Option<Interval> {
    /// t for 97.5 % and 1 to 9 degrees of freedom.
    const T: [f64; 9] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
    let count = values.len();
    let mean = values.iter().sum::<f64>() / count as f64;
    match count {
        0 => None,
        1 => Some(Interval { value: mean, low: mean, high: mean }),
        _ => {
            let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1) as f64;
            let reach = T.get(count - 2).copied().unwrap_or(1.96) * (variance / count as f64).sqrt();
            Some(Interval { value: mean, low: mean - reach, high: mean + reach })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::measure::Sample;

    const CU: &[Measure] = &[Measure::CritiqueUtility];

    fn tally(preference: f64) -> Tally {
        Tally::new(&[Sample { preference, ..Sample::default() }])
    }

    #[test]
    fn percentiles() {
        assert_eq!(percentile(&[0.0, 1.0, 2.0, 3.0, 4.0], 0.5), Some(2.0));
        assert_eq!(percentile(&[0.0, 1.0], 0.25), Some(0.25));
        assert_eq!(percentile(&[7.0], 0.975), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    /// The interval of a mean is that of the normal approximation, m ± 1.96·s/√n.
    #[test]
    fn golden_interval() {
        let tallies: Vec<Tally> = (0..400).map(|at| tally(if at % 4 == 0 { 1.0 } else { 0.0 })).collect();
        let found = bootstrap(&[&tallies], CU, 1)[0].unwrap();
        let reach = 1.96 * (0.25f64 * 0.75 / 400.0).sqrt();
        assert_eq!(found.value, 0.25);
        assert!((found.low - (0.25 - reach)).abs() < 0.006 && (found.high - (0.25 + reach)).abs() < 0.006, "{found:?}");
        // The same numbers on every machine: these are from the first run.
        assert_eq!(found, bootstrap(&[&tallies], CU, 1)[0].unwrap());
    }

    #[test]
    fn pairs_share_their_prompts() {
        let a: Vec<Tally> = (0..100).map(|at| tally(f64::from(at % 2) * 0.5 + 0.1)).collect();
        let b: Vec<Tally> = (0..100).map(|at| tally(f64::from(at % 2) * 0.5)).collect();
        let found = paired(&[&a], &[&b], CU, 1)[0].unwrap();
        // Apart, each has an interval of ± 0.05.
        assert!((found.low - 0.1).abs() < 1e-12 && (found.high - 0.1).abs() < 1e-12, "{found:?}");
        let apart = bootstrap(&[&a], CU, 1)[0].unwrap();
        assert!(apart.high - apart.low > 0.08);
    }

    #[test]
    fn strata_weigh_the_same() {
        let (a, b) = (vec![tally(1.0); 10], vec![tally(0.0); 1000]);
        assert_eq!(bootstrap(&[&a, &b], CU, 1)[0].unwrap().value, 0.5);
        assert_eq!(bootstrap(&[], CU, 1), [None]);
    }

    #[test]
    fn few_seeds_have_wide_intervals() {
        let found = over_seeds(&[1.0, 2.0, 3.0]).unwrap();
        assert!(
            (found.value - 2.0).abs() < 1e-12 && (found.high - 2.0 - 4.303 / 3f64.sqrt()).abs() < 1e-9,
            "{found:?}"
        );
        assert_eq!(over_seeds(&[]), None);
    }
}

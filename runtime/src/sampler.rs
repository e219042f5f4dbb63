//! Chooses the next token from logits: seeded, and the same with and without batching.
//!
//! Order: repetition penalty, temperature, top-k, top-p, min-p. Each draw is keyed by
//! (seed, candidate, position) and takes nothing from the draws before it.

use crate::error::{Error, Result};
use crate::grammar::TokenSet;
use crate::kernels::rows::largest;

/// How tokens are chosen. The default is greedy.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; 1 the model's own distribution.
    pub temperature: f32,
    /// Keeps the k likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the likeliest tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divides positive logits, and multiplies negative ones, of tokens among the last
    /// [`Sampling::PENALTY_WINDOW`] (arXiv 1909.05858, section 4.1); 1 does nothing.
    pub repetition_penalty: f32,
    /// Key of all draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl Sampling {
    /// Tokens that the repetition penalty looks back at.
    pub const PENALTY_WINDOW: usize = 64;

    /// Rejects what has no meaning.
    pub fn validate(&self) -> Result<()> {
        let fields = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, f32::MIN_POSITIVE, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE, 100.0),
        ];
        for (name, value, least, most) in fields {
            if !(least..=most).contains(&value) {
                return Err(Error::invalid(format!("{name} is {value}, expected {least} to {most}")));
            }
        }
        Ok(())
    }
}

/// Chooses tokens; keeps its memory from one to the next.
#[derive(Default)]
pub struct Sampler {
    candidates: Vec<(u32, f32)>,
    penalised: Vec<f32>,
    constrained: Vec<f32>,
}

impl Sampler {
    /// The token after `context`, whose logits are `[vocab]`; `candidate` tells apart texts
    /// that share a seed. Ties go to the lower id. With `allowed`, one of these ids, whatever the
    /// logits are; it must not be empty.
    pub fn choose(
        &mut self,
        logits: &[f32],
        sampling: &Sampling,
        context: &[u32],
        candidate: u64,
        allowed: Option<&TokenSet>,
    ) -> u32 {
        let logits = if sampling.repetition_penalty == 1.0 {
            logits
        } else {
            penalise(&mut self.penalised, logits, sampling.repetition_penalty, context)
        };
        let logits = match allowed {
            None => logits,
            Some(allowed) => constrain(&mut self.constrained, logits, allowed),
        };
        let best = argmax(logits);
        if sampling.temperature == 0.0 || !logits[best as usize].is_finite() {
            return best;
        }
        let highest = logits[best as usize];
        // Weights e^((x − max)/T) are at most 1; min-p bounds them from below at once.
        let floor = sampling.min_p;
        self.candidates.clear();
        self.candidates.extend(logits.iter().enumerate().filter_map(|(id, &x)| {
            let weight = ((x - highest) / sampling.temperature).exp();
            (weight > 0.0 && weight >= floor).then_some((id as u32, weight))
        }));
        if (sampling.top_k > 0 && sampling.top_k < self.candidates.len()) || sampling.top_p < 1.0 {
            self.candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        }
        if sampling.top_k > 0 {
            self.candidates.truncate(sampling.top_k);
        }
        let mut total: f64 = self.candidates.iter().map(|c| f64::from(c.1)).sum();
        if sampling.top_p < 1.0 {
            let wanted = total * f64::from(sampling.top_p);
            let mut sum = 0.0;
            let kept = self.candidates.iter().position(|c| {
                sum += f64::from(c.1);
                sum >= wanted
            });
            self.candidates.truncate(kept.map_or(self.candidates.len(), |last| last + 1));
            total = self.candidates.iter().map(|c| f64::from(c.1)).sum();
        }
        let mut left = uniform(sampling.seed, candidate, context.len() as u64) * total;
        for &(id, weight) in &self.candidates {
            left -= f64::from(weight);
            if left < 0.0 {
                return id;
            }
        }
        self.candidates.last().map_or(best, |c| c.0)
    }
}

/// Copies `logits` to `out`, with −∞ for what is not allowed, and numbers for all that is.
fn constrain<'a>(out: &'a mut Vec<f32>, logits: &[f32], allowed: &TokenSet) -> &'a [f32] {
    out.clear();
    out.resize(logits.len(), f32::NEG_INFINITY);
    for id in allowed.iter() {
        if let (Some(out), Some(&x)) = (out.get_mut(id as usize), logits.get(id as usize)) {
            *out = if x.is_nan() { f32::MIN } else { x.clamp(f32::MIN, f32::MAX) };
        }
    }
    out
}

/// Copies `logits` to `out` with the penalty for recent tokens of `context`.
fn penalise<'a>(out: &'a mut Vec<f32>, logits: &[f32], penalty: f32, context: &[u32]) -> &'a [f32] {
    out.clear();
    out.extend_from_slice(logits);
    for &token in &context[context.len().saturating_sub(Sampling::PENALTY_WINDOW)..] {
        // From the untouched logit: a token that occurs twice is penalised once.
        if let Some(&x) = logits.get(token as usize) {
            out[token as usize] = if x > 0.0 { x / penalty } else { x * penalty };
        }
    }
    out
}

/// The index of the largest value; of the first one, where several are equal. NaN counts for
/// nothing; where there is nothing else, 0.
pub fn argmax(values: &[f32]) -> u32 {
    /// Values that are looked at together: the largest is then searched for among so many only.
    const CHUNK: usize = 1024;
    let (mut best, mut place) = (f32::NEG_INFINITY, 0);
    for (index, chunk) in values.chunks(CHUNK).enumerate() {
        let value = largest(chunk);
        if value > best {
            (best, place) = (value, index * CHUNK);
        }
    }
    let at = values[place.min(values.len())..].iter().position(|&value| value == best);
    (place + at.unwrap_or(0)) as u32
}

/// A number in 0..1 that depends on its key alone: SplitMix64 (Steele, Lea and Flood, 2014)
/// over the three words in turn.
fn uniform(seed: u64, candidate: u64, position: u64) -> f64 {
    let mix = |x: u64| {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    };
    let bits = mix(mix(mix(seed) ^ candidate) ^ position);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(logits: &[f32], sampling: &Sampling, n: usize) -> Vec<usize> {
        let mut sampler = Sampler::default();
        let mut counts = vec![0; logits.len()];
        let mut context = Vec::new();
        for _ in 0..n {
            counts[sampler.choose(logits, sampling, &context, 0, None) as usize] += 1;
            context.push(0);
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(draw(&[0.0, 3.0, 3.0, -1.0], &Sampling::default(), 5), [0, 5, 0, 0]);
    }

    #[test]
    fn the_first_of_the_largest_whatever_is_beside_it() {
        let mut values: Vec<f32> = (0..5000).map(|i| (i * 7919 % 4999) as f32).collect();
        let first = values.iter().position(|&v| v == 4998.0).unwrap();
        assert_eq!(argmax(&values) as usize, first);
        values[4999] = 9999.0;
        assert_eq!(argmax(&values), 4999);
        values[1025] = 9999.0;
        values[0] = f32::NAN;
        assert_eq!(argmax(&values), 1025);
        assert_eq!(argmax(&[f32::NAN, f32::NAN]), 0);
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), 0);
        assert_eq!(argmax(&[]), 0);
    }

    #[test]
    fn temperature_one_is_the_models_distribution() {
        let logits = [0.1f32.ln(), 0.2f32.ln(), 0.7f32.ln()];
        let n = 20_000;
        let counts = draw(&logits, &Sampling { temperature: 1.0, seed: 7, ..Default::default() }, n);
        for (count, p) in counts.iter().zip([0.1, 0.2, 0.7f64]) {
            // Five standard deviations of a binomial count.
            let bound = 5.0 * (n as f64 * p * (1.0 - p)).sqrt();
            assert!((*count as f64 - n as f64 * p).abs() < bound, "{counts:?}");
        }
    }

    #[test]
    fn truncation_keeps_what_it_says() {
        let logits = [0.4f32.ln(), 0.3f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let with = |sampling: Sampling| -> Vec<bool> {
            draw(&logits, &Sampling { temperature: 1.0, ..sampling }, 2000).iter().map(|&n| n > 0).collect()
        };
        assert_eq!(with(Sampling { top_k: 2, ..Default::default() }), [true, true, false, false]);
        assert_eq!(with(Sampling { top_p: 0.69, ..Default::default() }), [true, true, false, false]);
        assert_eq!(with(Sampling { top_p: 0.71, ..Default::default() }), [true, true, true, false]);
        assert_eq!(with(Sampling { min_p: 0.45, ..Default::default() }), [true, true, true, false]);
    }

    #[test]
    fn draws_depend_on_seed_candidate_and_position_alone() {
        let logits = [0.0; 50];
        let sampling = |seed| Sampling { temperature: 1.0, seed, ..Default::default() };
        let choose = |seed, len: usize, candidate| {
            Sampler::default().choose(&logits, &sampling(seed), &vec![0; len], candidate, None)
        };
        assert_eq!(choose(1, 2, 3), choose(1, 2, 3));
        let all: std::collections::HashSet<_> = (0..40).map(|i| choose(i, 0, 0)).collect();
        assert!(all.len() > 15, "seeds give different draws");
        let all: std::collections::HashSet<_> = (0..40).map(|i| choose(0, 0, i)).collect();
        assert!(all.len() > 15, "candidates give different draws");
        let all: std::collections::HashSet<_> = (0..40).map(|i| choose(0, i, 0)).collect();
        assert!(all.len() > 15, "positions give different draws");
    }

    #[test]
    fn repetition_penalty_touches_recent_tokens_once() {
        let sampling = Sampling { repetition_penalty: 1.5, ..Default::default() };
        let mut sampler = Sampler::default();
        assert_eq!(sampler.choose(&[2.0, 1.5, -1.0], &sampling, &[0, 0, 0], 0, None), 1);
        assert_eq!(sampler.choose(&[1.6, 1.0, -1.0], &sampling, &[0, 0, 0], 0, None), 0);
    }

    #[test]
    fn what_is_not_allowed_is_never_chosen() {
        let mut allowed = TokenSet::default();
        allowed.clear(4);
        allowed.insert(1);
        allowed.insert(3);
        let mut sampler = Sampler::default();
        let hot = Sampling { temperature: 2.0, ..Default::default() };
        for logits in [[9.0, 1.0, 9.0, 2.0], [f32::INFINITY, f32::NAN, 0.0, f32::NAN], [f32::NEG_INFINITY; 4]] {
            for position in 0..50 {
                for sampling in [&Sampling::default(), &hot] {
                    let token = sampler.choose(&logits, sampling, &vec![0; position], 0, Some(&allowed));
                    assert!(allowed.contains(token), "{logits:?} gave {token}");
                }
            }
        }
        assert_eq!(sampler.choose(&[9.0, 1.0, 9.0, 2.0], &Sampling::default(), &[], 0, Some(&allowed)), 3);
    }

    #[test]
    fn options_without_meaning_are_refused() {
        for sampling in [
            Sampling { temperature: -1.0, ..Default::default() },
            Sampling { temperature: f32::NAN, ..Default::default() },
            Sampling { top_p: 0.0, ..Default::default() },
            Sampling { min_p: 1.5, ..Default::default() },
            Sampling { repetition_penalty: 0.0, ..Default::default() },
        ] {
            assert!(sampling.validate().is_err(), "{sampling:?}");
        }
        Sampling::default().validate().unwrap();
    }
}

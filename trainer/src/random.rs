//! Random numbers keyed by the run's seed and what they are for.
//!
//! A step is a function of the seed and its number: whoever draws first must not change what
//! others draw, and a run that is resumed must draw what it would have drawn. The generator is
//! ours because its output is part of that promise: those of the `rand` crates may change, in
//! value or in how a shuffle uses them, from one version to the next.

use sha2::{Digest, Sha256};

/// A stream of numbers: SplitMix64 (Steele, Lea, Flood 2014) from a hashed key.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of `seed` for `purpose`; `place` tells those of one kind apart.
    pub fn new(seed: u64, purpose: &str, place: &[u64]) -> Self {
        let place: Vec<u8> = place.iter().flat_map(|word| word.to_le_bytes()).collect();
        Self { state: key(seed, purpose, &place) }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    }

    /// A number in \[0, 1), with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        unit(self.bits())
    }

    /// A whole number below `bound`, which is not 0. Its bias is below bound · 2⁻⁶⁴.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// A standard normal number (Box and Muller 1958; the second of each pair is not used).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// One of `items`, which are not empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Puts `items` in a random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// A number in \[0, 1) that belongs to `name` alone, whatever else there is.
pub(crate) fn share_of(seed: u64, purpose: &str, name: &str) -> f64 {
    unit(key(seed, purpose, name.as_bytes()))
}

fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn key(seed: u64, purpose: &str, rest: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((purpose.len() as u64).to_le_bytes());
    hash.update(purpose);
    hash.update(rest);
    let digest = hash.finalize();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of earlier versions are resumed: these values must never change.
    #[test]
    fn values_are_fixed() {
        // SplitMix64's published first output for the state 0.
        assert_eq!(Random { state: 0 }.bits(), 0xe220_a839_7b1d_cdaf);
        let mut order: Vec<usize> = (0..8).collect();
        Random::new(7, "order", &[3]).shuffle(&mut order);
        assert_eq!(order, [2, 0, 5, 4, 7, 3, 1, 6]);
    }

    #[test]
    fn streams_are_apart() {
        let first = |seed, purpose, index| Random::new(seed, purpose, &[index]).bits();
        let all = [first(1, "a", 0), first(2, "a", 0), first(1, "b", 0), first(1, "a", 1)];
        let distinct: std::collections::BTreeSet<_> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn numbers_are_even() {
        let mut random = Random::new(1, "even", &[]);
        let mut counts = [0; 5];
        (0..50_000).for_each(|_| counts[random.below(5)] += 1);
        assert!(counts.iter().all(|&count: &i32| (count - 10_000).abs() < 500), "{counts:?}");
        let mean = (0..50_000).map(|_| random.uniform()).sum::<f64>() / 50_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }
}

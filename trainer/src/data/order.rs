//! Which groups make up each step of an epoch: shuffled, but those of a step alike in length.
//!
//! What is computed together is padded to the longest, so that lengths far apart waste work.
//! Sorting the whole epoch would make every epoch's steps the same; sorting within windows of
//! several steps wastes little and leaves them random.

use crate::random::Random;

/// How groups are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Groups of a step; the last step of an epoch may have fewer.
    pub size: usize,
    /// Steps of a window, within which groups are sorted by length; 1 leaves the order random.
    pub window: usize,
}

/// Indices of the groups of each step in `epoch`, given the `lengths` of all groups. Every group
/// occurs once. A function of its arguments alone.
pub fn batches(lengths: &[usize], batching: Batching, seed: u64, epoch: u64) -> Vec<Vec<usize>> {
    let size = batching.size.max(1);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    let mut random = Random::new(seed, "order", &[epoch]);
    random.shuffle(&mut order);
    for window in order.chunks_mut(size.saturating_mul(batching.window.max(1))) {
        // Stable: groups of one length stay shuffled.
        window.sort_by_key(|&group| lengths[group]);
    }
    let mut batches: Vec<Vec<usize>> = order.chunks(size).map(<[usize]>::to_vec).collect();
    random.shuffle(&mut batches);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_group_occurs_once(
            lengths in prop::collection::vec(1usize..500, 0..80), size in 1usize..9, window in 1usize..6, seed: u64, epoch in 0u64..5,
        ) {
            let batches = batches(&lengths, Batching { size, window }, seed, epoch);
            let mut all: Vec<usize> = batches.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len()).collect::<Vec<_>>());
            prop_assert!(batches.iter().all(|batch| batch.len() <= size));
            prop_assert_eq!(batches.len(), lengths.len().div_ceil(size));
        }
    }

    /// Runs of earlier versions are resumed: this order must never change.
    #[test]
    fn the_order_is_fixed() {
        let lengths = [30, 10, 20, 40, 15, 35, 25];
        let found = batches(&lengths, Batching { size: 2, window: 2 }, 42, 0);
        assert_eq!(found, [vec![0], vec![2, 6], vec![1, 4], vec![5, 3]]);
        assert_ne!(found, batches(&lengths, Batching { size: 2, window: 2 }, 42, 1));
        assert_ne!(found, batches(&lengths, Batching { size: 2, window: 2 }, 43, 0));
    }

    #[test]
    fn windows_save_padding() {
        let lengths: Vec<usize> = (0..400).map(|at| 1 + at * 7919 % 1000).collect();
        let padded = |window| -> usize {
            let batches = batches(&lengths, Batching { size: 8, window }, 1, 0);
            batches.iter().map(|batch| batch.len() * batch.iter().map(|&at| lengths[at]).max().unwrap()).sum()
        };
        assert!(padded(8) * 10 < padded(1) * 7, "{} {}", padded(8), padded(1));
    }
}

//! Hash tables that are built once and read in place from the model file.
//!
//! Linear probing without wrap-around: a table of `slots` (a power of two) has [`PROBES`]
//! more behind it, and an entry lies in one of the [`PROBES`] slots from its home on. The
//! entries lie in the order of their homes, so that an empty slot ends every search. The
//! builder doubles the table until this holds; a search in a hostile table is as short as in
//! an honest one.

use crate::error::{Error, Result};
use crate::hash::Fnv;

/// Slots that a lookup reads at most.
pub(super) const PROBES: usize = 32;
/// An empty slot, and the id of no token.
pub(super) const NONE: u32 = u32::MAX;
/// Fewest slots: with [`PROBES`] behind them, whole cache lines of four-byte entries.
const MIN_SLOTS: usize = 16;

/// The finalizer of SplitMix64: every bit of the input changes every bit of the output.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of a pair of tokens.
pub(super) fn hash_pair(left: u32, right: u32) -> u64 {
    // The constant keeps the pair (0, 0), like all others, away from the fixed point 0.
    mix((u64::from(left) << 32 | u64::from(right)) ^ 0x9e37_79b9_7f4a_7c15)
}

/// FNV-1a, which can be continued byte by byte; [`mix`] follows at the end.
#[derive(Clone, Copy)]
pub(super) struct BytesHash(Fnv);

impl BytesHash {
    pub(super) fn new() -> Self {
        Self(Fnv::new())
    }

    pub(super) fn extend(self, bytes: &[u8]) -> Self {
        Self(self.0.extend(bytes))
    }

    pub(super) fn finish(self) -> u64 {
        mix(self.0.finish())
    }
}

/// The slots' number of a table that has `length` of them in all, if one can have been built so.
pub(super) fn slots(length: usize) -> Option<usize> {
    length.checked_sub(PROBES).filter(|slots| slots.is_power_of_two())
}

/// First slot of `hash`.
pub(super) fn home(hash: u64, slots: usize) -> usize {
    hash as usize & (slots - 1)
}

/// Which entry (by its index in `hashes`) lies in which slot; [`NONE`] in empty ones.
pub(super) fn arrange(hashes: &[u64]) -> Result<Vec<u32>> {
    // At most three quarters full: beyond, the longest search grows fast.
    let mut slots = (hashes.len() / 3 * 4).next_power_of_two().max(MIN_SLOTS);
    let most = slots << 6;
    while slots <= most {
        if let Some(table) = try_arrange(hashes, slots) {
            return Ok(table);
        }
        slots *= 2;
    }
    Err(Error::unsupported(format!("tokenizer: more than {PROBES} of {} table entries collide", hashes.len())))
}

fn try_arrange(hashes: &[u64], slots: usize) -> Option<Vec<u32>> {
    let mut order: Vec<u32> = (0..hashes.len() as u32).collect();
    order.sort_unstable_by_key(|&index| (home(hashes[index as usize], slots), index));
    let mut table = vec![NONE; slots + PROBES];
    let mut free = 0;
    for index in order {
        let home = home(hashes[index as usize], slots);
        let slot = free.max(home);
        if slot - home >= PROBES {
            return None;
        }
        table[slot] = index;
        free = slot + 1;
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_lies_within_reach_of_its_home() {
        for entries in [0, 1, 15, 16, 100, 70_000] {
            let hashes: Vec<u64> = (0..entries).map(|i| mix(i + 1)).collect();
            let table = arrange(&hashes).unwrap();
            let slots = slots(table.len()).unwrap();
            for (index, &hash) in hashes.iter().enumerate() {
                let home = home(hash, slots);
                let reach = table[home..home + PROBES].iter().take_while(|&&entry| entry != NONE);
                assert!(reach.into_iter().any(|&entry| entry as usize == index));
            }
        }
    }

    #[test]
    fn collisions_are_refused() {
        assert!(arrange(&[7; PROBES]).is_ok());
        assert!(arrange(&[7; PROBES + 1]).is_err());
    }
}

//! Byte-pair encoding of one word (Sennrich et al. 2016, arXiv 1508.07909): while any two
//! neighbours can merge, the pair of lowest rank does, the leftmost of equals first.
//!
//! Not here: where words come from (see [`super::pretokenize`]).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::hash::NONE;
use super::spec::TokenizerSpec;
use super::tables::{Merge, Tables};

/// Up to this many symbols, looking at all pairs anew after each merge is faster than a heap.
const SCAN_LIMIT: usize = 32;
/// Bytes of the longest word that is encoded as a whole: positions are 32-bit numbers.
/// Longer ones are cut.
const MAX_WORD: usize = 1 << 30;
const NO_MERGE: Merge = Merge { rank: NONE, merged: NONE };

/// Buffers of one call, kept from word to word.
#[derive(Default)]
pub(super) struct Bpe {
    symbols: Vec<u32>,
    pairs: Vec<Merge>,
    previous: Vec<u32>,
    next: Vec<u32>,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Bpe {
    /// Appends the tokens of `word` to `out`.
    pub(super) fn encode(&mut self, tables: &Tables, spec: &TokenizerSpec, mut word: &str, out: &mut Vec<u32>) {
        while word.len() > MAX_WORD {
            let (head, tail) = word.split_at(word.floor_char_boundary(MAX_WORD));
            self.encode_whole(tables, spec, head, out);
            word = tail;
        }
        self.encode_whole(tables, spec, word, out);
    }

    fn encode_whole(&mut self, tables: &Tables, spec: &TokenizerSpec, word: &str, out: &mut Vec<u32>) {
        if spec.ignore_merges
            && let Some(id) = tables.find(word.as_bytes())
        {
            out.push(id);
            return;
        }
        self.symbols.clear();
        if spec.byte_level {
            self.start_with_bytes(tables, spec, word);
        } else {
            self.start_with_characters(tables, spec, word);
        }
        if self.symbols.len() <= SCAN_LIMIT {
            self.merge_by_scan(tables);
        } else {
            self.merge_by_heap(tables);
        }
        out.extend(self.symbols.iter().filter(|&&id| id != NONE));
    }

    fn start_with_bytes(&mut self, tables: &Tables, spec: &TokenizerSpec, word: &str) {
        for byte in word.bytes() {
            match tables.byte(byte) {
                Some(id) => self.symbols.push(id),
                None => self.push_unknown(spec),
            }
        }
    }

    fn start_with_characters(&mut self, tables: &Tables, spec: &TokenizerSpec, word: &str) {
        let mut buffer = [0; 4];
        for character in word.chars() {
            let bytes = character.encode_utf8(&mut buffer).as_bytes();
            if let Some(id) = tables.find(bytes) {
                self.symbols.push(id);
            } else if spec.byte_fallback && bytes.iter().all(|&byte| tables.byte(byte).is_some()) {
                self.symbols.extend(bytes.iter().filter_map(|&byte| tables.byte(byte)));
            } else {
                self.push_unknown(spec);
            }
        }
    }

    fn push_unknown(&mut self, spec: &TokenizerSpec) {
        let Some(unknown) = spec.unknown else { return };
        if !(spec.fuse_unknown && self.symbols.last() == Some(&unknown)) {
            self.symbols.push(unknown);
        }
    }

    fn merge_by_scan(&mut self, tables: &Tables) {
        let Self { symbols, pairs, .. } = self;
        let pair = |symbols: &[u32], at: usize| tables.merge(symbols[at], symbols[at + 1]).unwrap_or(NO_MERGE);
        pairs.clear();
        pairs.extend((1..symbols.len()).map(|right| pair(symbols, right - 1)));
        while let Some((at, merge)) = pairs.iter().copied().enumerate().min_by_key(|(_, merge)| merge.rank) {
            if merge.rank == NONE {
                break;
            }
            symbols[at] = merge.merged;
            symbols.remove(at + 1);
            pairs.remove(at);
            if at > 0 {
                pairs[at - 1] = pair(symbols, at - 1);
            }
            if at < pairs.len() {
                pairs[at] = pair(symbols, at);
            }
        }
    }

    /// O(n log n): each merge removes a symbol and adds at most two pairs. Entries whose pair
    /// has changed meanwhile are recognised by their rank when their turn comes.
    fn merge_by_heap(&mut self, tables: &Tables) {
        let Self { symbols, previous, next, heap, .. } = self;
        let count = symbols.len() as u32;
        previous.clear();
        previous.extend((0..count).map(|at| at.wrapping_sub(1)));
        next.clear();
        next.extend((1..count).chain([NONE]));
        let mut entries = std::mem::take(heap).into_vec();
        entries.clear();
        entries.extend((1..count).filter_map(|right| {
            let merge = tables.merge(symbols[right as usize - 1], symbols[right as usize])?;
            Some(Reverse((merge.rank, right - 1)))
        }));
        *heap = BinaryHeap::from(entries);
        while let Some(Reverse((rank, at))) = heap.pop() {
            let (left, right) = (at as usize, next[at as usize] as usize);
            if symbols[left] == NONE || right == NONE as usize {
                continue;
            }
            let Some(merge) = tables.merge(symbols[left], symbols[right]) else { continue };
            if merge.rank != rank {
                continue;
            }
            symbols[left] = merge.merged;
            symbols[right] = NONE;
            let after = next[right];
            next[left] = after;
            if after != NONE {
                previous[after as usize] = at;
                if let Some(merge) = tables.merge(symbols[left], symbols[after as usize]) {
                    heap.push(Reverse((merge.rank, at)));
                }
            }
            let before = previous[left];
            if before != NONE
                && let Some(merge) = tables.merge(symbols[before as usize], symbols[left])
            {
                heap.push(Reverse((merge.rank, before)));
            }
        }
    }
}

//! The tokenizer's tables as they lie in the model file, read in place.
//!
//! Nothing here trusts them: opening checks what takes one pass over the small tables, and
//! every lookup in a large one checks what it finds.

use safetensors::Dtype;

use super::hash::{self, BytesHash, NONE, PROBES};
use super::spec::{Algorithm, TokenKind, TokenizerSpec};
use crate::error::{Error, Result};
use crate::file::ModelFile;
use crate::map::Slice;

/// Names of the tensors.
pub(super) mod name {
    /// U8: all tokens' bytes.
    pub const PIECES: &str = "tokenizer.pieces";
    /// U32 `[vocab + 1]`: where each token's bytes begin.
    pub const OFFSETS: &str = "tokenizer.offsets";
    /// U8 `[vocab]`: [`super::TokenKind`].
    pub const KINDS: &str = "tokenizer.kinds";
    /// F32 `[vocab]`, where the algorithm needs them.
    pub const SCORES: &str = "tokenizer.scores";
    /// U32 `[slots + 32]`: id by bytes.
    pub const LOOKUP: &str = "tokenizer.lookup";
    /// U32 `[slots + 32, 4]`: left, right, rank, merged.
    pub const MERGES: &str = "tokenizer.merges";
    /// U32 `[256]`: id by byte.
    pub const BYTES: &str = "tokenizer.bytes";
    /// U32 `[added, 4]`: offset and length in the texts, id, flags; sorted by text.
    pub const ADDED: &str = "tokenizer.added";
    /// U8: the added tokens' texts.
    pub const ADDED_TEXT: &str = "tokenizer.added_text";
}

/// Numbers in one slot of the table of merges.
pub(super) const MERGE_WIDTH: usize = 4;

/// Two neighbours become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    /// The lowest rank merges first.
    pub rank: u32,
    /// The token that stands for both.
    pub merged: u32,
}

/// See the module.
pub(super) struct Tables {
    vocab: usize,
    pieces: Slice<u8>,
    offsets: Slice<u32>,
    kinds: Slice<u8>,
    scores: Option<Slice<f32>>,
    lookup: Slice<u32>,
    lookup_slots: usize,
    /// Empty with unigram.
    merges: Option<(Slice<u32>, usize)>,
    bytes: Slice<u32>,
    longest: usize,
}

impl Tables {
    pub(super) fn open(file: &ModelFile, spec: &TokenizerSpec) -> Result<Self> {
        let vocab = spec.vocab_size;
        if vocab == 0 || vocab >= NONE as usize {
            return Err(Error::corrupt(format!("tokenizer of {vocab} tokens")));
        }
        let short = |name: &str| Error::corrupt(format!("tensor {name} is too short for {vocab} tokens"));
        let offsets =
            file.table::<u32>(name::OFFSETS, Dtype::U32)?.truncated(vocab + 1).ok_or_else(|| short(name::OFFSETS))?;
        let kinds = file.table::<u8>(name::KINDS, Dtype::U8)?.truncated(vocab).ok_or_else(|| short(name::KINDS))?;
        let scores = match spec.algorithm {
            Algorithm::Bpe => None,
            Algorithm::BpeScores | Algorithm::Unigram => Some(file.vector(name::SCORES, vocab)?),
        };
        let lookup = file.table::<u32>(name::LOOKUP, Dtype::U32)?;
        let lookup_slots = slots(name::LOOKUP, lookup.len())?;
        let merges = match spec.algorithm {
            Algorithm::Bpe | Algorithm::BpeScores => {
                let table = file.table::<u32>(name::MERGES, Dtype::U32)?;
                let slots = slots(name::MERGES, table.len() / MERGE_WIDTH)?;
                Some((table, slots))
            }
            Algorithm::Unigram => None,
        };
        let bytes = file.table::<u32>(name::BYTES, Dtype::U32)?.truncated(256).ok_or_else(|| short(name::BYTES))?;
        let pieces = file.table::<u8>(name::PIECES, Dtype::U8)?;
        let mut tables =
            Self { vocab, pieces, offsets, kinds, scores, lookup, lookup_slots, merges, bytes, longest: 0 };
        tables.check(spec)?;
        Ok(tables)
    }

    /// One pass over the small tables.
    fn check(&mut self, spec: &TokenizerSpec) -> Result<()> {
        let mut longest = 0;
        for (id, pair) in self.offsets.windows(2).enumerate() {
            if pair[0] > pair[1] || pair[1] as usize > self.pieces.len() {
                return Err(Error::corrupt(format!("token {id} lies outside tensor {}", name::PIECES)));
            }
            longest = longest.max((pair[1] - pair[0]) as usize);
        }
        self.longest = longest;
        if let Some(id) = self.kinds.iter().position(|&kind| TokenKind::from_number(kind).is_none()) {
            return Err(Error::corrupt(format!("token {id} is of unknown kind {}", self.kinds[id])));
        }
        for (byte, &id) in self.bytes.iter().enumerate() {
            if id != NONE && !matches!(self.kind(id), Some(TokenKind::Normal | TokenKind::Byte)) {
                return Err(Error::corrupt(format!("byte {byte} has token {id}, which is no text")));
            }
        }
        let named = spec.ends.iter().chain(&spec.bos).chain(&spec.unknown);
        for &id in named {
            if id as usize >= self.vocab {
                return Err(Error::corrupt(format!("token {id} is named, there are {}", self.vocab)));
            }
        }
        if spec.unknown.is_some_and(|id| self.kind(id) == Some(TokenKind::Control)) {
            return Err(Error::corrupt("the unknown token is a control token"));
        }
        Ok(())
    }

    pub(super) fn vocab(&self) -> usize {
        self.vocab
    }

    /// Bytes of the longest token.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    pub(super) fn kind(&self, id: u32) -> Option<TokenKind> {
        self.kinds.get(id as usize).and_then(|&kind| TokenKind::from_number(kind))
    }

    /// The token's bytes; none for an id out of range.
    pub(super) fn piece(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let (Some(&start), Some(&end)) = (self.offsets.get(id), self.offsets.get(id + 1)) else { return &[] };
        self.pieces.get(start as usize..end as usize).unwrap_or(&[])
    }

    /// All scores, where the algorithm has them.
    pub(super) fn scores(&self) -> &[f32] {
        self.scores.as_deref().unwrap_or(&[])
    }

    /// The token of one byte.
    pub(super) fn byte(&self, byte: u8) -> Option<u32> {
        self.bytes.get(byte as usize).copied().filter(|&id| id != NONE)
    }

    /// The text token with exactly these bytes.
    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        if bytes.len() > self.longest {
            return None;
        }
        self.find_hashed(BytesHash::new().extend(bytes).finish(), bytes)
    }

    pub(super) fn find_hashed(&self, hash: u64, bytes: &[u8]) -> Option<u32> {
        let home = hash::home(hash, self.lookup_slots);
        let window = self.lookup.get(home..home + PROBES)?;
        let found = window.iter().take_while(|&&id| id != NONE).find(|&&id| self.piece(id) == bytes)?;
        self.kind(*found)?.is_text().then_some(*found)
    }

    /// What the pair `left`, `right` becomes.
    pub(super) fn merge(&self, left: u32, right: u32) -> Option<Merge> {
        let (table, slots) = self.merges.as_ref()?;
        let home = hash::home(hash::hash_pair(left, right), *slots);
        let window = table.get(home * MERGE_WIDTH..(home + PROBES) * MERGE_WIDTH)?;
        for slot in window.chunks_exact(MERGE_WIDTH) {
            if slot[0] == NONE {
                return None;
            }
            if slot[0] == left && slot[1] == right {
                let merge = Merge { rank: slot[2], merged: slot[3] };
                return (merge.rank != NONE && self.kind(merge.merged)?.is_text()).then_some(merge);
            }
        }
        None
    }

    /// All merges in the order of their ranks.
    pub(super) fn merges(&self) -> Vec<(u32, u32)> {
        let Some((table, _)) = &self.merges else { return Vec::new() };
        let mut merges: Vec<(u32, u32, u32)> = table
            .chunks_exact(MERGE_WIDTH)
            .filter(|slot| slot[0] != NONE)
            .map(|slot| (slot[2], slot[0], slot[1]))
            .collect();
        merges.sort_unstable();
        merges.into_iter().map(|(_, left, right)| (left, right)).collect()
    }
}

fn slots(name: &str, length: usize) -> Result<usize> {
    hash::slots(length).ok_or_else(|| Error::corrupt(format!("tensor {name} has {length} slots")))
}

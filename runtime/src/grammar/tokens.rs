//! The vocabulary in the order of its bytes, so that all tokens that a grammar allows are found
//! in one pass: what two neighbours have in common is looked at once.
//!
//! Built when a model is first asked for findings, and shared by its sessions.

use std::ops::Range;

use super::text::is_plain;
use crate::model::Model;
use crate::tokenizer::TokenKind;

/// A set of token ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSet {
    words: Vec<u64>,
}

impl TokenSet {
    /// Forgets all ids; has room for `count`.
    pub fn clear(&mut self, count: usize) {
        self.words.clear();
        self.words.resize(count.div_ceil(64), 0);
    }

    /// Adds an id below the count.
    pub fn insert(&mut self, id: u32) {
        self.words[id as usize / 64] |= 1 << (id % 64);
    }

    /// Whether `id` is in it.
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The ids in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(index as u32 * 64 + bit)
            })
        })
    }
}

/// Tokens that may be made from text, in the order of their bytes.
pub struct TokenTable {
    /// Ids that the model's weights know.
    vocab: usize,
    all: Sorted,
    /// Those that are not plain.
    special: Sorted,
    /// Those that may stand anywhere in running text.
    plain: TokenSet,
    /// Bytes of the longest plain one.
    longest_plain: usize,
    /// For each byte, a token that is just it.
    single: Vec<Option<u32>>,
}

/// Tokens in the order of their bytes.
#[derive(Default)]
struct Sorted {
    ids: Vec<u32>,
    /// Bytes that each has in common with the one before it.
    common: Vec<u16>,
    /// Where the tokens begin whose first byte is this one.
    first: Vec<u32>,
}

impl Sorted {
    fn new(ids: Vec<u32>, model: &Model) -> Self {
        let piece = |id: u32| model.tokenizer().piece(id);
        let mut common = vec![0];
        for pair in ids.windows(2) {
            let same = piece(pair[0]).iter().zip(piece(pair[1])).take_while(|(a, b)| a == b).count();
            common.push(u16::try_from(same).unwrap_or(u16::MAX));
        }
        let begins = |byte: usize| ids.partition_point(|&id| usize::from(piece(id)[0]) < byte) as u32;
        Self { first: (0..=256).map(begins).collect(), common, ids }
    }

    fn beginning_with(&self, byte: u8) -> Range<usize> {
        self.first[usize::from(byte)] as usize..self.first[usize::from(byte) + 1] as usize
    }
}

impl TokenTable {
    /// Orders the model's tokens.
    pub fn new(model: &Model) -> Self {
        /// Longer tokens, which no real vocabulary has, are left out.
        const LONGEST: usize = 1024;
        let tokenizer = model.tokenizer();
        let vocab = tokenizer.vocab_size().min(model.config().vocab_size);
        let usable = |&id: &u32| {
            let kind = tokenizer.kind(id);
            matches!(kind, Some(TokenKind::Normal | TokenKind::UserDefined | TokenKind::Byte))
                && !tokenizer.is_end(id)
                && (1..=LONGEST).contains(&tokenizer.piece(id).len())
        };
        let mut ids: Vec<u32> = (0..vocab as u32).filter(usable).collect();
        ids.sort_unstable_by(|&a, &b| tokenizer.piece(a).cmp(tokenizer.piece(b)).then(a.cmp(&b)));
        let mut plain = TokenSet::default();
        plain.clear(vocab);
        let mut longest_plain = 0;
        let mut single = vec![None; 256];
        let mut special = Vec::new();
        for &id in &ids {
            let piece = tokenizer.piece(id);
            if let [byte] = *piece {
                single[usize::from(byte)].get_or_insert(id);
            }
            if is_plain(piece) {
                longest_plain = longest_plain.max(piece.len());
                plain.insert(id);
            } else {
                special.push(id);
            }
        }
        let special = Sorted::new(special, model);
        Self { vocab, all: Sorted::new(ids, model), special, plain, longest_plain, single }
    }

    /// Ids are below this.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Tokens that may stand anywhere in running text.
    pub fn plain(&self) -> &TokenSet {
        &self.plain
    }

    /// Bytes of the longest of them.
    pub fn longest_plain(&self) -> usize {
        self.longest_plain
    }

    /// Whether some token is this byte and nothing else.
    pub fn has_byte(&self, byte: u8) -> bool {
        self.single[usize::from(byte)].is_some()
    }

    /// Calls `found` for each token whose bytes `follow` takes one after the other from `start`
    /// on, with the state behind it. `plain`: those that are plain, too.
    pub fn walk<S: Copy>(
        &self,
        model: &Model,
        start: S,
        plain: bool,
        follow: impl Fn(S, u8) -> Option<S>,
        mut found: impl FnMut(u32, S),
    ) {
        let sorted = if plain { &self.all } else { &self.special };
        // States after 1, 2, … bytes of the last token that was looked at.
        let mut states: Vec<S> = Vec::new();
        for byte in 0..=255 {
            let range = sorted.beginning_with(byte);
            if range.is_empty() {
                continue;
            }
            let Some(after_first) = follow(start, byte) else { continue };
            states.clear();
            states.push(after_first);
            let mut dead = usize::MAX;
            for index in range.clone() {
                let common = if index == range.start { 1 } else { usize::from(sorted.common[index]) };
                if common > dead {
                    continue;
                }
                // Bytes that are new: those that the last ones did not share, or never came to.
                states.truncate(common.max(1));
                dead = usize::MAX;
                let id = sorted.ids[index];
                let piece = model.tokenizer().piece(id);
                let mut state = *states.last().expect("the first byte's state stays");
                for &byte in &piece[states.len()..] {
                    match follow(state, byte) {
                        Some(next) => {
                            state = next;
                            states.push(next);
                        }
                        None => {
                            dead = states.len();
                            break;
                        }
                    }
                }
                if dead == usize::MAX {
                    found(id, state);
                }
            }
        }
    }

    /// The longest token that `text` begins with, and its length.
    pub fn longest(&self, model: &Model, text: &[u8]) -> Option<(u32, usize)> {
        let mut best = None;
        for index in self.all.beginning_with(*text.first()?) {
            let piece = model.tokenizer().piece(self.all.ids[index]);
            let longer = best.is_none_or(|(_, length)| piece.len() > length);
            if longer && text.starts_with(piece) {
                best = Some((self.all.ids[index], piece.len()));
            }
        }
        best
    }
}

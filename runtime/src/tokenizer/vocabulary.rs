//! A tokenizer outside the model file: what importers fill, and what exporters get back.
//!
//! [`Vocabulary::build`] makes the tables from it. [`super::Tokenizer::vocabulary`] is its
//! inverse: building again gives the same bytes.

use std::collections::{HashMap, HashSet};

use safetensors::Dtype;

use super::added::{LSTRIP, MAX_ADDED, NORMALIZED, RSTRIP};
use super::hash::{self, BytesHash, NONE};
use super::spec::{Algorithm, Prefix, TokenKind, TokenizerSpec};
use super::tables::name;
use super::{normalize, unigram};
use crate::error::{Error, Result};
use crate::file::PlannedTensor;

/// Most bytes of one token whose merges are derived from scores: all cuts of it are tried.
const MAX_SCORED_PIECE: usize = 1024;

/// All that a tokenizer is, as plain data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vocabulary {
    /// Algorithm and rules. `vocab_size` and `added` are filled in by [`Vocabulary::build`].
    pub spec: TokenizerSpec,
    /// Each token's bytes: what it adds to the text, with `▁` as a space and `<0x0A>` as the
    /// byte; the name of a control token; nothing for tokens that are only there to fill up.
    pub pieces: Vec<Vec<u8>>,
    /// What each token is.
    pub kinds: Vec<TokenKind>,
    /// Each token's score, where [`Algorithm::BpeScores`] or [`Algorithm::Unigram`] needs it.
    pub scores: Vec<f32>,
    /// Pairs that merge, in the order of their ranks, for [`Algorithm::Bpe`]. The bytes of
    /// both together are the token that they become.
    pub merges: Vec<(u32, u32)>,
    /// Tokens that are looked for in text before it is split, and control tokens.
    pub added: Vec<AddedToken>,
}

/// A text that is one token wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    /// What stands in the text, before normalization.
    pub text: String,
    /// The token.
    pub id: u32,
    /// Whether it takes the whitespace before it.
    pub lstrip: bool,
    /// Whether it takes the whitespace after it.
    pub rstrip: bool,
    /// Whether it is looked for in normalized text, after those that are not.
    pub normalized: bool,
}

/// The tables, ready for [`crate::file::write_model`].
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerTables {
    /// The metadata value `critic.tokenizer`.
    pub spec: TokenizerSpec,
    /// Tensors and their bytes, unpadded.
    pub tables: Vec<(PlannedTensor, Vec<u8>)>,
}

/// A pair that merges, as the table holds it.
struct RankedMerge {
    left: u32,
    right: u32,
    rank: u32,
    merged: u32,
}

impl Vocabulary {
    /// Checks the vocabulary and makes its tables.
    pub fn build(&self) -> Result<TokenizerTables> {
        self.check()?;
        let by_bytes = self.by_bytes();
        let mut spec = self.spec.clone();
        spec.vocab_size = self.pieces.len();
        let mut tables = Vec::new();
        let mut offsets = vec![0];
        let mut end = 0_u32;
        for piece in &self.pieces {
            end = u32::try_from(piece.len())
                .ok()
                .and_then(|length| end.checked_add(length))
                .ok_or_else(|| Error::unsupported("tokenizer: the tokens have more than 4 GiB of text"))?;
            offsets.push(end);
        }
        push_bytes(&mut tables, name::PIECES, self.pieces.concat());
        push_numbers(&mut tables, name::OFFSETS, &offsets);
        push_bytes(&mut tables, name::KINDS, self.kinds.iter().map(|&kind| kind as u8).collect());
        if spec.algorithm != Algorithm::Bpe {
            let bytes = self.scores.iter().flat_map(|score| score.to_le_bytes()).collect();
            tables.push((PlannedTensor::table(name::SCORES, Dtype::F32, self.scores.len()), bytes));
        }
        push_numbers(&mut tables, name::LOOKUP, &self.lookup(&by_bytes)?);
        match spec.algorithm {
            Algorithm::Bpe => push_numbers(&mut tables, name::MERGES, &merge_table(&self.listed_merges(&by_bytes)?)?),
            Algorithm::BpeScores => {
                push_numbers(&mut tables, name::MERGES, &merge_table(&self.scored_merges(&by_bytes)?)?);
            }
            Algorithm::Unigram => {}
        }
        push_numbers(&mut tables, name::BYTES, &self.byte_table());
        let (entries, texts) = self.added_table();
        spec.added = entries.len() / super::added::ADDED_WIDTH;
        push_numbers(&mut tables, name::ADDED, &entries);
        push_bytes(&mut tables, name::ADDED_TEXT, texts);
        Ok(TokenizerTables { spec, tables })
    }

    fn check(&self) -> Result<()> {
        let vocab = self.pieces.len();
        if vocab == 0 || vocab >= NONE as usize {
            return Err(Error::invalid(format!("a tokenizer of {vocab} tokens")));
        }
        if self.kinds.len() != vocab {
            return Err(Error::invalid(format!("{} kinds for {vocab} tokens", self.kinds.len())));
        }
        if self.spec.algorithm != Algorithm::Bpe {
            if self.scores.len() != vocab {
                return Err(Error::invalid(format!("{} scores for {vocab} tokens", self.scores.len())));
            }
            if let Some(id) = self.scores.iter().position(|score| !score.is_finite()) {
                return Err(Error::invalid(format!("the score of token {id} is {}", self.scores[id])));
            }
        }
        let limit = match self.spec.algorithm {
            Algorithm::Bpe => usize::MAX,
            Algorithm::BpeScores => MAX_SCORED_PIECE,
            Algorithm::Unigram => unigram::MAX_PIECE,
        };
        if let Some(id) = self.pieces.iter().position(|piece| piece.len() > limit) {
            return Err(Error::unsupported(format!(
                "token {id} has {} bytes, at most {limit} work",
                self.pieces[id].len()
            )));
        }
        let ids = self.merges.iter().flat_map(|&(left, right)| [left, right]);
        let ids = ids.chain(self.added.iter().map(|token| token.id));
        let ids = ids.chain(self.spec.ends.iter().copied()).chain(self.spec.bos).chain(self.spec.unknown);
        for id in ids {
            if id as usize >= vocab {
                return Err(Error::invalid(format!("token {id} is named, there are {vocab}")));
            }
        }
        for token in &self.added {
            if token.text.is_empty() || token.text.len() > MAX_ADDED {
                return Err(Error::unsupported(format!(
                    "added token {} has {} bytes, expected 1 to {MAX_ADDED}",
                    token.id,
                    token.text.len()
                )));
            }
        }
        Ok(())
    }

    fn is_text(&self, id: u32) -> bool {
        self.kinds[id as usize].is_text()
    }

    /// Text tokens by their bytes; of equal ones the first.
    fn by_bytes(&self) -> HashMap<&[u8], u32> {
        let mut by_bytes = HashMap::with_capacity(self.pieces.len());
        for (id, piece) in (0..).zip(&self.pieces) {
            if self.is_text(id) && !piece.is_empty() {
                by_bytes.entry(piece.as_slice()).or_insert(id);
            }
        }
        by_bytes
    }

    fn lookup(&self, by_bytes: &HashMap<&[u8], u32>) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = by_bytes.values().copied().collect();
        ids.sort_unstable();
        let hashes: Vec<u64> =
            ids.iter().map(|&id| BytesHash::new().extend(&self.pieces[id as usize]).finish()).collect();
        let table = hash::arrange(&hashes)?;
        Ok(table.into_iter().map(|index| if index == NONE { NONE } else { ids[index as usize] }).collect())
    }

    /// The list as it is, less merges that control tokens take part in: text must not become
    /// one. A pair that is listed twice has its later rank, as in the reference.
    fn listed_merges(&self, by_bytes: &HashMap<&[u8], u32>) -> Result<Vec<RankedMerge>> {
        let mut seen = HashSet::with_capacity(self.merges.len());
        let mut merges = Vec::with_capacity(self.merges.len());
        let mut both = Vec::new();
        for &(left, right) in self.merges.iter().rev() {
            if !self.is_text(left) || !self.is_text(right) || !seen.insert((left, right)) {
                continue;
            }
            both.clear();
            both.extend_from_slice(&self.pieces[left as usize]);
            both.extend_from_slice(&self.pieces[right as usize]);
            if let Some(&merged) = by_bytes.get(both.as_slice()) {
                merges.push(RankedMerge { left, right, rank: 0, merged });
            }
        }
        merges.reverse();
        for (rank, merge) in (0..).zip(&mut merges) {
            merge.rank = rank;
        }
        Ok(merges)
    }

    /// Every cut of every token into two tokens. The rank is that of the score: equal scores
    /// have equal rank, so that the leftmost merges first, as in SentencePiece.
    fn scored_merges(&self, by_bytes: &HashMap<&[u8], u32>) -> Result<Vec<RankedMerge>> {
        let mut merges = Vec::new();
        for (&piece, &merged) in by_bytes {
            for cut in 1..piece.len() {
                let (left, right) = piece.split_at(cut);
                if let (Some(&left), Some(&right)) = (by_bytes.get(left), by_bytes.get(right)) {
                    merges.push(RankedMerge { left, right, rank: 0, merged });
                }
            }
        }
        let score = |merge: &RankedMerge| self.scores[merge.merged as usize];
        merges.sort_unstable_by(|a, b| score(b).total_cmp(&score(a)).then((a.left, a.right).cmp(&(b.left, b.right))));
        let mut rank = 0;
        for index in 1..merges.len() {
            rank += u32::from(score(&merges[index]) != score(&merges[index - 1]));
            merges[index].rank = rank;
        }
        Ok(merges)
    }

    /// Which token a byte begins as, or falls back to.
    fn byte_table(&self) -> Vec<u32> {
        let wanted = if self.spec.byte_level { TokenKind::Normal } else { TokenKind::Byte };
        let mut table = vec![NONE; 256];
        for ((id, piece), &kind) in (0..).zip(&self.pieces).zip(&self.kinds) {
            if let (&[byte], true) = (piece.as_slice(), kind == wanted)
                && table[usize::from(byte)] == NONE
            {
                table[usize::from(byte)] = id;
            }
        }
        table
    }

    fn added_table(&self) -> (Vec<u32>, Vec<u8>) {
        let mut tokens: Vec<(bool, Vec<u8>, u32, u32)> = self
            .added
            .iter()
            .map(|token| {
                let flags = [(token.lstrip, LSTRIP), (token.rstrip, RSTRIP), (token.normalized, NORMALIZED)];
                let flags = flags.iter().filter(|(set, _)| *set).map(|(_, flag)| flag).sum();
                let text = if token.normalized {
                    normalize::normalize(&self.spec, &token.text, self.spec.prefix == Prefix::Always).into_owned()
                } else {
                    token.text.clone()
                };
                (token.normalized, text.into_bytes(), token.id, flags)
            })
            .collect();
        tokens.sort();
        tokens.dedup_by(|later, first| (later.0, &later.1) == (first.0, &first.1));
        let (mut entries, mut texts) = (Vec::new(), Vec::new());
        for (_, text, id, flags) in tokens {
            entries.extend([texts.len() as u32, text.len() as u32, id, flags]);
            texts.extend(text);
        }
        (entries, texts)
    }
}

fn merge_table(merges: &[RankedMerge]) -> Result<Vec<u32>> {
    let hashes: Vec<u64> = merges.iter().map(|merge| hash::hash_pair(merge.left, merge.right)).collect();
    let slots = hash::arrange(&hashes)?;
    Ok(slots
        .into_iter()
        .flat_map(|index| match merges.get(index as usize) {
            Some(merge) => [merge.left, merge.right, merge.rank, merge.merged],
            None => [NONE; 4],
        })
        .collect())
}

fn push_bytes(tables: &mut Vec<(PlannedTensor, Vec<u8>)>, name: &str, bytes: Vec<u8>) {
    tables.push((PlannedTensor::table(name, Dtype::U8, bytes.len()), bytes));
}

fn push_numbers(tables: &mut Vec<(PlannedTensor, Vec<u8>)>, name: &str, numbers: &[u32]) {
    let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    tables.push((PlannedTensor::table(name, Dtype::U32, numbers.len()), bytes));
}

//! Added tokens: texts that become one token before anything is split.
//!
//! The longest of the texts that begin leftmost wins, by bisection in a sorted table: linear
//! in the text, because a text is at most [`MAX_ADDED`] bytes long.

use safetensors::Dtype;

use super::spec::{Special, TokenKind, TokenizerSpec};
use super::tables::{Tables, name};
use crate::error::{Error, Result};
use crate::file::ModelFile;
use crate::map::Slice;

/// Bytes of the longest added token.
pub(super) const MAX_ADDED: usize = 512;
/// Numbers in one entry: offset, length, id, flags.
pub(super) const ADDED_WIDTH: usize = 4;
/// Whitespace before the token belongs to it.
pub(super) const LSTRIP: u32 = 1;
/// Whitespace after the token belongs to it.
pub(super) const RSTRIP: u32 = 2;
/// The token is looked for in normalized text, after the others.
pub(super) const NORMALIZED: u32 = 4;

/// Before or after normalization.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    Raw,
    Normalized,
}

/// A part of the text.
pub(super) enum Segment<'t> {
    Text(&'t str),
    Token(u32),
}

/// One entry.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub text: &'a [u8],
    pub id: u32,
    pub flags: u32,
}

/// The table, read in place: first the entries of [`Pass::Raw`], then the others, each sorted.
pub(super) struct Added {
    entries: Slice<u32>,
    texts: Slice<u8>,
    raw: usize,
    count: usize,
    passes: [Matcher; 2],
}

/// What one pass looks for.
#[derive(Default)]
struct Matcher {
    /// One bit for each byte that an entry begins with.
    first: [u64; 4],
    /// Whether any entry is no control token.
    data: bool,
}

impl Added {
    pub(super) fn open(file: &ModelFile, spec: &TokenizerSpec, tables: &Tables) -> Result<Self> {
        let count = spec.added;
        let entries = count.checked_mul(ADDED_WIDTH).and_then(|length| {
            file.table::<u32>(name::ADDED, Dtype::U32).map(|table| table.truncated(length)).transpose()
        });
        let entries = entries
            .transpose()?
            .ok_or_else(|| Error::corrupt(format!("tensor {} is too short for {count} tokens", name::ADDED)))?;
        let texts = file.table::<u8>(name::ADDED_TEXT, Dtype::U8)?;
        let mut added = Self { entries, texts, raw: 0, count, passes: Default::default() };
        for index in 0..count {
            let Some(entry) = added.entry(index).filter(|entry| {
                (1..=MAX_ADDED).contains(&entry.text.len())
                    && std::str::from_utf8(entry.text).is_ok()
                    && (entry.id as usize) < tables.vocab()
            }) else {
                return Err(Error::corrupt(format!("tensor {}: entry {index} is no token", name::ADDED)));
            };
            let (first, data, raw) = (entry.text[0], !is_control(tables, entry.id), entry.flags & NORMALIZED == 0);
            if raw && added.raw != index {
                return Err(Error::corrupt(format!("tensor {}: entry {index} is out of order", name::ADDED)));
            }
            added.raw += usize::from(raw);
            let pass = &mut added.passes[usize::from(!raw)];
            pass.first[usize::from(first >> 6)] |= 1 << (first & 63);
            pass.data |= data;
        }
        Ok(added)
    }

    /// All entries.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.count).filter_map(|index| self.entry(index))
    }

    fn entry(&self, index: usize) -> Option<Entry<'_>> {
        let &[offset, length, id, flags] = self.entries.get(index * ADDED_WIDTH..(index + 1) * ADDED_WIDTH)? else {
            return None;
        };
        let end = (offset as usize).checked_add(length as usize)?;
        Some(Entry { text: self.texts.get(offset as usize..end)?, id, flags })
    }

    fn text(&self, index: usize) -> &[u8] {
        self.entry(index).map_or(&[], |entry| entry.text)
    }

    /// Calls `each` with the parts of `text`, none of them empty. Under [`Special::Text`] the
    /// names of control tokens are text; nothing else is found inside them.
    pub(super) fn split<'t>(
        &self,
        pass: Pass,
        text: &'t str,
        special: Special,
        tables: &Tables,
        mut each: impl FnMut(Segment<'t>),
    ) {
        let matcher = &self.passes[usize::from(pass == Pass::Normalized)];
        let mut start = 0;
        if matcher.data || special == Special::Parse {
            let bytes = text.as_bytes();
            let mut at = 0;
            while let Some(skipped) =
                bytes[at..].iter().position(|b| matcher.first[usize::from(b >> 6)] >> (b & 63) & 1 == 1)
            {
                at += skipped;
                let Some(entry) = self.longest(pass, &bytes[at..]) else {
                    at += 1;
                    continue;
                };
                let (mut begin, mut end) = (at, at + entry.text.len());
                at = end;
                if special == Special::Text && is_control(tables, entry.id) {
                    continue;
                }
                if entry.flags & LSTRIP != 0 && start < begin {
                    begin = start + text[start..begin].trim_end().len();
                }
                // Whitespace that an earlier token took is not looked at again.
                if end < start {
                    end = start;
                } else if entry.flags & RSTRIP != 0 {
                    end = text.len() - text[end..].trim_start().len();
                }
                if start < begin {
                    each(Segment::Text(&text[start..begin]));
                }
                each(Segment::Token(entry.id));
                start = end;
            }
        }
        if start < text.len() {
            each(Segment::Text(&text[start..]));
        }
    }

    /// The longest entry that `bytes` begin with.
    fn longest(&self, pass: Pass, bytes: &[u8]) -> Option<Entry<'_>> {
        let (mut low, mut high) = if pass == Pass::Raw { (0, self.raw) } else { (self.raw, self.count) };
        let mut found = None;
        // Entries from low to high share `depth` bytes with the text.
        for (depth, &byte) in bytes.iter().enumerate() {
            low = self.partition(low, high, |text| text.get(depth).is_none_or(|&b| b < byte));
            high = self.partition(low, high, |text| text.get(depth).is_some_and(|&b| b <= byte));
            if low >= high {
                break;
            }
            if self.text(low).len() == depth + 1 {
                found = Some(low);
            }
        }
        self.entry(found?)
    }

    fn partition(&self, mut low: usize, mut high: usize, before: impl Fn(&[u8]) -> bool) -> usize {
        while low < high {
            let middle = low + (high - low) / 2;
            if before(self.text(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// The token whose text is exactly `text`.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        [Pass::Raw, Pass::Normalized].into_iter().find_map(|pass| {
            self.longest(pass, text.as_bytes()).filter(|entry| entry.text.len() == text.len()).map(|entry| entry.id)
        })
    }
}

fn is_control(tables: &Tables, id: u32) -> bool {
    tables.kind(id).is_none_or(TokenKind::is_control)
}

//! The list of findings, byte by byte: a machine that takes exactly the valid lists, and knows
//! from every state how many tokens the end is away.
//!
//! ```text
//! list    = "[" ( "]" | finding { "," finding } "]" )
//! finding = {"quote":"…" [,"occurrence":N] ,"message":"…" ,"severity":"error|warning|note" [,"replacement":"…"] }
//! ```
//!
//! There is one way to write each list: no blank space, and each character of a quote is
//! escaped if JSON asks for it and in the shortest form.

use super::draft::{Draft, Span};
use super::text::{Rules, Text};
use super::tokens::TokenTable;
use crate::model::Model;

/// Most findings of a list.
pub const MOST_FINDINGS: u8 = 16;
/// Rules of a message.
pub const MESSAGE: Rules = Rules { longest: 200, line: true };
/// Tokens that a message may count on: a finding without room for them is not begun.
const MESSAGE_TOKENS: usize = 12;

/// Text that stands fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    Open,
    Item,
    Occurrence,
    Message,
    Severity,
    Error,
    Warning,
    Note,
    Replacement,
    Close,
}

impl Segment {
    const ALL: [Segment; 10] = [
        Segment::Open,
        Segment::Item,
        Segment::Occurrence,
        Segment::Message,
        Segment::Severity,
        Segment::Error,
        Segment::Warning,
        Segment::Note,
        Segment::Replacement,
        Segment::Close,
    ];

    const fn text(self) -> &'static [u8] {
        match self {
            Segment::Open => b"[",
            Segment::Item => b"{\"quote\":\"",
            Segment::Occurrence => b",\"occurrence\":",
            Segment::Message => b",\"message\":\"",
            Segment::Severity => b",\"severity\":\"",
            Segment::Error => b"error\"",
            Segment::Warning => b"warning\"",
            Segment::Note => b"note\"",
            Segment::Replacement => b",\"replacement\":\"",
            Segment::Close => b"}",
        }
    }
}

/// How [`Segment`]s are best written in a model's tokens.
pub struct Skeleton {
    /// For each segment and each of its bytes: the token that goes on there, and the tokens
    /// that are left, that one included.
    segments: Vec<Vec<(u32, usize, usize)>>,
}

impl Skeleton {
    /// `None` where the vocabulary lacks a byte that lists need.
    pub fn new(tokens: &TokenTable, model: &Model) -> Option<Self> {
        // What is outside the segments: escapes, numbers, free text.
        if !(0x20..0x7f).all(|byte| tokens.has_byte(byte)) {
            return None;
        }
        let segment = |segment: Segment| {
            let text = segment.text();
            let mut steps = vec![(0, 0, 0); text.len()];
            for at in (0..text.len()).rev() {
                let (token, length) = tokens.longest(model, &text[at..])?;
                let left = steps.get(at + length).map_or(0, |&(_, _, left)| left);
                steps[at] = (token, length, left + 1);
            }
            Some(steps)
        };
        Some(Self { segments: Segment::ALL.into_iter().map(segment).collect::<Option<_>>()? })
    }

    /// The token that goes on with a segment after `at` bytes of it.
    pub fn token(&self, segment: Segment, at: u8) -> u32 {
        self.segments[segment as usize][usize::from(at)].0
    }

    fn left(&self, segment: Segment, at: u8) -> usize {
        self.segments[segment as usize].get(usize::from(at)).map_or(0, |&(_, _, left)| left)
    }
}

/// Where in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a segment, after so many bytes.
    Fixed(Segment, u8),
    /// A finding, or the end.
    First,
    /// In a quote.
    Quote(Span, Escape),
    /// In the number of a quote's occurrence: so far, and the largest.
    Occurrence(Span, u32, u32),
    /// In a message.
    Message(Text),
    /// Before the severity.
    Severity,
    /// A replacement, or the end of the finding.
    Fixable,
    /// In a replacement.
    Replacement(Text),
    /// Another finding, or the end.
    Next,
    /// After the list.
    Done,
}

/// How much of an escape stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// None.
    No,
    /// `\`
    Backslash,
    /// `\u`, and so many of the four digits, the third of which is 0 or 1.
    Hex(u8, u8),
}

/// All that follows depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Where in the list.
    pub place: Place,
    /// Findings that were begun.
    pub findings: u8,
    /// Whether one of them was there already: a model that repeats itself is done.
    pub repeated: bool,
    /// The last quote's place and length.
    pub quote: (u32, u16),
}

/// The machine over one draft.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// What is quoted.
    pub draft: &'a Draft,
    /// Quotes of earlier findings.
    pub seen: &'a [(u32, u16)],
    /// How its fixed parts are written.
    pub skeleton: &'a Skeleton,
    /// Whether tokens may end inside a character: there are tokens for all bytes to go on with.
    pub inside: bool,
}

impl State {
    /// Before the list.
    pub const START: Self = Self { place: Place::Fixed(Segment::Open, 0), findings: 0, repeated: false, quote: (0, 0) };
}

impl Machine<'_> {
    /// The state after one more byte, if that may follow.
    pub fn follow(&self, state: State, byte: u8) -> Option<State> {
        let at = |place: Place| Some(State { place, ..state });
        match state.place {
            Place::Fixed(segment, done) => {
                let text = segment.text();
                (text[usize::from(done)] == byte).then_some(())?;
                let done = done + 1;
                if usize::from(done) < text.len() {
                    at(Place::Fixed(segment, done))
                } else {
                    at(self.behind(segment, state))
                }
            }
            Place::First if byte == b'{' && !self.draft.is_blank() => self.item(state, 1),
            Place::First | Place::Next if byte == b']' => at(Place::Done),
            Place::Next if byte == b',' && !state.repeated && state.findings < MOST_FINDINGS => self.item(state, 0),
            Place::Quote(span, escape) => self.quote(state, span, escape, byte),
            Place::Occurrence(span, value, most) => match byte {
                b'0'..=b'9' => {
                    let value = value.checked_mul(10)?.checked_add(u32::from(byte - b'0'))?;
                    (1..=most)
                        .contains(&value)
                        .then_some(State { place: Place::Occurrence(span, value, most), ..state })
                }
                b',' if value > 0 => {
                    let start = self.draft.occurrence(span, value)?;
                    self.quoted(state, start as u32, span.len, Place::Fixed(Segment::Message, 1))
                }
                _ => None,
            },
            Place::Message(text) if byte == b'"' && text.may_end() => at(Place::Fixed(Segment::Severity, 0)),
            Place::Message(text) => at(Place::Message(text.follow(byte)?)),
            Place::Severity => match byte {
                b'e' => at(Place::Fixed(Segment::Error, 1)),
                b'w' => at(Place::Fixed(Segment::Warning, 1)),
                b'n' => at(Place::Fixed(Segment::Note, 1)),
                _ => None,
            },
            Place::Fixable if byte == b',' => at(Place::Fixed(Segment::Replacement, 1)),
            Place::Fixable if byte == b'}' => at(Place::Next),
            Place::Replacement(text) if byte == b'"' && text.may_end() => at(Place::Fixed(Segment::Close, 0)),
            Place::Replacement(text) => at(Place::Replacement(text.follow(byte)?)),
            _ => None,
        }
    }

    /// What comes after a segment.
    fn behind(&self, segment: Segment, state: State) -> Place {
        match segment {
            Segment::Open => Place::First,
            Segment::Item => Place::Quote(self.draft.everywhere(), Escape::No),
            Segment::Occurrence => {
                let (_, len) = state.quote;
                let text = &self.draft.text()[state.quote.0 as usize..][..usize::from(len)];
                let span = self.draft.find(text).unwrap_or(self.draft.everywhere());
                Place::Occurrence(span, 0, self.draft.count(span).unwrap_or(1))
            }
            Segment::Message => Place::Message(Text::new(MESSAGE)),
            Segment::Severity => Place::Severity,
            Segment::Error | Segment::Warning | Segment::Note => Place::Fixable,
            Segment::Replacement => {
                // A local fix is about as long as what it fixes.
                let longest = 2 * state.quote.1 + 100;
                Place::Replacement(Text::new(Rules { longest, line: false }))
            }
            Segment::Close => Place::Next,
        }
    }

    /// A finding begins, of whose segment `done` bytes stand there, or, for 0, a comma before it.
    fn item(&self, state: State, done: u8) -> Option<State> {
        Some(State { place: Place::Fixed(Segment::Item, done), findings: state.findings + 1, ..state })
    }

    /// A finding's quote is known.
    fn quoted(&self, state: State, start: u32, len: u16, place: Place) -> Option<State> {
        let repeated = state.repeated || self.seen.contains(&(start, len));
        Some(State { place, repeated, quote: (start, len), ..state })
    }

    fn quote(&self, state: State, span: Span, escape: Escape, byte: u8) -> Option<State> {
        let at = |span, escape| Some(State { place: Place::Quote(span, escape), ..state });
        let typed = |byte: u8| at(self.draft.follow(span, byte)?, Escape::No);
        let goes_on = |escape| self.target(span, escape).and_then(|_| at(span, escape));
        match (escape, byte) {
            (Escape::No, b'"') => {
                let count = self.draft.count(span)?;
                if count == 1 {
                    let start = self.draft.occurrence(span, 1)?;
                    return self.quoted(state, start as u32, span.len, Place::Fixed(Segment::Message, 0));
                }
                // Which one it is follows; any of them tells what was quoted.
                let start = self.draft.occurrence(span, 1)?;
                let quote = (start as u32, span.len);
                Some(State { place: Place::Fixed(Segment::Occurrence, 0), quote, ..state })
            }
            (Escape::No, b'\\') => goes_on(Escape::Backslash),
            (Escape::No, 0x20..) => typed(byte),
            (Escape::Backslash, b'"' | b'\\') => typed(byte),
            (Escape::Backslash, b'n') => typed(b'\n'),
            (Escape::Backslash, b'r') => typed(b'\r'),
            (Escape::Backslash, b't') => typed(b'\t'),
            (Escape::Backslash, b'u') => goes_on(Escape::Hex(0, 0)),
            (Escape::Hex(digits @ 0..2, _), b'0') => goes_on(Escape::Hex(digits + 1, 0)),
            (Escape::Hex(2, _), b'0' | b'1') => goes_on(Escape::Hex(3, byte - b'0')),
            (Escape::Hex(3, high), b'0'..=b'9') => typed_control(high, byte - b'0').and_then(typed),
            (Escape::Hex(3, high), b'a'..=b'f') => typed_control(high, byte - b'a' + 10).and_then(typed),
            _ => None,
        }
    }

    /// The byte of the draft that the rest of an escape could stand for: the witness's, where
    /// that is possible, so that to write it brings the end nearer.
    fn target(&self, span: Span, escape: Escape) -> Option<u8> {
        let fits = |byte: &u8| {
            let length = escaped(*byte);
            match escape {
                Escape::No => true,
                Escape::Backslash => length > 1,
                Escape::Hex(3, high) => length == 6 && byte >> 4 == high,
                Escape::Hex(..) => length == 6,
            }
        };
        self.draft.witnessed(span).filter(fits).or_else(|| self.draft.following(span).find(fits))
    }

    /// How many tokens, at most, the end of the list is away. There is always a token that
    /// brings it nearer by one. `None`: tokens could get stuck here.
    pub fn cost(&self, state: State) -> Option<usize> {
        let left = |segment, at| self.skeleton.left(segment, at);
        const NEXT: usize = 1;
        let close = left(Segment::Close, 0) + NEXT;
        let severity = left(Segment::Note, 0) + close;
        let written = 1 + left(Segment::Severity, 0) + severity;
        let message = MESSAGE_TOKENS + written;
        let numbered = |state: State| match state.place {
            Place::Quote(span, _) if self.draft.is_unique(span) => 0,
            _ => left(Segment::Occurrence, 0) + 1,
        };
        Some(match state.place {
            Place::Done => 0,
            Place::First | Place::Next => NEXT,
            Place::Fixed(segment, at) => {
                let behind = match segment {
                    Segment::Open | Segment::Close => NEXT,
                    Segment::Item => {
                        let everywhere = self.draft.everywhere();
                        let quote = Place::Quote(everywhere, Escape::No);
                        self.cost(State { place: quote, ..state })?
                    }
                    Segment::Occurrence => 1 + left(Segment::Message, 0) + message,
                    Segment::Message => message,
                    Segment::Severity => severity,
                    Segment::Error | Segment::Warning | Segment::Note => close,
                    Segment::Replacement => 1 + close,
                };
                left(segment, at) + behind
            }
            Place::Quote(span, escape) => {
                let rest = match escape {
                    Escape::No => self.escaped_len(self.draft.rest(span)),
                    _ => {
                        let byte = self.target(span, escape)?;
                        let typed = match escape {
                            Escape::Hex(digits, _) => 2 + usize::from(digits),
                            _ => 1,
                        };
                        let span = self.draft.follow(span, byte)?;
                        escaped(byte) - typed + self.escaped_len(self.draft.rest(span))
                    }
                };
                rest + 1 + numbered(state) + left(Segment::Message, 0) + message
            }
            Place::Occurrence(_, value, _) => usize::from(value == 0) + left(Segment::Message, 0) + message,
            Place::Message(text) if text.is_missing() => message,
            Place::Message(text) => self.text(text)? + written,
            Place::Severity => severity,
            Place::Fixable => close,
            Place::Replacement(text) => self.text(text)? + 1 + close,
        })
    }

    fn text(&self, text: Text) -> Option<usize> {
        (self.inside || !text.is_inside()).then_some(text.rest())
    }

    fn escaped_len(&self, bytes: &[u8]) -> usize {
        bytes.iter().map(|&byte| escaped(byte)).sum()
    }

    /// Where plain tokens of all lengths may follow, and cost the same.
    pub fn takes_plain(&self, state: State, longest: usize) -> bool {
        match state.place {
            Place::Message(text) | Place::Replacement(text) => text.takes_plain(longest),
            _ => false,
        }
    }
}

/// The control character of two hexadecimal digits, unless it has a shorter escape.
fn typed_control(high: u8, low: u8) -> Option<u8> {
    Some(high << 4 | low).filter(|&byte| escaped(byte) == 6)
}

/// How many bytes `byte` of a draft takes in a JSON string.
fn escaped(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
        ..0x20 => 6,
        _ => 1,
    }
}

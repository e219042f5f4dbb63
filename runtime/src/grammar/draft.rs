//! The draft, indexed so that a quote of it can be followed byte by byte.
//!
//! A suffix array over the places where a quote may begin. What was quoted so far is a range of
//! it: the places where exactly these bytes stand. One more byte makes the range smaller, by
//! binary search. A suffix automaton would do the same over every place; the array can leave
//! out places in the middle of words, knows where each occurrence is, and is only as
//! deep as the longest quote, so that a hostile draft costs no more than another.

use unicode_general_category::{GeneralCategory, get_general_category};

/// Most bytes of a quote. From [`LONG`] on it may end in the middle of a word.
pub const LONGEST: usize = 200;
/// From this many bytes on, a quote may end after any character.
pub const LONG: usize = 160;
/// From this many bytes on, a quote may end although it stands in the draft more than once.
pub const DISTINCT: usize = 24;

/// A draft whose text can be quoted.
pub struct Draft {
    /// Without blank space at its end, in which a quote could not end.
    text: String,
    /// Where quotes may begin, ordered by the [`LONGEST`] bytes that follow, then by place.
    starts: Vec<u32>,
    /// For each byte offset up to the end: what a quote that ends there would cut.
    ends: Vec<End>,
}

/// What lies between two bytes of the draft.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The inside of a character.
    Inside,
    /// The inside of a word, or of what is drawn as one character, or blank space before.
    Word,
    /// The end of a word.
    Good,
    /// The end of a line.
    Line,
}

/// The places where the quote so far stands: a range of [`Draft`]'s array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    from: u32,
    to: u32,
    /// Bytes of the quote so far.
    pub len: u16,
    /// A place that stays the same as long as the quote goes on as the draft does there.
    witness: u32,
}

impl Draft {
    /// Indexes `text`. Takes time n·log n, whatever it holds.
    pub fn new(text: &str) -> Self {
        let text = text.trim_end().to_owned();
        let mut starts = Vec::new();
        let mut ends = vec![End::Inside; text.len() + 1];
        let mut previous = None;
        for (at, next) in text.char_indices() {
            if begins(previous, next) {
                starts.push(at as u32);
            }
            ends[at] = end(previous, Some(next));
            previous = Some(next);
        }
        ends[text.len()] = end(previous, None);
        let bytes = text.as_bytes();
        // A quote may go on to the end of a character that begins before LONGEST.
        let key = |&at: &u32| &bytes[at as usize..(at as usize + LONGEST + 4).min(bytes.len())];
        starts.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(a.cmp(b)));
        Self { text, starts, ends }
    }

    /// The text, without blank space at its end.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether anything can be quoted.
    pub fn is_blank(&self) -> bool {
        self.starts.is_empty()
    }

    /// The quote of no bytes, which stands everywhere.
    pub fn everywhere(&self) -> Span {
        let witness = self.starts.first().copied().unwrap_or(0);
        Span { from: 0, to: self.starts.len() as u32, len: 0, witness }
    }

    /// The places of `span`.
    fn places(&self, span: Span) -> &[u32] {
        &self.starts[span.from as usize..span.to as usize]
    }

    /// The byte that follows a quote of `len` bytes at `place`.
    fn byte(&self, place: u32, len: u16) -> Option<u8> {
        self.text.as_bytes().get(place as usize + usize::from(len)).copied()
    }

    /// The quote with one more byte, if it stands anywhere.
    pub fn follow(&self, span: Span, byte: u8) -> Option<Span> {
        let inside = self.ends.get(span.witness as usize + usize::from(span.len)) == Some(&End::Inside);
        if usize::from(span.len) >= LONGEST && !inside {
            return None;
        }
        let places = self.places(span);
        // The end of the text is before every byte, as in the order of the array.
        let key = |&place: &u32| self.byte(place, span.len);
        let (from, to) = match places {
            [_] => (0, usize::from(key(&places[0]) == Some(byte))),
            _ => {
                let from = places.partition_point(|place| key(place) < Some(byte));
                (from, from + places[from..].partition_point(|place| key(place) == Some(byte)))
            }
        };
        if from == to {
            return None;
        }
        let witness = if key(&span.witness) == Some(byte) { span.witness } else { places[from] };
        Some(Span { from: span.from + from as u32, to: span.from + to as u32, len: span.len + 1, witness })
    }

    /// The bytes that can follow, in order.
    pub fn following(&self, span: Span) -> impl Iterator<Item = u8> {
        let mut rest = self.places(span);
        std::iter::from_fn(move || {
            loop {
                let byte = self.byte(*rest.first()?, span.len);
                rest = &rest[rest.partition_point(|&place| self.byte(place, span.len) <= byte)..];
                if byte.is_some() {
                    return byte;
                }
            }
        })
        .filter(move |&byte| usize::from(span.len) < LONGEST || self.follow(span, byte).is_some())
    }

    /// The byte that follows at the witness.
    pub fn witnessed(&self, span: Span) -> Option<u8> {
        self.byte(span.witness, span.len).filter(|&byte| self.follow(span, byte).is_some())
    }

    /// The places at which a quote could end now.
    fn occurrences(&self, span: Span) -> impl Iterator<Item = u32> {
        self.places(span).iter().copied().filter(move |&place| self.may_end(place, span.len))
    }

    fn may_end(&self, place: u32, len: u16) -> bool {
        let end = self.ends[place as usize + usize::from(len)];
        len > 0 && (end >= End::Good || usize::from(len) >= LONG && end > End::Inside)
    }

    /// How often the quote stands in the draft, if it may end here: at a word's end, and where
    /// it stands several times, only once it is long or at a line's end.
    pub fn count(&self, span: Span) -> Option<u32> {
        let count = self.occurrences(span).count() as u32;
        let distinct = count == 1
            || usize::from(span.len) >= DISTINCT
            || self.occurrences(span).any(|place| self.ends[place as usize + usize::from(span.len)] == End::Line);
        (count > 0 && distinct).then_some(count)
    }

    /// Whether the quote stands at one place only.
    pub fn is_unique(&self, span: Span) -> bool {
        span.to - span.from == 1
    }

    /// Byte offset of the occurrence of this number, from 1, in the order of the text.
    pub fn occurrence(&self, span: Span, number: u32) -> Option<usize> {
        let mut places: Vec<u32> = self.occurrences(span).collect();
        places.sort_unstable();
        places.get((number as usize).checked_sub(1)?).map(|&place| place as usize)
    }

    /// The quote `text`, if it is one.
    pub fn find(&self, text: &str) -> Option<Span> {
        text.bytes().try_fold(self.everywhere(), |span, byte| self.follow(span, byte))
    }

    /// The bytes that still stand between here and a place where the quote may end for certain,
    /// as the draft goes on at the witness. Each of them that is followed makes it one less.
    pub fn rest(&self, span: Span) -> &[u8] {
        let (place, len) = (span.witness as usize, usize::from(span.len));
        let ends = |len: &usize| {
            let end = self.ends[place + len];
            (*len >= DISTINCT || self.is_unique(span)) && end >= End::Good
                || *len >= LONG && end > End::Inside
                || end == End::Line
        };
        let most = (LONGEST + 4).min(self.text.len() - place);
        let to = (len.max(1)..=most).find(ends).unwrap_or(len);
        &self.text.as_bytes()[place + len..place + to]
    }
}

/// Whether a quote may begin between these characters.
fn begins(previous: Option<char>, next: char) -> bool {
    match previous {
        None => !next.is_whitespace(),
        Some(previous) => !next.is_whitespace() && !joined(previous, next),
    }
}

/// What a quote would cut that ended between these characters.
fn end(previous: Option<char>, next: Option<char>) -> End {
    match (previous, next) {
        (Some(previous), _) if previous.is_whitespace() => End::Word,
        (None, _) => End::Word,
        (Some(_), None | Some('\n' | '\r')) => End::Line,
        (Some(previous), Some(next)) if joined(previous, next) => End::Word,
        _ => End::Good,
    }
}

/// Whether nothing should come between these characters: they are of one word, or drawn as one.
fn joined(previous: char, next: char) -> bool {
    /// Joins emoji.
    const ZWJ: char = '\u{200d}';
    let mark = |c: char| {
        use GeneralCategory::{EnclosingMark, NonspacingMark, SpacingMark};
        matches!(get_general_category(c), NonspacingMark | SpacingMark | EnclosingMark)
    };
    // Skin tones, and the second letter of a flag.
    let modifies = matches!(next, '\u{1f3fb}'..='\u{1f3ff}')
        || matches!((previous, next), ('\u{1f1e6}'..='\u{1f1ff}', '\u{1f1e6}'..='\u{1f1ff}'));
    previous == ZWJ || next == ZWJ || mark(next) || modifies || in_word(previous) && in_word(next)
}

/// Letters and digits of scripts that put spaces between words.
fn in_word(c: char) -> bool {
    let unspaced =
        matches!(c, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}') || c >= '\u{2e80}';
    c == '_' || c.is_alphanumeric() && !unspaced
}

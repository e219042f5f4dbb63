//! Places in a text, as protocols count them: the one module that knows about UTF-16.

use std::ops::Range;

use lsp_types::{Position, PositionEncodingKind};

/// What a column counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Bytes.
    Utf8,
    /// Code units of 16 bits, which every client knows.
    #[default]
    Utf16,
    /// Characters.
    Utf32,
}

impl Encoding {
    /// The best of those that a client offers: bytes need no counting.
    pub fn choose(offered: &[PositionEncodingKind]) -> Self {
        let known = |encoding: &Self| offered.contains(&encoding.kind());
        [Self::Utf8, Self::Utf32].into_iter().find(known).unwrap_or_default()
    }

    /// The protocol's name of it.
    pub fn kind(self) -> PositionEncodingKind {
        match self {
            Self::Utf8 => PositionEncodingKind::UTF8,
            Self::Utf16 => PositionEncodingKind::UTF16,
            Self::Utf32 => PositionEncodingKind::UTF32,
        }
    }

    fn width(self, c: char) -> usize {
        match self {
            Self::Utf8 => c.len_utf8(),
            Self::Utf16 => c.len_utf16(),
            Self::Utf32 => 1,
        }
    }
}

/// Where the lines of a text begin. Lines end with `\n`, `\r\n` or `\r`.
#[derive(Clone, Debug)]
pub struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    /// Of `text`.
    pub fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        let ends = |&at: &usize| bytes[at] == b'\n' || bytes[at] == b'\r' && bytes.get(at + 1) != Some(&b'\n');
        Self { starts: std::iter::once(0).chain((0..bytes.len()).filter(ends).map(|at| at + 1)).collect() }
    }

    /// How many there are: one at least.
    pub fn count(&self) -> usize {
        self.starts.len()
    }

    /// The line of byte `at`, from 0.
    pub fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at) - 1
    }

    /// The bytes of a line, without its end.
    pub fn range(&self, text: &str, line: usize) -> Range<usize> {
        let start = self.starts.get(line).copied().unwrap_or(text.len());
        let end = self.starts.get(line + 1).copied().unwrap_or(text.len());
        start..start + text[start..end].trim_end_matches(['\r', '\n']).len()
    }

    /// The position of byte `at`; inside a character, of the character.
    pub fn position(&self, text: &str, at: usize, encoding: Encoding) -> Position {
        let mut at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let line = self.line(at);
        let start = self.starts[line];
        let column: usize = match encoding {
            Encoding::Utf8 => at - start,
            _ => text[start..at].chars().map(|c| encoding.width(c)).sum(),
        };
        Position::new(line as u32, column as u32)
    }

    /// The byte at a position. Past a line's end it is that end, as the protocol has it; past
    /// the last line, the end of the text; inside a character, the start of it.
    pub fn offset(&self, text: &str, position: Position, encoding: Encoding) -> usize {
        let line = position.line as usize;
        if line >= self.starts.len() {
            return text.len();
        }
        let range = self.range(text, line);
        let mut left = position.character as usize;
        for (at, c) in text[range.clone()].char_indices() {
            let width = encoding.width(c);
            if left < width {
                return range.start + at;
            }
            left -= width;
        }
        range.end
    }

    /// A range of positions, in order.
    pub fn span(&self, text: &str, range: lsp_types::Range, encoding: Encoding) -> Range<usize> {
        let start = self.offset(text, range.start, encoding);
        start..self.offset(text, range.end, encoding).max(start)
    }

    /// The same from bytes.
    pub fn positions(&self, text: &str, range: Range<usize>, encoding: Encoding) -> lsp_types::Range {
        let position = |at| self.position(text, at, encoding);
        lsp_types::Range::new(position(range.start), position(range.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a\u{e9}日👍x\r\n\tb\rc\n";

    #[test]
    fn columns_are_counted_as_agreed() {
        let lines = Lines::new(TEXT);
        let x = TEXT.find('x').unwrap();
        for (encoding, column) in [(Encoding::Utf8, 10), (Encoding::Utf16, 5), (Encoding::Utf32, 4)] {
            assert_eq!(lines.position(TEXT, x, encoding), Position::new(0, column));
            assert_eq!(lines.offset(TEXT, Position::new(0, column), encoding), x);
            let b = TEXT.find('b').unwrap();
            assert_eq!(lines.position(TEXT, b, encoding), Position::new(1, 1));
            assert_eq!(lines.position(TEXT, TEXT.len(), encoding), Position::new(3, 0));
        }
        assert_eq!(lines.count(), 4);
    }

    #[test]
    fn every_character_comes_back() {
        let lines = Lines::new(TEXT);
        for encoding in [Encoding::Utf8, Encoding::Utf16, Encoding::Utf32] {
            for (at, c) in TEXT.char_indices() {
                // A line's end is as far as a position can go.
                if c != '\n' || at == 0 || TEXT.as_bytes()[at - 1] != b'\r' {
                    assert_eq!(lines.offset(TEXT, lines.position(TEXT, at, encoding), encoding), at, "{c:?}");
                }
            }
        }
    }

    #[test]
    fn positions_outside_are_brought_inside() {
        let lines = Lines::new(TEXT);
        let offset = |line, character| lines.offset(TEXT, Position::new(line, character), Encoding::Utf16);
        assert_eq!(offset(0, 99), TEXT.find('\r').unwrap());
        assert_eq!(offset(99, 0), TEXT.len());
        assert_eq!(offset(u32::MAX, u32::MAX), TEXT.len());
        assert_eq!(offset(0, 4), TEXT.find('👍').unwrap(), "inside a surrogate pair");
        assert_eq!(lines.position(TEXT, 2, Encoding::Utf32), Position::new(0, 1), "inside a character");
        assert_eq!(lines.position(TEXT, 9999, Encoding::Utf8), Position::new(3, 0));
        let backwards = lsp_types::Range::new(Position::new(1, 1), Position::new(0, 0));
        assert!(lines.span(TEXT, backwards, Encoding::Utf8).is_empty());
        assert_eq!(Lines::new("").position("", 0, Encoding::Utf16), Position::new(0, 0));
    }

    #[test]
    fn the_clients_offer_is_taken() {
        use PositionEncodingKind as Kind;
        assert_eq!(Encoding::choose(&[]), Encoding::Utf16);
        assert_eq!(Encoding::choose(&[Kind::UTF16, Kind::UTF32]), Encoding::Utf32);
        assert_eq!(Encoding::choose(&[Kind::UTF16, Kind::UTF8]), Encoding::Utf8);
    }
}

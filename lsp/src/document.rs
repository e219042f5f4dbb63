//! An open document: its text, and what was found in it.

use std::ops::Range;
use std::path::PathBuf;

use critic::Finding;
use lsp_types::TextDocumentContentChangeEvent;

use crate::language::Language;
use crate::position::{Encoding, Lines};

/// A document that an editor has open.
pub struct Document {
    /// Its text.
    pub text: String,
    /// Where its lines are.
    pub lines: Lines,
    /// The editor's number of this text.
    pub version: i32,
    /// What the editor calls its language.
    pub language_id: String,
    /// Its language.
    pub language: &'static Language,
    /// What was found, in the order of the text, at places in the text as it is now.
    pub findings: Vec<Finding>,
    /// The last refinement, as long as the text is the one that it is for.
    pub refinement: Option<Refinement>,
}

/// A better text for a part of a document.
#[derive(Clone, Debug)]
pub struct Refinement {
    /// Tells refinements apart.
    pub id: u64,
    /// The part.
    pub range: Range<usize>,
    /// What should stand there.
    pub text: String,
    /// Whether the model itself prefers it.
    pub accepted: bool,
}

impl Document {
    /// As an editor opens it.
    pub fn new(text: String, version: i32, language_id: String) -> Self {
        let (lines, language) = (Lines::new(&text), Language::of_id(&language_id));
        Self { text, lines, version, language_id, language, findings: Vec::new(), refinement: None }
    }

    /// Applies an editor's changes one after the other. Findings move with their text; those whose
    /// text changes go.
    pub fn change(&mut self, version: i32, changes: Vec<TextDocumentContentChangeEvent>, encoding: Encoding) {
        for change in changes {
            let range = match change.range {
                Some(range) => self.lines.span(&self.text, range, encoding),
                None => 0..self.text.len(),
            };
            self.replace(range, &change.text);
        }
        self.version = version;
        self.refinement = None;
    }

    fn replace(&mut self, range: Range<usize>, new: &str) {
        self.findings.retain_mut(|finding| {
            if finding.end <= range.start {
                return true;
            }
            if finding.start < range.end {
                return false;
            }
            finding.start = finding.start - range.len() + new.len();
            finding.end = finding.end - range.len() + new.len();
            true
        });
        self.text.replace_range(range, new);
        self.lines = Lines::new(&self.text);
    }

    /// Takes `found` in place of all earlier findings in `range`.
    pub fn set_findings(&mut self, range: &Range<usize>, found: Vec<Finding>) {
        self.findings.retain(|finding| finding.end <= range.start || range.end <= finding.start);
        self.findings.extend(found);
        self.findings.sort_by_key(|finding| (finding.start, finding.end));
    }
}

/// The file of a `file:` URI.
pub fn path(uri: &str) -> Option<PathBuf> {
    let rest = uri.strip_prefix("file://")?;
    let rest = &rest[rest.find('/')?..];
    let mut bytes = Vec::new();
    let mut input = rest.bytes();
    while let Some(byte) = input.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(input.next()?).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use critic::Severity;
    use lsp_types::Position;

    fn finding(document: &Document, quote: &str) -> Finding {
        let start = document.text.find(quote).unwrap();
        let (message, severity) = ("m".to_owned(), Severity::Note);
        Finding { start, end: start + quote.len(), quote: quote.into(), message, replacement: None, severity }
    }

    fn change(range: Option<[u32; 4]>, text: &str) -> TextDocumentContentChangeEvent {
        let range = range.map(|[a, b, c, d]| lsp_types::Range::new(Position::new(a, b), Position::new(c, d)));
        TextDocumentContentChangeEvent { range, range_length: None, text: text.into() }
    }

    #[test]
    fn findings_move_with_their_text() {
        let mut document = Document::new("one 👍 two\nthree four\n".into(), 1, "plaintext".into());
        let found = ["one", "two", "three", "four"].map(|quote| finding(&document, quote));
        document.set_findings(&(0..document.text.len()), found.to_vec());
        let changes = vec![change(Some([0, 4, 0, 6]), "🚀🚀"), change(Some([1, 0, 1, 5]), "3")];
        document.change(2, changes, Encoding::Utf16);
        assert_eq!(document.text, "one 🚀🚀 two\n3 four\n");
        let left: Vec<&str> = document.findings.iter().map(|f| &document.text[f.start..f.end]).collect();
        assert_eq!(left, ["one", "two", "four"]);
        document.change(3, vec![change(None, "other")], Encoding::Utf16);
        assert_eq!((document.text.as_str(), document.findings.len()), ("other", 0));
    }

    #[test]
    fn ranges_outside_the_text_are_brought_inside() {
        let mut document = Document::new("ab\ncd".into(), 1, "x".into());
        document.change(2, vec![change(Some([7, 0, 9, 9]), "!"), change(Some([1, 1, 0, 0]), "?")], Encoding::Utf16);
        assert_eq!(document.text, "ab\nc?d!");
    }

    #[test]
    fn findings_of_a_part_take_the_place_of_its_earlier_ones() {
        let mut document = Document::new("one two three".into(), 1, "x".into());
        let found = ["one", "two", "three"].map(|quote| finding(&document, quote));
        document.set_findings(&(0..13), found.to_vec());
        let again = finding(&document, "o th");
        document.set_findings(&(4..13), vec![again]);
        let quotes: Vec<&str> = document.findings.iter().map(|f| f.quote.as_str()).collect();
        assert_eq!(quotes, ["one", "o th"]);
    }

    #[test]
    fn uris_are_paths() {
        assert_eq!(path("file:///a/b%20c.rs"), Some("/a/b c.rs".into()));
        assert_eq!(path("file://host/a"), Some("/a".into()));
        assert_eq!(path("untitled:1"), None);
        assert_eq!(path("file:///%zz"), None);
        assert_eq!(path("file://"), None);
    }
}

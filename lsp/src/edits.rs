//! Edits: as few lines as possible, for a text that must not have changed.

use std::ops::Range;

use lsp_types::{
    DocumentChanges, OneOf, OptionalVersionedTextDocumentIdentifier, TextDocumentEdit, TextEdit, Uri, WorkspaceEdit,
};
use similar::{DiffTag, TextDiff};

use crate::document::Document;
use crate::position::Encoding;

/// The changes of whole lines that make `new` of the document's `range`. Line ends are those of
/// the document.
pub fn minimal(document: &Document, range: Range<usize>, new: &str, encoding: Encoding) -> Vec<TextEdit> {
    let old = &document.text[range.clone()];
    let new =
        if document.text.contains("\r\n") { new.replace("\r\n", "\n").replace('\n', "\r\n") } else { new.to_owned() };
    let diff = TextDiff::from_lines(old, &new);
    let (old_lines, new_lines) = (starts(diff.iter_old_slices()), starts(diff.iter_new_slices()));
    diff.ops()
        .iter()
        .filter(|op| op.tag() != DiffTag::Equal)
        .map(|op| {
            let (from, to) = (op.old_range(), op.new_range());
            let bytes = range.start + old_lines[from.start]..range.start + old_lines[from.end];
            let new_text = new[new_lines[to.start]..new_lines[to.end]].to_owned();
            TextEdit { range: document.lines.positions(&document.text, bytes, encoding), new_text }
        })
        .collect()
}

/// Where lines begin, and the end.
fn starts<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<usize> {
    let mut starts = vec![0];
    let mut end = 0;
    for line in lines {
        end += line.len();
        starts.push(end);
    }
    starts
}

/// One replacement.
pub fn replacement(document: &Document, range: Range<usize>, new: &str, encoding: Encoding) -> TextEdit {
    TextEdit { range: document.lines.positions(&document.text, range, encoding), new_text: new.to_owned() }
}

/// Edits of one document, of the version that it has; without the version for clients that
/// cannot take it.
pub fn of_document(uri: &Uri, document: &Document, edits: Vec<TextEdit>, versioned: bool) -> WorkspaceEdit {
    if !versioned {
        #[allow(clippy::mutable_key_type, reason = "the protocol's own type")]
        let changes = [(uri.clone(), edits)].into_iter().collect();
        return WorkspaceEdit { changes: Some(changes), ..Default::default() };
    }
    let text_document = OptionalVersionedTextDocumentIdentifier { uri: uri.clone(), version: Some(document.version) };
    let edit = TextDocumentEdit { text_document, edits: edits.into_iter().map(OneOf::Left).collect() };
    WorkspaceEdit { document_changes: Some(DocumentChanges::Edits(vec![edit])), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &str, new: &str, count: usize) {
        let document = Document::new(format!("head\n{old}"), 1, "x".into());
        for encoding in [Encoding::Utf8, Encoding::Utf16, Encoding::Utf32] {
            let edits = minimal(&document, 5..document.text.len(), new, encoding);
            assert_eq!(edits.len(), count, "{edits:?}");
            let mut text = document.text.clone();
            for edit in edits.iter().rev() {
                text.replace_range(document.lines.span(&document.text, edit.range, encoding), &edit.new_text);
            }
            assert_eq!(text, format!("head\n{new}"));
        }
    }

    #[test]
    fn only_changed_lines_are_touched() {
        check("a\n\té👍\nc\nd\n", "a\n\té🚀\nc\nD\n", 2);
        check("a\nb", "a\nb", 0);
        check("a\nb", "a\nb\nc", 1);
        check("", "x\n", 1);
        check("x\n", "", 1);
        check("a\r\nb\r\n", "a\r\nc\r\n", 1);
    }

    #[test]
    fn line_ends_stay() {
        let document = Document::new("a\r\nb\r\nc\r\n".into(), 1, "x".into());
        let edits = minimal(&document, 0..9, "a\nB\nc\n", Encoding::Utf16);
        assert_eq!(edits.len(), 1);
        assert_eq!(edits[0].new_text, "B\r\n");
    }
}

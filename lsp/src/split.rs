//! Parts of a document: what is critiqued at once, and the function or paragraph at a place.
//!
//! Languages are not parsed: what begins at the margin after a blank line begins something, in
//! nearly all of them, and what is indented belongs to what is above it.

use std::ops::Range;

use crate::language::Language;

/// Cuts `text` into pieces that `fits` takes, each as long as it can be: at the beginning of a
/// function or paragraph, or, where one of these is too long, at a line, and else anywhere.
/// Blank pieces are left out.
pub fn pieces(text: &str, language: &Language, fits: impl Fn(&str) -> bool) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let blocks = blocks(text, language);
    grow(text, &blocks, &fits, &mut pieces, &mut |block, pieces| {
        let lines = lines(text, block.clone());
        grow(text, &lines, &fits, pieces, &mut |line, pieces| halve(text, line, &fits, pieces));
    });
    pieces.retain(|piece| !text[piece.clone()].trim().is_empty());
    pieces
}

/// Joins neighbouring `parts` for as long as they fit; those that do not fit alone are `cut`.
fn grow(
    text: &str,
    parts: &[Range<usize>],
    fits: &impl Fn(&str) -> bool,
    pieces: &mut Vec<Range<usize>>,
    cut: &mut dyn FnMut(Range<usize>, &mut Vec<Range<usize>>),
) {
    let mut open: Option<Range<usize>> = None;
    for part in parts {
        let joined = open.as_ref().map(|open| open.start..part.end);
        if let Some(joined) = joined.filter(|joined| fits(&text[joined.clone()])) {
            open = Some(joined);
            continue;
        }
        pieces.extend(open.take());
        if fits(&text[part.clone()]) {
            open = Some(part.clone());
        } else {
            cut(part.clone(), pieces);
        }
    }
    pieces.extend(open);
}

fn halve(text: &str, part: Range<usize>, fits: &impl Fn(&str) -> bool, pieces: &mut Vec<Range<usize>>) {
    let mut middle = part.start + part.len() / 2;
    while !text.is_char_boundary(middle) {
        middle -= 1;
    }
    if fits(&text[part.clone()]) || middle == part.start {
        pieces.push(part);
    } else {
        halve(text, part.start..middle, fits, pieces);
        halve(text, middle..part.end, fits, pieces);
    }
}

/// Whole lines of `range`, their ends included.
fn lines(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let mut start = range.start;
    text[range]
        .split_inclusive('\n')
        .map(|line| {
            let line = start..start + line.len();
            start = line.end;
            line
        })
        .collect()
}

/// Functions, paragraphs, and what is between them.
fn blocks(text: &str, language: &Language) -> Vec<Range<usize>> {
    let mut blocks: Vec<Range<usize>> = Vec::new();
    let mut blank_before = true;
    for line in lines(text, 0..text.len()) {
        let content = &text[line.clone()];
        let blank = content.trim().is_empty();
        let begins = !blank && blank_before && (language.prose || !content.starts_with([' ', '\t', '}', ')', ']']));
        match blocks.last_mut() {
            Some(block) if !begins => block.end = line.end,
            _ => blocks.push(line),
        }
        blank_before = blank;
    }
    blocks
}

/// The function around byte `at`, or the paragraph; where there is neither, the block.
pub fn around(text: &str, language: &Language, at: usize) -> Range<usize> {
    let lines = lines(text, 0..text.len());
    let here = lines.iter().position(|line| at < line.end).unwrap_or(lines.len().saturating_sub(1));
    let found = if language.prose || lines.is_empty() { None } else { function(text, &lines, here) };
    let block = || blocks(text, language).into_iter().find(|block| at < block.end || block.end == text.len());
    let range = found.or_else(block).unwrap_or(0..text.len());
    // Without the blank lines behind it.
    range.start..range.start + text[range].trim_end().len()
}

/// The innermost block of lines that has a head of a function, and contains line `here`.
fn function(text: &str, lines: &[Range<usize>], here: usize) -> Option<Range<usize>> {
    let line = |index: usize| &text[lines[index].clone()];
    let blank = |index: usize| line(index).trim().is_empty();
    let indent = |index: usize| line(index).len() - line(index).trim_start().len();
    let mut limit = usize::MAX;
    for head in (0..=here).rev() {
        if blank(head) || indent(head) > limit {
            continue;
        }
        let at_head = indent(head);
        if is_head(line(head), lines.get(head + 1).map_or("", |next| &text[next.clone()])) {
            let deeper = |&index: &usize| blank(index) || indent(index) > at_head;
            let mut end = (head + 1..lines.len()).find(|index| !deeper(index)).unwrap_or(lines.len());
            // A brace on a line of its own, before the body or behind it.
            if end < lines.len() && line(end).trim() == "{" {
                end = (end + 1..lines.len()).find(|index| !deeper(index)).unwrap_or(lines.len());
            }
            if end < lines.len() && line(end).trim_start().starts_with(['}', ')', ']'])
                || end < lines.len() && line(end).trim() == "end"
            {
                end += 1;
            }
            if here < end {
                return Some(lines[head].start..lines[end - 1].end);
            }
        }
        limit = limit.min(at_head);
    }
    None
}

/// Whether a line looks like the head of a function; `next` is the line after it.
fn is_head(line: &str, next: &str) -> bool {
    const WORDS: [&str; 8] = ["fn", "def", "func", "function", "fun", "sub", "proc", "defun"];
    const NOT: [&str; 8] = ["if", "for", "while", "switch", "match", "return", "else", "catch"];
    let words = || line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    let control = words().next().is_some_and(|first| NOT.contains(&first));
    let end = line.trim_end();
    // Without the brace it is a call like any other.
    let braced = end.ends_with('{') || end.ends_with(')') && next.trim() == "{";
    words().any(|word| WORDS.contains(&word)) || line.contains('(') && !control && braced
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUST: &str = "use std::io;\n\nfn one() {\n    two();\n\n    three();\n}\n\nimpl A {\n    fn four(&self) {\n        5\n    }\n}\n";

    fn cut(text: &str, id: &str, most: usize) -> Vec<String> {
        let pieces = pieces(text, Language::of_id(id), |piece| piece.len() <= most);
        for pair in pieces.windows(2) {
            assert!(pair[0].end <= pair[1].start);
        }
        pieces.into_iter().map(|piece| text[piece].to_owned()).collect()
    }

    #[test]
    fn pieces_begin_at_functions_and_paragraphs() {
        assert_eq!(cut(RUST, "rust", 1000), [RUST]);
        let parts = cut(RUST, "rust", 60);
        assert_eq!(parts.concat(), RUST);
        assert!(parts[1].starts_with("impl A"), "{parts:?}");
        assert_eq!(cut("One.\n\nTwo.\n\n\nThree.", "markdown", 8), ["One.\n\n", "Two.\n\n\n", "Three."]);
    }

    #[test]
    fn what_is_too_long_is_cut_at_lines_and_then_anywhere() {
        assert_eq!(cut("aaaa\nbbbb\ncccc", "markdown", 10), ["aaaa\nbbbb\n", "cccc"]);
        assert_eq!(cut("äöüäöüäöü", "markdown", 8).concat(), "äöüäöüäöü");
        assert_eq!(cut("日", "markdown", 1), ["日"]);
        assert_eq!(cut("", "rust", 1), Vec::<String>::new());
        assert_eq!(cut("  \n\n \n", "rust", 3), Vec::<String>::new());
    }

    #[test]
    fn the_function_around_a_place() {
        let at = |text: &'static str, id: &str, needle: &str| {
            &text[around(text, Language::of_id(id), text.find(needle).unwrap())]
        };
        assert_eq!(at(RUST, "rust", "three"), "fn one() {\n    two();\n\n    three();\n}");
        assert_eq!(at(RUST, "rust", "5"), "    fn four(&self) {\n        5\n    }");
        assert_eq!(at(RUST, "rust", "use"), "use std::io;");
        assert_eq!(
            at("def a():\n    if x:\n        y()\n    z()\n\ndef b():\n    q()\n", "python", "y()"),
            "def a():\n    if x:\n        y()\n    z()"
        );
        assert_eq!(at("int f(int x)\n{\n  return x;\n}\nint y;\n", "c", "return"), "int f(int x)\n{\n  return x;\n}");
        assert_eq!(at("One.\nMore.\n\nTwo.", "markdown", "More"), "One.\nMore.");
        assert_eq!(around("", Language::of_id("rust"), 0), 0..0);
    }
}

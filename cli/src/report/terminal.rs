//! Findings as compilers print them: the line of the text, with marks under the words.

use critic_lsp::position::Lines;
use unicode_width::UnicodeWidthChar;

use super::{Reviewed, name, place};

/// Most columns of a line that are shown.
const WIDTH: usize = 110;

/// What colours a word.
struct Paint {
    on: bool,
}

impl Paint {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// All findings about one text.
pub fn text(reviewed: &Reviewed, colours: bool) -> String {
    let lines = Lines::new(&reviewed.text);
    let paint = Paint { on: colours };
    let mut out = String::new();
    for finding in &reviewed.findings {
        let (line, column) = place(&lines, &reviewed.text, finding.start);
        let severity = name(finding.severity);
        let code = match severity {
            "error" => "1;31",
            "warning" => "1;33",
            _ => "1;36",
        };
        let head = format!("{}:{line}:{column}:", shown(&reviewed.name));
        let message = shown(&finding.message);
        out += &format!("{} {} {message}\n", paint.paint("1", &head), paint.paint(code, &format!("{severity}:")));
        let range = lines.range(&reviewed.text, line - 1);
        let end = finding.end.min(range.end).max(finding.start);
        let number = line.to_string();
        let gap = " ".repeat(number.len());
        let (source, marks) = marked(&reviewed.text, range, finding.start..end);
        out += &format!("{number} | {source}\n{gap} | {}\n", paint.paint(code, &marks));
        if let Some(replacement) = &finding.replacement {
            out += &format!("{gap} = better: {}\n", shown(replacement));
        }
    }
    out
}

/// A line, and marks under a part of it. A long line is shown from near the part on.
fn marked(text: &str, line: std::ops::Range<usize>, part: std::ops::Range<usize>) -> (String, String) {
    let before = &text[line.start..part.start];
    let skip = before.char_indices().rev().map(|(at, _)| at).nth(WIDTH / 2).unwrap_or(0);
    let (mut source, mut marks) = (String::new(), String::new());
    let mut columns = 0;
    if skip > 0 {
        source.push('…');
        marks.push(' ');
        columns += 1;
    }
    for (at, c) in text[line.start + skip..line.end].char_indices() {
        let at = line.start + skip + at;
        let seen = shown(c.encode_utf8(&mut [0; 4]));
        let width: usize = seen.chars().map(|c| c.width().unwrap_or(0)).sum();
        if columns + width > WIDTH {
            source.push('…');
            break;
        }
        source += &seen;
        columns += width;
        let mark = if at < part.start { ' ' } else { '^' };
        if at < part.end {
            marks.extend(std::iter::repeat_n(mark, width));
        }
    }
    (source, marks)
}

/// Text that cannot do anything to a terminal: tabs are four columns wide, and control characters,
/// those that turn the direction of writing among them, are named.
fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\t' => out += "    ",
            '\n' => out += "\\n",
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out += &c.escape_unicode().to_string(),
            c if c.is_control() => out += &c.escape_unicode().to_string(),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use critic::{Finding, Severity};

    use super::*;

    fn one(text: &str, quote: &str, message: &str, replacement: Option<&str>) -> Reviewed {
        let start = text.find(quote).expect("the quote is there");
        let finding = Finding {
            start,
            end: start + quote.len(),
            quote: quote.into(),
            message: message.into(),
            replacement: replacement.map(Into::into),
            severity: Severity::Warning,
        };
        Reviewed { name: "a.txt".into(), text: text.into(), findings: vec![finding], complete: true }
    }

    #[test]
    fn marks_stand_under_the_words() {
        let reviewed = one("first\n\tdas 日本 👍 cat sat\n", "cat", "no cat", Some("dog"));
        let expected = "\
a.txt:2:11: warning: no cat
2 |     das 日本 👍 cat sat
  |                 ^^^
  = better: dog
";
        assert_eq!(text(&reviewed, false), expected);
        assert!(text(&reviewed, true).contains("\x1b[1;33m"));
    }

    #[test]
    fn nothing_controls_the_terminal() {
        let reviewed = one("a \x1b[31mred\x1b[0m\u{202e}x y", "red\x1b[0m\u{202e}x", "\x1b[2J\u{9b}2J", Some("\r\n"));
        let text = text(&reviewed, false);
        assert!(!text.contains(['\x1b', '\r', '\u{202e}', '\u{9b}']), "{text:?}");
    }

    #[test]
    fn long_lines_are_shortened_around_the_words() {
        let long = format!("{} cat {}", "x".repeat(500), "y".repeat(500));
        let text = text(&one(&long, "cat", "m", None), false);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH + 10), "{text}");
        let lines: Vec<_> = text.lines().collect();
        let at = lines[2].find('^').unwrap();
        // The marks' line has one byte for each column, the source two more for the ellipsis.
        assert_eq!(&lines[1][at + 2..at + 5], "cat");
    }

    #[test]
    fn several_lines_are_marked_on_the_first() {
        let text = text(&one("one two\nthree", "two\nthree", "m", None), false);
        assert!(text.contains("1 | one two\n  |     ^^^\n"), "{text}");
    }
}

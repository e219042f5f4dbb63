//! Cuts text into words, exactly as the published regular expressions do.
//!
//! GPT-2: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
//!
//! SmolLM: every numeric character for itself, GPT-2 on what lies between.
//!
//! Llama 3: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|`
//! ` ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
//!
//! Qwen 2 and 3: the same with `\p{N}` for `\p{N}{1,3}`.
//!
//! Written by hand because a backtracking engine gives up on long runs, and takes quadratic
//! time on some; here each character is looked at a bounded number of times.

use unicode_general_category::{GeneralCategory as Category, get_general_category};

use super::spec::Splitter;

/// What the expressions tell apart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    /// `[^\s\p{L}\p{N}]`
    Other,
}

fn class(character: char) -> Class {
    if character.is_ascii() {
        return match character {
            'a'..='z' | 'A'..='Z' => Class::Letter,
            '0'..='9' => Class::Number,
            '\t'..='\r' | ' ' => Class::Space,
            _ => Class::Other,
        };
    }
    if character.is_whitespace() {
        return Class::Space;
    }
    match get_general_category(character) {
        Category::UppercaseLetter
        | Category::LowercaseLetter
        | Category::TitlecaseLetter
        | Category::ModifierLetter
        | Category::OtherLetter => Class::Letter,
        Category::DecimalNumber | Category::LetterNumber | Category::OtherNumber => Class::Number,
        _ => Class::Other,
    }
}

/// Calls `word` with each word of `text`, in order; together they are the whole text.
pub(super) fn split<'t>(splitter: Splitter, text: &'t str, mut word: impl FnMut(&'t str)) {
    match splitter {
        Splitter::None if text.is_empty() => {}
        Splitter::None => word(text),
        Splitter::Spaces => cut(text, spaces, word),
        Splitter::Gpt2 => cut(text, gpt2, word),
        Splitter::Smollm => {
            for piece in text.split_inclusive(char::is_numeric) {
                let digit = piece.chars().next_back().filter(|c| c.is_numeric()).map_or(0, char::len_utf8);
                let (between, digit) = piece.split_at(piece.len() - digit);
                cut(between, gpt2, &mut word);
                if !digit.is_empty() {
                    word(digit);
                }
            }
        }
        Splitter::Llama3 => cut(text, |rest| llama3(rest, 3), word),
        Splitter::Qwen2 => cut(text, |rest| llama3(rest, 1), word),
    }
}

/// Cuts `text` at what `length` says of the first word of the rest, in bytes.
fn cut<'t>(mut text: &'t str, length: impl Fn(&str) -> usize, mut word: impl FnMut(&'t str)) {
    while !text.is_empty() {
        let (head, tail) = text.split_at(length(text));
        word(head);
        text = tail;
    }
}

fn spaces(text: &str) -> usize {
    text.char_indices().skip(1).find(|&(_, c)| c == ' ').map_or(text.len(), |(at, _)| at)
}

fn gpt2(text: &str) -> usize {
    let mut characters = text.chars();
    let Some(first) = characters.next() else { return 0 };
    if first == '\''
        && let Some(length) = contraction(characters.as_str(), |c| c)
    {
        return 1 + length;
    }
    let (space, head) = match characters.next() {
        Some(second) if first == ' ' => (1, class(second)),
        _ => (0, class(first)),
    };
    match if head == Class::Space { class(first) } else { head } {
        Class::Space => whitespace(text),
        head => space + run(&text[space..], head),
    }
}

fn llama3(text: &str, digits: usize) -> usize {
    let mut characters = text.chars();
    let Some(first) = characters.next() else { return 0 };
    let rest = characters.as_str();
    if first == '\''
        && let Some(length) = contraction(rest, fold)
    {
        return 1 + length;
    }
    let second = characters.next().map(class);
    let first_class = class(first);
    let newline = matches!(first, '\r' | '\n');
    if first_class == Class::Letter {
        return run(text, Class::Letter);
    }
    if first_class == Class::Number {
        return text.chars().take(digits).take_while(|&c| class(c) == Class::Number).map(char::len_utf8).sum();
    }
    if !newline && second == Some(Class::Letter) {
        return first.len_utf8() + run(rest, Class::Letter);
    }
    let space = usize::from(first == ' ' && second == Some(Class::Other));
    if first_class == Class::Other || space == 1 {
        let others = space + run(&text[space..], Class::Other);
        let newlines = text[others..].bytes().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        return others + newlines;
    }
    // `\s*[\r\n]+` gives back what follows the last line break of the run.
    let blank = run(text, Class::Space);
    match text[..blank].rfind(['\r', '\n']) {
        Some(last) => last + 1,
        None => whitespace(text),
    }
}

/// Bytes of `text` before the first character that is not of `wanted`.
fn run(text: &str, wanted: Class) -> usize {
    text.find(|c| class(c) != wanted).unwrap_or(text.len())
}

/// `\s+(?!\S)|\s+`: a run of whitespace, without its last character where something follows,
/// unless it is the only one.
fn whitespace(text: &str) -> usize {
    let run = run(text, Class::Space);
    if run == text.len() {
        return run;
    }
    let last = text[..run].chars().next_back().map_or(0, char::len_utf8);
    if run > last { run - last } else { run }
}

/// Bytes of `s|t|re|ve|m|ll|d` at the start of `text`, each character folded first.
fn contraction(text: &str, fold: impl Fn(char) -> char) -> Option<usize> {
    let mut characters = text.chars();
    let first = characters.next()?;
    let second = characters.next();
    match (fold(first), second.map(fold)) {
        ('s' | 't' | 'm' | 'd', _) => Some(first.len_utf8()),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(first.len_utf8() + second.map_or(0, char::len_utf8)),
        _ => None,
    }
}

/// Unicode's simple case folding, as far as the letters of contractions are concerned: beside
/// their capitals, only the long s folds to one of them.
fn fold(character: char) -> char {
    if character == 'ſ' { 's' } else { character.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(splitter: Splitter, text: &str, expected: &[&str]) {
        let mut words = Vec::new();
        split(splitter, text, |word| words.push(word));
        assert_eq!(words, expected, "{splitter:?} {text:?}");
    }

    #[test]
    fn gpt2_words() {
        check(Splitter::Gpt2, "", &[]);
        check(
            Splitter::Gpt2,
            "I've  seen 12 things!\n\n ok",
            &["I", "'ve", " ", " seen", " 12", " things", "!", "\n\n", " ok"],
        );
        check(Splitter::Gpt2, "it'S 's'", &["it", "'", "S", " '", "s", "'"]);
        check(Splitter::Gpt2, "a \t", &["a", " \t"]);
        check(Splitter::Gpt2, "\u{a0}a", &["\u{a0}", "a"]);
    }

    #[test]
    fn smollm_digits_stand_alone() {
        check(Splitter::Smollm, "in 1969, x²", &["in", " ", "1", "9", "6", "9", ",", " x", "²"]);
    }

    #[test]
    fn llama3_words() {
        check(
            Splitter::Llama3,
            "IT'S 12345!\r\n\n x\n  y",
            &["IT", "'S", " ", "123", "45", "!\r\n\n", " x", "\n", " ", " y"],
        );
        check(Splitter::Llama3, "a'ſ \n \n  b", &["a", "'ſ", " \n \n", " ", " b"]);
        check(Splitter::Qwen2, "(x) 12", &["(x", ")", " ", "1", "2"]);
    }

    #[test]
    fn words_begin_with_spaces() {
        check(Splitter::Spaces, " a  b", &[" a", " ", " b"]);
    }
}

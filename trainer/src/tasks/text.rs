//! Measures of texts against references.

use std::collections::HashMap;

/// Precision, recall and their harmonic mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FScore {
    /// Share of the answer that is in the reference.
    pub precision: f64,
    /// Share of the reference that is in the answer.
    pub recall: f64,
    /// 2·P·R / (P + R).
    pub f1: f64,
}

impl FScore {
    fn new(common: usize, answer: usize, reference: usize) -> Self {
        if common == 0 {
            return Self::default();
        }
        let (precision, recall) = (common as f64 / answer as f64, common as f64 / reference as f64);
        Self { precision, recall, f1: 2.0 * precision * recall / (precision + recall) }
    }
}

/// Words as ROUGE has them: runs of ASCII letters and digits, in lower case, without stemming.
fn rouge_tokens(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// ROUGE-L (Lin 2004): the longest common subsequence of words, over the whole text.
pub fn rouge_l(answer: &str, reference: &str) -> FScore {
    let (answer, reference) = (rouge_tokens(answer), rouge_tokens(reference));
    // One row of the usual table.
    let mut row = vec![0usize; reference.len() + 1];
    for word in &answer {
        let mut diagonal = 0;
        for (at, other) in reference.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if word == other { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    FScore::new(row[reference.len()], answer.len(), reference.len())
}

/// ROUGE-1: words in common, each as often as both have it.
pub fn rouge_1(answer: &str, reference: &str) -> FScore {
    overlap(&rouge_tokens(answer), &rouge_tokens(reference))
}

fn overlap(answer: &[String], reference: &[String]) -> FScore {
    let mut left: HashMap<&str, usize> = HashMap::new();
    reference.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut common = 0;
    for word in answer {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    FScore::new(common, answer.len(), reference.len())
}

/// An answer as SQuAD compares it (Rajpurkar et al. 2016): lower case, without punctuation, articles
/// and superfluous space.
pub fn normalized(text: &str) -> String {
    let bare: String = text.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let words = bare.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.collect::<Vec<_>>().join(" ")
}

/// Whether two answers are the same after [`normalized`].
pub fn exact_match(answer: &str, reference: &str) -> bool {
    normalized(answer) == normalized(reference)
}

/// F1 over the words of [`normalized`] answers.
pub fn f1(answer: &str, reference: &str) -> FScore {
    let words = |text: &str| normalized(text).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    overlap(&words(answer), &words(reference))
}

/// The last number in `text`, as it is written but for thousands separators: `1,234.50` is `1234.5`.
pub fn last_number(text: &str) -> Option<f64> {
    let bytes = text.as_bytes();
    let mut end = bytes.len();
    while end > 0 {
        if !bytes[end - 1].is_ascii_digit() {
            end -= 1;
            continue;
        }
        let mut start = end;
        let belongs = |at: usize| {
            bytes[at].is_ascii_digit()
                // A mark belongs to the number between digits: "3. 14" are two numbers.
                || (matches!(bytes[at], b'.' | b',') && at > 0 && bytes[at - 1].is_ascii_digit())
        };
        while start > 0 && belongs(start - 1) {
            start -= 1;
        }
        // A minus belongs to it where no number stands before it: "7-8" ends with 8, "= -8" with −8.
        let signed = start > 0
            && bytes[start - 1] == b'-'
            && (start == 1 || !(bytes[start - 2].is_ascii_alphanumeric() || bytes[start - 2] == b')'));
        let number: String = text[start..end].chars().filter(|&c| c != ',').collect();
        return number.parse::<f64>().ok().map(|value| if signed { -value } else { value });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `measures.json` was written by `measures.py` beside it, with the package `rouge-score` and SQuAD's
    /// published formula.
    #[test]
    fn golden_measures() {
        let golden: serde_json::Value = serde_json::from_str(include_str!("../../tests/data/measures.json")).unwrap();
        let cases = golden.as_array().unwrap();
        assert!(cases.len() >= 20);
        for case in cases {
            let text = |name: &str| case[name].as_str().unwrap();
            let (answer, reference) = (text("answer"), text("reference"));
            for (name, found) in [
                ("rougeL", rouge_l(answer, reference)),
                ("rouge1", rouge_1(answer, reference)),
                ("f1", f1(answer, reference)),
            ] {
                let parts = [found.precision, found.recall, found.f1];
                for (found, expected) in parts.iter().zip(case[name].as_array().unwrap()) {
                    let expected = expected.as_f64().unwrap();
                    assert!((found - expected).abs() < 1e-12, "{name} {answer:?} {reference:?}: {found}, {expected}");
                }
            }
            assert_eq!(exact_match(answer, reference), case["exact"].as_bool().unwrap(), "{answer:?} {reference:?}");
        }
    }

    #[test]
    fn final_numbers() {
        for (text, expected) in [
            ("48 + 24 = 72", Some(72.0)),
            ("The answer is 1,234.50.", Some(1234.5)),
            ("= -8", Some(-8.0)),
            ("-8", Some(-8.0)),
            ("7-8", Some(8.0)),
            ("so x = (3)-2", Some(2.0)),
            ("about 3. 14 apples", Some(14.0)),
            ("12 apples, 3 pears.", Some(3.0)),
            ("none", None),
            ("", None),
            ("½ 0.5", Some(0.5)),
            ("1.2.3", None),
        ] {
            assert_eq!(last_number(text), expected, "{text:?}");
        }
    }
}

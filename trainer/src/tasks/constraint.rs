//! What an answer has to be like: checks that need no judgement.

use serde::{Deserialize, Serialize};

/// One requirement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Constraint {
    /// At most so many words.
    MaxWords {
        /// How many.
        count: usize,
    },
    /// At least so many words.
    MinWords {
        /// How many.
        count: usize,
    },
    /// The text occurs, letter case aside.
    Contains {
        /// The text.
        text: String,
    },
    /// The text does not occur, letter case aside.
    Avoids {
        /// The text.
        text: String,
    },
    /// The answer begins with the text.
    StartsWith {
        /// The text.
        text: String,
    },
    /// The answer ends with the text.
    EndsWith {
        /// The text.
        text: String,
    },
    /// Exactly so many lines that are not blank.
    Lines {
        /// How many.
        count: usize,
    },
    /// Exactly so many lines that begin with `- ` or `* `.
    Bullets {
        /// How many.
        count: usize,
    },
    /// Exactly so many sentences.
    Sentences {
        /// How many.
        count: usize,
    },
    /// No capital letter.
    Lowercase,
    /// No small letter.
    Uppercase,
    /// No comma.
    NoCommas,
    /// One JSON object with these keys and no others.
    JsonKeys {
        /// The keys.
        keys: Vec<String>,
    },
}

impl Constraint {
    /// Whether it can be met, or why not.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::Contains { text } | Self::Avoids { text } | Self::StartsWith { text } | Self::EndsWith { text }
                if text.trim().is_empty() =>
            {
                Err("text is empty, expected what to look for".into())
            }
            Self::JsonKeys { keys } if keys.is_empty() => Err("keys is empty, expected one or more".into()),
            _ => Ok(()),
        }
    }

    /// Whether `answer` meets it.
    pub fn is_met(&self, answer: &str) -> bool {
        let answer = answer.trim();
        let words = || answer.split_whitespace().count();
        let lines = || answer.lines().map(str::trim).filter(|line| !line.is_empty());
        let holds = |text: &str| answer.to_lowercase().contains(&text.to_lowercase());
        match self {
            Self::MaxWords { count } => words() <= *count,
            Self::MinWords { count } => words() >= *count,
            Self::Contains { text } => holds(text),
            Self::Avoids { text } => !holds(text),
            Self::StartsWith { text } => answer.starts_with(text.as_str()),
            Self::EndsWith { text } => answer.ends_with(text.as_str()),
            Self::Lines { count } => lines().count() == *count,
            Self::Bullets { count } => {
                lines().filter(|line| line.starts_with("- ") || line.starts_with("* ")).count() == *count
            }
            Self::Sentences { count } => sentences(answer) == *count,
            Self::Lowercase => !answer.is_empty() && !answer.chars().any(char::is_uppercase),
            Self::Uppercase => !answer.is_empty() && !answer.chars().any(char::is_lowercase),
            Self::NoCommas => !answer.is_empty() && !answer.contains(','),
            Self::JsonKeys { keys } => match serde_json::from_str(answer) {
                Ok(serde_json::Value::Object(map)) => {
                    map.len() == keys.len() && keys.iter().all(|key| map.contains_key(key))
                }
                _ => false,
            },
        }
    }
}

/// Runs of text that end in a full stop, a question mark or an exclamation mark before a space, or at
/// the end.
fn sentences(text: &str) -> usize {
    let ends = |word: &str| word.trim_end_matches(['"', '\'', ')', ']', '*']).ends_with(['.', '!', '?']);
    let words: Vec<&str> = text.split_whitespace().collect();
    let closed = words.iter().filter(|word| ends(word)).count();
    closed + usize::from(words.last().is_some_and(|word| !ends(word)))
}

/// The share of `constraints` that `answer` meets; 1 where there are none.
pub fn coverage(constraints: &[Constraint], answer: &str) -> f64 {
    if constraints.is_empty() {
        return 1.0;
    }
    constraints.iter().filter(|constraint| constraint.is_met(answer)).count() as f64 / constraints.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constraints_are_met_or_not() {
        use Constraint::*;
        let check = |constraint: Constraint, met: &str, not: &str| {
            assert!(constraint.is_met(met), "{constraint:?} {met:?}");
            assert!(!constraint.is_met(not), "{constraint:?} {not:?}");
        };
        check(MaxWords { count: 2 }, "one two", "one two three");
        check(MinWords { count: 2 }, "one two", "one");
        check(Contains { text: "Rome".into() }, "in rome now", "in Paris");
        check(Avoids { text: "very".into() }, "good", "VERY good");
        check(StartsWith { text: "Dear".into() }, " Dear you", "dear you");
        check(EndsWith { text: "Bye.".into() }, "So. Bye.\n", "Bye");
        check(Lines { count: 2 }, "a\n\nb", "a");
        check(Bullets { count: 2 }, "- a\n* b", "- a\nb");
        check(Sentences { count: 2 }, "It is (so.) Is it?", "It is 3.5 of it.");
        check(Sentences { count: 1 }, "no mark", "");
        check(Lowercase, "abc", "");
        check(Uppercase, "ABC 1", "ABc");
        check(NoCommas, "a b", "a, b");
        check(JsonKeys { keys: vec!["a".into()] }, "{\"a\": 1}", "{\"a\": 1, \"b\": 2}");
        assert_eq!(coverage(&[Lowercase, NoCommas], "a, b"), 0.5);
        assert_eq!(coverage(&[], ""), 1.0);
    }
}

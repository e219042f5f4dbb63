//! Pairwise judgements, each made twice with the two texts in both orders.

/// What a judge said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Letter {
    /// The first text is better.
    A,
    /// The second text is better.
    B,
}

/// Reads a judge's answer: exactly one of the letters A and B stands in it as a word of its own.
/// Anything else is nonsense, and is not guessed at.
pub fn letter(answer: &str) -> Option<Letter> {
    let words = answer.split(|c: char| !c.is_alphanumeric());
    let (mut a, mut b) = (false, false);
    for word in words {
        a |= word == "A";
        b |= word == "B";
    }
    match (a, b) {
        (true, false) => Some(Letter::A),
        (false, true) => Some(Letter::B),
        _ => None,
    }
}

/// The preference for the *second* text of the first order, from the answers in both: `forward` with
/// (old, new), `swapped` with (new, old). 1: the new one is preferred, 0: the old one, ½: the two orders
/// disagree, which is a preference for a place and not for a text.
pub fn preference(forward: Letter, swapped: Letter) -> f64 {
    match (forward, swapped) {
        (Letter::B, Letter::A) => 1.0,
        (Letter::A, Letter::B) => 0.0,
        _ => 0.5,
    }
}

/// The preference by scores: 1 where the new one is higher by more than `margin`, 0 where it is lower
/// by more, else ½.
pub fn by_score(old: f64, new: f64, margin: f64) -> f64 {
    if new > old + margin {
        1.0
    } else if new < old - margin {
        0.0
    } else {
        0.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_nonsense_is_not() {
        for (answer, expected) in [
            ("A", Some(Letter::A)),
            (" B.", Some(Letter::B)),
            ("**B**", Some(Letter::B)),
            ("(A)", Some(Letter::A)),
            ("Answer B is better.", Some(Letter::B)),
            ("Answer: A\n", Some(Letter::A)),
            ("A or B", None),
            ("A is better than B", None),
            ("both", None),
            ("a", None),
            ("C", None),
            ("", None),
            ("AB", None),
            ("<think>", None),
        ] {
            assert_eq!(letter(answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn position_swapped_judgements() {
        use Letter::{A, B};
        assert_eq!(preference(B, A), 1.0);
        assert_eq!(preference(A, B), 0.0);
        // Always the first, and always the second: a bias for a place.
        assert_eq!(preference(A, A), 0.5);
        assert_eq!(preference(B, B), 0.5);
    }

    #[test]
    fn scores_decide_beyond_the_margin() {
        assert_eq!(by_score(0.0, 1.0, 0.0), 1.0);
        assert_eq!(by_score(1.0, 0.0, 0.0), 0.0);
        assert_eq!(by_score(1.0, 1.0, 0.0), 0.5);
        assert_eq!(by_score(0.50, 0.515, 0.02), 0.5);
        assert_eq!(by_score(0.50, 0.525, 0.02), 1.0);
    }
}

//! Requests with requirements that can be checked, one more with each difficulty.

use super::constraint::Constraint;
use super::{Part, Problem, Template, fill};
use crate::random::Random;

const TOPICS: &[&str] = &[
    "the sea",
    "a lost umbrella",
    "a new bakery",
    "winter evenings",
    "an old clock",
    "a train journey",
    "learning to swim",
    "a garden at night",
    "the first day at school",
    "a noisy neighbour",
    "a missed appointment",
    "a birthday cake",
    "a broken lamp",
    "moving house",
    "a walk in the rain",
    "a chess tournament",
    "the smell of coffee",
    "a lighthouse",
];
const WORDS: &[&str] =
    &["window", "because", "slowly", "together", "yesterday", "bright", "quiet", "tomorrow", "green", "surprise"];

/// A request and `size` requirements of different kinds.
fn problem(random: &mut Random, size: usize, request: String) -> Problem {
    let mut kinds: Vec<usize> = (0..7).collect();
    random.shuffle(&mut kinds);
    let (mut said, mut constraints) = (Vec::new(), Vec::new());
    for kind in kinds.into_iter().take(size) {
        let word = (*random.pick(WORDS)).to_owned();
        let count = 20 + 10 * random.below(5);
        let (text, constraint) = match kind {
            0 => (format!("Use at most {count} words."), Constraint::MaxWords { count }),
            1 => (format!("Use the word \"{word}\"."), Constraint::Contains { text: word }),
            2 => ("Do not use the word \"very\".".to_owned(), Constraint::Avoids { text: "very".into() }),
            3 => ("Do not use any commas.".to_owned(), Constraint::NoCommas),
            4 => ("Write in small letters only.".to_owned(), Constraint::Lowercase),
            5 => {
                let end = format!("{}.", random.pick(&["the end", "so it goes", "that is all"]));
                (format!("End with \"{end}\""), Constraint::EndsWith { text: end })
            }
            _ => {
                let count = 2 + random.below(3);
                (format!("Write exactly {count} sentences."), Constraint::Sentences { count })
            }
        };
        said.push(text);
        constraints.push(constraint);
    }
    Problem { prompt: format!("{request} {}", said.join(" ")), constraints, ..Problem::default() }
}

fn topic(random: &mut Random) -> &'static str {
    TOPICS[random.below(TOPICS.len())]
}

const TEMPLATES: &[Template] = &[
    |random, size| {
        let request = format!("List reasons to write about {}.", topic(random));
        problem(random, size, request)
    },
    |random, size| {
        let request = format!("Begin a letter to a friend about {}.", topic(random));
        problem(random, size, request)
    },
    |random, size| {
        let request = format!("Write a poem about {}.", topic(random));
        problem(random, size, request)
    },
    |random, size| {
        let request = format!("Find a slogan that has to do with {}.", topic(random));
        problem(random, size, request)
    },
    |random, size| {
        let request = format!("Reply politely to a complaint about {}.", topic(random));
        problem(random, size, request)
    },
    |random, size| {
        let request = format!("Explain to a child what is special about {}.", topic(random));
        problem(random, size, request)
    },
    |random, size| {
        let request = format!("Tell a short story about {}.", topic(random));
        problem(random, size, request)
    },
    // For validation.
    |random, size| {
        let request = format!("Announce a talk about {}.", topic(random));
        problem(random, size, request)
    },
    // For the test.
    |random, size| {
        let request = format!("Describe {} to somebody who cannot see.", topic(random));
        problem(random, size, request)
    },
    |random, size| {
        let request = format!("Invite a colleague to talk about {}.", topic(random));
        problem(random, size, request)
    },
];

pub(super) fn generate(seed: u64, index: u64, part: Part) -> Problem {
    fill("dialog", TEMPLATES, [1, 2], seed, index, part)
}

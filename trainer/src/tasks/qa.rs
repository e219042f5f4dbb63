//! Questions about a short text that says who did what, where and when.

use super::{Part, Problem, Template, fill};
use crate::random::Random;

const NAMES: &[&str] =
    &["Amara", "Boris", "Chen", "Dana", "Emeka", "Fiona", "Goran", "Hana", "Ivan", "Jamila", "Karim", "Lucia", "Mateo"];
const PLACES: &[&str] = &["Lisbon", "Oslo", "Quito", "Nairobi", "Hanoi", "Riga", "Porto", "Accra", "Lima", "Turin"];
const DAYS: &[&str] = &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const THINGS: &[&str] =
    &["bicycle", "violin", "kettle", "lantern", "compass", "camera", "typewriter", "telescope", "clock"];
const COLOURS: &[&str] = &["red", "green", "blue", "yellow", "grey", "white", "violet"];

/// Different people, places, days, things and colours.
struct Facts {
    rows: Vec<[&'static str; 5]>,
}

impl Facts {
    fn new(random: &mut Random, count: usize) -> Self {
        let mut draw = |all: &[&'static str]| -> Vec<&'static str> {
            let mut all = all.to_vec();
            random.shuffle(&mut all);
            all
        };
        let columns = [NAMES, PLACES, DAYS, THINGS, COLOURS].map(&mut draw);
        Self { rows: (0..count).map(|row| std::array::from_fn(|of| columns[of][row % columns[of].len()])).collect() }
    }

    /// A text of one sentence a row, and a question about one of them.
    fn problem(
        &self,
        random: &mut Random,
        sentence: fn(&[&'static str; 5]) -> String,
        question: fn(&[&'static str; 5]) -> (String, &'static str),
    ) -> Problem {
        let text: Vec<String> = self.rows.iter().map(sentence).collect();
        let (question, answer) = question(random.pick(&self.rows));
        let prompt = format!("{}\n\n{question} Answer with as few words as possible.", text.join(" "));
        Problem { prompt, reference: Some(answer.to_owned()), ..Problem::default() }
    }
}

/// Where the sentences differ, so do the questions.
macro_rules! template {
    (|[$name:ident, $place:ident, $day:ident, $thing:ident, $colour:ident]| $sentence:literal, $question:literal, $answer:ident) => {
        |random, size| {
            let facts = Facts::new(random, 2 + size);
            facts.problem(
                random,
                |[$name, $place, $day, $thing, $colour]| {
                    _ = ($name, $place, $day, $thing, $colour);
                    format!($sentence)
                },
                |[$name, $place, $day, $thing, $colour]| {
                    _ = ($name, $place, $day, $thing, $colour);
                    (format!($question), *$answer)
                },
            )
        }
    };
}

const TEMPLATES: &[Template] = &[
    template!(
        |[name, place, day, thing, colour]| "{name} lives in {place} and came on {day}.",
        "Where does the person live who came on {day}?",
        place
    ),
    template!(|[name, place, day, thing, colour]| "{name} owns a {colour} {thing}.", "Who owns the {thing}?", name),
    template!(
        |[name, place, day, thing, colour]| "On {day}, {name} met a friend in {place}.",
        "On which day was {name} in {place}?",
        day
    ),
    template!(
        |[name, place, day, thing, colour]| "{name} sold a {thing} to somebody from {place}.",
        "What was sold to somebody from {place}?",
        thing
    ),
    template!(
        |[name, place, day, thing, colour]| "{name} painted the {thing} {colour}.",
        "Which colour has the {thing} that {name} painted?",
        colour
    ),
    template!(
        |[name, place, day, thing, colour]| "The shop of {name} in {place} opened on a {day}.",
        "Whose shop is in {place}?",
        name
    ),
    template!(
        |[name, place, day, thing, colour]| "{name} borrowed the {colour} {thing} on {day}.",
        "When was the {colour} {thing} borrowed?",
        day
    ),
    // For the test.
    template!(
        |[name, place, day, thing, colour]| "{name} planted a tree in {place} on {day}.",
        "In which city did {name} plant a tree?",
        place
    ),
    template!(
        |[name, place, day, thing, colour]| "In {place} there is a museum with a {colour} {thing}, given by {name}.",
        "What did {name} give to a museum?",
        thing
    ),
];

pub(super) fn generate(seed: u64, index: u64, part: Part) -> Problem {
    fill("qa", TEMPLATES, [1, 1], seed, index, part)
}

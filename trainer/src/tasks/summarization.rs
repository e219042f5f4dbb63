//! Reports that are to be shortened: what must not be lost is known.

use super::constraint::Constraint;
use super::{Part, Problem, Template, fill};
use crate::random::Random;

const PEOPLE: &[&str] = &["Ms Okafor", "Mr Lindqvist", "Dr Moreau", "Ms Tanaka", "Mr Haddad", "Dr Novak", "Ms Silva"];
const PLACES: &[&str] =
    &["the harbour", "the old mill", "the north bridge", "the town hall", "the library", "the market"];
const DAYS: &[&str] = &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday"];
const FILLERS: &[&str] = &[
    "The room was full, and coffee was served before the beginning.",
    "It had rained in the morning, but later the sun came out.",
    "Several people asked when there would be more parking spaces.",
    "A photograph of everybody was taken at the end.",
    "The microphone failed twice, and was replaced.",
    "Somebody had brought a dog, which slept most of the time.",
    "The heating was too warm for many.",
    "A short film about the history of the town was shown.",
    "Two visitors from abroad were welcomed.",
    "The next date will be announced in the newspaper.",
];

/// A text of the facts between fillers, and its reference.
fn problem(
    random: &mut Random,
    size: usize,
    kind: &str,
    facts: [String; 3],
    reference: String,
    keys: &[&str],
) -> Problem {
    let mut fillers = FILLERS.to_vec();
    random.shuffle(&mut fillers);
    let mut sentences = vec![facts[0].clone()];
    for (at, fact) in facts[1..].iter().enumerate() {
        sentences.extend(fillers[at * size..(at + 1) * size].iter().map(|filler| (*filler).to_owned()));
        sentences.push(fact.clone());
    }
    let words = reference.split_whitespace().count() + 12;
    let mut constraints: Vec<Constraint> =
        keys.iter().map(|key| Constraint::Contains { text: (*key).to_owned() }).collect();
    constraints.push(Constraint::MaxWords { count: words });
    Problem {
        prompt: format!("Summarize this {kind} in at most {words} words:\n\n{}", sentences.join(" ")),
        reference: Some(reference),
        constraints,
        ..Problem::default()
    }
}

const TEMPLATES: &[Template] = &[
    |random, size| {
        let (who, place, day) = (random.pick(PEOPLE), random.pick(PLACES), random.pick(DAYS));
        let sum = (10 + random.below(90)).to_string();
        problem(
            random,
            size,
            "report",
            [
                format!("On {day} the council met about {place}."),
                format!("{who} proposed to repair it for {sum} thousand crowns."),
                "The proposal was accepted with a large majority.".into(),
            ],
            format!("The council accepted the proposal of {who} to repair {place} for {sum} thousand crowns."),
            &[who, place, &sum],
        )
    },
    |random, size| {
        let (who, other, day) = (random.pick(PEOPLE), random.pick(PEOPLE), random.pick(DAYS));
        let count = (5 + random.below(60)).to_string();
        problem(
            random,
            size,
            "minutes",
            [
                format!("The meeting was opened by {who}."),
                format!("{other} said that {count} orders are late."),
                format!("It was agreed to send all of them by {day}."),
            ],
            format!("{other} said that {count} orders are late; all of them will be sent by {day}."),
            &[other, &count, day],
        )
    },
    |random, size| {
        let (place, day) = (random.pick(PLACES), random.pick(DAYS));
        let hour = (7 + random.below(12)).to_string();
        problem(
            random,
            size,
            "diary",
            [
                format!("I went to {place} on {day}."),
                format!("At {hour} o'clock the lights went out, and I lost my key."),
                "A neighbour let me in by the window.".into(),
            ],
            format!(
                "At {place} the lights went out at {hour} o'clock and the key was lost; a neighbour let the writer in by the window."
            ),
            &[place, &hour, "neighbour"],
        )
    },
    |random, size| {
        let (who, day) = (random.pick(PEOPLE), random.pick(DAYS));
        let room = (100 + random.below(300)).to_string();
        problem(
            random,
            size,
            "email",
            [
                format!("{who} writes about the course."),
                format!("It begins on {day} in room {room}, one week later than planned."),
                "Everybody is asked to bring a pencil and no computer.".into(),
            ],
            format!("The course of {who} begins on {day} in room {room}; bring a pencil and no computer."),
            &[day, &room, "pencil"],
        )
    },
    |random, size| {
        let (place, day) = (random.pick(PLACES), random.pick(DAYS));
        let wind = (40 + random.below(80)).to_string();
        problem(
            random,
            size,
            "weather warning",
            [
                format!("A storm is expected on {day}."),
                format!("Near {place} the wind may reach {wind} kilometres an hour."),
                "Windows should be closed and bicycles tied up.".into(),
            ],
            format!(
                "A storm with up to {wind} kilometres an hour near {place} is expected on {day}; close windows and tie up bicycles."
            ),
            &[day, place, &wind],
        )
    },
    // For validation.
    |random, size| {
        let (who, other) = (random.pick(PEOPLE), random.pick(PEOPLE));
        let goals = (1 + random.below(6)).to_string();
        problem(
            random,
            size,
            "match",
            [
                format!("The team of {who} met that of {other}."),
                format!("After the break it led by {goals} goals."),
                "In the last minute the other side scored, too late to win.".into(),
            ],
            format!("The team of {who} won against that of {other} after a lead of {goals} goals."),
            &[who, &goals],
        )
    },
    // For the test.
    |random, size| {
        let (who, place) = (random.pick(PEOPLE), random.pick(PLACES));
        let faults = (2 + random.below(20)).to_string();
        problem(
            random,
            size,
            "inspection",
            [
                format!("{who} inspected {place}."),
                format!("There were {faults} faults, most of them in the wiring."),
                "It stays closed until they are repaired.".into(),
            ],
            format!(
                "{who} found {faults} faults at {place}, most in the wiring; it stays closed until they are repaired."
            ),
            &[place, &faults, "closed"],
        )
    },
];

pub(super) fn generate(seed: u64, index: u64, part: Part) -> Problem {
    fill("summarization", TEMPLATES, [1, 1], seed, index, part)
}

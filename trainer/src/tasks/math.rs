//! Word problems whose answer is a number.

use super::{Part, Problem, Template, fill};
use crate::random::Random;

const NAMES: &[&str] = &["Ada", "Ben", "Carla", "Dev", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jun", "Kofi", "Lena"];
const THINGS: &[&str] = &["apples", "stamps", "marbles", "books", "shells", "tickets", "pencils", "coins"];

fn problem(prompt: String, answer: i64) -> Problem {
    Problem { prompt, reference: Some(answer.to_string()), ..Problem::default() }
}

/// A number that grows with the difficulty.
fn number(random: &mut Random, size: usize) -> i64 {
    2 + random.below(8 * size * size) as i64
}

const TEMPLATES: &[Template] = &[
    |random, size| {
        let (name, thing) = (random.pick(NAMES), random.pick(THINGS));
        let mut left = 10 + number(random, size);
        let mut text = format!("{name} has {left} {thing}.");
        for _ in 0..size {
            if random.below(2) == 0 {
                let more = number(random, size);
                left += more;
                text += &format!(" Then {name} finds {more} more.");
            } else {
                let less = 1 + random.below(left.max(2) as usize - 1) as i64;
                left -= less;
                text += &format!(" Then {name} gives {less} away.");
            }
        }
        problem(format!("{text} How many {thing} are left in the end?"), left)
    },
    |random, size| {
        let (price, count, paid) = (number(random, size), 1 + random.below(3 + size) as i64, number(random, size));
        let (thing, total) = (random.pick(THINGS).trim_end_matches('s'), price * count);
        problem(
            format!(
                "One {thing} costs {price} cents. How many cents of change are there for {count} of them, paid with {} cents?",
                total + paid
            ),
            paid,
        )
    },
    |random, size| {
        let (each, people, rest) = (number(random, size), 2 + random.below(2 + size) as i64, random.below(2) as i64);
        let (name, thing) = (random.pick(NAMES), random.pick(THINGS));
        problem(
            format!(
                "{name} and {} friends share {} {thing} so that all have the same number, as many as possible. How many does each of them get?",
                people - 1,
                each * people + rest
            ),
            each,
        )
    },
    |random, size| {
        let (speed, hours, pause) =
            (2 + random.below(4 + size) as i64, 1 + random.below(1 + size) as i64, number(random, size));
        let name = random.pick(NAMES);
        problem(
            format!(
                "{name} walks {speed} kilometres an hour for {hours} hours, rests for {pause} minutes, and then goes on for {hours} hours at the same speed. How many kilometres is that in all?"
            ),
            2 * speed * hours,
        )
    },
    |random, size| {
        let (fill, drain) = (5 + number(random, size), 1 + random.below(4) as i64);
        let minutes = 1 + random.below(5 * size) as i64;
        problem(
            format!(
                "A tank is filled with {} litres a minute, while {drain} litres a minute run out of it. How many litres are in it after {minutes} minutes, if it was empty before?",
                fill + drain
            ),
            fill * minutes,
        )
    },
    |random, size| {
        let (cars, seats, taken) = (2 + random.below(4 * size) as i64, 20 + number(random, size), number(random, size));
        let taken = taken.min(cars * seats);
        problem(
            format!("A train has {cars} cars with {seats} seats each, and {taken} seats are taken. How many are free?"),
            cars * seats - taken,
        )
    },
    |random, size| {
        let percent = [10, 20, 25, 50, 75][random.below(5)];
        let whole = 20 * number(random, size);
        let name = random.pick(NAMES);
        problem(
            format!("{name} has saved {whole} coins and spends {percent} percent of them. How many are left?"),
            whole - whole * percent / 100,
        )
    },
    |random, size| {
        let (a, b) = (number(random, size), number(random, size));
        problem(
            format!(
                "A rectangle is {a} metres long and {b} metres wide. By how many square metres does its area grow when it is made one metre longer?"
            ),
            b,
        )
    },
    // For validation.
    |random, size| {
        let (pages, days) = (number(random, size), 2 + random.below(3 + size) as i64);
        let name = random.pick(NAMES);
        let more = random.below(pages as usize) as i64;
        problem(
            format!(
                "{name} reads {pages} pages a day for {days} days, and {more} pages on the day after. How many pages are that?"
            ),
            pages * days + more,
        )
    },
    // For the test.
    |random, size| {
        let count = 2 + random.below(1 + size);
        let mean = 5 + number(random, size);
        let mut values: Vec<i64> = (0..count).map(|_| mean + random.below(5) as i64 - 2).collect();
        let last = mean * (count as i64 + 1) - values.iter().sum::<i64>();
        values.push(last);
        let shown: Vec<String> = values.iter().map(i64::to_string).collect();
        problem(format!("What is the average of {}?", shown.join(", ")), mean)
    },
    |random, size| {
        let (older, younger) = (random.pick(NAMES), random.pick(NAMES));
        let (age, gap) = (number(random, size), 1 + random.below(9) as i64);
        let years = 1 + random.below(4 * size) as i64;
        problem(
            format!(
                "{older}'s sister {younger} is {age} years old now, and {older} is {gap} years older. How old will {older} be in {years} years?"
            ),
            age + gap + years,
        )
    },
];

pub(super) fn generate(seed: u64, index: u64, part: Part) -> Problem {
    fill("math", TEMPLATES, [1, 2], seed, index, part)
}

//! Step-by-step arithmetic for models of a few hundred thousand weights: what a whole pipeline
//! can be tried on in minutes.
//!
//! The prompt is a digit and four signed one-digit operands, `7+8-1+1+1`; the answer the four
//! running values modulo 10, `5456`. A critique is one of
//!
//! | text | means |
//! | --- | --- |
//! | `.` | nothing needs to change (*keep*) |
//! | `?` | something is wrong |
//! | `5=4!` | a scan: the critic's own value of each step, `=` where the draft agrees, `!` where it does not, and there the scan ends |
//!
//! A refinement copies the draft after `.` and after a scan that agrees everywhere; after `…v!` it
//! keeps what is before, puts v there and computes the rest; after `?` it does all anew. Values come
//! before marks because they are then computed as drafts are, and a mark is a comparison.

use super::{Part, Problem};
use crate::random::{Random, share_of};

/// Operations of a problem, and values of an answer.
pub const STEPS: usize = 4;

/// A problem, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    first: u8,
    /// What each step adds, modulo 10.
    addends: [u8; STEPS],
}

/// Running values.
pub type Values = [u8; STEPS];

/// How often whom errs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// A step of a draft is off by 1 or 2.
    pub draft: f64,
    /// A critique is `.`, whatever the draft.
    pub keep: f64,
    /// A critique is `?`, whatever the draft.
    pub vague: f64,
    /// A scan takes over a wrong value.
    pub miss: f64,
    /// A scan's own value is wrong.
    pub corrupt: f64,
}

/// A whole text: what a model is trained on from nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// What is asked.
    pub prompt: String,
    /// A draft, right or wrong.
    pub draft: String,
    /// A critique of it, right or wrong.
    pub critique: String,
    /// What the critique leads to.
    pub refinement: String,
}

impl Steps {
    /// A problem of the part: which one it is in is a function of its text, so that no two parts
    /// share any, whatever the seeds.
    pub fn draw(random: &mut Random, part: Part) -> (Self, String) {
        loop {
            let first = random.below(10) as u8;
            let mut text = first.to_string();
            let mut addends = [0; STEPS];
            for addend in &mut addends {
                let (minus, operand) = (random.below(2) == 1, random.below(10) as u8);
                text.push(if minus { '-' } else { '+' });
                text.push((b'0' + operand) as char);
                *addend = if minus { (10 - operand) % 10 } else { operand };
            }
            if part_of(&text) == part {
                return (Self { first, addends }, text);
            }
        }
    }

    /// The problem `text`.
    pub fn parse(text: &str) -> Option<Self> {
        let digit = |byte: u8| byte.is_ascii_digit().then(|| byte - b'0');
        let (&first, rest) = text.as_bytes().split_first()?;
        if rest.len() != 2 * STEPS {
            return None;
        }
        let mut addends = [0; STEPS];
        for (addend, operation) in addends.iter_mut().zip(rest.chunks(2)) {
            let operand = digit(operation[1])?;
            *addend = match operation[0] {
                b'+' => operand,
                b'-' => (10 - operand) % 10,
                _ => return None,
            };
        }
        Some(Self { first: digit(first)?, addends })
    }

    /// Step `at` after the value `before` of the step before.
    fn step(&self, at: usize, before: u8) -> u8 {
        (before + self.addends[at]) % 10
    }

    fn before(&self, values: &Values, at: usize) -> u8 {
        if at == 0 { self.first } else { values[at - 1] }
    }

    /// The right answer.
    pub fn answer(&self) -> Values {
        self.from(0, [0; STEPS])
    }

    /// `values` with those from `at` on computed from the one before.
    fn from(&self, at: usize, mut values: Values) -> Values {
        for step in at..STEPS {
            values[step] = self.step(step, self.before(&values, step));
        }
        values
    }

    /// An answer with errors, each of which the next steps start from.
    pub fn draft(&self, rate: f64, random: &mut Random) -> Values {
        let mut values = [0; STEPS];
        for step in 0..STEPS {
            let right = self.step(step, self.before(&values, step));
            let off = if random.uniform() < rate { [1, 2, 8, 9][random.below(4)] } else { 0 };
            values[step] = (right + off) % 10;
        }
        values
    }

    /// A critique of `draft` by a critic that errs.
    pub fn critique(&self, draft: &Values, noise: &Noise, random: &mut Random) -> String {
        let kind = random.uniform();
        if kind < noise.keep {
            return ".".into();
        }
        if kind < noise.keep + noise.vague {
            return "?".into();
        }
        self.scan(draft, |right, there| {
            if random.uniform() < noise.corrupt {
                (right + 1 + random.below(9) as u8) % 10
            } else if right != there && random.uniform() < noise.miss {
                there
            } else {
                right
            }
        })
    }

    /// A scan by a critic whose value is `own(right value, draft's value)`.
    fn scan(&self, draft: &Values, mut own: impl FnMut(u8, u8) -> u8) -> String {
        let mut text = String::new();
        for (step, &there) in draft.iter().enumerate() {
            let value = own(self.step(step, self.before(draft, step)), there);
            text.push((b'0' + value) as char);
            text.push(if value == there { '=' } else { '!' });
            if value != there {
                break;
            }
        }
        text
    }

    /// The best critique there is: *keep*, or the first error and its right value.
    pub fn oracle(&self, draft: &Values) -> String {
        if *draft == self.answer() { ".".into() } else { self.scan(draft, |right, _| right) }
    }

    /// What a refiner makes of `critique`.
    pub fn refine(&self, draft: &Values, critique: &str, rate: f64, random: &mut Random) -> Values {
        match verdict(critique) {
            Said::Vague => self.draft(rate, random),
            Said::Wrong { step, value } => {
                let mut values = *draft;
                values[step] = value;
                self.from(step + 1, values)
            }
            Said::Fine | Said::Nonsense => *draft,
        }
    }

    /// How good a critique is as such, in \[0, 1\], for a judge who sees no refinement: right about
    /// whether something is wrong, then where, then what should stand there.
    pub fn critique_quality(&self, draft: &Values, critique: &str) -> f64 {
        let answer = self.answer();
        let wrong = (0..STEPS).find(|&step| draft[step] != self.step(step, self.before(draft, step)));
        match (verdict(critique), wrong) {
            (Said::Fine, None) => 1.0,
            (Said::Vague, Some(_)) => 0.4,
            (Said::Wrong { step, value }, Some(at)) if step == at => {
                if value == answer[at] {
                    1.0
                } else {
                    0.6
                }
            }
            (Said::Wrong { .. }, Some(_)) => 0.2,
            _ => 0.0,
        }
    }
}

/// What a critique says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing is wrong.
    Fine,
    /// Something is wrong.
    Vague,
    /// This value should stand at this step.
    Wrong {
        /// The step, from 0.
        step: usize,
        /// The value.
        value: u8,
    },
    /// Nothing that the grammar has.
    Nonsense,
}

/// Reads a critique.
pub fn verdict(critique: &str) -> Said {
    match critique {
        "." => return Said::Fine,
        "?" => return Said::Vague,
        _ => {}
    }
    let bytes = critique.as_bytes();
    if bytes.is_empty() || !bytes.len().is_multiple_of(2) || bytes.len() > 2 * STEPS {
        return Said::Nonsense;
    }
    let last = bytes.len() / 2 - 1;
    for (step, pair) in bytes.chunks(2).enumerate() {
        match (pair[0].is_ascii_digit(), pair[1]) {
            (true, b'=') if step < last || last + 1 == STEPS => {}
            (true, b'!') if step == last => return Said::Wrong { step, value: pair[0] - b'0' },
            _ => return Said::Nonsense,
        }
    }
    Said::Fine
}

/// Whether a critique says that something is wrong.
pub fn flags(critique: &str) -> bool {
    matches!(verdict(critique), Said::Vague | Said::Wrong { .. })
}

/// The answer `text`.
pub fn values(text: &str) -> Option<Values> {
    let digits = text.bytes().map(|byte| byte.is_ascii_digit().then(|| byte - b'0'));
    digits.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// `values` as text.
pub fn text(values: &Values) -> String {
    values.iter().map(|value| (b'0' + value) as char).collect()
}

/// The part that a prompt is in: of a hundred, five are for validation and five for the test.
pub fn part_of(prompt: &str) -> Part {
    match share_of(0, "steps", prompt) {
        share if share < 0.05 => Part::Test,
        share if share < 0.10 => Part::Validation,
        _ => Part::Train,
    }
}

/// Problem `index` of a seed.
pub(super) fn generate(seed: u64, index: u64, part: Part) -> Problem {
    let mut random = Random::new(seed, "steps", &[part as u64, index]);
    let (steps, prompt) = Steps::draw(&mut random, part);
    Problem {
        id: format!("steps-{}-{seed}-{index:06}", part.name()),
        task: "steps".into(),
        prompt,
        reference: Some(text(&steps.answer())),
        difficulty: 1,
        ..Problem::default()
    }
}

/// A text to train on: `random` draws all of it.
pub fn example(noise: &Noise, random: &mut Random) -> Example {
    let (steps, prompt) = Steps::draw(random, Part::Train);
    let draft = steps.draft(noise.draft, random);
    let critique = steps.critique(&draft, noise, random);
    let refinement = steps.refine(&draft, &critique, noise.draft, random);
    Example { prompt, draft: text(&draft), critique, refinement: text(&refinement) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOISE: Noise = Noise { draft: 0.13, keep: 0.3, vague: 0.2, miss: 0.4, corrupt: 0.12 };

    #[test]
    fn the_example_of_the_header() {
        let steps = Steps::parse("7+8-1+1+1").unwrap();
        assert_eq!(text(&steps.answer()), "5456");
        let draft = values("5323").unwrap();
        assert_eq!(steps.oracle(&draft), "5=4!");
        let mut random = Random::new(0, "test", &[]);
        assert_eq!(text(&steps.refine(&draft, "5=4!", 0.0, &mut random)), "5456");
        assert_eq!(text(&steps.refine(&draft, "5=9!", 0.0, &mut random)), "5901");
        assert_eq!(text(&steps.refine(&draft, ".", 0.0, &mut random)), "5323");
        assert_eq!(text(&steps.refine(&draft, "?", 0.0, &mut random)), "5456");
        assert_eq!(steps.oracle(&steps.answer()), ".");
        assert_eq!(Steps::parse("7+8-1+1"), None);
        assert_eq!(Steps::parse("7+8-1+1*1"), None);
        assert_eq!(steps.critique_quality(&draft, "5=4!"), 1.0);
        assert_eq!(steps.critique_quality(&draft, "5=2!"), 0.6);
        assert_eq!(steps.critique_quality(&draft, "."), 0.0);
    }

    #[test]
    fn critiques_are_read() {
        assert_eq!(verdict("5=4=5=6="), Said::Fine);
        assert_eq!(verdict("5=4="), Said::Nonsense);
        assert_eq!(verdict("5!4="), Said::Nonsense);
        assert_eq!(verdict("5=4=5=6!"), Said::Wrong { step: 3, value: 6 });
        assert_eq!(verdict(""), Said::Nonsense);
        assert_eq!(verdict("5=4=5=6=7="), Said::Nonsense);
        assert!(flags("?") && !flags("x"));
    }

    #[test]
    fn drafts_err_as_often_as_they_are_told_to() {
        let mut random = Random::new(3, "test", &[]);
        let right = |random: &mut Random| {
            let (steps, _) = Steps::draw(random, Part::Train);
            steps.draft(0.13, random) == steps.answer()
        };
        let count = (0..4000).filter(|_| right(&mut random)).count() as f64 / 4000.0;
        // 0.87⁴ = 0.573; two errors rarely cancel.
        assert!((count - 0.58).abs() < 0.03, "{count}");
    }

    proptest! {
        #[test]
        fn the_oracle_repairs_every_draft(seed: u64) {
            let mut random = Random::new(seed, "test", &[]);
            let (steps, prompt) = Steps::draw(&mut random, Part::Train);
            prop_assert_eq!(Steps::parse(&prompt), Some(steps));
            let draft = steps.draft(0.3, &mut random);
            let critique = steps.oracle(&draft);
            prop_assert_eq!(steps.critique_quality(&draft, &critique), 1.0);
            prop_assert_eq!(steps.refine(&draft, &critique, 0.5, &mut random), steps.answer());
            prop_assert_eq!(flags(&critique), draft != steps.answer());
            let noisy = steps.critique(&draft, &NOISE, &mut random);
            prop_assert!(verdict(&noisy) != Said::Nonsense, "{}", noisy);
        }

        #[test]
        fn parts_are_apart(seed: u64, index in 0u64..1000) {
            for part in Part::ALL {
                prop_assert_eq!(part_of(&generate(seed, index, part).prompt), part);
            }
        }
    }
}

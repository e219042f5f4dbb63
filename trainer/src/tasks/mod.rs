//! Tasks: prompts of graded difficulty, and verifiers of answers.

pub mod code;
pub mod constraint;
pub mod dialog;
pub mod math;
pub mod problem;
pub mod qa;
pub mod steps;
pub mod summarization;
pub mod text;
pub mod verify;

pub use problem::{Problem, read_problems, write_problems};
pub use verify::Verifier;

use crate::random::Random;

/// Which problems: no two parts share a template or, where problems are drawn whole, a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// To train on.
    Train,
    /// To choose thresholds and options by.
    Validation,
    /// To report.
    Test,
}

impl Part {
    /// All.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// A task that has a generator and a verifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Requests with requirements that can be checked.
    Dialog,
    /// Reports to be shortened.
    Summarization,
    /// Questions about a text.
    Qa,
    /// Word problems.
    Math,
    /// Small functions.
    Code,
    /// Step-by-step arithmetic for tiny models.
    Steps,
}

impl Task {
    /// All.
    pub const ALL: [Self; 6] = [Self::Dialog, Self::Summarization, Self::Qa, Self::Math, Self::Code, Self::Steps];

    /// Its name, by which prompts know it too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dialog => "dialog",
            Self::Summarization => "summarization",
            Self::Qa => "qa",
            Self::Math => "math",
            Self::Code => "code",
            Self::Steps => "steps",
        }
    }

    /// The task named `name`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|task| task.name() == name)
    }

    /// Problem `index` of `seed`: the same on every machine. Difficulty goes from 1 to
    /// [`DIFFICULTIES`] and begins again.
    pub fn generate(self, seed: u64, index: u64, part: Part) -> Problem {
        match self {
            Self::Dialog => dialog::generate(seed, index, part),
            Self::Summarization => summarization::generate(seed, index, part),
            Self::Qa => qa::generate(seed, index, part),
            Self::Math => math::generate(seed, index, part),
            Self::Code => code::generate(seed, index, part),
            Self::Steps => steps::generate(seed, index, part),
        }
    }
}

/// Levels of difficulty of the tasks that have templates.
pub const DIFFICULTIES: u64 = 5;

/// Makes a problem of a difficulty: prompt, and what it is checked by.
type Template = fn(&mut Random, usize) -> Problem;

/// A problem from one of the part's templates: of all, the last are for the test, and those before them
/// for validation, as many as `held_out` says.
fn fill(task: &str, templates: &[Template], held_out: [usize; 2], seed: u64, index: u64, part: Part) -> Problem {
    let [validation, test] = held_out;
    let (train, rest) = templates.split_at(templates.len() - validation - test);
    let (validation, test) = rest.split_at(validation);
    let templates = match part {
        Part::Train => train,
        Part::Validation => validation,
        Part::Test => test,
    };
    let mut random = Random::new(seed, task, &[part as u64, index]);
    let difficulty = 1 + index % DIFFICULTIES;
    let template = random.pick(templates);
    let mut problem = template(&mut random, difficulty as usize);
    problem.id = format!("{task}-{}-{seed}-{index:06}", part.name());
    task.clone_into(&mut problem.task);
    problem.difficulty = difficulty as u32;
    problem
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn problems_are_the_same_everywhere_and_different_from_each_other() {
        let verifier = Verifier { sandbox: None };
        for task in Task::ALL {
            let all: Vec<Problem> = (0..300).map(|index| task.generate(7, index, Part::Train)).collect();
            assert_eq!(all[17], task.generate(7, 17, Part::Train));
            assert_ne!(all[17].prompt, task.generate(8, 17, Part::Train).prompt);
            let different: HashSet<&str> = all.iter().map(|problem| problem.prompt.as_str()).collect();
            println!("{}: {} of 300 prompts differ", task.name(), different.len());
            // Functions are few, and their tests differ.
            let least = if task == Task::Code { 40 } else { 285 };
            assert!(different.len() >= least, "{}: {}", task.name(), different.len());
            for problem in &all {
                assert!(verifier.verifies(problem) || task == Task::Code, "{problem:?}");
                assert!(problem.constraints.iter().all(|constraint| constraint.validate().is_ok()));
            }
        }
    }

    /// The first words of a prompt tell its template.
    #[test]
    fn templates_are_held_out() {
        for task in Task::ALL.into_iter().filter(|task| *task != Task::Steps) {
            let heads = |part| -> HashSet<String> {
                let prompt = |index| task.generate(3, index, part).prompt;
                (0..200).map(|index| head(&prompt(index))).collect()
            };
            let [train, validation, test] = Part::ALL.map(heads);
            assert!(train.is_disjoint(&validation) && train.is_disjoint(&test) && validation.is_disjoint(&test));
            assert!(train.len() >= 5, "{}: {train:?}", task.name());
        }
    }

    /// The words of a prompt that do not vary: all small ones of the instruction, in order.
    fn head(prompt: &str) -> String {
        let words = prompt.split(|c: char| !c.is_ascii_alphabetic());
        words
            .filter(|word| {
                matches!(
                    *word,
                    "sum"
                        | "first"
                        | "greater"
                        | "last"
                        | "cuts"
                        | "run"
                        | "comes"
                        | "base"
                        | "neighbouring"
                        | "bracket"
                        | "has"
                        | "costs"
                        | "share"
                        | "walks"
                        | "tank"
                        | "train"
                        | "percent"
                        | "rectangle"
                        | "pages"
                        | "average"
                        | "older"
                        | "recipe"
                        | "List"
                        | "letter"
                        | "poem"
                        | "slogan"
                        | "Reply"
                        | "JSON"
                        | "Explain"
                        | "story"
                        | "Announce"
                        | "Describe"
                        | "review"
                        | "Invite"
                        | "lives"
                        | "owns"
                        | "met"
                        | "sold"
                        | "painted"
                        | "opened"
                        | "borrowed"
                        | "planted"
                        | "report"
                        | "minutes"
                        | "diary"
                        | "email"
                        | "weather"
                        | "match"
                        | "notice"
                        | "inspection"
                )
            })
            .collect::<Vec<_>>()
            .join(" ")
    }
}

//! Verifiers: what an answer scores, where that needs no judgement.

use super::constraint::coverage;
use super::{Problem, Task, code, steps, text};
use crate::error::Result;
use crate::sandbox::Sandbox;

/// Checks answers. What needs a sandbox needs one here.
#[derive(Debug, Default)]
pub struct Verifier {
    /// Runs unit tests; without it, code is judged.
    pub sandbox: Option<Sandbox>,
}

/// ROUGE-L and coverage move a little with every word: less than this is no difference.
const GRADED_MARGIN: f64 = 0.02;

impl Verifier {
    /// Whether [`Verifier::score`] can say something about answers to `problem`.
    pub fn verifies(&self, problem: &Problem) -> bool {
        match Task::parse(&problem.task) {
            Some(Task::Steps | Task::Math | Task::Qa) => problem.reference.is_some(),
            Some(Task::Code) => self.sandbox.is_some() && !problem.tests.is_empty(),
            Some(Task::Summarization) => problem.reference.is_some() || !problem.constraints.is_empty(),
            Some(Task::Dialog) | None => !problem.constraints.is_empty(),
        }
    }

    /// Whether a score takes so long that it is kept.
    pub fn is_costly(&self, problem: &Problem) -> bool {
        Task::parse(&problem.task) == Some(Task::Code)
    }

    /// How good `answer` is, in \[0, 1\]; 1 is right. `None` where no check is known.
    pub fn score(&self, problem: &Problem, answer: &str) -> Result<Option<f64>> {
        if !self.verifies(problem) {
            return Ok(None);
        }
        let reference = problem.reference.as_deref().unwrap_or_default();
        let right = |right: bool| f64::from(u8::from(right));
        Ok(Some(match Task::parse(&problem.task) {
            Some(Task::Steps) => right(answer.trim() == reference),
            Some(Task::Math) => match (text::last_number(answer), text::last_number(reference)) {
                (Some(found), Some(expected)) => right((found - expected).abs() <= 1e-9 * expected.abs().max(1.0)),
                _ => right(text::exact_match(answer, reference)),
            },
            // Alternatives stand on lines of their own.
            Some(Task::Qa) => reference
                .lines()
                .map(|reference| match text::exact_match(answer, reference) {
                    true => 1.0,
                    // As good as right is not right: only an exact match is.
                    false => text::f1(answer, reference).f1.min(0.99),
                })
                .fold(0.0, f64::max),
            Some(Task::Code) => {
                let sandbox = self.sandbox.as_ref().expect("verifies() says there is one");
                code::score(sandbox, answer, &problem.tests)?
            }
            Some(Task::Summarization) => {
                let covered = coverage(&problem.constraints, answer);
                match problem.reference.as_deref() {
                    None => covered,
                    Some(reference) => {
                        let similar = text::rouge_l(answer, reference).f1;
                        if problem.constraints.is_empty() { similar } else { (covered + similar) / 2.0 }
                    }
                }
            }
            Some(Task::Dialog) | None => coverage(&problem.constraints, answer),
        }))
    }

    /// Whether a score means that the answer is right: 1, or of a summary that all constraints are met.
    pub fn is_right(&self, problem: &Problem, answer: &str, score: f64) -> bool {
        match Task::parse(&problem.task) {
            Some(Task::Summarization) if !problem.constraints.is_empty() => {
                coverage(&problem.constraints, answer) >= 1.0
            }
            // No summary equals its reference.
            Some(Task::Summarization) => score >= 0.5,
            _ => score >= 1.0,
        }
    }

    /// Differences of scores up to this are ties.
    pub fn margin(&self, problem: &Problem) -> f64 {
        if Task::parse(&problem.task) == Some(Task::Summarization) { GRADED_MARGIN } else { 0.0 }
    }

    /// Whether a critique says that something is wrong, where the task has a grammar for it.
    pub fn flags(&self, problem: &Problem, critique: &str) -> Option<bool> {
        (Task::parse(&problem.task) == Some(Task::Steps)).then(|| steps::flags(critique))
    }

    /// The best critique of a draft, where the task knows it.
    pub fn oracle(&self, problem: &Problem, draft: &str) -> Option<String> {
        let (steps, draft) = known(problem, draft)?;
        Some(steps.oracle(&draft))
    }

    /// How good a critique is as such, where the task knows it.
    pub fn critique_quality(&self, problem: &Problem, draft: &str, critique: &str) -> Option<f64> {
        let (steps, draft) = known(problem, draft)?;
        Some(steps.critique_quality(&draft, critique))
    }
}

fn known(problem: &Problem, draft: &str) -> Option<(steps::Steps, steps::Values)> {
    if Task::parse(&problem.task) != Some(Task::Steps) {
        return None;
    }
    Some((steps::Steps::parse(&problem.prompt)?, steps::values(draft.trim())?))
}

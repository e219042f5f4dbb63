//! Who writes: an actor, a critic or a judge, wherever it runs.

use crate::error::Result;
use crate::tasks::Problem;

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part<'a> {
    /// An answer to the prompt.
    Draft,
    /// What is wrong with a draft.
    Critique {
        /// The draft.
        draft: &'a str,
    },
    /// A better draft.
    Refinement {
        /// The draft.
        draft: &'a str,
        /// What is wrong with it.
        critique: &'a str,
    },
    /// Which answer is better: the letter A or B.
    Judgement {
        /// Answer A.
        first: &'a str,
        /// Answer B.
        second: &'a str,
    },
    /// Which critique of a draft is better: the letter A or B. No refinement is seen.
    CritiqueJudgement {
        /// The draft.
        draft: &'a str,
        /// Critique A.
        first: &'a str,
        /// Critique B.
        second: &'a str,
    },
}

/// A text that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What it is about.
    pub problem: &'a Problem,
    /// What is to be written.
    pub part: Part<'a>,
    /// Key of its draws: a function of the collection's seed, the problem and the item, so that it is
    /// the same text whenever it is asked for, as far as the author can do that.
    pub seed: u64,
    /// 0 is greedy.
    pub temperature: f32,
    /// Most tokens.
    pub max_tokens: usize,
}

/// A text that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub tokens: usize,
    /// Whether it came to its end: false where the limit of tokens cut it off.
    pub complete: bool,
}

/// A text, or why there is none. What stops the whole collection is an error of
/// [`Author::write`] instead.
pub type Answer = std::result::Result<Written, String>;

/// Receives answers, by their place among what was asked, as they come.
pub type OnAnswers<'a> = dyn FnMut(Vec<(usize, Answer)>) -> Result<()> + 'a;

/// Writes texts.
pub trait Author {
    /// What it is, for the record, without secrets.
    fn describe(&self) -> serde_json::Value;

    /// Writes all of `asks`, in any order. An error of `done` ends it.
    fn write(&self, asks: &[Ask], done: &mut OnAnswers) -> Result<()>;

    /// The utility advantage of each of a draft's critiques; `None` where the author has no adapter
    /// that estimates it.
    fn advantages(&self, _problem: &Problem, _draft: &str, _critiques: &[&str]) -> Result<Option<Vec<f64>>> {
        Ok(None)
    }

    /// The utility advantage above which a critique is acted on.
    fn threshold(&self) -> f64 {
        0.0
    }
}

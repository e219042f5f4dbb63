//! Critics that are no models: what every other is compared with.

use serde_json::json;

use super::author::{Ask, Author, OnAnswers, Part, Written};
use crate::error::Result;
use crate::tasks::Verifier;

/// Says *keep* about everything.
pub struct Keep<'a> {
    /// How that is said.
    pub keep: &'a str,
}

/// Says what is wrong, from the task's own knowledge.
pub struct Oracle<'a> {
    /// Whose knowledge.
    pub verifier: &'a Verifier,
}

impl Author for Keep<'_> {
    fn describe(&self) -> serde_json::Value {
        json!("always keep")
    }

    fn write(&self, asks: &[Ask], done: &mut OnAnswers) -> Result<()> {
        let written = || Written { text: self.keep.to_owned(), tokens: 0, complete: true };
        done((0..asks.len()).map(|at| (at, Ok(written()))).collect())
    }
}

impl Author for Oracle<'_> {
    fn describe(&self) -> serde_json::Value {
        json!("oracle")
    }

    fn write(&self, asks: &[Ask], done: &mut OnAnswers) -> Result<()> {
        let answer = |ask: &Ask| {
            let Part::Critique { draft } = ask.part else { return Err("an oracle writes critiques alone".into()) };
            match self.verifier.oracle(ask.problem, draft) {
                Some(text) => Ok(Written { text, tokens: 0, complete: true }),
                None => Err(format!("no oracle knows the task {:?}", ask.problem.task)),
            }
        };
        done(asks.iter().enumerate().map(|(at, ask)| (at, answer(ask))).collect())
    }
}

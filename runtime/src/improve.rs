//! The whole loop: critique, refine, accept, for one or more rounds.

use serde::Serialize;

use crate::critique::{Critique, OnEvent, Request};
use crate::error::Result;
use crate::refine::Host;
use crate::session::Session;

/// What one round did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    /// The critique.
    pub critique: String,
    /// The better draft; `None` where the critique was not acted on.
    pub refinement: Option<String>,
    /// Whether it replaced the draft.
    pub accepted: bool,
    /// Whether the refinement came to its end: false where the limit of tokens cut it off.
    pub complete: bool,
}

/// What the loop led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Improvement {
    /// The first round's critique, which is about the draft that was given.
    pub critique: Critique,
    /// The best text: the last accepted refinement, or the draft itself.
    pub text: String,
    /// Whether that is a refinement.
    pub accepted: bool,
    /// All rounds in order.
    pub rounds: Vec<Round>,
}

impl Session {
    /// Critiques and refines until a critique is not acted on, a refinement is refused, or the
    /// rounds are over. Each round's draft is the last accepted refinement.
    pub fn improve(&mut self, request: &Request, host: &mut Host, on_event: &mut OnEvent) -> Result<Improvement> {
        let mut request = request.clone();
        let mut first = None;
        let mut rounds = Vec::new();
        for round in 0..request.rounds.max(1) {
            let critique = self.critique_in_round(&request, round, on_event)?;
            let refinement = match critique.acted_on(self.model()) {
                false => None,
                true => Some(self.refine_in_round(&request, &critique, round, host, on_event)?),
            };
            let accepted = refinement.as_ref().is_some_and(|r| r.accepted);
            rounds.push(Round {
                critique: critique.text.clone(),
                refinement: refinement.as_ref().map(|r| r.text.clone()),
                accepted,
                complete: refinement.as_ref().is_none_or(|r| r.complete),
            });
            first.get_or_insert(critique);
            match refinement {
                Some(refinement) if accepted => request.response = refinement.text,
                _ => break,
            }
        }
        Ok(Improvement {
            critique: first.expect("there is at least one round"),
            accepted: rounds.iter().any(|r| r.accepted),
            text: request.response,
            rounds,
        })
    }
}

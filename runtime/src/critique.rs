//! Critiques: one growing chat of task prompt, draft, and what is wrong with the draft.

use std::ops::ControlFlow;

use serde::Serialize;

use crate::chat::Conversation;
use crate::error::{Error, Result};
use crate::file::TaskPrompts;
use crate::model::Model;
use crate::sampler::Sampling;
use crate::session::{GenerateOptions, Progress, Session, Stop};

/// What is criticised, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Category: `dialog`, `summarization`, `qa`, `math`, `code`, `general`, or another that
    /// the model's prompts name. Empty means `general`.
    pub task: String,
    /// What was asked.
    pub prompt: String,
    /// The draft.
    pub response: String,
    /// How tokens are chosen. With several candidates, temperature 0 would give each the
    /// same text: [`Request::CANDIDATE_TEMPERATURE`] is used instead.
    pub sampling: Sampling,
    /// Most tokens of each text; 0 is as many as the context holds.
    pub max_tokens: usize,
    /// Critiques to write and choose from; 0 means 1.
    pub candidates: usize,
    /// Rounds of critique and refinement in [`Session::improve`]; 0 means 1.
    pub rounds: usize,
}

impl Request {
    /// Temperature of several candidates, where none was asked for.
    pub const CANDIDATE_TEMPERATURE: f32 = 0.8;
    /// Most candidates: each has a KV cache of its own.
    pub const MAX_CANDIDATES: usize = 64;
    /// Most rounds.
    pub const MAX_ROUNDS: usize = 64;

    /// Checks ranges, and returns the task's prompts.
    pub(crate) fn validate<'m>(&self, model: &'m Model) -> Result<&'m TaskPrompts> {
        self.sampling.validate()?;
        for (name, value, most) in
            [("candidates", self.candidates, Self::MAX_CANDIDATES), ("rounds", self.rounds, Self::MAX_ROUNDS)]
        {
            if value > most {
                return Err(Error::invalid(format!("{name} is {value}, expected at most {most}")));
            }
        }
        let tasks = &model.prompts().tasks;
        let task = if self.task.is_empty() { "general" } else { &self.task };
        tasks.get(task).ok_or_else(|| {
            let known: Vec<_> = tasks.keys().map(String::as_str).collect();
            Error::invalid(format!("unknown task {task:?}; this model knows {}", known.join(", ")))
        })
    }

    /// An instruction with what was asked in place of `{prompt}`.
    pub(crate) fn say(&self, instruction: &str) -> String {
        instruction.replace("{prompt}", &self.prompt)
    }

    pub(crate) fn generation(&self) -> GenerateOptions {
        GenerateOptions { sampling: self.sampling.clone(), max_tokens: self.max_tokens, stop: Vec::new() }
    }
}

/// Whether the draft needs a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Something is wrong.
    Revise,
    /// Nothing needs to change.
    Keep,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A remark.
    Note,
    /// Probably wrong.
    Warning,
    /// Wrong.
    Error,
}

/// One problem in the draft, at an exact place of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Byte offset of its start in the draft's UTF-8.
    pub start: usize,
    /// Byte offset of its end.
    pub end: usize,
    /// The draft's text there.
    pub quote: String,
    /// What is wrong.
    pub message: String,
    /// What should stand there instead, where the fix is local.
    pub replacement: Option<String>,
    /// How bad it is.
    pub severity: Severity,
}

/// One of several critiques.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// The text.
    pub critique: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// Estimate of what it gains over *keep*; needs a model with an adapter.
    pub utility_advantage: Option<f32>,
}

/// What is wrong with a draft.
#[derive(Clone, Debug, PartialEq)]
pub struct Critique {
    /// The text.
    pub text: String,
    /// Whether the draft needs a change.
    pub verdict: Verdict,
    /// Exact places; empty unless the critique was structured.
    pub findings: Vec<Finding>,
    /// Whether the model ended it: false where the limit of tokens cut it off.
    pub complete: bool,
    /// Estimate of what it gains over *keep*; needs a model with an adapter.
    pub utility_advantage: Option<f32>,
    /// All critiques that it was chosen from, itself included.
    pub candidates: Vec<Candidate>,
    /// Its tokens as sampled; empty where the text was given.
    pub(crate) tokens: Vec<u32>,
}

impl Critique {
    /// A critique that somebody else wrote.
    pub fn given(text: &str, model: &Model) -> Self {
        Self {
            text: text.to_owned(),
            verdict: verdict(text, &model.prompts().keep),
            findings: Vec::new(),
            complete: true,
            utility_advantage: None,
            candidates: Vec::new(),
            tokens: Vec::new(),
        }
    }
}

/// Which text is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The task and the draft are read.
    Read,
    /// The critique is written.
    Critique,
    /// The refinement is written.
    Refine,
    /// Draft and refinement are compared.
    Judge,
}

/// Something that happened during a call.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// In which part of the loop.
    pub phase: Phase,
    /// In which round, from 0.
    pub round: usize,
    /// What happened.
    pub progress: Progress<'a>,
}

/// Receives [`Event`]s; `Break` cancels the call.
pub type OnEvent<'a> = dyn FnMut(Event) -> ControlFlow<()> + 'a;

/// *keep* if `critique` begins with the phrase, letter case and surrounding marks aside.
pub fn verdict(critique: &str, keep: &str) -> Verdict {
    let bare = |text: &str| text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    let (said, phrase) = (bare(critique), bare(keep));
    let keeps = if phrase.is_empty() {
        // A phrase of marks alone (a model may say "." for keep) has to be the whole critique.
        !keep.trim().is_empty() && critique.trim() == keep.trim()
    } else {
        said.strip_prefix(&phrase).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    if keeps { Verdict::Keep } else { Verdict::Revise }
}

/// The chat up to the point where the critique begins.
pub fn conversation<'m>(model: &'m Model, request: &Request) -> Result<Conversation<'m>> {
    Ok(until_critique(model, request, request.validate(model)?))
}

/// The same for a request that was checked.
pub(crate) fn until_critique<'m>(model: &'m Model, request: &Request, prompts: &TaskPrompts) -> Conversation<'m> {
    let mut chat = Conversation::new(model.chat(), model.tokenizer(), model.prompts().system.as_deref());
    chat.user(&request.prompt);
    chat.open_draft(&request.response);
    match &prompts.critique_turn {
        Some(parts) => chat.parts(parts),
        None => {
            chat.close_draft();
            chat.user(&request.say(&prompts.critique));
            chat.open_assistant();
        }
    }
    chat
}

impl Session {
    /// Says what is wrong with a draft.
    pub fn critique(&mut self, request: &Request, on_event: &mut OnEvent) -> Result<Critique> {
        self.critique_in_round(request, 0, on_event)
    }

    pub(crate) fn critique_in_round(
        &mut self,
        request: &Request,
        round: usize,
        on_event: &mut OnEvent,
    ) -> Result<Critique> {
        let model = self.model().clone();
        let prompts = request.validate(&model)?;
        let mut chat = until_critique(&model, request, prompts);
        let count = request.candidates.max(1);
        let mut options = request.generation();
        if count > 1 && options.sampling.temperature == 0.0 {
            options.sampling.temperature = Request::CANDIDATE_TEMPERATURE;
        }
        let mut report = |progress: Progress| {
            let phase = if matches!(progress, Progress::Text(_)) { Phase::Critique } else { Phase::Read };
            on_event(Event { phase, round, progress })
        };
        let written = self.generate_candidates(chat.tokens(), count, &options, &mut report)?;
        let keep = &model.prompts().keep;
        let verdicts: Vec<Verdict> = written.iter().map(|(g, _)| verdict(&g.text, keep)).collect();
        let best = choose(&written.iter().map(|(g, _)| (g.logprob, g.tokens.len())).collect::<Vec<_>>(), &verdicts);
        let candidates = written
            .iter()
            .zip(&verdicts)
            .map(|((g, _), &verdict)| Candidate {
                critique: g.text.trim().to_owned(),
                verdict,
                utility_advantage: None,
            })
            .collect();
        let (generation, sequence) = written.into_iter().nth(best).expect("the best is one of them");
        // The refinement goes on from the chosen critique's cache.
        drop(self.replace_sequence(sequence));
        Ok(Critique {
            text: generation.text.trim().to_owned(),
            verdict: verdicts[best],
            findings: Vec::new(),
            complete: generation.stop != Stop::Length,
            utility_advantage: None,
            candidates,
            tokens: generation.tokens,
        })
    }
}

/// Without a utility advantage: the verdict of the majority (*revise* in a tie), and among
/// its critiques the one that the model finds likeliest for each token.
fn choose(candidates: &[(f64, usize)], verdicts: &[Verdict]) -> usize {
    let keeps = verdicts.iter().filter(|&&v| v == Verdict::Keep).count();
    let majority = if keeps * 2 > verdicts.len() { Verdict::Keep } else { Verdict::Revise };
    let mean = |i: usize| candidates[i].0 / (candidates[i].1 + 1) as f64;
    (0..candidates.len())
        .filter(|&i| verdicts[i] == majority || keeps == verdicts.len())
        .max_by(|&a, &b| mean(a).total_cmp(&mean(b)).then(b.cmp(&a)))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let check = |text: &str, expected| assert_eq!(verdict(text, "No changes needed"), expected, "{text:?}");
        check("No changes needed.", Verdict::Keep);
        check("  \"NO CHANGES NEEDED\" - it is fine.", Verdict::Keep);
        check("**No changes needed**", Verdict::Keep);
        check("No changes neededness", Verdict::Revise);
        check("There are no changes needed", Verdict::Revise);
        check("", Verdict::Revise);
        assert_eq!(verdict("anything", ""), Verdict::Revise);
        assert_eq!(verdict(".", "."), Verdict::Keep);
        assert_eq!(verdict("1=2!.", "."), Verdict::Revise);
    }

    #[test]
    fn candidates_are_chosen_by_majority_and_likelihood() {
        use Verdict::{Keep, Revise};
        assert_eq!(choose(&[(-5.0, 4), (-2.0, 4), (-1.0, 1)], &[Revise, Revise, Keep]), 1);
        assert_eq!(choose(&[(-5.0, 4), (-2.0, 4), (-1.0, 0)], &[Revise, Keep, Keep]), 1);
        assert_eq!(choose(&[(-5.0, 4), (-5.0, 4)], &[Revise, Keep]), 0);
        assert_eq!(choose(&[(-5.0, 4)], &[Keep]), 0);
    }
}

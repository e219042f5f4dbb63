//! Refinements: the chat goes on from the critique to a better draft, and the better draft
//! is taken only if it is preferred.

use serde::Serialize;

use crate::adapter::NEVER;
use crate::chat::Conversation;
use crate::critique::{Context, Critique, Event, OnEvent, Phase, Request, until_critique};
use crate::error::Result;
use crate::file::TaskPrompts;
use crate::findings;
use crate::model::Model;
use crate::session::{Progress, Repeats, Session, Stop, log_probability};
use crate::tokenizer::Special;
use crate::transformer::Logits;

/// Decides whether a refinement replaces the draft: a compiler, a test run, a person.
pub type Accept<'a> = dyn FnMut(&str, &str) -> Result<bool> + 'a;

/// Writes the refinement in place of this model, say a remote one: gets the messages, and
/// returns the text. It may stream it to the second argument.
pub type Actor<'a> = dyn FnMut(&[Message], &mut dyn FnMut(&str) -> std::ops::ControlFlow<()>) -> Result<String> + 'a;

/// What a host does in place of the model. `None`: the model does it.
#[derive(Default)]
pub struct Host<'a> {
    /// Writes refinements.
    pub actor: Option<&'a mut Actor<'a>>,
    /// Accepts or refuses them, in place of the critic's own judgement.
    pub accept: Option<&'a mut Accept<'a>>,
}

/// Who says a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One message of the conversation, for a host's actor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// A better draft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refinement {
    /// The text.
    pub text: String,
    /// Whether it was preferred to the draft.
    pub accepted: bool,
    /// Whether it came to its end: false where the limit of tokens cut it off. It is then
    /// not accepted, whoever decides.
    pub complete: bool,
}

impl Session {
    /// Writes a better draft from a critique, and decides whether to take it. A critique that is
    /// not [acted on](Critique::acted_on) gives the draft back, not accepted, without any work.
    ///
    /// It is taken where the host accepts it; or else where the critique has a utility
    /// advantage, which was above the threshold; or else where the model itself prefers it.
    /// The adapter has no part in it: it is a critic's.
    ///
    /// With [`Request::apply`] the findings' replacements are the better draft; where there are
    /// none, the draft comes back, not accepted.
    pub fn refine(
        &mut self,
        request: &Request,
        critique: &Critique,
        host: &mut Host,
        on_event: &mut OnEvent,
    ) -> Result<Refinement> {
        self.refine_in_round(request, critique, 0, host, on_event)
    }

    pub(crate) fn refine_in_round(
        &mut self,
        request: &Request,
        critique: &Critique,
        round: usize,
        host: &mut Host,
        on_event: &mut OnEvent,
    ) -> Result<Refinement> {
        let model = self.model().clone();
        let prompts = request.validate(&model)?;
        if !critique.acted_on(&model) {
            return Ok(Refinement { text: request.response.clone(), accepted: false, complete: true });
        }
        let (text, complete) = match &mut host.actor {
            _ if request.apply => match findings::apply(&request.response, &critique.findings) {
                Some(text) => (text, true),
                None => return Ok(Refinement { text: request.response.clone(), accepted: false, complete: true }),
            },
            Some(actor) => {
                let messages = messages(&model, request, prompts, critique);
                let text = actor(&messages, &mut |text| {
                    on_event(Event { phase: Phase::Refine, round, progress: Progress::Text(text) })
                })?;
                (text, true)
            }
            None => {
                let mut chat = until_refinement(&model, request, prompts, critique);
                let mut report = |progress: Progress| on_event(Event { phase: Phase::Refine, round, progress });
                let mut options = request.generation();
                let context = Context { tokens: chat.tokens().to_vec(), invocation: NEVER };
                options.forced = request.forced.as_ref().map(|forced| context.target(&model, &forced.refinement));
                options.repeats = Repeats::Draft(vec![
                    context.target(&model, &request.response),
                    model.tokenizer().encode(&critique.text, Special::Text),
                ]);
                let generation = self.generate_from(&context.tokens, NEVER, &options, &mut report)?;
                (generation.text, generation.stop != Stop::Length)
            }
        };
        // A model's lines around its answer are no part of it; a draft's are.
        let text = if request.apply { text } else { text.trim_matches('\n').to_owned() };
        let accepted = match &mut host.accept {
            // What was cut off would end a good draft in the middle of a sentence.
            _ if !complete => false,
            Some(accept) => accept(&request.response, &text)?,
            None if critique.utility_advantage.is_some() => differs(request, &text),
            None => self.judge(request, prompts, &text, round, on_event)?,
        };
        Ok(Refinement { text, accepted, complete })
    }

    /// The model's own judgement, with the two answers in both orders: the refinement must
    /// be preferred in both, so that a preference for a place is not one for a text.
    fn judge(
        &mut self,
        request: &Request,
        prompts: &TaskPrompts,
        refinement: &str,
        round: usize,
        on_event: &mut OnEvent,
    ) -> Result<bool> {
        if !differs(request, refinement) {
            return Ok(false);
        }
        if prompts.judge.is_empty() {
            return Ok(true);
        }
        let model = self.model().clone();
        let letters = ["A", "B"].map(|letter| model.tokenizer().encode(letter, Special::Text));
        let kernel = self.kernel();
        // Judged beside the conversation, whose cache the next round may want.
        let kept = self.sequence().fork();
        let mut prefers = |first: &str, second: &str| -> Result<f64> {
            let mut chat = Conversation::new(model.chat(), model.tokenizer(), model.prompts().system.as_deref());
            chat.user(&format!("{}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}\n\n{}", request.prompt, prompts.judge));
            chat.open_assistant();
            let mut preference = 0.0;
            let mut report = |progress: Progress| on_event(Event { phase: Phase::Judge, round, progress });
            self.prefill_from(chat.tokens(), NEVER, Logits::Last, &mut report, &mut |_, logits| {
                let [a, b] = [&letters[0], &letters[1]]
                    .map(|ids| ids.first().map_or(0.0, |&id| log_probability(kernel, logits, id)));
                preference = a - b;
            })?;
            Ok(preference)
        };
        let in_order = prefers(&request.response, refinement);
        let swapped = in_order.and_then(|in_order| Ok((in_order, prefers(refinement, &request.response)?)));
        drop(self.replace_sequence(kept));
        let (in_order, swapped) = swapped?;
        Ok(in_order < 0.0 && swapped > 0.0)
    }
}

/// Whether a refinement says anything, and anything new.
fn differs(request: &Request, refinement: &str) -> bool {
    !refinement.trim().is_empty() && refinement.trim() != request.response.trim()
}

/// The chat up to the point where the refinement begins.
pub fn conversation<'m>(model: &'m Model, request: &Request, critique: &Critique) -> Result<Conversation<'m>> {
    Ok(until_refinement(model, request, request.validate(model)?, critique))
}

/// The same for a request that was checked.
fn until_refinement<'m>(
    model: &'m Model,
    request: &Request,
    prompts: &TaskPrompts,
    critique: &Critique,
) -> Conversation<'m> {
    let (mut chat, _) = until_critique(model, request, prompts);
    if critique.tokens.is_empty() {
        chat.text(&critique.text);
    } else {
        chat.said(&critique.tokens);
    }
    match &prompts.refine_turn {
        Some(parts) => chat.parts(parts),
        None => {
            chat.close_draft();
            chat.user(&request.say(&prompts.refine));
            chat.open_assistant();
        }
    }
    chat
}

/// The same conversation as messages.
fn messages(model: &Model, request: &Request, prompts: &TaskPrompts, critique: &Critique) -> Vec<Message> {
    let message = |role, content: &str| Message { role, content: content.to_owned() };
    let system = model.prompts().system.as_deref().map(|text| message(Role::System, text));
    let rest = [
        message(Role::User, &request.prompt),
        message(Role::Assistant, &request.response),
        message(Role::User, &request.say(request.instruction(prompts))),
        message(Role::Assistant, &critique.text),
        message(Role::User, &request.say(&prompts.refine)),
    ];
    system.into_iter().chain(rest).collect()
}

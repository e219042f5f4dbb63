//! The work: critique, refine, improve, generate, score.

use std::cell::Cell;

use runtime::chat::Conversation;
use runtime::refine::{Accept, Actor};
use runtime::tokenizer::Special;
use runtime::{CancelToken, Critique, GenerateOptions, Host, Session, Stop};

use crate::boundary::{Failure, Outcome, guard};
use crate::convert::{self, Asked, callback_failure};
use crate::event::{self, critic_phase};
use crate::model::put;
use crate::request::{CRITIC_PARSE_CONTROL, CRITIC_RAW_PROMPT, critic_request};
use crate::result::critic_result;
use crate::session::critic_session;
use crate::status::{critic_error, critic_status};
use crate::text::critic_text;

/// Says what is wrong with request->response, as an answer to request->prompt.
///
/// out      Gets a result of your own: release it with critic_result_free.
///
/// An empty prompt or response is a text like any other. With CRITIC_STRUCTURED also
/// CRITIC_UNSUPPORTED_MODEL, for a vocabulary in which not every text can be written.
///
/// This and the functions below block until the work is done: seconds to minutes. They stream
/// to request->on_event, and critic_session_cancel ends them.
/// CRITIC_CANCELLED, CRITIC_CONTEXT_FULL, CRITIC_INVALID_ARGUMENT (also a task that the model
/// does not know), CRITIC_BUSY, CRITIC_OUT_OF_MEMORY, CRITIC_INTERNAL: after the last one the
/// session is good for critic_session_free alone, after all others it works on.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn critic_critique(
    session: *mut critic_session,
    request: *const critic_request,
    out: *mut *mut critic_result,
    error: *mut critic_error,
) -> critic_status {
    // SAFETY: pointers are NULL or as the header asks.
    unsafe {
        call(session, request, out, error, |session, _, asked| {
            let critique = session.critique(&asked.request, &mut asked.events())?;
            Ok(of_critique(critique))
        })
    }
}

/// Writes a better draft from request->critique, or, where that is empty, from one that it
/// writes first; and decides whether to take it: by request->accept, or else by the critique's
/// utility advantage, or else by the model's own judgement. A critique that finds nothing to
/// change, or whose utility advantage is too low, gives the draft back, and no refinement.
///
/// CRITIC_CALLBACK_FAILED: request->actor or request->accept failed. All else is as with
/// critic_critique.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn critic_refine(
    session: *mut critic_session,
    request: *const critic_request,
    out: *mut *mut critic_result,
    error: *mut critic_error,
) -> critic_status {
    // SAFETY: pointers are NULL or as the header asks.
    unsafe {
        call(session, request, out, error, |session, cancel, asked| {
            let mut events = asked.events();
            let critique = match asked.critique.as_str() {
                "" => session.critique(&asked.request, &mut events)?,
                given => session.given_critique(&asked.request, given, &mut events)?,
            };
            let refinement =
                with_host(asked, cancel, |host| session.refine(&asked.request, &critique, host, &mut events))?;
            let acted_on = critique.acted_on(session.model());
            let text = if refinement.accepted { refinement.text.clone() } else { asked.request.response.clone() };
            Ok(critic_result {
                text,
                refinement: acted_on.then_some(refinement.text),
                accepted: refinement.accepted,
                cut: !(critique.complete && refinement.complete),
                ..of_critique(critique)
            })
        })
    }
}

/// Critiques and refines, request->rounds times, until the critique finds nothing to change, or
/// has too low a utility advantage, or a refinement is refused. Each round's draft is the last
/// accepted refinement.
///
/// All is as with critic_refine; request->critique is not looked at.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn critic_improve(
    session: *mut critic_session,
    request: *const critic_request,
    out: *mut *mut critic_result,
    error: *mut critic_error,
) -> critic_status {
    // SAFETY: pointers are NULL or as the header asks.
    unsafe {
        call(session, request, out, error, |session, cancel, asked| {
            let mut events = asked.events();
            let done = with_host(asked, cancel, |host| session.improve(&asked.request, host, &mut events))?;
            let written = |accepted| {
                let mut rounds = done.rounds.iter().rev().filter(|round| round.accepted == accepted);
                rounds.find_map(|round| round.refinement.clone())
            };
            Ok(critic_result {
                refinement: written(true).or_else(|| written(false)),
                text: done.text,
                accepted: done.accepted,
                cut: !(done.critique.complete && done.rounds.last().is_none_or(|round| round.complete)),
                rounds: done.rounds,
                ..of_critique(done.critique)
            })
        })
    }
}

/// Answers request->prompt as the model does without a critic, or, with CRITIC_RAW_PROMPT,
/// continues it: critic_result_text. Looks at no other text of the request but its stops.
///
/// All is as with critic_critique.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn critic_generate(
    session: *mut critic_session,
    request: *const critic_request,
    out: *mut *mut critic_result,
    error: *mut critic_error,
) -> critic_status {
    // SAFETY: pointers are NULL or as the header asks.
    unsafe {
        call(session, request, out, error, |session, _, asked| {
            let tokens = prompt_tokens(session, asked)?;
            let options = GenerateOptions {
                sampling: asked.request.sampling.clone(),
                max_tokens: asked.request.max_tokens,
                stop: asked.stop.clone(),
                ..GenerateOptions::default()
            };
            let (callback, userdata) = (asked.c.on_event, asked.c.userdata);
            let generation = session.generate(&tokens, &options, &mut |progress| {
                event::deliver_progress(callback, userdata, critic_phase::CRITIC_PHASE_GENERATE, 0, progress)
            })?;
            let cut = generation.stop == Stop::Length;
            Ok(critic_result { text: generation.text, tokens: generation.tokens, cut, ..critic_result::default() })
        })
    }
}

/// How likely the model finds a text: critic_result_tokens and critic_result_logprobs.
///
/// flags    0, or CRITIC_PARSE_CONTROL.
///
/// All else is as with critic_critique; nothing is streamed.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn critic_score(
    session: *mut critic_session,
    text: critic_text,
    flags: u32,
    out: *mut *mut critic_result,
    error: *mut critic_error,
) -> critic_status {
    guard(error, || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: the text lives until the call returns; pointers are NULL or as the header asks.
        unsafe {
            let text = convert::text(text, "text")?;
            let special = convert::special(flags)?;
            critic_session::call(session, |session, _| {
                let tokens = session.tokenize(text, special);
                let logprobs = session.score(&tokens, &mut |_| std::ops::ControlFlow::Continue(()))?;
                let timings = session.take_timings();
                put(out, || critic_result { tokens, logprobs, timings, ..critic_result::default() })
            })
        }
    })
}

/// What all calls with a request have in common.
///
/// # Safety
/// Pointers are NULL or as the header asks.
unsafe fn call(
    session: *mut critic_session,
    request: *const critic_request,
    out: *mut *mut critic_result,
    error: *mut critic_error,
    work: impl FnOnce(&mut Session, &CancelToken, &Asked) -> Outcome<critic_result>,
) -> critic_status {
    guard(error, || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: as the caller promises.
        unsafe {
            let asked = Asked::read(request)?;
            critic_session::call(session, |session, cancel| {
                let result = work(session, cancel, &asked)?;
                let timings = session.take_timings();
                put(out, || critic_result { timings, ..result })
            })
        }
    })
}

/// Runs `work` with the host's own actor and acceptance check.
fn with_host<T>(asked: &Asked, cancel: &CancelToken, work: impl FnOnce(&mut Host) -> runtime::Result<T>) -> Outcome<T> {
    let (actor_failure, accept_failure) = (Cell::new(None), Cell::new(None));
    let mut actor = asked.actor(cancel, &actor_failure);
    let mut accept = asked.accept(cancel, &accept_failure);
    let result = work(&mut Host {
        actor: actor.as_deref_mut().map(|actor| actor as &mut Actor),
        accept: accept.as_deref_mut().map(|accept| accept as &mut Accept),
    });
    if let Some(answer) = actor_failure.get() {
        return Err(callback_failure("actor", answer));
    }
    if let Some(answer) = accept_failure.get() {
        return Err(callback_failure("accept", answer));
    }
    Ok(result?)
}

fn of_critique(critique: Critique) -> critic_result {
    critic_result {
        verdict: Some(critique.verdict),
        critique: critique.text,
        utility_advantage: critique.utility_advantage,
        findings: critique.findings,
        candidates: critique.candidates,
        cut: !critique.complete,
        ..critic_result::default()
    }
}

fn prompt_tokens(session: &Session, asked: &Asked) -> Outcome<Vec<u32>> {
    let (prompt, special) = (&asked.request.prompt, convert::special(asked.c.flags & CRITIC_PARSE_CONTROL)?);
    if asked.c.flags & CRITIC_RAW_PROMPT != 0 {
        return Ok(session.tokenize(prompt, special));
    }
    if special == Special::Parse {
        return Err(Failure::invalid(
            "CRITIC_PARSE_CONTROL needs CRITIC_RAW_PROMPT: a chat has its own control tokens",
        ));
    }
    let model = session.model();
    let mut chat = Conversation::new(model.chat(), model.tokenizer(), None);
    chat.user(prompt);
    chat.open_assistant();
    Ok(chat.tokens().to_vec())
}

//! C's requests as the runtime's.

use std::ops::ControlFlow;

use runtime::refine::Actor;
use runtime::tokenizer::Special;
use runtime::{CancelToken, Error, Event, Message, Role, Sampling};

use crate::boundary::{Failure, Outcome};
use crate::event;
use crate::request::{
    CRITIC_APPLY, CRITIC_PARSE_CONTROL, CRITIC_RAW_PROMPT, CRITIC_STRUCTURED, critic_message, critic_request,
    critic_role, critic_writer,
};
use crate::status::critic_status;
use crate::structs;
use crate::text::critic_text;

/// Stop texts are looked for at every token.
const MOST_STOPS: usize = 64;

/// A text of the caller's, checked.
///
/// # Safety
/// The text's bytes live for `'a`.
pub(crate) unsafe fn text<'a>(text: critic_text, name: &str) -> Outcome<&'a str> {
    // SAFETY: as the caller promises.
    let bytes =
        unsafe { text.bytes() }.ok_or_else(|| Failure::invalid(format!("{name}: NULL with {} bytes", text.len)))?;
    std::str::from_utf8(bytes)
        .map_err(|error| Failure::invalid(format!("{name} is not UTF-8 at byte {}", error.valid_up_to())))
}

/// What flags say about control tokens.
pub(crate) fn special(flags: u32) -> Outcome<Special> {
    match flags {
        0 => Ok(Special::Text),
        CRITIC_PARSE_CONTROL => Ok(Special::Parse),
        other => Err(Failure::invalid(format!("flags are {other:#x}, which this function does not know"))),
    }
}

/// A request, checked, with the caller's own struct beside it.
pub(crate) struct Asked {
    pub c: critic_request,
    pub request: runtime::Request,
    pub critique: String,
    pub stop: Vec<String>,
}

impl Asked {
    /// # Safety
    /// `request` is NULL or as the header asks.
    pub unsafe fn read(request: *const critic_request) -> Outcome<Self> {
        // SAFETY: as the caller promises.
        let c = unsafe { structs::read(request, "request")? }.ok_or_else(|| Failure::null("request"))?;
        const KNOWN: u32 = CRITIC_PARSE_CONTROL | CRITIC_RAW_PROMPT | CRITIC_STRUCTURED | CRITIC_APPLY;
        if c.flags & !KNOWN != 0 || c.reserved != 0 {
            return Err(Failure::invalid("request: flags or reserved hold what this version does not know"));
        }
        // SAFETY: the texts live until the call returns.
        let texts = unsafe {
            [(c.task, "task"), (c.prompt, "prompt"), (c.response, "response"), (c.critique, "critique")]
                .map(|(value, name)| text(value, name).map(str::to_owned))
        };
        let [task, prompt, response, critique] = texts;
        let or_one = |value: f32| if value == 0.0 { 1.0 } else { value };
        let sampling = Sampling {
            temperature: c.temperature,
            top_k: c.top_k as usize,
            top_p: or_one(c.top_p),
            min_p: c.min_p,
            repetition_penalty: or_one(c.repetition_penalty),
            seed: c.seed,
        };
        let request = runtime::Request {
            task: task?,
            prompt: prompt?,
            response: response?,
            sampling,
            max_tokens: c.max_tokens as usize,
            candidates: c.candidates as usize,
            rounds: c.rounds as usize,
            structured: c.flags & CRITIC_STRUCTURED != 0,
            apply: c.flags & CRITIC_APPLY != 0,
            ..runtime::Request::default()
        };
        // SAFETY: as for the texts.
        let stop = unsafe { stops(&c)? };
        Ok(Self { c, request, critique: critique?, stop })
    }

    /// Hands events to the host.
    pub fn events(&self) -> impl FnMut(Event) -> ControlFlow<()> + use<> {
        let (callback, userdata) = (self.c.on_event, self.c.userdata);
        // SAFETY: the host gave both together, for as long as the call lasts.
        move |event| unsafe { event::deliver(callback, userdata, event) }
    }

    /// The host's own actor, if there is one. Why it failed goes to `failure`.
    pub fn actor<'a>(
        &self,
        cancel: &'a CancelToken,
        failure: &'a std::cell::Cell<Option<i32>>,
    ) -> Option<Box<Actor<'a>>> {
        let (callback, userdata) = (self.c.actor?, self.c.userdata);
        Some(Box::new(move |messages, emit| {
            let messages: Vec<critic_message> = messages.iter().map(message).collect();
            let mut writer = critic_writer::new(emit, cancel);
            // SAFETY: the host gave both together; messages and writer live until it returns.
            let status = unsafe { callback(userdata, messages.as_ptr(), messages.len(), (&raw mut writer).cast()) };
            let text = writer.finish().ok_or(Error::Cancelled)?;
            if status != 0 {
                failure.set(Some(status));
                return Err(Error::Cancelled);
            }
            Ok(text)
        }))
    }

    /// The host's own acceptance check, if there is one. Why it failed goes to `failure`.
    pub fn accept<'a>(
        &self,
        cancel: &'a CancelToken,
        failure: &'a std::cell::Cell<Option<i32>>,
    ) -> Option<Box<runtime::refine::Accept<'a>>> {
        let (callback, userdata) = (self.c.accept?, self.c.userdata);
        Some(Box::new(move |draft, refinement| {
            // SAFETY: the host gave both together; the texts live until it returns.
            let answer = unsafe { callback(userdata, critic_text::of(draft), critic_text::of(refinement)) };
            match answer {
                _ if cancel.is_cancelled() => Err(Error::Cancelled),
                0 => Ok(false),
                1 => Ok(true),
                other => {
                    failure.set(Some(other));
                    Err(Error::Cancelled)
                }
            }
        }))
    }
}

/// What a call that a callback ended came to.
pub(crate) fn callback_failure(who: &str, answer: i32) -> Failure {
    Failure::new(critic_status::CRITIC_CALLBACK_FAILED, format!("{who} returned {answer}"))
}

fn message(message: &Message) -> critic_message {
    let role = match message.role {
        Role::System => critic_role::CRITIC_ROLE_SYSTEM,
        Role::User => critic_role::CRITIC_ROLE_USER,
        Role::Assistant => critic_role::CRITIC_ROLE_ASSISTANT,
    };
    critic_message { role, content: critic_text::of(&message.content) }
}

/// # Safety
/// `stops` is NULL or points to `stop_count` texts.
unsafe fn stops(c: &critic_request) -> Outcome<Vec<String>> {
    if c.stop_count == 0 {
        return Ok(Vec::new());
    }
    if c.stops.is_null() {
        return Err(Failure::invalid(format!("stops: NULL with {} texts", c.stop_count)));
    }
    if c.stop_count > MOST_STOPS {
        return Err(Failure::invalid(format!("stop_count is {}, expected at most {MOST_STOPS}", c.stop_count)));
    }
    // SAFETY: as the caller promises.
    (0..c.stop_count).map(|i| unsafe { Ok(text(c.stops.add(i).read_unaligned(), "stops")?.to_owned()) }).collect()
}

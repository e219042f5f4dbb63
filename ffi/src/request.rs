//! What is asked of a session, and what the host does itself.

use std::ffi::c_void;
use std::ops::ControlFlow;

use runtime::CancelToken;
use runtime::text::TextStream;

use crate::boundary::{Failure, guard};
use crate::event::critic_event_fn;
use crate::status::critic_status;
use crate::structs::Versioned;
use crate::text::critic_text;

/// Who says a message.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum critic_role {
    /// Instructions for the whole conversation.
    CRITIC_ROLE_SYSTEM = 1,
    /// The person.
    CRITIC_ROLE_USER = 2,
    /// The model.
    CRITIC_ROLE_ASSISTANT = 3,
}

/// One message of a conversation. Its size never changes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_message {
    /// Who says it.
    pub role: critic_role,
    /// What is said.
    pub content: critic_text,
}

/// Takes the text of a host's own actor, piece by piece: critic_write.
pub struct critic_writer<'a> {
    stream: TextStream,
    text: String,
    emit: &'a mut dyn FnMut(&str) -> ControlFlow<()>,
    cancel: &'a CancelToken,
    stopped: bool,
}

/// The host's own actor: writes the refinement in place of this model, for example by asking a
/// remote one, so that a local critic serves a model of any size. It is given the whole
/// conversation, which ends with the instruction to refine, and hands its answer to
/// critic_write. Messages and writer live until it returns. It runs on the thread that made
/// the call and may take as long as it likes. Returns 0, or any other value to end the call
/// with CRITIC_CALLBACK_FAILED.
pub type critic_actor_fn = Option<
    unsafe extern "C" fn(
        userdata: *mut c_void,
        messages: *const critic_message,
        count: usize,
        writer: *mut critic_writer,
    ) -> i32,
>;

/// The host's own acceptance check, in place of the model's judgement: a compiler, a test run,
/// a person. The texts live until it returns. It runs on the thread that made the call.
/// Returns 1 to take the refinement, 0 to keep the draft, and any other value to end the call
/// with CRITIC_CALLBACK_FAILED.
pub type critic_accept_fn =
    Option<unsafe extern "C" fn(userdata: *mut c_void, draft: critic_text, refinement: critic_text) -> i32>;

/// Names of control tokens in the text count as such: for trusted text only.
/// For critic_tokenize, critic_score and critic_generate with CRITIC_RAW_PROMPT.
pub const CRITIC_PARSE_CONTROL: u32 = 1;
/// critic_generate continues the prompt itself, not a chat in which it was said.
pub const CRITIC_RAW_PROMPT: u32 = 2;
/// The critique is a list of findings, each at an exact place of the draft, whatever the model
/// says: critic_result_finding. For critic_critique, critic_refine and critic_improve.
pub const CRITIC_STRUCTURED: u32 = 4;
/// The refinement is the draft with the findings' replacements, which costs no decoding. With
/// CRITIC_STRUCTURED.
pub const CRITIC_APPLY: u32 = 8;

/// What is asked. Make it with critic_request_default(), and set what is wanted: zero is the
/// default everywhere. All that it points to must live until the call returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_request {
    /// sizeof(critic_request).
    pub struct_size: usize,
    /// Category: "dialog", "summarization", "qa", "math", "code", "general", or another that the
    /// model was made for. Empty is "general".
    pub task: critic_text,
    /// What was asked.
    pub prompt: critic_text,
    /// The draft: the answer that is criticised.
    pub response: critic_text,
    /// For critic_refine: a critique to begin from. Empty: one is written first.
    pub critique: critic_text,
    /// Most tokens of each text that is written; 0 is as many as the context holds.
    pub max_tokens: u32,
    /// Critiques to write and choose from, at most 64; 0 means 1. They are written side by side.
    pub candidates: u32,
    /// Rounds of critic_improve, at most 64; 0 means 1.
    pub rounds: u32,
    /// Tokens to choose from; 0 means all.
    pub top_k: u32,
    /// 0 is greedy, 1 the model's own distribution. Several candidates take 0.8 where it is 0.
    pub temperature: f32,
    /// Chooses from the likeliest tokens that together reach this probability; 0 means 1: all.
    pub top_p: f32,
    /// Chooses from tokens at least this share as likely as the likeliest; 0 means all.
    pub min_p: f32,
    /// Makes the last 64 tokens less likely; 0 means 1: no penalty.
    pub repetition_penalty: f32,
    /// The same seed gives the same text, on every machine.
    pub seed: u64,
    /// For critic_generate: texts that end the generation, and are no part of it.
    pub stops: *const critic_text,
    /// How many there are.
    pub stop_count: usize,
    /// CRITIC_PARSE_CONTROL and CRITIC_RAW_PROMPT, for critic_generate; CRITIC_STRUCTURED and
    /// CRITIC_APPLY, for critiques; else 0.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
    /// NULL: nothing is streamed.
    pub on_event: critic_event_fn,
    /// NULL: the model writes refinements itself.
    pub actor: critic_actor_fn,
    /// NULL: the model judges refinements itself.
    pub accept: critic_accept_fn,
    /// Handed to all three.
    pub userdata: *mut c_void,
}
// SAFETY: repr(C), size first; zeros are valid.
unsafe impl Versioned for critic_request {}

impl<'a> critic_writer<'a> {
    /// A writer that hands whole characters to `emit`.
    pub(crate) fn new(emit: &'a mut dyn FnMut(&str) -> ControlFlow<()>, cancel: &'a CancelToken) -> Self {
        Self { stream: TextStream::default(), text: String::new(), emit, cancel, stopped: false }
    }

    fn write(&mut self, bytes: &[u8]) {
        let fresh = self.stream.push(bytes);
        self.text.push_str(fresh);
        if !fresh.is_empty() && (self.emit)(fresh).is_break() || self.cancel.is_cancelled() {
            self.stopped = true;
        }
    }

    /// All that was written; `None` if the call was cancelled meanwhile.
    pub(crate) fn finish(mut self) -> Option<String> {
        let rest = self.stream.finish();
        if !rest.is_empty() && (self.emit)(rest).is_break() {
            self.stopped = true;
        }
        self.text.push_str(rest);
        (!self.stopped && !self.cancel.is_cancelled()).then_some(self.text)
    }
}

/// Adds text to what a host's own actor writes, and streams it to on_event. The text may be
/// cut anywhere, also inside a character, as it comes from a network; bytes that are not
/// UTF-8 become U+FFFD. Copied.
///
/// CRITIC_CANCELLED: the call is over, and the actor should return, with any value.
/// CRITIC_INVALID_ARGUMENT. Only inside the actor, and on the thread that it was called on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_write(writer: *mut critic_writer, text: critic_text) -> critic_status {
    guard(std::ptr::null_mut(), || {
        // SAFETY: NULL or the writer that the actor was given, on its thread.
        let writer = unsafe { writer.as_mut() }.ok_or_else(|| Failure::null("writer"))?;
        // SAFETY: the text lives until the call returns.
        let bytes = unsafe { text.bytes() }.ok_or_else(|| Failure::null("text.data"))?;
        if !writer.stopped {
            writer.write(bytes);
        }
        if writer.stopped { Err(runtime::Error::Cancelled.into()) } else { Ok(()) }
    })
}

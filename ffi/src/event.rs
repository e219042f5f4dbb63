//! What the host hears while a call runs.

use std::ffi::c_void;
use std::ops::ControlFlow;

use runtime::{Event, Phase, Progress};

use crate::text::critic_text;

/// What a call is doing: critic_event.phase.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum critic_phase {
    /// The task and the draft are read.
    CRITIC_PHASE_READ = 1,
    /// The critique is written.
    CRITIC_PHASE_CRITIQUE = 2,
    /// The refinement is written.
    CRITIC_PHASE_REFINE = 3,
    /// Draft and refinement are compared.
    CRITIC_PHASE_JUDGE = 4,
    /// Another text is written: critic_generate.
    CRITIC_PHASE_GENERATE = 5,
}

/// Something that happened during a call. Lives, with its text, until the callback returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_event {
    /// sizeof(critic_event) in the library: a later one may append fields.
    pub struct_size: usize,
    /// In which part of the call.
    pub phase: critic_phase,
    /// In which round, from 0.
    pub round: u32,
    /// While a prompt is read: tokens that are done, those that were kept included. Else 0.
    pub done_tokens: u64,
    /// Of how many. Else 0.
    pub total_tokens: u64,
    /// While a text is written: what is new, in whole characters. Of several candidates it is
    /// the first, which need not be the one that is chosen.
    pub text: critic_text,
}

/// Hears events, on the thread that made the call, and never after it has returned. It may
/// call anything but the session that it is called from (that is CRITIC_BUSY), and may cancel
/// that one. Returns 0 to go on; any other value ends the call with CRITIC_CANCELLED.
pub type critic_event_fn = Option<unsafe extern "C" fn(userdata: *mut c_void, event: *const critic_event) -> i32>;

/// Hands an event to the host.
///
/// # Safety
/// The host gave `callback` and `userdata` together.
pub unsafe fn deliver(callback: critic_event_fn, userdata: *mut c_void, event: Event) -> ControlFlow<()> {
    let phase = match event.phase {
        Phase::Read => critic_phase::CRITIC_PHASE_READ,
        Phase::Critique => critic_phase::CRITIC_PHASE_CRITIQUE,
        Phase::Refine => critic_phase::CRITIC_PHASE_REFINE,
        Phase::Judge => critic_phase::CRITIC_PHASE_JUDGE,
    };
    // SAFETY: as the caller promises.
    unsafe { deliver_progress(callback, userdata, phase, event.round, event.progress) }
}

/// The same for a call that is no part of the loop.
///
/// # Safety
/// As for [`deliver`].
pub unsafe fn deliver_progress(
    callback: critic_event_fn,
    userdata: *mut c_void,
    phase: critic_phase,
    round: usize,
    progress: Progress,
) -> ControlFlow<()> {
    let Some(callback) = callback else { return ControlFlow::Continue(()) };
    let (done, total, text) = match progress {
        Progress::Prefill { done, total } => (done, total, critic_text::NONE),
        Progress::Text(text) => (0, 0, critic_text::of(text)),
    };
    let event = critic_event {
        struct_size: size_of::<critic_event>(),
        phase,
        round: u32::try_from(round).unwrap_or(u32::MAX),
        done_tokens: done as u64,
        total_tokens: total as u64,
        text,
    };
    // SAFETY: the host gave both for this; the event lives until the callback returns.
    match unsafe { callback(userdata, &event) } {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    }
}

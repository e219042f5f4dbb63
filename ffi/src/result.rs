//! What calls return: texts, verdicts, findings, figures.

use runtime::critique::Candidate;
use runtime::{Finding, Round, Severity, Timings, Verdict};

use crate::boundary::{Failure, guard, guard_or};
use crate::status::critic_status;
use crate::structs::{self, Versioned};
use crate::text::critic_text;

/// Whether a draft needs a change.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum critic_verdict {
    /// Nothing was criticised: the result of another function, or NULL.
    CRITIC_VERDICT_NONE = 0,
    /// Something is wrong.
    CRITIC_VERDICT_REVISE = 1,
    /// Nothing needs to change.
    CRITIC_VERDICT_KEEP = 2,
}

/// How bad a finding is, or a line of the log.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum critic_severity {
    /// A remark.
    CRITIC_NOTE = 1,
    /// Probably wrong.
    CRITIC_WARNING = 2,
    /// Wrong.
    CRITIC_ERROR = 3,
}

/// One problem of the draft, at an exact place of it. Make it with critic_finding_default().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_finding {
    /// sizeof(critic_finding).
    pub struct_size: usize,
    /// Byte offset of its start in the draft.
    pub start: u64,
    /// Byte offset of its end.
    pub end: u64,
    /// How bad it is.
    pub severity: critic_severity,
    /// 1 if there is a replacement, which may be empty; else 0.
    pub has_replacement: u32,
    /// The draft's text there.
    pub quote: critic_text,
    /// What is wrong.
    pub message: critic_text,
    /// What should stand there instead.
    pub replacement: critic_text,
}
// SAFETY: repr(C), size first; only ever written for C, never read from it.
unsafe impl Versioned for critic_finding {}

/// One of several critiques. Make it with critic_candidate_default().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_candidate {
    /// sizeof(critic_candidate).
    pub struct_size: usize,
    /// The text.
    pub critique: critic_text,
    /// Its verdict.
    pub verdict: critic_verdict,
    /// 1 if there is a utility advantage, else 0.
    pub has_utility_advantage: u32,
    /// Estimate of what the critique gains over leaving the draft as it is.
    pub utility_advantage: f32,
    /// Zero.
    pub reserved: u32,
}
// SAFETY: repr(C), size first; only ever written for C, never read from it.
unsafe impl Versioned for critic_candidate {}

/// What one round of critic_improve did. Make it with critic_round_default().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_round {
    /// sizeof(critic_round).
    pub struct_size: usize,
    /// The critique.
    pub critique: critic_text,
    /// The refinement; data is NULL where the critique found nothing to change.
    pub refinement: critic_text,
    /// 1 if it replaced the draft, else 0.
    pub accepted: u32,
    /// Zero.
    pub reserved: u32,
}
// SAFETY: repr(C), size first; zeros are valid.
unsafe impl Versioned for critic_round {}

/// Where the time of a call went. Make it with critic_timings_default().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_timings {
    /// sizeof(critic_timings).
    pub struct_size: usize,
    /// Tokens of prompts, reused ones included.
    pub prompt_tokens: u64,
    /// Those of them that the session had kept from before.
    pub reused_tokens: u64,
    /// Tokens that were written.
    pub generated_tokens: u64,
    /// Milliseconds of reading prompts.
    pub prefill_ms: f64,
    /// Milliseconds of writing.
    pub decode_ms: f64,
}
// SAFETY: repr(C), size first; zeros are valid.
unsafe impl Versioned for critic_timings {}

/// What a call came to. Owns its texts, which live as long as it does. Immutable: any number
/// of threads may read it at once. Outlives its session and its model.
#[derive(Default)]
pub struct critic_result {
    pub(crate) verdict: Option<Verdict>,
    pub(crate) text: String,
    pub(crate) critique: String,
    pub(crate) refinement: Option<String>,
    pub(crate) accepted: bool,
    pub(crate) cut: bool,
    pub(crate) utility_advantage: Option<f32>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<f64>,
    pub(crate) timings: Timings,
}

/// A result, unless it is NULL.
///
/// # Safety
/// `result` is NULL or one that the caller holds, for `'a`.
unsafe fn of<'a>(result: *const critic_result) -> Option<&'a critic_result> {
    // SAFETY: as the caller promises.
    unsafe { result.as_ref() }
}

fn of_verdict(verdict: Verdict) -> critic_verdict {
    match verdict {
        Verdict::Revise => critic_verdict::CRITIC_VERDICT_REVISE,
        Verdict::Keep => critic_verdict::CRITIC_VERDICT_KEEP,
    }
}

/// Whether the draft needs a change: what the (first round's) critique says. Of a NULL result
/// CRITIC_VERDICT_NONE. This and all that follows: any thread; never blocks, never fails
/// unless it says so.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_verdict(result: *const critic_result) -> critic_verdict {
    // SAFETY: NULL or the caller's.
    unsafe { of(result) }.and_then(|r| r.verdict).map_or(critic_verdict::CRITIC_VERDICT_NONE, of_verdict)
}

/// The text to go on with: of critic_generate what was written; of critic_refine and
/// critic_improve the last accepted refinement, or else the draft; of others empty. Lives
/// as long as the result, as do all texts below. Of a NULL result empty.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_text(result: *const critic_result) -> critic_text {
    // SAFETY: NULL or the caller's.
    unsafe { of(result) }.map_or(critic_text::NONE, |r| critic_text::of(&r.text))
}

/// The critique; of critic_improve that of the first round, which is about the draft that was
/// given. Empty where there is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_critique(result: *const critic_result) -> critic_text {
    // SAFETY: NULL or the caller's.
    unsafe { of(result) }.map_or(critic_text::NONE, |r| critic_text::of(&r.critique))
}

/// The refinement, accepted or not; of critic_improve the last one that was accepted, or else
/// the last. Its data is NULL where none was written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_refinement(result: *const critic_result) -> critic_text {
    // SAFETY: NULL or the caller's.
    unsafe { of(result) }.and_then(|r| r.refinement.as_deref()).map_or(critic_text::NONE, critic_text::of)
}

/// 1 if a refinement was accepted, else 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_accepted(result: *const critic_result) -> i32 {
    // SAFETY: NULL or the caller's.
    unsafe { of(result) }.is_some_and(|r| r.accepted).into()
}

/// 0 if the limit of tokens or of the context cut off a text of the result: the critique, the
/// last refinement, or what was generated. Such a refinement is never accepted. Else 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_complete(result: *const critic_result) -> i32 {
    // SAFETY: NULL or the caller's.
    unsafe { of(result) }.is_some_and(|r| !r.cut).into()
}

/// Writes to out what the critique is estimated to gain over leaving the draft as it is, and
/// returns 1; returns 0, and writes nothing, where there is no estimate: it needs a model with
/// an adapter that was trained for it. out may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_utility_advantage(result: *const critic_result, out: *mut f32) -> i32 {
    // SAFETY: NULL or the caller's.
    let Some(advantage) = unsafe { of(result) }.and_then(|r| r.utility_advantage) else { return 0 };
    if !out.is_null() {
        // SAFETY: not NULL, so the caller's.
        unsafe { out.write_unaligned(advantage) };
    }
    1
}

/// How many findings there are: 0 unless the critique was structured (CRITIC_STRUCTURED) and found
/// something.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_finding_count(result: *const critic_result) -> usize {
    // SAFETY: NULL or the caller's.
    unsafe { of(result) }.map_or(0, |r| r.findings.len())
}

/// Writes one finding to out. CRITIC_INVALID_ARGUMENT where there is none of this index.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_finding(
    result: *const critic_result,
    index: usize,
    out: *mut critic_finding,
) -> critic_status {
    // SAFETY: pointers are NULL or the caller's.
    unsafe {
        item(
            result,
            |r| r.findings.get(index),
            out,
            |finding| critic_finding {
                struct_size: 0,
                start: finding.start as u64,
                end: finding.end as u64,
                severity: match finding.severity {
                    Severity::Note => critic_severity::CRITIC_NOTE,
                    Severity::Warning => critic_severity::CRITIC_WARNING,
                    Severity::Error => critic_severity::CRITIC_ERROR,
                },
                has_replacement: finding.replacement.is_some().into(),
                quote: critic_text::of(&finding.quote),
                message: critic_text::of(&finding.message),
                replacement: finding.replacement.as_deref().map_or(critic_text::NONE, critic_text::of),
            },
        )
    }
}

/// How many critiques the critique was chosen from, itself included; 0 where it was given.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_candidate_count(result: *const critic_result) -> usize {
    // SAFETY: NULL or the caller's.
    unsafe { of(result) }.map_or(0, |r| r.candidates.len())
}

/// Writes one candidate to out. CRITIC_INVALID_ARGUMENT where there is none of this index.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_candidate(
    result: *const critic_result,
    index: usize,
    out: *mut critic_candidate,
) -> critic_status {
    // SAFETY: pointers are NULL or the caller's.
    unsafe {
        item(
            result,
            |r| r.candidates.get(index),
            out,
            |candidate| critic_candidate {
                struct_size: 0,
                critique: critic_text::of(&candidate.critique),
                verdict: of_verdict(candidate.verdict),
                has_utility_advantage: candidate.utility_advantage.is_some().into(),
                utility_advantage: candidate.utility_advantage.unwrap_or(0.0),
                reserved: 0,
            },
        )
    }
}

/// How many rounds critic_improve took; 0 for other functions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_round_count(result: *const critic_result) -> usize {
    // SAFETY: NULL or the caller's.
    unsafe { of(result) }.map_or(0, |r| r.rounds.len())
}

/// Writes one round to out. CRITIC_INVALID_ARGUMENT where there is none of this index.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_round(
    result: *const critic_result,
    index: usize,
    out: *mut critic_round,
) -> critic_status {
    // SAFETY: pointers are NULL or the caller's.
    unsafe {
        item(
            result,
            |r| r.rounds.get(index),
            out,
            |round| critic_round {
                struct_size: 0,
                critique: critic_text::of(&round.critique),
                refinement: round.refinement.as_deref().map_or(critic_text::NONE, critic_text::of),
                accepted: round.accepted.into(),
                reserved: 0,
            },
        )
    }
}

/// The tokens of critic_tokenize and critic_score, or those that critic_generate wrote; count
/// gets how many. NULL, and 0, where there are none. Live as long as the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_tokens(result: *const critic_result, count: *mut usize) -> *const u32 {
    // SAFETY: pointers are NULL or the caller's.
    unsafe { array(of(result).map(|r| r.tokens.as_slice()), count) }
}

/// Of critic_score: the natural log-probability of each token but the first, given all before
/// it; count gets how many. NULL, and 0, where there are none. Live as long as the result.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_logprobs(result: *const critic_result, count: *mut usize) -> *const f64 {
    // SAFETY: pointers are NULL or the caller's.
    unsafe { array(of(result).map(|r| r.logprobs.as_slice()), count) }
}

/// Writes where the time went to out. CRITIC_INVALID_ARGUMENT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_timings(
    result: *const critic_result,
    out: *mut critic_timings,
) -> critic_status {
    // SAFETY: pointers are NULL or the caller's.
    unsafe {
        item(
            result,
            |r| Some(&r.timings),
            out,
            |timings| critic_timings {
                struct_size: 0,
                prompt_tokens: timings.prompt_tokens as u64,
                reused_tokens: timings.reused_tokens as u64,
                generated_tokens: timings.generated_tokens as u64,
                prefill_ms: timings.prefill_ms,
                decode_ms: timings.decode_ms,
            },
        )
    }
}

/// Releases a result, and zeroes its texts. NULL does nothing. Any thread, once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_result_free(result: *mut critic_result) {
    guard_or((), || {
        if !result.is_null() {
            // SAFETY: made by `put`, and given back once.
            drop(unsafe { Box::from_raw(result) });
        }
    });
}

/// Writes the item that `find` finds.
///
/// # Safety
/// Pointers are NULL or the caller's.
unsafe fn item<T: 'static, V: Versioned>(
    result: *const critic_result,
    find: impl FnOnce(&critic_result) -> Option<&T>,
    out: *mut V,
    convert: impl FnOnce(&T) -> V,
) -> critic_status {
    guard(std::ptr::null_mut(), || {
        // SAFETY: as the caller promises.
        let result = unsafe { of(result) }.ok_or_else(|| Failure::null("result"))?;
        let found = find(result).ok_or_else(|| Failure::invalid("there is none of this index"))?;
        // SAFETY: as the caller promises.
        unsafe { structs::write(&convert(found), out, "out") }
    })
}

/// # Safety
/// `count` is NULL or the caller's.
unsafe fn array<T>(values: Option<&[T]>, count: *mut usize) -> *const T {
    let values = values.unwrap_or_default();
    if !count.is_null() {
        // SAFETY: not NULL, so the caller's.
        unsafe { count.write_unaligned(values.len()) };
    }
    if values.is_empty() { std::ptr::null() } else { values.as_ptr() }
}

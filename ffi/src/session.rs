//! Sessions: threads and memory for one caller at a time.

use std::sync::{Arc, Mutex, TryLockError};

use runtime::{AdapterUse, CancelToken, Kernel, Precision, PrefixCache, Session, SessionOptions};

use crate::boundary::{Failure, Outcome, guard};
use crate::convert;
use crate::model::critic_model;
use crate::result::critic_severity;
use crate::status::{critic_error, critic_status};
use crate::structs::{self, Versioned};
use crate::text::critic_text;

/// What a session does with a model's adapter: critic_session_options.adapter.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum critic_adapter {
    /// Uses it if there is one.
    CRITIC_ADAPTER_DEFAULT = 0,
    /// The base weights alone.
    CRITIC_ADAPTER_OFF = 1,
    /// Uses it; refuses a model without one, with CRITIC_UNSUPPORTED_MODEL.
    CRITIC_ADAPTER_ON = 2,
}

/// How a session computes. Make it with critic_session_options_default().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_session_options {
    /// sizeof(critic_session_options).
    pub struct_size: usize,
    /// Most tokens held at once; 0 is the model's own limit. Memory is taken as it is used.
    pub context_tokens: u32,
    /// Threads, the caller's included; 0 is one for each core, and more than that are not made.
    /// The text is the same for every number.
    pub threads: u32,
    /// "scalar", "avx2", "avx512" or "neon"; empty is the fastest. Valgrind, for instance,
    /// knows no AVX-512. The text is the same for each.
    pub kernel: critic_text,
    /// A critic_adapter.
    pub adapter: u32,
    /// Zero.
    pub reserved: u32,
    /// A folder in which what was evaluated of long prompts is left, and mapped by later sessions
    /// of the same model whose prompts begin alike; empty: nothing is read or written. The files say
    /// what the texts say, and are made for their owner alone. That one cannot be read or written is
    /// no error. Nobody may truncate them while a session lives.
    pub prefix_cache: critic_text,
    /// Most bytes in that folder, the ones that were used last; 0 is 1 GiB.
    pub prefix_cache_bytes: u64,
}
// SAFETY: repr(C), size first; zeros are valid.
unsafe impl Versioned for critic_session_options {}

/// What a session is doing with memory and threads. Make it with critic_session_info_default().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct critic_session_info {
    /// sizeof(critic_session_info).
    pub struct_size: usize,
    /// Bytes of KV cache that it holds now.
    pub cache_bytes: u64,
    /// Most tokens that it holds at once.
    pub context_tokens: u32,
    /// Tokens that are evaluated and kept, for the next call to begin from.
    pub cached_tokens: u32,
    /// Threads that compute, the caller's included.
    pub threads: u32,
    /// Zero.
    pub reserved: u32,
    /// The kernel that was chosen. Static.
    pub kernel: critic_text,
}
// SAFETY: repr(C), size first; zeros are valid.
unsafe impl Versioned for critic_session_info {}

/// Threads, scratch memory and a KV cache, for one thread at a time: any thread, but a
/// second one that calls meanwhile gets CRITIC_BUSY, as does a callback that calls its own
/// session. Only critic_session_cancel may be called at any time.
///
/// A session remembers what it evaluated. A call whose texts begin like those of the call
/// before pays only for what comes after the first difference: so keep one session for one
/// document, and hand it each edited draft. There is nothing to switch on.
pub struct critic_session {
    session: Mutex<Session>,
    cancel: CancelToken,
}

impl critic_session {
    /// Lends out the session behind `this`, unless it is in use or broken.
    ///
    /// # Safety
    /// `this` is NULL or a session that was not freed.
    pub(crate) unsafe fn enter(
        this: *const critic_session,
        body: impl FnOnce(&mut Session, &CancelToken) -> Outcome,
    ) -> Outcome {
        // SAFETY: as the caller promises.
        let this = unsafe { hold(this)? };
        // A panic in `body` poisons the lock, and with it the session.
        let mut session = this.session.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Failure::new(critic_status::CRITIC_BUSY, "the session is in use"),
            TryLockError::Poisoned(_) => runtime::Error::Poisoned.into(),
        })?;
        body(&mut session, &this.cancel)
    }

    /// The same for a call that can be cancelled: a cancellation is over when it ends.
    ///
    /// # Safety
    /// As for [`critic_session::enter`].
    pub(crate) unsafe fn call(
        this: *const critic_session,
        body: impl FnOnce(&mut Session, &CancelToken) -> Outcome,
    ) -> Outcome {
        let body = |session: &mut Session, cancel: &CancelToken| {
            // Time of calls that failed is nobody's.
            session.take_timings();
            let outcome =
                if cancel.is_cancelled() { Err(runtime::Error::Cancelled.into()) } else { body(session, cancel) };
            cancel.reset();
            outcome
        };
        // SAFETY: as the caller promises.
        unsafe { Self::enter(this, body) }
    }
}

/// A share in the session: one that is freed from its own callback lives until the call ends.
///
/// # Safety
/// `this` is NULL or a session that was not freed.
unsafe fn hold(this: *const critic_session) -> Outcome<Arc<critic_session>> {
    if this.is_null() {
        return Err(Failure::null("session"));
    }
    // SAFETY: the pointer came from `Arc::into_raw` and still has its own share.
    unsafe {
        Arc::increment_strong_count(this);
        Ok(Arc::from_raw(this))
    }
}

/// # Safety
/// As for [`structs::read`].
unsafe fn options_of(options: *const critic_session_options) -> Outcome<(SessionOptions, Option<PrefixCache>)> {
    // SAFETY: as the caller promises.
    let Some(options) = (unsafe { structs::read(options, "options")? }) else {
        return Ok((SessionOptions::default(), None));
    };
    // SAFETY: the text lives until the call returns.
    let kernel = unsafe { convert::text(options.kernel, "kernel")? };
    if options.reserved != 0 {
        return Err(Failure::invalid("reserved is not zero"));
    }
    let adapter = match options.adapter {
        0 => AdapterUse::Auto,
        1 => AdapterUse::Off,
        2 => AdapterUse::On,
        other => return Err(Failure::invalid(format!("adapter is {other}, which is no critic_adapter"))),
    };
    // SAFETY: the text lives until the call returns.
    let folder = unsafe { convert::text(options.prefix_cache, "prefix_cache")? };
    let cache = (!folder.is_empty()).then(|| {
        let cache = PrefixCache::new(folder);
        let limit = if options.prefix_cache_bytes == 0 { cache.limit } else { options.prefix_cache_bytes };
        PrefixCache { limit, ..cache }
    });
    let options = SessionOptions {
        context_tokens: options.context_tokens as usize,
        threads: options.threads as usize,
        kernel: if kernel.is_empty() { None } else { Some(Kernel::named(kernel)?) },
        precision: Precision::Fast,
        adapter,
    };
    Ok((options, cache))
}

/// Bytes of KV cache that a session with these options holds when its context is full; 0
/// where an argument is not valid. Beside it a session takes some megabytes of scratch
/// memory. options may be NULL. Any thread; never blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_session_bytes(
    model: *const critic_model,
    options: *const critic_session_options,
) -> u64 {
    let mut bytes = 0;
    _ = guard(std::ptr::null_mut(), || {
        // SAFETY: NULL or a model that the caller holds.
        let model = unsafe { model.as_ref() }.ok_or_else(|| Failure::null("model"))?;
        // SAFETY: NULL or the caller's.
        let (options, _) = unsafe { options_of(options)? };
        let config = model.model.config();
        let tokens = if options.context_tokens == 0 { config.context } else { options.context_tokens };
        bytes = runtime::kv::cache_bytes(config, options.precision, tokens) as u64;
        Ok(())
    });
    bytes
}

/// Makes a session: starts its threads and takes its scratch memory.
///
/// model    May be freed before the session is.
/// options  NULL means the defaults.
/// out      Gets a session of your own: release it with critic_session_free.
///
/// CRITIC_INVALID_ARGUMENT (a context longer than the model's, a kernel that this machine
/// lacks), CRITIC_UNSUPPORTED_MODEL, CRITIC_OUT_OF_MEMORY. Any thread. Takes milliseconds.
#[unsafe(no_mangle)]
#[must_use]
pub unsafe extern "C" fn critic_session_new(
    model: *const critic_model,
    options: *const critic_session_options,
    out: *mut *mut critic_session,
    error: *mut critic_error,
) -> critic_status {
    guard(error, || {
        // SAFETY: NULL or a model that the caller holds.
        let model = unsafe { model.as_ref() }.ok_or_else(|| Failure::null("model"))?;
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: NULL or the caller's.
        let (options, cache) = unsafe { options_of(options)? };
        let mut session = Session::new(&model.model, &options)?;
        session.set_prefix_cache(cache);
        model.log(
            critic_severity::CRITIC_NOTE,
            &format!("session with kernel {} on {} threads", session.kernel().name(), session.threads()),
        );
        let cancel = session.cancel_token();
        let made = Arc::into_raw(Arc::new(critic_session { session: Mutex::new(session), cancel })).cast_mut();
        // SAFETY: not NULL, so the caller's.
        unsafe { out.write_unaligned(made) };
        Ok(())
    })
}

/// Describes a session into info. CRITIC_INVALID_ARGUMENT, CRITIC_BUSY, CRITIC_INTERNAL.
/// Never blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_session_describe(
    session: *const critic_session,
    info: *mut critic_session_info,
) -> critic_status {
    guard(std::ptr::null_mut(), || {
        // SAFETY: NULL or a session that the caller holds; NULL or the caller's struct.
        unsafe {
            critic_session::enter(session, |session, _| {
                let cached = session.sequence().len();
                let described = critic_session_info {
                    struct_size: 0,
                    cache_bytes: session.cache_bytes(cached) as u64,
                    context_tokens: u32::try_from(session.context_tokens()).unwrap_or(u32::MAX),
                    cached_tokens: u32::try_from(cached).unwrap_or(u32::MAX),
                    threads: u32::try_from(session.threads()).unwrap_or(u32::MAX),
                    reserved: 0,
                    kernel: critic_text::of(session.kernel().name()),
                };
                structs::write(&described, info, "info")
            })
        }
    })
}

/// Stops the call that is running, or, where none is, the next one: it returns
/// CRITIC_CANCELLED after at most one layer of one batch of tokens, a few milliseconds,
/// and the session works on. One cancellation stops one call, even one whose arguments are wrong, however often it was asked
/// for. While the host's own actor or acceptance check runs, the call ends when that returns.
///
/// Any thread, at any time until the session is freed; also from callbacks and from signal
/// handlers. Never blocks. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_session_cancel(session: *const critic_session) {
    // Not guarded: nothing here can panic, and a signal handler may be running this.
    // SAFETY: NULL or a session that is not freed.
    if let Some(session) = unsafe { session.as_ref() } {
        session.cancel.cancel();
    }
}

/// Takes back a cancellation that has met no call: for a host that cancelled work which was
/// over already, and now has work that it wants. Any thread; never blocks. NULL does nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_session_clear_cancel(session: *const critic_session) {
    // SAFETY: NULL or a session that is not freed.
    if let Some(session) = unsafe { session.as_ref() } {
        session.cancel.reset();
    }
}

/// Forgets what was evaluated, zeroes it, and takes back a cancellation. CRITIC_BUSY,
/// CRITIC_INTERNAL, CRITIC_INVALID_ARGUMENT. Never blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_session_reset(session: *mut critic_session) -> critic_status {
    guard(std::ptr::null_mut(), || {
        // SAFETY: NULL or a session that the caller holds.
        unsafe {
            critic_session::enter(session, |session, cancel| {
                session.reset();
                cancel.reset();
                Ok(())
            })
        }
    })
}

/// Releases a session, ends its threads, and zeroes its memory: all that is left of the texts
/// that it read and wrote. NULL does nothing. Any thread, once, and not while another thread
/// is in a call with it. From one of its own callbacks it cancels the call, and the session
/// is gone when that returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn critic_session_free(session: *mut critic_session) {
    _ = guard(std::ptr::null_mut(), || {
        if !session.is_null() {
            // SAFETY: made by `critic_session_new`, and given back once.
            let this = unsafe { Arc::from_raw(session) };
            this.cancel.cancel();
        }
        Ok(())
    });
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;
    use critic_tests::small;

    #[test]
    fn a_session_that_panicked_refuses_work_and_can_be_freed() {
        let model = small("llama-gqa-tied", critic_import::Quant::Keep);
        let session = Session::new(&model, &SessionOptions::default()).expect("a session");
        let cancel = session.cancel_token();
        let handle = Arc::into_raw(Arc::new(critic_session { session: Mutex::new(session), cancel })).cast_mut();
        // SAFETY: the handle is a session that is freed once, at the end.
        unsafe {
            let panics = guard(ptr::null_mut(), || critic_session::call(handle, |_, _| panic!("a defect")));
            assert_eq!(panics, critic_status::CRITIC_INTERNAL);
            assert_eq!(critic_session_reset(handle), critic_status::CRITIC_INTERNAL);
            critic_session_free(handle);
        }
    }

    #[test]
    fn a_session_is_busy_inside_its_own_call_and_may_be_freed_there() {
        let model = small("llama-gqa-tied", critic_import::Quant::Keep);
        let session = Session::new(&model, &SessionOptions::default()).expect("a session");
        let cancel = session.cancel_token();
        let handle = Arc::into_raw(Arc::new(critic_session { session: Mutex::new(session), cancel })).cast_mut();
        // SAFETY: the handle is a session that is freed once, inside the call.
        unsafe {
            let status = guard(ptr::null_mut(), || {
                critic_session::call(handle, |_, cancel| {
                    assert_eq!(critic_session_reset(handle), critic_status::CRITIC_BUSY);
                    critic_session_free(handle);
                    assert!(cancel.is_cancelled());
                    Ok(())
                })
            });
            assert_eq!(status, critic_status::CRITIC_OK);
        }
    }
}

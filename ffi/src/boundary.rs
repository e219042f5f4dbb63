//! The door: no panic gets out, and every failure becomes a status and a message.

use std::cell::Cell;
use std::ffi::c_char;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use runtime::Error;

use crate::status::{critic_error, critic_status};

/// Why a call did not work.
pub(crate) struct Failure {
    pub status: critic_status,
    pub message: String,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(status: critic_status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(critic_status::CRITIC_INVALID_ARGUMENT, message)
    }

    pub fn null(name: &str) -> Self {
        Self::invalid(format!("{name} is NULL"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Io { .. } => critic_status::CRITIC_IO,
            Error::Corrupt(_) => critic_status::CRITIC_CORRUPT_MODEL,
            Error::Unsupported(_) => critic_status::CRITIC_UNSUPPORTED_MODEL,
            Error::InvalidArgument(_) => critic_status::CRITIC_INVALID_ARGUMENT,
            Error::OutOfMemory { .. } => critic_status::CRITIC_OUT_OF_MEMORY,
            Error::ContextFull { .. } => critic_status::CRITIC_CONTEXT_FULL,
            Error::Cancelled => critic_status::CRITIC_CANCELLED,
            _ => critic_status::CRITIC_INTERNAL,
        };
        Self::new(status, error.to_string())
    }
}

/// Runs the body of a function that C calls. `error` is NULL or the caller's.
pub(crate) fn guard(error: *mut critic_error, body: impl FnOnce() -> Outcome) -> critic_status {
    let failure = match quietly(body) {
        Some(Ok(())) => return critic_status::CRITIC_OK,
        Some(Err(failure)) => failure,
        // Not the panic's own message: it may quote the texts that were given.
        None => Failure::new(critic_status::CRITIC_INTERNAL, "a defect of the library: please report it"),
    };
    if !error.is_null() {
        // SAFETY: not NULL, so the caller's struct; fields are written through pointers,
        // because what stood there before need not be a valid value.
        unsafe {
            (&raw mut (*error).status).write_unaligned(failure.status);
            write_message((&raw mut (*error).message).cast(), &failure.message);
        }
    }
    failure.status
}

/// The same for functions that return a value and cannot fail otherwise.
pub(crate) fn guard_or<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    quietly(body).unwrap_or(fallback)
}

/// # Safety
/// `to` has room for the message of a [`critic_error`].
unsafe fn write_message(to: *mut c_char, message: &str) {
    let room = size_of::<[c_char; 252]>() - 1;
    let mut len = message.len().min(room);
    while !message.is_char_boundary(len) {
        len -= 1;
    }
    // SAFETY: `len` and the NUL behind it fit.
    unsafe {
        std::ptr::copy_nonoverlapping(message.as_ptr().cast(), to, len);
        to.add(len).write(0);
    }
}

thread_local! {
    /// Whether this thread is inside a call. Has no destructor, so that it asks nothing of
    /// the thread's end.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `body`; `None` if it panicked, without the message that std prints.
fn quietly<T>(body: impl FnOnce() -> T) -> Option<T> {
    silence();
    let before = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    INSIDE.set(before);
    // A payload's own destructor could panic once more: it is leaked.
    result.map_err(std::mem::forget).ok()
}

/// Silences panics of this library, on threads that are inside a call and on the pool's own.
///
/// A shared library has its own copy of std, so this hook is nobody else's. In a program
/// that links the static library into other Rust code there is one std, and one hook: so it
/// speaks up for every other thread, as the one before it did.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let worker = || std::thread::current().name().is_some_and(|n| n.starts_with(runtime::pool::WORKER_NAME));
            if !INSIDE.get() && !worker() {
                before(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_status_without_its_message() {
        let mut error = critic_error { status: critic_status::CRITIC_OK, message: [1; 252] };
        let status = guard(&mut error, || panic!("secret"));
        assert_eq!(status, critic_status::CRITIC_INTERNAL);
        assert_eq!(error.status, critic_status::CRITIC_INTERNAL);
        // SAFETY: the message ends in NUL.
        let message = unsafe { std::ffi::CStr::from_ptr(error.message.as_ptr()) };
        assert!(!message.to_str().expect("UTF-8").contains("secret"));
        assert_eq!(guard_or(7, || panic!("secret")), 7);
    }

    #[test]
    fn a_panic_says_nothing() {
        // The tests' own harness catches what is printed: so the test above runs once more,
        // in a process that shows it.
        let program = std::env::current_exe().expect("this program");
        let test = "boundary::tests::a_panic_becomes_a_status_without_its_message";
        let output = std::process::Command::new(program).args(["--exact", test, "--nocapture"]).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("panicked") && !said.contains("secret"), "{said}");
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut error = critic_error { status: critic_status::CRITIC_OK, message: [1; 252] };
        guard(&mut error, || Err(Failure::invalid("é".repeat(200))));
        // SAFETY: the message ends in NUL.
        let message = unsafe { std::ffi::CStr::from_ptr(error.message.as_ptr()) };
        assert_eq!(message.to_str().expect("UTF-8"), "é".repeat(125));
    }
}

//! How a call went.

use std::ffi::{CStr, c_char};

/// How a call went. Numbers are never reused; a later version may add some, so treat an
/// unknown one as a failure.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum critic_status {
    /// Done. Outputs are written.
    CRITIC_OK = 0,
    /// Stopped by critic_session_cancel or by a callback. The session works on.
    CRITIC_CANCELLED = 1,
    /// An argument is NULL, out of range, not UTF-8, or unknown to this version.
    CRITIC_INVALID_ARGUMENT = 2,
    /// The operating system refused a file.
    CRITIC_IO = 3,
    /// The bytes are not a model file, or a damaged one.
    CRITIC_CORRUPT_MODEL = 4,
    /// A model file that is whole, but asks for what this version cannot do.
    CRITIC_UNSUPPORTED_MODEL = 5,
    /// The system has not enough memory.
    CRITIC_OUT_OF_MEMORY = 6,
    /// The texts have more tokens than the session holds. The session works on.
    CRITIC_CONTEXT_FULL = 7,
    /// The session is in use: by another thread, or by the call whose callback this is.
    CRITIC_BUSY = 8,
    /// A defect of the library, or a session that met one. Free the session.
    CRITIC_INTERNAL = 9,
    /// The host's actor or acceptance check failed. The session works on.
    CRITIC_CALLBACK_FAILED = 10,
}

/// What went wrong, in memory of the caller's: put it on the stack. Written only when a
/// call fails. Its size never changes.
#[repr(C)]
pub struct critic_error {
    /// What the call returned.
    pub status: critic_status,
    /// English, lower case, ends in NUL, cut at a character's end. Names the file or the
    /// field at fault, or an unknown name as it was given; holds nothing else of texts.
    pub message: [c_char; 252],
}

/// The name of a status, for example "CRITIC_BUSY"; "unknown" where there is none. Static:
/// do not free it. Never fails; any thread.
#[unsafe(no_mangle)]
pub extern "C" fn critic_status_name(status: i32) -> *const c_char {
    NAMES.iter().find(|(known, _)| *known as i32 == status).map_or(c"unknown", |(_, name)| *name).as_ptr()
}

macro_rules! names {
    ($($name:ident)*) => {
        [$((critic_status::$name, {
            // SAFETY: the bytes end in the only NUL.
            unsafe { CStr::from_bytes_with_nul_unchecked(concat!(stringify!($name), "\0").as_bytes()) }
        })),*]
    };
}

const NAMES: [(critic_status, &CStr); 11] = names! {
    CRITIC_OK CRITIC_CANCELLED CRITIC_INVALID_ARGUMENT CRITIC_IO CRITIC_CORRUPT_MODEL CRITIC_UNSUPPORTED_MODEL
    CRITIC_OUT_OF_MEMORY CRITIC_CONTEXT_FULL CRITIC_BUSY CRITIC_INTERNAL CRITIC_CALLBACK_FAILED
};

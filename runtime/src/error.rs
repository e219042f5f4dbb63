//! The one error type of this crate.

use std::path::PathBuf;

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, where, and what was expected instead.
///
/// Messages are lower-case, name the file, tensor or field at fault, and hold
/// no text of the user's document.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file that was to be opened, read or written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The bytes are not a valid model file.
    #[error("corrupt model file: {0}")]
    Corrupt(String),
    /// The model file is valid, but asks for something that this version cannot do.
    #[error("unsupported model: {0}")]
    Unsupported(String),
    /// An argument is outside its documented range.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// The tokens do not fit into the context.
    #[error("context full: {needed} tokens are needed, {available} are available")]
    ContextFull {
        /// Tokens that the call would have held in the context.
        needed: usize,
        /// Tokens that the session may hold.
        available: usize,
    },
    /// The system has not enough memory for a large buffer.
    #[error("out of memory: {bytes} bytes could not be had")]
    OutOfMemory {
        /// Size of the buffer.
        bytes: usize,
    },
    /// The call was cancelled, through [`crate::CancelToken`] or by a callback.
    #[error("cancelled")]
    Cancelled,
    /// A session that panicked, or was left in the middle of an update, refuses further work.
    #[error("the session is poisoned by an earlier failure: free it and make a new one")]
    Poisoned,
}

impl Error {
    /// The same error, with the name of the file that it is about.
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        match self {
            Error::Corrupt(why) => Error::Corrupt(format!("{}: {why}", path.display())),
            Error::Unsupported(why) => Error::Unsupported(format!("{}: {why}", path.display())),
            other => other,
        }
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Error::Corrupt(message.into())
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Error::Unsupported(message.into())
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Error::InvalidArgument(message.into())
    }
}

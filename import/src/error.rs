//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, in which file, and what was expected instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The runtime refused what was read, or what was to be written.
    #[error(transparent)]
    Runtime(#[from] critic::Error),
    /// The operating system refused a file.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file that was to be opened, read or written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The bytes are not what the format's specification asks for.
    #[error("{file}: {why}")]
    Corrupt {
        /// The file, or the kind of file where the path is not known.
        file: String,
        /// The field at fault, what was found, and what was expected.
        why: String,
    },
    /// The file is valid, but holds something that a critic model cannot.
    #[error("{file}: unsupported: {why}")]
    Unsupported {
        /// The file, or the kind of file where the path is not known.
        file: String,
        /// The tensor or field, and what was found.
        why: String,
    },
    /// The chat template cannot be expressed as affixes around messages.
    #[error("chat template: {0}")]
    Template(String),
    /// Not the name of a model.
    #[error("{0}")]
    Name(String),
    /// A model that is not here, and may not be fetched.
    #[error("model {model} is not here, and offline mode forbids to fetch it")]
    Offline {
        /// Its name.
        model: String,
    },
    /// A download broke off; what came is kept, and the next try goes on from there.
    #[error("{what}: broke off after {bytes} bytes ({why}); they are kept, run it again to go on")]
    BrokenOff {
        /// The address.
        what: String,
        /// Bytes that are here.
        bytes: u64,
        /// What happened.
        why: String,
    },
    /// A source could not be reached, or did not answer as it should.
    #[error("{what}: {why}")]
    Network {
        /// The address, or the package.
        what: String,
        /// What happened.
        why: String,
    },
    /// A source answered that it does not give the file.
    #[error("{what}: {why}")]
    Refused {
        /// The address.
        what: String,
        /// What it answered, and what can be done.
        why: String,
    },
    /// A download is not what it should be; it was deleted.
    #[error("{path}: wrong SHA-256, expected {expected}, found {found}; the download was deleted", path = path.display())]
    Checksum {
        /// Where it was.
        path: PathBuf,
        /// What it should have been.
        expected: String,
        /// What it was.
        found: String,
    },
}

impl Error {
    /// Wraps an error of the operating system for `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn corrupt(file: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Corrupt { file: file.into(), why: why.into() }
    }

    pub(crate) fn unsupported(file: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported { file: file.into(), why: why.into() }
    }

    /// Names the file in an error that was raised where only bytes were known.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        let path = path.display().to_string();
        match self {
            Self::Corrupt { file, why } if file.is_empty() => Self::Corrupt { file: path, why },
            Self::Unsupported { file, why } if file.is_empty() => Self::Unsupported { file: path, why },
            other => other,
        }
    }
}

//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// Result with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a file.
    #[error("{path}: {source}{}", advice(source), path = path.display())]
    Io {
        /// The file that was to be opened, read or written.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A line of the training data is not what it should be.
    #[error("{file}, line {line}, {field}: {why}", file = file.display())]
    Data {
        /// The data file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Path of the field, such as `critiques[2].cu`.
        field: String,
        /// What was found, and what was expected.
        why: String,
    },
    /// A device cannot be used.
    #[error("{0}")]
    Device(String),
    /// A file that this program wrote is not what it was.
    #[error("{path}: {why}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found, and what was expected.
        why: String,
    },
    /// An option or an example that cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// A loss or a gradient is not a number.
    #[error("step {step}: {what} of group {group} is not finite; {}", where_from(checkpoint.as_deref()))]
    NotFinite {
        /// Which number.
        what: &'static str,
        /// Id of the group.
        group: String,
        /// The step that was being taken.
        step: u64,
        /// The newest checkpoint, from which training can go on.
        checkpoint: Option<PathBuf>,
    },
    /// An adapter does not fit its model, or the options.
    #[error("adapter: {0}")]
    Adapter(String),
    /// The run directory is in use, or belongs to another run.
    #[error("run: {0}")]
    Run(String),
    /// The runtime refused the model.
    #[error(transparent)]
    Model(#[from] critic::Error),
    /// A foreign format could not be read or written.
    #[error(transparent)]
    Import(#[from] critic_import::Error),
    /// The person stopped it.
    #[error("cancelled")]
    Cancelled,
}

fn advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull => "; nothing is lost: make room and resume the run",
        _ => "",
    }
}

fn where_from(checkpoint: Option<&Path>) -> String {
    match checkpoint {
        Some(path) => format!("lower the learning rate and go on from {}", path.display()),
        None => "lower the learning rate and begin again".to_owned(),
    }
}

impl Error {
    /// Wraps an error of the operating system for `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn corrupt(path: &Path, why: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), why: why.into() }
    }

    pub(crate) fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }
}

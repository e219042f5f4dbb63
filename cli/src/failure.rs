//! Why a command ends without its answer: exit codes and what is said.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// The end of a command.
#[derive(Debug)]
pub enum Failure {
    /// The command was called wrongly.
    Usage(String),
    /// It could not be done.
    Failed(String),
    /// The person pressed Ctrl-C.
    Interrupted,
    /// Something was found that is as grave as was asked about.
    Findings,
    /// Nobody reads the answer any more.
    ClosedPipe,
}

impl Failure {
    /// Says why on standard error.
    pub fn report(self) -> ExitCode {
        let (code, message) = match self {
            Failure::Usage(message) => (2, message),
            Failure::Failed(message) => (1, message),
            // As a shell reports a process that the signal ended.
            Failure::Interrupted => return ExitCode::from(130),
            Failure::Findings => return ExitCode::from(3),
            Failure::ClosedPipe => return ExitCode::SUCCESS,
        };
        // Where standard error is closed, too, the exit code has to do.
        _ = writeln!(io::stderr(), "error: {message}");
        ExitCode::from(code)
    }

    /// Something about a file that is not the runtime's.
    pub fn file(path: &Path, why: impl std::fmt::Display) -> Self {
        Failure::Failed(format!("{}: {why}", path.display()))
    }
}

impl From<critic::Error> for Failure {
    fn from(error: critic::Error) -> Self {
        use critic::Error;
        match error {
            Error::InvalidArgument(why) => Failure::Usage(why),
            Error::Cancelled => Failure::Interrupted,
            Error::ContextFull { .. } => {
                Failure::Failed(format!("{error}\nshorten the texts, or choose a model with a longer context"))
            }
            Error::Corrupt(_) => Failure::Failed(format!("{error}\nconvert or pull the model again")),
            other => Failure::Failed(other.to_string()),
        }
    }
}

impl From<critic_import::Error> for Failure {
    fn from(error: critic_import::Error) -> Self {
        use critic_import::Error;
        match error {
            Error::Runtime(error) => error.into(),
            Error::Name(why) => Failure::Usage(why),
            Error::Offline { model } => Failure::Failed(format!(
                "model {model} is not here, and offline mode forbids to fetch it\n\
                 unset CRITIC_OFFLINE, or leave out --offline"
            )),
            Error::Io { path, source } if source.kind() == io::ErrorKind::StorageFull => {
                Failure::Failed(format!("{}: {source}\nmake room and run it again", path.display()))
            }
            Error::Checksum { .. } => Failure::Failed(format!("{error}\nrun it again to fetch it anew")),
            other => Failure::Failed(other.to_string()),
        }
    }
}

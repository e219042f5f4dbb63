//! Which model is meant: a file of ours, a GGUF file (converted once), or a pulled name.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use critic::quant::Format;
use critic::{AdapterUse, Bytes, Kernel, Model, ModelFile, Precision, PrefixCache, Session, SessionOptions};
use critic_import::pull::{DEFAULT_MODEL, Name, PullOptions, pull};
use critic_import::{ConvertOptions, convert, read_peft};
use sha2::{Digest, Sha256};

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::progress::{Bar, PullProgress};

impl ModelArgs {
    /// The model's file, in our format.
    pub fn path(&self) -> Result<PathBuf, Failure> {
        match &self.model {
            Some(model) => resolve(model),
            None => pulled(&DEFAULT_MODEL.parse::<Name>()?),
        }
    }

    /// Opens the model.
    pub fn open(&self) -> Result<Arc<Model>, Failure> {
        self.open_at(&self.path()?)
    }

    /// Opens the model at `path`, which is [`ModelArgs::path`], and its adapter.
    pub fn open_at(&self, path: &Path) -> Result<Arc<Model>, Failure> {
        Ok(match &self.adapted.adapter {
            None => Model::open(path)?,
            Some(adapter) if adapter.is_dir() => {
                let file = Bytes::copy(&read_peft(adapter)?.to_file(Format::F32)?);
                let named = |error: critic::Error| Failure::Failed(format!("{}: {error}", adapter.display()));
                Model::from_files(ModelFile::open(path)?, Some(&ModelFile::parse(file)?)).map_err(named)?
            }
            Some(adapter) => Model::open_with_adapter(path, adapter)?,
        })
    }

    /// A session with the options of the command line, which Ctrl-C cancels.
    pub fn session(&self, model: &Arc<Model>, precision: Precision) -> Result<Session, Failure> {
        let session = self.session_without_interrupt(model, precision)?;
        interrupt::cancels(session.cancel_token());
        Ok(session)
    }

    /// The same, for a second session beside the first.
    pub fn session_without_interrupt(&self, model: &Arc<Model>, precision: Precision) -> Result<Session, Failure> {
        let kernel = self.kernel.as_deref().map(Kernel::named).transpose()?;
        let threads = self.threads.unwrap_or(0) as usize;
        let context_tokens = self.context.unwrap_or(0) as usize;
        let adapter = if self.adapted.no_adapter { AdapterUse::Off } else { AdapterUse::Auto };
        let precision = if self.fine && precision == Precision::Fast { Precision::Fine } else { precision };
        let options = SessionOptions { context_tokens, threads, kernel, precision, adapter };
        let mut session = Session::new(model, &options)?;
        session.set_prefix_cache(self.prefix_cache.as_ref().map(PrefixCache::new));
        Ok(session)
    }
}

/// The file that `--model` names.
pub fn resolve(model: &Path) -> Result<PathBuf, Failure> {
    if !model.exists() {
        if let Some(name) = model.to_str().and_then(|text| text.parse::<Name>().ok()) {
            return pulled(&name);
        }
        return Err(Failure::Failed(format!(
            "{}: no such file, and not the name of a model\ngive a .critic or .gguf file, or `critic pull {DEFAULT_MODEL}`",
            model.display()
        )));
    }
    if model.is_dir() {
        return Err(Failure::Failed(format!(
            "{}: a folder\nconvert it first: critic convert {0} -o model.critic",
            model.display()
        )));
    }
    let mut magic = [0; 4];
    let mut file = File::open(model).map_err(|error| Failure::file(model, error))?;
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == b"GGUF" => converted(model),
        _ => Ok(model.to_owned()),
    }
}

fn pulled(name: &Name) -> Result<PathBuf, Failure> {
    let path = models_folder()?.join(format!("{}.critic", name.file_stem()));
    if path.exists() {
        return Ok(path);
    }
    Err(Failure::Failed(format!("model {name} is not here yet\nfetch it: critic pull {name}")))
}

/// Converts a GGUF file once: its place, length and time of change are the key.
fn converted(source: &Path) -> Result<PathBuf, Failure> {
    let place = source.canonicalize().map_err(|error| Failure::file(source, error))?;
    let metadata = fs::metadata(&place).map_err(|error| Failure::file(source, error))?;
    let changed = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let mut key = Sha256::new();
    // A later version of this program may convert differently.
    key.update(env!("CARGO_PKG_VERSION"));
    key.update(place.as_os_str().as_encoded_bytes());
    key.update(format!("\0{}\0{:?}", metadata.len(), changed));
    let key: String = key.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    let stem = place.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let folder = cache_folder()?.join("converted");
    let target = folder.join(format!("{stem}-{key}.critic"));
    if target.exists() {
        return Ok(target);
    }
    fs::create_dir_all(&folder).map_err(|error| Failure::file(&folder, error))?;
    _ = writeln!(stderr(), "converting {} (once; kept as {})", source.display(), target.display());
    convert_file(&place, &target, &ConvertOptions::default())?;
    Ok(target)
}

/// Converts with a progress bar; Ctrl-C cancels, and leaves nothing behind.
pub fn convert_file(source: &Path, target: &Path, options: &ConvertOptions) -> Result<critic_import::Report, Failure> {
    let running = interrupt::Interruptible::begin();
    let mut bar = Bar::bytes("converting");
    Ok(convert(source, target, options, &mut |done, total| {
        bar.set(done, Some(total));
        running.flow()
    })?)
}

/// Fetches a model with a progress bar; Ctrl-C cancels, and keeps what has come.
pub fn pull_model(name: &Name, offline: bool) -> Result<PathBuf, Failure> {
    let set = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let options = PullOptions {
        folder: models_folder()?,
        endpoint: set("HF_ENDPOINT").unwrap_or_else(|| PullOptions::ENDPOINT.into()).trim_end_matches('/').to_owned(),
        token: set("HF_TOKEN"),
        offline: offline || set("CRITIC_OFFLINE").is_some_and(|value| value != "0"),
    };
    let running = interrupt::Interruptible::begin();
    let mut progress = PullProgress::new();
    Ok(pull(name, &options, &mut |event| {
        progress.show(event);
        running.flow()
    })?)
}

/// Where pulled models are kept.
fn models_folder() -> Result<PathBuf, Failure> {
    Ok(cache_folder()?.join("models"))
}

/// `$CRITIC_HOME`, or `critic` in the system's folder for caches.
fn cache_folder() -> Result<PathBuf, Failure> {
    if let Some(home) = env::var_os("CRITIC_HOME").filter(|home| !home.is_empty()) {
        return Ok(home.into());
    }
    dirs::cache_dir()
        .map(|folder| folder.join("critic"))
        .ok_or_else(|| Failure::Failed("there is no folder for caches\nset CRITIC_HOME to a folder".into()))
}

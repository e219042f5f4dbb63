//! The run directory: one process at a time, one set of options, and lines that are whole.
//!
//! What is in it is listed in docs/trainer.md. Checkpoints are written and read by
//! `checkpoint`; here is what they have in common.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::files;
use crate::metrics::{EvaluationMetrics, StepMetrics};

/// What a run is, whoever goes on with it: `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunDescription {
    /// Version of this crate. Another one may compute otherwise.
    pub version: String,
    /// The model that is trained.
    pub model: InputFile,
    /// The scored critiques.
    pub data: InputFile,
    /// The adapter that training began with, if not with a fresh one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InputFile>,
    /// Every option that changes what is computed.
    pub options: Value,
}

/// A file or folder that a run is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Its name, without its folder.
    pub name: String,
    /// Where it was when the run began; it may lie elsewhere when the run goes on.
    pub path: PathBuf,
    /// Its SHA-256.
    pub sha256: String,
}

impl InputFile {
    /// Describes the file or folder at `path`.
    pub fn of(path: &Path) -> Result<Self> {
        let whole = path.canonicalize().map_err(Error::io(path))?;
        let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, path: whole, sha256: files::sha256(path)? })
    }
}

impl RunDescription {
    /// A run of this version.
    pub fn new(model: InputFile, data: InputFile, options: Value) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), model, data, init: None, options }
    }

    /// What differs from `there`, a description that was found: one line for each field.
    fn differences(&self, there: &Self) -> Vec<String> {
        // Both through text: a number that was read is not always the one that was written, to the last bit.
        let json = |description: &Self| -> Value {
            let text = serde_json::to_string(description).expect("a description is JSON");
            serde_json::from_str(&text).expect("just written")
        };
        let mut found = Vec::new();
        differ("", &json(there), &json(self), &mut found);
        // A file may be moved and renamed; what is in it counts.
        let place = |line: &String| {
            let moved =
                |file: &str| line.starts_with(&format!("{file}.name ")) || line.starts_with(&format!("{file}.path "));
            ["model", "data", "init"].into_iter().any(moved)
        };
        found.retain(|line| !place(line));
        found
    }
}

/// Adds a line for each field in which `there` and `here` differ.
pub(crate) fn differ(path: &str, there: &Value, here: &Value, found: &mut Vec<String>) {
    if let (Value::Object(there), Value::Object(here)) = (there, here) {
        let mut keys: Vec<&String> = there.keys().chain(here.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            let value = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
            differ(&path, &value(there), &value(here), found);
        }
    } else if there != here {
        found.push(format!("{path} is {there} there, and {here} now"));
    }
}

/// A run directory that this process has to itself.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// Locked for as long as it is open; the system unlocks it when the process ends, however
    /// it ends.
    _lock: File,
}

impl RunDirectory {
    /// Begins the run that `description` describes in `path`, or goes on with it. A run that made
    /// no checkpoint has nothing to lose: it may be begun otherwise.
    pub fn open(path: &Path, description: &RunDescription) -> Result<Self> {
        if !path.join(DESCRIPTION).exists() {
            return Self::create(path, description);
        }
        let nothing_done = checkpoint::list(&path.join(CHECKPOINTS))?.is_empty();
        if nothing_done && !description.differences(&describe(path)?).is_empty() {
            let run = Self { path: path.to_owned(), _lock: lock(path)? };
            for file in [METRICS, EVALUATIONS, DESCRIPTION] {
                let file = path.join(file);
                if file.exists() {
                    fs::remove_file(&file).map_err(Error::io(&file))?;
                }
            }
            drop(run);
            return Self::create(path, description);
        }
        Self::resume(path, description)
    }

    /// Begins a run in `path`, which must not hold one.
    pub fn create(path: &Path, description: &RunDescription) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let run = Self { path: path.to_owned(), _lock: lock(path)? };
        if run.description_path().exists() {
            let why = format!("{} holds a run already: resume it, or choose another folder", path.display());
            return Err(Error::Run(why));
        }
        let json = serde_json::to_vec_pretty(description).expect("a description is JSON");
        files::write_bytes(&run.description_path(), &json)?;
        Ok(run)
    }

    /// Goes on with the run in `path`, which must be the one that `description` describes.
    pub fn resume(path: &Path, description: &RunDescription) -> Result<Self> {
        if !path.join(DESCRIPTION).exists() {
            return Err(Error::Run(format!("{} holds no run: begin one without resuming", path.display())));
        }
        let run = Self { path: path.to_owned(), _lock: lock(path)? };
        let differences = description.differences(&describe(path)?);
        if !differences.is_empty() {
            let why = format!(
                "{} was begun otherwise: {}; resume it as it was begun, or begin another",
                path.display(),
                differences.join("; ")
            );
            return Err(Error::Run(why));
        }
        files::remove_unfinished(path)?;
        if run.checkpoints().exists() {
            files::remove_unfinished(&run.checkpoints())?;
        }
        Ok(run)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where checkpoints lie.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }

    /// Opens `metrics.jsonl`, without the lines of steps after `step`.
    pub fn metrics(&self, step: u64) -> Result<Journal<StepMetrics>> {
        Journal::open(&self.path.join(METRICS), step)
    }

    /// Opens `evaluations.jsonl`, without the lines of evaluations after `step`.
    pub fn evaluations(&self, step: u64) -> Result<Journal<EvaluationMetrics>> {
        Journal::open(&self.path.join(EVALUATIONS), step)
    }

    /// Where a trained adapter goes.
    pub fn adapter(&self) -> PathBuf {
        self.path.join(ADAPTER)
    }

    /// Where trained weights go.
    pub fn weights(&self) -> PathBuf {
        self.path.join(WEIGHTS)
    }

    fn description_path(&self) -> PathBuf {
        self.path.join(DESCRIPTION)
    }
}

/// Folder of the trained adapter.
pub(crate) const ADAPTER: &str = "adapter";
/// The trained weights, where there is no adapter.
pub(crate) const WEIGHTS: &str = "weights.safetensors";
const CHECKPOINTS: &str = "checkpoints";
const DESCRIPTION: &str = "run.json";
const METRICS: &str = "metrics.jsonl";
const EVALUATIONS: &str = "evaluations.jsonl";

/// The description of the run in `path`, whoever works on it.
pub fn describe(path: &Path) -> Result<RunDescription> {
    let path = path.join(DESCRIPTION);
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Run(format!("{}: {error}", path.display())))
}

/// The steps and evaluations of the run in `path` so far, whoever works on it.
pub fn measured(path: &Path) -> Result<(Vec<StepMetrics>, Vec<EvaluationMetrics>)> {
    Ok((read_lines(&path.join(METRICS))?, read_lines(&path.join(EVALUATIONS))?))
}

/// Locks `folder` for this process, as long as the file is open.
pub(crate) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("run.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::Run(format!("another process works in {}: wait for it, or end it", folder.display())))
        }
        Err(TryLockError::Error(error)) => Err(Error::io(&path)(error)),
    }
}

/// Something measured after a number of steps.
pub trait Line: Serialize + DeserializeOwned {
    /// The number of steps.
    fn step(&self) -> u64;
}

impl Line for StepMetrics {
    fn step(&self) -> u64 {
        self.step
    }
}

impl Line for EvaluationMetrics {
    fn step(&self) -> u64 {
        self.step
    }
}

/// A JSONL file that grows by whole lines.
#[derive(Debug)]
pub struct Journal<T> {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
    line: std::marker::PhantomData<fn(T)>,
}

impl<T: Line> Journal<T> {
    /// Opens or makes the file at `path`, and cuts off what was measured after `step` steps:
    /// a run that goes on from a checkpoint takes the steps after it again.
    fn open(path: &Path, step: u64) -> Result<Self> {
        let mut len = 0;
        if path.exists() {
            let mut input = BufReader::new(File::open(path).map_err(Error::io(path))?);
            let mut kept = Vec::new();
            let mut line = Vec::new();
            while input.read_until(b'\n', &mut line).map_err(Error::io(path))? > 0 {
                // A line that was cut off by a crash has no end; neither has what follows.
                let parsed = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<T>(line).ok());
                if parsed.is_none_or(|parsed| parsed.step() > step) {
                    break;
                }
                kept.append(&mut line);
            }
            len = kept.len() as u64;
            if len != fs::metadata(path).map_err(Error::io(path))?.len() {
                files::write_bytes(path, &kept)?;
            }
        }
        let file = File::options().create(true).append(true).open(path).map_err(Error::io(path))?;
        Ok(Self { path: path.to_owned(), file, len, line: std::marker::PhantomData })
    }

    /// Whether it has no lines.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a line. On failure the file is as it was.
    pub fn append(&mut self, line: &T) -> Result<()> {
        let mut bytes = serde_json::to_vec(line).expect("metrics are JSON");
        bytes.push(b'\n');
        if let Err(error) = self.file.write_all(&bytes) {
            // Making a file shorter needs no room.
            _ = self.file.set_len(self.len);
            _ = self.file.seek(std::io::SeekFrom::End(0));
            return Err(Error::io(&self.path)(error));
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Waits until all lines are on the disk: before a checkpoint that follows them.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))
    }
}

/// All whole lines of the file at `path`; none where it does not exist.
fn read_lines<T: Line>(path: &Path) -> Result<Vec<T>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let whole = bytes.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let parsed = whole.enumerate().map(|(at, line)| {
        serde_json::from_slice(line).map_err(|error| Error::Data {
            file: path.to_owned(),
            line: at + 1,
            field: "line".to_owned(),
            why: error.to_string(),
        })
    });
    parsed.collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    fn description(beta: f64) -> RunDescription {
        let file = |name: &str| InputFile { name: name.into(), path: name.into(), sha256: format!("sum of {name}") };
        RunDescription::new(file("model.critic"), file("data.jsonl"), json!({"beta": beta, "lora": {"rank": 8}}))
    }

    fn step(step: u64) -> StepMetrics {
        StepMetrics { step, loss: 1.0 / step as f64, ..Default::default() }
    }

    #[test]
    fn a_run_is_resumed_as_it_was_begun() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs/first");
        assert!(RunDirectory::resume(&path, &description(0.1)).unwrap_err().to_string().contains("holds no run"));
        drop(RunDirectory::create(&path, &description(0.1)).unwrap());
        let again = RunDirectory::create(&path, &description(0.1)).unwrap_err().to_string();
        assert!(again.contains("holds a run already"), "{again}");
        drop(RunDirectory::resume(&path, &description(0.1)).unwrap());

        let mut other = description(0.2);
        other.options["lora"]["rank"] = json!(16);
        other.options["seed"] = json!(1);
        other.data.sha256 = "another".into();
        let message = RunDirectory::resume(&path, &other).unwrap_err().to_string();
        for part in [
            "options.beta is 0.1 there, and 0.2 now",
            "options.lora.rank is 8 there, and 16 now",
            "options.seed is null there, and 1 now",
            "data.sha256 is \"sum of data.jsonl\" there, and \"another\" now",
        ] {
            assert!(message.contains(part), "{message}");
        }
        let mut renamed = description(0.1);
        renamed.model.name = "renamed.critic".into();
        renamed.model.path = "/elsewhere/renamed.critic".into();
        drop(RunDirectory::resume(&path, &renamed).unwrap());
        assert_eq!(describe(&path).unwrap(), description(0.1));
    }

    #[test]
    fn two_processes_do_not_share_a_run() {
        let folder = tempfile::tempdir().unwrap();
        let first = RunDirectory::create(folder.path(), &description(0.1)).unwrap();
        let second = RunDirectory::resume(folder.path(), &description(0.1)).unwrap_err().to_string();
        assert!(second.contains("another process works in"), "{second}");
        drop(first);
        RunDirectory::resume(folder.path(), &description(0.1)).unwrap();
    }

    #[test]
    fn lines_after_the_checkpoint_are_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(folder.path(), &description(0.1)).unwrap();
        let mut metrics = run.metrics(0).unwrap();
        (1..=5).for_each(|at| metrics.append(&step(at)).unwrap());
        drop(metrics);
        let path = folder.path().join(METRICS);
        // The process was killed within a line.
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(b"{\"step\": 6, \"lo");
        fs::write(&path, &bytes).unwrap();
        let read = |folder: &Path| measured(folder).unwrap().0.iter().map(|line| line.step).collect::<Vec<_>>();
        assert_eq!(read(folder.path()), [1, 2, 3, 4, 5], "an unfinished line is no line");
        drop(run.metrics(9).unwrap());
        assert_eq!(read(folder.path()), [1, 2, 3, 4, 5]);
        let mut metrics = run.metrics(3).unwrap();
        metrics.append(&step(4)).unwrap();
        metrics.sync().unwrap();
        assert_eq!(read(folder.path()), [1, 2, 3, 4]);
        drop(run.metrics(0).unwrap());
        assert!(read(folder.path()).is_empty());
    }

    #[test]
    fn a_resumed_run_has_nothing_unfinished() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(folder.path(), &description(0.1)).unwrap();
        fs::create_dir_all(run.checkpoints().join(".unfinished-x")).unwrap();
        drop(run);
        RunDirectory::resume(folder.path(), &description(0.1)).unwrap();
        assert!(!folder.path().join("checkpoints/.unfinished-x").exists());
    }

    /// Appends until the file system below `folder` is full.
    pub(crate) fn journal_on_a_full_disk(folder: &Path) {
        let path = folder.join(METRICS);
        let mut journal = Journal::<StepMetrics>::open(&path, 0).unwrap();
        let mut written = 0;
        let error = loop {
            match journal.append(&step(written + 1)) {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 100_000, "the disk is never full");
        };
        assert!(error.to_string().contains("make room and resume the run"), "{error}");
        let lines: Vec<StepMetrics> = read_lines(&path).unwrap();
        assert_eq!(lines.len() as u64, written);
        assert_eq!(fs::metadata(&path).unwrap().len(), journal.len, "no half line is left");
    }
}

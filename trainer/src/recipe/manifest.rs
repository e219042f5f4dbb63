//! What a run has done: `manifest.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;

/// A run's steps, and what they were made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the recipe.
    pub recipe: String,
    /// Version of this crate.
    pub version: String,
    /// Seed of the run.
    pub seed: u64,
    /// Steps that are done, in the order in which they were.
    pub steps: Vec<StepRecord>,
}

/// A step that is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name.
    pub name: String,
    /// SHA-256 of its options and its inputs' outputs: it is done anew where this differs.
    pub fingerprint: String,
    /// SHA-256 of what it made, by file.
    pub outputs: BTreeMap<String, String>,
    /// Wall time of the process that finished it.
    pub seconds: f64,
    /// When it was finished, in seconds since 1970.
    pub finished: u64,
    /// What is worth knowing.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub notes: serde_json::Value,
}

impl Manifest {
    /// The manifest of the run in `folder`; an empty one where there is none.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::corrupt(&path, error.to_string()))
    }

    /// Writes it.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write_bytes(&folder.join(FILE), &serde_json::to_vec_pretty(self).expect("plain structs are JSON"))
    }

    /// What is known of the step `name`.
    pub fn step(&self, name: &str) -> Option<&StepRecord> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// Notes that a step is done.
    pub fn add(&mut self, record: StepRecord) {
        self.steps.retain(|step| step.name != record.name);
        self.steps.push(record);
    }
}

const FILE: &str = "manifest.json";

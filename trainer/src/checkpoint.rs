//! Checkpoints: what a run goes on from, bit for bit. A folder `step-000100` is there whole or not
//! at all; it is valid if its files have the SHA-256 that its `state.json` says.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files;
use crate::model::Policy;
use crate::optim::{Optimizer, OptimizerOptions};
use crate::tensors::{Matrices, decode, encode, take, to_host};

const STATE: &str = "state.json";
const OPTIMIZER: &str = "optimizer.safetensors";

/// Where a run stands. The order of the data is a function of seed and step, so this is all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Steps that were made.
    pub step: u64,
    /// Seed of the run.
    pub seed: u64,
    /// SHA-256 of each file beside this one.
    pub files: BTreeMap<String, String>,
}

/// `adapter.safetensors`, or `weights.safetensors` where the base is trained.
fn weights_file(policy: &Policy) -> &'static str {
    if policy.adapter.is_some() { "adapter.safetensors" } else { "weights.safetensors" }
}

/// Writes the checkpoint of `step` into `folder` and returns its path.
pub fn write(folder: &Path, step: u64, seed: u64, policy: &Policy, optimizer: &Optimizer) -> Result<PathBuf> {
    let path = folder.join(format!("step-{step:06}"));
    files::write_folder(&path, |work| {
        let mut sums = BTreeMap::new();
        let parts = [(weights_file(policy), to_host(policy.parameters())), (OPTIMIZER, optimizer.to_host(policy))];
        for (name, matrices) in parts {
            let bytes = encode(&matrices);
            sums.insert(name.to_owned(), sha256(&bytes));
            files::write_bytes(&work.join(name), &bytes)?;
        }
        let state = State { step, seed, files: sums };
        files::write_bytes(&work.join(STATE), &serde_json::to_vec_pretty(&state).expect("plain structs are JSON"))
    })?;
    Ok(path)
}

/// Removes all but the newest `keep` checkpoints of `folder`.
pub fn prune(folder: &Path, keep: usize) -> Result<()> {
    for (_, path) in list(folder)?.into_iter().rev().skip(keep.max(1)) {
        fs::remove_dir_all(&path).map_err(Error::io(&path))?;
    }
    Ok(())
}

/// Checkpoints of `folder` by step, oldest first, valid or not.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(folder))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(step) = name.strip_prefix("step-").and_then(|step| step.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort();
    Ok(found)
}

/// A checkpoint that was read.
pub struct Restored {
    /// Where the run stands.
    pub state: State,
    /// The policy.
    pub policy: Policy,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Newer checkpoints that are damaged, and why.
    pub skipped: Vec<Error>,
}

/// The newest valid checkpoint of `folder`, for a policy of the shape of `policy`; `None` where there
/// is none at all. Fails where all are damaged.
pub fn newest(folder: &Path, policy: &Policy, options: &OptimizerOptions) -> Result<Option<Restored>> {
    let mut skipped = Vec::new();
    for (_, path) in list(folder)?.into_iter().rev() {
        match read(&path, policy, options) {
            Ok((state, policy, optimizer)) => return Ok(Some(Restored { state, policy, optimizer, skipped })),
            Err(error) => skipped.push(error),
        }
    }
    // The first is about the newest.
    skipped.into_iter().next().map_or(Ok(None), Err)
}

/// The checkpoint at `path`.
pub fn read(path: &Path, policy: &Policy, options: &OptimizerOptions) -> Result<(State, Policy, Optimizer)> {
    let read = |name: &str| {
        let path = path.join(name);
        fs::read(&path).map_err(Error::io(&path))
    };
    let state: State =
        serde_json::from_slice(&read(STATE)?).map_err(|error| Error::corrupt(&path.join(STATE), error.to_string()))?;
    let matrices = |name: &str| -> Result<Matrices> {
        let (file, bytes) = (path.join(name), read(name)?);
        match state.files.get(name) {
            Some(expected) if *expected == sha256(&bytes) => decode(&bytes, &file),
            Some(_) => Err(Error::corrupt(&file, "its SHA-256 is not the one in state.json")),
            None => Err(Error::corrupt(&path.join(STATE), format!("files has no {name}"))),
        }
    };
    let name = weights_file(policy);
    let mut weights = matrices(name)?;
    let device = policy.device();
    let mut parameters = Vec::new();
    for (parameter, tensor) in policy.parameters() {
        parameters.push(take(&mut weights, &parameter, tensor.dims(), &device, &path.join(name))?);
    }
    let policy = policy.with(parameters);
    let optimizer = Optimizer::from_host(options, &policy, matrices(OPTIMIZER)?, &device, &path.join(OPTIMIZER))?;
    Ok((state, policy, optimizer))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

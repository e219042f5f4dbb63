//! A collection's folder: what it is, what was written, what came out.
//!
//! ```text
//! collection.json   options, versions, who writes (SHA-256 of model files, names of served models), SHA-256 of the problems
//! ledger.jsonl      every text, synced before it counts
//! scored.jsonl      scored critiques, as training reads them: written whole at the end
//! summary.json      counts and measures
//! run.lock          locked while a process works on it
//! ```

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ledger::Ledger;
use super::pipeline::{Cast, CollectOptions, OnProgress, Pipeline, Progress, Subject};
use super::utility::{Collected, Filter, FilterCounts, write_scored};
use crate::error::{Error, Result};
use crate::files;
use crate::run::{differ, lock};
use crate::tasks::Problem;

/// What a collection found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// What became of the groups.
    pub groups: FilterCounts,
    /// How far it came, and how fast this process was.
    pub progress: Progress,
    /// Failures and how often each occurred.
    pub failures: Vec<(String, usize)>,
    /// Mean CU of all critiques.
    pub mean_cu: Option<f64>,
    /// Mean of the standard errors of CU.
    pub mean_standard_error: Option<f64>,
    /// Share of judgements in which both orders agree.
    pub orders_agree: Option<f64>,
}

/// Collects about `problems` in `folder`, or goes on with what was begun there with the same options.
pub fn collect(
    folder: &Path,
    problems: &[Problem],
    cast: Cast,
    options: &CollectOptions,
    filter: Filter,
    stop: &AtomicBool,
    on_progress: &mut OnProgress,
) -> Result<Summary> {
    if problems.is_empty() {
        return Err(Error::invalid("there are no problems to collect critiques for"));
    }
    if options.critiques == 0 || options.refinements == 0 {
        return Err(Error::invalid("critiques and refinements are at least 1"));
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let _lock = lock(folder)?;
    describe(folder, problems, cast, options)?;
    files::remove_unfinished(folder)?;
    let subjects: Vec<Subject> =
        problems.iter().map(|problem| Subject { problem: problem.clone(), draft: None }).collect();
    let mut ledger = Ledger::open(&folder.join("ledger.jsonl"))?;
    let mut tell = |progress: &Progress| on_progress(progress);
    let (collected, progress) = Pipeline::new(cast, options, &mut ledger, stop, &mut tell).run(&subjects)?;
    let groups = write_scored(&folder.join("scored.jsonl"), &collected, filter)?;
    let summary = summarize(&collected, groups, progress, &ledger);
    let bytes = serde_json::to_vec_pretty(&summary).expect("plain structs are JSON");
    files::write_bytes(&folder.join("summary.json"), &bytes)?;
    Ok(summary)
}

/// Writes what the collection is, or compares it with what is there.
fn describe(folder: &Path, problems: &[Problem], cast: Cast, options: &CollectOptions) -> Result<()> {
    let path = folder.join("collection.json");
    let mut options = serde_json::to_value(options).expect("options are JSON");
    // Neither changes what is written.
    for free in ["problems_per_batch", "judge_retries"] {
        options.as_object_mut().expect("a struct").remove(free);
    }
    let here = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "problems": files::sha256_of(&serde_json::to_vec(problems).expect("problems are JSON")),
        "options": options,
        "actor": cast.actor.describe(),
        "critic": cast.critic.describe(),
        "judge": cast.judge.map(|judge| judge.describe()),
    });
    if !path.exists() {
        return files::write_bytes(&path, &serde_json::to_vec_pretty(&here).expect("it is JSON"));
    }
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let there: Value = serde_json::from_slice(&bytes).map_err(|error| Error::corrupt(&path, error.to_string()))?;
    let mut differences = Vec::new();
    differ("", &there, &here, &mut differences);
    match differences.is_empty() {
        true => Ok(()),
        false => Err(Error::Run(format!(
            "{} was begun otherwise: {}; go on as it was begun, or choose another folder",
            folder.display(),
            differences.join("; ")
        ))),
    }
}

fn summarize(collected: &[Option<Collected>], groups: FilterCounts, progress: Progress, ledger: &Ledger) -> Summary {
    let critiques = || collected.iter().flatten().flat_map(|collected| &collected.critiques);
    let utilities: Vec<_> = critiques().filter_map(|critique| critique.utility()).collect();
    let mean = |values: Vec<f64>| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let agree = critiques().flat_map(|critique| &critique.refinements).filter_map(|refinement| refinement.orders_agree);
    Summary {
        groups,
        progress,
        failures: ledger.failures(),
        mean_cu: mean(utilities.iter().map(|utility| utility.cu).collect()),
        mean_standard_error: mean(utilities.iter().filter_map(|utility| utility.standard_error).collect()),
        orders_agree: mean(agree.map(|agree| f64::from(u8::from(agree))).collect()),
    }
}

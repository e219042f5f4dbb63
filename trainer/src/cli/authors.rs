//! Who writes, as said on the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use critic::file::Prompts;
use critic_trainer::collect::{Author, Endpoint, EndpointOptions, Local, LocalOptions, Secret, Stop};
use critic_trainer::sandbox::{Limits, Sandbox};
use critic_trainer::tasks::{Problem, Task, Verifier, read_problems};
use critic_trainer::{Error, Result};

/// How authors work, wherever they are.
#[derive(Debug, Args)]
pub struct AuthorArgs {
    /// Requests in flight to an endpoint.
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// Seconds until a request is given up.
    #[arg(long, default_value_t = 300.0)]
    timeout: f64,
    /// Attempts of a request.
    #[arg(long, default_value_t = 10)]
    attempts: u32,
    /// Environment variable that holds the endpoints' key; without it none is sent.
    #[arg(long, value_name = "NAME")]
    key_env: Option<String>,
    /// What endpoints are told, in the form that `critic info --prompts` shows [default: the critic's model
    /// file's, or the built-in ones].
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Most texts that a model file decodes as one batch.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Threads of model files [default: one for each core].
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

impl AuthorArgs {
    /// The author that `spec` names: a model file, one with an adapter file (`MODEL+ADAPTER`), or an endpoint
    /// (`URL#MODEL`).
    pub fn open(&self, spec: &str, prompts: &Prompts, stop: &Stop) -> Result<Box<dyn Author>> {
        if !is_endpoint(spec) {
            return Ok(Box::new(self.local(spec)?));
        }
        let (url, model) = spec.split_once('#').ok_or_else(|| {
            Error::Invalid(format!("{spec}: expected URL#MODEL, such as http://127.0.0.1:8080/v1#qwen2.5-72b"))
        })?;
        let key = match &self.key_env {
            None => None,
            Some(name) => Some(Secret::new(std::env::var(name).map_err(|_| {
                Error::Invalid(format!("the environment variable {name}, which is to hold the key, is not set"))
            })?)),
        };
        let options = EndpointOptions {
            url: url.to_owned(),
            model: model.to_owned(),
            in_flight: self.in_flight,
            timeout: self.timeout,
            attempts: self.attempts,
            delay: 0.5,
        };
        Ok(Box::new(Endpoint::new(options, prompts.clone(), key, Arc::clone(stop))?))
    }

    /// The model file that `spec` names.
    pub fn local(&self, spec: &str) -> Result<Local> {
        let options = LocalOptions { batch: self.batch, threads: self.threads };
        match spec.split_once('+').filter(|_| !Path::new(spec).exists()) {
            Some((model, adapter)) => Local::open(Path::new(model), Some(Path::new(adapter)), options),
            None => Local::open(Path::new(spec), None, options),
        }
    }

    /// What endpoints are told, and how *keep* is said.
    pub fn prompts(&self, critic: &str) -> Result<Prompts> {
        match &self.prompts {
            Some(path) => critic_import::read_prompts(path).map_err(Error::from),
            None if is_endpoint(critic) => Ok(Prompts::default()),
            None => Ok(self.local(critic)?.model().prompts().clone()),
        }
    }
}

fn is_endpoint(spec: &str) -> bool {
    spec.starts_with("http://") || spec.starts_with("https://")
}

/// Problems, and how they are checked.
#[derive(Debug, Args)]
pub struct ProblemArgs {
    /// Problems, JSONL: `prompt`, and optionally `id`, `task`, `reference`, `tests`, `constraints`.
    #[arg(long, value_name = "FILE")]
    problems: PathBuf,
    /// Task of problems that name none: dialog, summarization, qa, math, code, or one of the prompts'.
    #[arg(long, default_value = "general")]
    task: String,
    /// Does without the sandbox: programs are then judged, not run.
    #[arg(long)]
    no_sandbox: bool,
}

impl ProblemArgs {
    /// The problems.
    pub fn read(&self) -> Result<Vec<Problem>> {
        read_problems(&self.problems, &self.task)
    }

    /// What checks answers to them.
    pub fn verifier(&self, problems: &[Problem]) -> Result<Verifier> {
        let runs = |problem: &Problem| Task::parse(&problem.task) == Some(Task::Code) && !problem.tests.is_empty();
        let wanted = !self.no_sandbox && problems.iter().any(runs);
        Ok(Verifier { sandbox: if wanted { Some(Sandbox::new(Limits::default())?) } else { None } })
    }

    /// Refuses problems that nobody could compare answers to.
    pub fn require_judge(verifier: &Verifier, problems: &[Problem], judged: bool) -> Result<()> {
        match problems.iter().find(|problem| !judged && !verifier.verifies(problem)) {
            None => Ok(()),
            Some(problem) => Err(Error::Invalid(format!(
                "problem {}: no verifier can check it, and there is no judge: name one with --judge",
                problem.id
            ))),
        }
    }
}

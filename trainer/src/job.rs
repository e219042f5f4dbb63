//! A whole training run, from files to files: what `critic-train train` does.
//!
//! Begun again with the same options it goes on where its last checkpoint is, and ends in the same
//! bytes as if it had never been interrupted.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use critic::Model;
use critic_import::{LoraAdapter, read_peft, write_peft};
use serde::{Deserialize, Serialize};

use crate::checkpoint;
use crate::data::{DataFile, EncodeOptions, Encoded, EncodedGroup, is_held_out};
use crate::device::{self, Precision};
use crate::error::{Error, Result};
use crate::exchange::{About, from_lora, invocation_tokens, to_lora};
use crate::files;
use crate::memory::Limits;
use crate::metrics::EvaluationMetrics;
use crate::model::{Adapter, AdapterOptions, Base, Policy, load};
use crate::objective::{Normalizer, Objective};
use crate::optim::{Optimizer, OptimizerOptions};
use crate::reference::{Reference, fingerprint};
use crate::report::write_report;
use crate::run::{InputFile, RunDescription, RunDirectory, describe};
use crate::tensors::{encode, to_host};
use crate::train::{Data, Event, Outcome, TrainOptions, Trainer};

/// Which loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectiveName {
    /// [`Objective::Rco`]
    #[default]
    Rco,
    /// [`Objective::Dpco`]
    Dpco,
    /// [`Objective::CuDpo`]
    CuDpo,
    /// [`Objective::Sft`]
    Sft,
}

/// Every option that changes what is computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobOptions {
    /// Which loss.
    pub objective: ObjectiveName,
    /// How RCO finds log Z of a group.
    pub normalizer: Normalizer,
    /// The loop's; `steps` 0: as many as `epochs` take. Its β is the objective's too.
    pub train: TrainOptions,
    /// Times that each group is seen, where `train.steps` is 0.
    pub epochs: f64,
    /// The optimizer's.
    pub optimizer: OptimizerOptions,
    /// The adapter that is trained; `None`: the model itself is.
    pub adapter: Option<AdapterOptions>,
    /// Device by name, see [`device::open`].
    pub device: String,
    /// `f32` or `bf16`.
    pub precision: String,
    /// Share of drafts that are held out, by their ids.
    pub held_out: f64,
    /// Most tokens of a context with its longest critique: longer examples are left out, whole.
    pub max_tokens: usize,
    /// Whether groups whose critiques all have the same utility are trained on.
    pub keep_flat: bool,
    /// MB that weights and a pass may take together; 0: no limit.
    pub memory_mb: usize,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            objective: ObjectiveName::Rco,
            normalizer: Normalizer::Centred,
            train: TrainOptions { steps: 0, ..TrainOptions::default() },
            epochs: 1.0,
            optimizer: OptimizerOptions::default(),
            adapter: Some(AdapterOptions::default()),
            device: "flex".to_owned(),
            precision: "f32".to_owned(),
            held_out: 0.1,
            max_tokens: 2048,
            keep_flat: false,
            memory_mb: 0,
        }
    }
}

impl JobOptions {
    /// The loss.
    pub fn objective(&self) -> Objective {
        let beta = self.train.beta;
        match self.objective {
            ObjectiveName::Rco => Objective::Rco { beta, normalizer: self.normalizer },
            ObjectiveName::Dpco => Objective::Dpco { beta },
            ObjectiveName::CuDpo => Objective::CuDpo { beta },
            ObjectiveName::Sft => Objective::Sft,
        }
    }

    fn limits(&self) -> Limits {
        let memory = if self.memory_mb == 0 { usize::MAX } else { self.memory_mb << 20 };
        Limits { memory, ..Limits::default() }
    }

    fn validate(&self) -> Result<()> {
        let positive = [("beta", self.train.beta), ("learning rate", self.train.learning_rate)];
        for (name, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return Err(Error::invalid(format!("{name} is {value}, expected more than 0")));
            }
        }
        if self.train.steps == 0 && !(self.epochs.is_finite() && self.epochs > 0.0) {
            return Err(Error::invalid(format!("epochs is {}, expected more than 0", self.epochs)));
        }
        if self.train.groups_per_step == 0 {
            return Err(Error::invalid("groups per step is 0, expected at least 1"));
        }
        if !(0.0..1.0).contains(&self.held_out) {
            return Err(Error::invalid(format!(
                "held-out share is {}, expected 0 or more and less than 1",
                self.held_out
            )));
        }
        self.adapter.as_ref().map_or(Ok(()), AdapterOptions::validate)
    }
}

/// A run: its folder, what it is made from, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The run directory.
    pub run: PathBuf,
    /// Model file, GGUF file, or Hugging Face directory.
    pub model: PathBuf,
    /// Scored critiques.
    pub data: PathBuf,
    /// An adapter in PEFT's layout that training begins with, in place of a fresh one. The
    /// reference is the base all the same.
    pub init: Option<PathBuf>,
    /// How.
    pub options: JobOptions,
}

/// Something that a person wants to see.
#[derive(Debug)]
pub enum JobEvent<'a> {
    /// The data were read.
    Groups {
        /// Groups that are trained on.
        training: usize,
        /// Groups that are held out.
        held_out: usize,
        /// Groups that do not fit `max_tokens`, with how many tokens they have.
        too_long: &'a [(String, usize)],
        /// Groups without signal.
        flat: usize,
    },
    /// Log-probabilities of the reference, of how many groups.
    Reference(usize, usize),
    /// A checkpoint that cannot be read was passed over.
    Damaged(&'a Error),
    /// Training goes on after this many steps, of how many.
    Begin(u64, u64),
    /// Of the loop.
    Train(Event<'a>),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Whether all steps were made.
    pub outcome: Outcome,
    /// Steps that were made.
    pub step: u64,
    /// The last evaluation, where drafts are held out.
    pub evaluation: Option<EvaluationMetrics>,
}

impl Job {
    /// The job of the run in `run`, as it was begun. Its model and data are looked for where they
    /// were, unless they are given.
    pub fn of_run(run: &Path, model: Option<PathBuf>, data: Option<PathBuf>) -> Result<Self> {
        let description = describe(run)?;
        let options = serde_json::from_value(description.options.clone())
            .map_err(|error| Error::Run(format!("{}: options: {error}", run.display())))?;
        Ok(Self {
            run: run.to_owned(),
            model: model.unwrap_or(description.model.path),
            data: data.unwrap_or(description.data.path),
            init: description.init.map(|init| init.path),
            options,
        })
    }

    fn description(&self) -> Result<RunDescription> {
        let options = serde_json::to_value(&self.options).expect("options are JSON");
        let mut description = RunDescription::new(InputFile::of(&self.model)?, InputFile::of(&self.data)?, options);
        description.init = self.init.as_deref().map(InputFile::of).transpose()?;
        Ok(description)
    }

    /// Trains to the end, or until `stop` is set. The result is `adapter/` in the run directory, or
    /// `weights.safetensors` where the model itself is trained, and `report.html`.
    pub fn run(&self, stop: &AtomicBool, on_event: &mut dyn FnMut(JobEvent) -> ControlFlow<()>) -> Result<Finished> {
        self.options.validate()?;
        // Cheap checks first: a device that is not here should not cost a pass over a large file.
        let device = device::open(&self.options.device)?;
        let precision = Precision::parse(&self.options.precision, &device)?;
        let directory = RunDirectory::open(&self.run, &self.description()?)?;
        let model = load(&self.model)?;
        let groups = self.groups(&model, on_event)?;
        let base = Base::new(&model, &device, precision)?;
        let (adapter, about) = match &self.options.adapter {
            None => (None, About::default()),
            Some(options) => {
                let about = About {
                    base_model: model.provenance().name.clone(),
                    fingerprint: model.weights().fingerprint(),
                    invocation_tokens: if options.activated { invocation_tokens(&model)? } else { Vec::new() },
                    beta: self.options.train.beta,
                    threshold: 0.0,
                };
                let adapter = match &self.init {
                    None => Adapter::new(model.config(), options, self.options.train.seed, &device)?,
                    Some(path) => from_lora(&read_peft(path)?, &model, options, &device)?,
                };
                (Some(adapter), about)
            }
        };
        let policy = Policy { base, adapter };
        let reference = self.reference(&directory, &policy, &groups, on_event)?;
        let (training, held_out) = (&groups.training[..], &groups.held_out[..]);
        let [training_reference, held_out_reference] = {
            let (first, second) = reference.0.split_at(training.len());
            [Reference(first.to_vec()), Reference(second.to_vec())]
        };
        let training = Data { groups: training, reference: &training_reference };
        let held_out = Data { groups: held_out, reference: &held_out_reference };
        let mut trainer = self.trainer(&directory, policy, training.groups.len(), on_event)?;
        let outcome = follow(&mut trainer, &directory, training, held_out, stop, on_event)?;
        let evaluation = crate::run::measured(directory.path())?.1.pop();
        if outcome == Outcome::Finished {
            let threshold = evaluation.as_ref().map_or(0.0, |evaluation| evaluation.threshold);
            write_result(&directory, &trainer.policy, About { threshold, ..about })?;
        }
        write_report(directory.path())?;
        Ok(Finished { outcome, step: trainer.step, evaluation })
    }

    /// Training and held-out groups.
    pub(crate) fn groups(
        &self,
        model: &Model,
        on_event: &mut dyn FnMut(JobEvent) -> ControlFlow<()>,
    ) -> Result<Groups> {
        let seed = self.options.train.seed;
        let options = EncodeOptions { max_tokens: self.options.max_tokens, keep_flat: self.options.keep_flat };
        let mut training = Encoded::default();
        let mut held_out = Encoded::default();
        for draft in DataFile::open(&self.data)? {
            let draft = draft?;
            let group = EncodedGroup::new(model, &draft, &self.data)?;
            if is_held_out(&draft.id, seed, self.options.held_out) {
                // What has no signal is a part of what the critic will meet.
                held_out.add(group, &EncodeOptions { keep_flat: true, ..options });
            } else {
                training.add(group, &options);
            }
        }
        let too_long: Vec<_> = training.too_long.iter().chain(&held_out.too_long).cloned().collect();
        let event = JobEvent::Groups {
            training: training.groups.len(),
            held_out: held_out.groups.len(),
            too_long: &too_long,
            flat: training.flat.len(),
        };
        go_on(on_event(event))?;
        if training.groups.is_empty() {
            let why = match training.dropped() + held_out.groups.len() {
                0 => "there are no drafts in it".to_owned(),
                _ => format!(
                    "nothing in it can be trained on: {} drafts are longer than {} tokens, the critiques of {} are all \
                     worth the same, {} are held out",
                    too_long.len(),
                    options.max_tokens,
                    training.flat.len(),
                    held_out.groups.len()
                ),
            };
            return Err(Error::invalid(format!("{}: {why}", self.data.display())));
        }
        Ok(Groups { training: training.groups, held_out: held_out.groups })
    }

    /// log p_ref of the training groups and then the held-out ones: read where it is stored.
    fn reference(
        &self,
        directory: &RunDirectory,
        policy: &Policy,
        groups: &Groups,
        on_event: &mut dyn FnMut(JobEvent) -> ControlFlow<()>,
    ) -> Result<Reference> {
        let all: Vec<EncodedGroup> = groups.training.iter().chain(&groups.held_out).cloned().collect();
        let limits = self.options.limits();
        let fingerprint = fingerprint(policy, &InputFile::of(&self.model)?.sha256, &all, &limits);
        let path = directory.path().join("reference.safetensors");
        if path.exists() {
            let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
            if let Some(reference) = Reference::decode(&bytes, &path, &fingerprint, &all)? {
                return Ok(reference);
            }
        }
        let reference = Reference::compute(policy, &all, &limits, &mut |done| match on_event(JobEvent::Reference(
            done,
            all.len(),
        ))
        .is_break()
        {
            true => Err(Error::Cancelled),
            false => Ok(()),
        })?;
        files::write_bytes(&path, &reference.encode(&fingerprint))?;
        Ok(reference)
    }

    /// The loop at the newest checkpoint, or at its beginning.
    fn trainer(
        &self,
        directory: &RunDirectory,
        policy: Policy,
        groups: usize,
        on_event: &mut dyn FnMut(JobEvent) -> ControlFlow<()>,
    ) -> Result<Trainer> {
        let restored = checkpoint::newest(&directory.checkpoints(), &policy, &self.options.optimizer)?;
        let (step, policy, optimizer) = match restored {
            None => (0, policy, Optimizer::new(&self.options.optimizer)),
            Some(restored) => {
                for damaged in &restored.skipped {
                    go_on(on_event(JobEvent::Damaged(damaged)))?;
                }
                (restored.state.step, restored.policy, restored.optimizer)
            }
        };
        let mut trainer = Trainer {
            options: self.options.train.clone(),
            limits: self.options.limits(),
            objective: self.options.objective(),
            policy,
            optimizer,
            step,
            checkpoints: Some(directory.checkpoints()),
        };
        if trainer.options.steps == 0 {
            let steps = self.options.epochs * trainer.steps_per_epoch(groups) as f64;
            trainer.options.steps = (steps.round() as u64).max(1);
        }
        go_on(on_event(JobEvent::Begin(step, trainer.options.steps)))?;
        Ok(trainer)
    }
}

/// What is trained on, and what is not.
pub(crate) struct Groups {
    pub(crate) training: Vec<EncodedGroup>,
    pub(crate) held_out: Vec<EncodedGroup>,
}

fn go_on(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::Cancelled) } else { Ok(()) }
}

/// Runs the loop and keeps its journals.
fn follow(
    trainer: &mut Trainer,
    directory: &RunDirectory,
    training: Data,
    held_out: Data,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(JobEvent) -> ControlFlow<()>,
) -> Result<Outcome> {
    let mut metrics = directory.metrics(trainer.step)?;
    let mut evaluations = directory.evaluations(trainer.step)?;
    if evaluations.is_empty() && !held_out.groups.is_empty() {
        // Where it starts from.
        let found = trainer.evaluate(held_out)?;
        evaluations.append(&found)?;
        go_on(on_event(JobEvent::Train(Event::HeldOut(&found))))?;
    }
    let mut failed = None;
    let outcome = trainer.run(training, held_out, stop, &mut |event| {
        let written = match &event {
            Event::Step(step) => metrics.append(step),
            Event::HeldOut(found) => evaluations.append(found),
            Event::Checkpoint(_) => metrics.sync().and_then(|()| evaluations.sync()),
        };
        if let Err(error) = written {
            failed.get_or_insert(error);
            return ControlFlow::Break(());
        }
        on_event(JobEvent::Train(event))
    });
    match failed {
        Some(error) => Err(error),
        None => outcome,
    }
}

/// `adapter/`, or `weights.safetensors` where the model itself was trained.
fn write_result(directory: &RunDirectory, policy: &Policy, about: About) -> Result<()> {
    match &policy.adapter {
        Some(adapter) => Ok(write_peft(&to_lora(adapter, about), &directory.adapter())?),
        None => files::write_bytes(&directory.weights(), &encode(&to_host(policy.parameters()))),
    }
}

/// What a finished run trained.
pub enum Trained {
    /// An adapter, with its β and threshold.
    Adapter(LoraAdapter),
    /// The model's weights by name, row by row.
    Weights(std::collections::BTreeMap<String, Vec<f32>>),
}

impl Trained {
    /// The result of the run in `run`.
    pub fn read(run: &Path) -> Result<Self> {
        let (adapter, weights) = (run.join(crate::run::ADAPTER), run.join(crate::run::WEIGHTS));
        if adapter.exists() {
            return Ok(Self::Adapter(read_peft(&adapter)?));
        }
        if !weights.exists() {
            describe(run)?;
            let why = format!("{} is not finished: resume it first", run.display());
            return Err(Error::Run(why));
        }
        let bytes = std::fs::read(&weights).map_err(Error::io(&weights))?;
        let matrices = crate::tensors::decode(&bytes, &weights)?;
        Ok(Self::Weights(matrices.into_iter().map(|(name, (_, values))| (name, values)).collect()))
    }

    /// The policy that it makes of `model` on `device`, in f32.
    pub fn policy(&self, model: &Arc<Model>, device: &burn::tensor::Device) -> Result<Policy> {
        let base = Base::new(model, device, Precision::F32)?;
        match self {
            Self::Adapter(lora) => {
                let options = AdapterOptions {
                    rank: lora.rank,
                    alpha: f64::from(lora.scale) * lora.rank as f64,
                    targets: crate::model::Target::ALL
                        .into_iter()
                        .filter(|target| lora.targets().contains(&target.name()))
                        .collect(),
                    dropout: 0.0,
                    activated: !lora.invocation_tokens.is_empty(),
                };
                Ok(Policy { base, adapter: Some(from_lora(lora, model, &options, device)?) })
            }
            Self::Weights(weights) => {
                let mut missing = None;
                let base = base.map(&mut |name, tensor| match weights.get(&name) {
                    Some(values) if values.len() == tensor.dims().iter().product::<usize>() => {
                        burn::tensor::Tensor::from_data(
                            burn::tensor::TensorData::new(values.clone(), tensor.dims()),
                            device,
                        )
                    }
                    _ => {
                        missing.get_or_insert(name);
                        tensor.clone()
                    }
                });
                match missing {
                    None => Ok(Policy { base, adapter: None }),
                    Some(name) => {
                        Err(Error::invalid(format!("the trained weights have no {name} of the model's shape")))
                    }
                }
            }
        }
    }
}

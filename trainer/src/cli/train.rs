//! `critic-train train` and `resume`

use std::ops::ControlFlow::{Break, Continue};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::{Args, ValueEnum};
use critic_trainer::Result;
use critic_trainer::job::{Finished, Job, JobEvent, JobOptions, ObjectiveName};
use critic_trainer::metrics::{EvaluationMetrics, StepMetrics};
use critic_trainer::model::{AdapterOptions, Target};
use critic_trainer::objective::Normalizer;
use critic_trainer::optim::OptimizerOptions;
use critic_trainer::train::{Event, Outcome, TrainOptions};

use super::progress::{Phase, duration};
use super::signal;

/// Arguments of `train`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct TrainArgs {
    /// Model file, GGUF file, or Hugging Face directory.
    #[arg(long)]
    model: PathBuf,
    /// Scored critiques, JSONL.
    #[arg(long)]
    data: PathBuf,
    /// Run directory; one that holds this run already is gone on with.
    #[arg(long)]
    run: PathBuf,

    /// What is optimised.
    #[arg(long, value_enum, default_value = "rco")]
    objective: ObjectiveArg,
    /// How RCO finds log Z of a group: as in the paper, or fitted.
    #[arg(long, value_enum, default_value = "centred")]
    normalizer: NormalizerArg,
    /// Strength of the pull to the reference.
    #[arg(long, default_value_t = 0.1)]
    beta: f64,

    /// Rank of the adapter.
    #[arg(long, value_name = "RANK", default_value_t = 16)]
    lora: usize,
    /// The adapter's products are multiplied by this over the rank [default: twice the rank].
    #[arg(long)]
    alpha: Option<f64>,
    /// Matrices that the adapter adds to.
    #[arg(long, value_delimiter = ',', value_enum, default_value = "q,k,v,o,gate,up,down")]
    targets: Vec<TargetArg>,
    /// Share of the adapter's inputs that are dropped.
    #[arg(long, default_value_t = 0.0)]
    dropout: f64,
    /// The adapter acts on the whole text, and can be merged; else from the critique instruction on.
    #[arg(long)]
    whole_text: bool,
    /// An adapter in PEFT's layout to begin with.
    #[arg(long, value_name = "DIR")]
    init: Option<PathBuf>,
    /// Trains all weights, without an adapter.
    #[arg(long, conflicts_with_all = ["lora", "alpha", "targets", "dropout", "whole_text", "init"])]
    full: bool,

    /// Times that each group is seen.
    #[arg(long, default_value_t = 1.0)]
    epochs: f64,
    /// Steps, instead of epochs.
    #[arg(long, conflicts_with = "epochs")]
    steps: Option<u64>,
    /// Groups (drafts with their critiques) of a step.
    #[arg(long, default_value_t = 8)]
    groups_per_step: usize,
    /// Largest learning rate.
    #[arg(long, default_value_t = 2e-4)]
    learning_rate: f64,
    /// Steps over which it rises.
    #[arg(long, default_value_t = 10)]
    warmup: u64,
    /// Gradients of a larger norm are scaled down to it; 0: none are.
    #[arg(long, default_value_t = 1.0)]
    max_norm: f64,
    /// AdamW's weight decay.
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f32,
    /// AdamW's second decay rate.
    #[arg(long, default_value_t = 0.999)]
    beta2: f32,
    /// What order, dropout and the adapter's first values are drawn from.
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Share of drafts that are held out, to evaluate on and to calibrate the threshold.
    #[arg(long, default_value_t = 0.1)]
    held_out: f64,
    /// Most tokens of an example; longer ones are left out, whole, and named.
    #[arg(long, default_value_t = 2048)]
    max_tokens: usize,
    /// Trains on groups whose critiques are all worth the same too.
    #[arg(long)]
    keep_flat: bool,

    /// Device: see `critic-train devices`.
    #[arg(long, default_value = "flex")]
    device: String,
    /// What matrices are multiplied in: f32, or bf16 where the device has it.
    #[arg(long, default_value = "f32")]
    precision: String,
    /// MB that weights and a pass may take together; 0: no limit.
    #[arg(long, default_value_t = 0, value_name = "MB")]
    memory: usize,
    /// Steps between evaluations; 0: only at the end.
    #[arg(long, default_value_t = 50)]
    evaluate_every: u64,
    /// Steps between checkpoints; 0: only at the end.
    #[arg(long, default_value_t = 50)]
    checkpoint_every: u64,
    /// Checkpoints that are kept.
    #[arg(long, default_value_t = 3)]
    keep_checkpoints: usize,
}

/// Arguments of `resume`.
#[derive(Debug, Args)]
pub struct ResumeArgs {
    /// Run directory.
    run: PathBuf,
    /// The model, if it is not where it was.
    #[arg(long)]
    model: Option<PathBuf>,
    /// The scored critiques, if they are not where they were.
    #[arg(long)]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ObjectiveArg {
    /// Refinement-oriented critique optimization: log-ratios become utilities.
    Rco,
    /// DPO on critiques that a judge preferred themselves.
    Dpco,
    /// DPO on the critiques of highest and lowest utility.
    CuDpo,
    /// Likelihood of the critique of highest utility.
    Sft,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NormalizerArg {
    /// From the utilities of the group's critiques.
    Estimated,
    /// Fitted: differences within the group count.
    Centred,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum TargetArg {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl TrainArgs {
    fn job(&self) -> Job {
        let adapter = AdapterOptions {
            rank: self.lora,
            alpha: self.alpha.unwrap_or(2.0 * self.lora as f64),
            targets: self.targets.iter().map(|target| Target::ALL[*target as usize]).collect(),
            dropout: self.dropout,
            activated: !self.whole_text,
        };
        let options = JobOptions {
            objective: match self.objective {
                ObjectiveArg::Rco => ObjectiveName::Rco,
                ObjectiveArg::Dpco => ObjectiveName::Dpco,
                ObjectiveArg::CuDpo => ObjectiveName::CuDpo,
                ObjectiveArg::Sft => ObjectiveName::Sft,
            },
            normalizer: match self.normalizer {
                NormalizerArg::Estimated => Normalizer::Estimated,
                NormalizerArg::Centred => Normalizer::Centred,
            },
            train: TrainOptions {
                seed: self.seed,
                steps: self.steps.unwrap_or(0),
                groups_per_step: self.groups_per_step,
                learning_rate: self.learning_rate,
                warmup: self.warmup,
                beta: self.beta,
                evaluate_every: self.evaluate_every,
                checkpoint_every: self.checkpoint_every,
                keep_checkpoints: self.keep_checkpoints,
                ..TrainOptions::default()
            },
            epochs: self.epochs,
            optimizer: OptimizerOptions {
                beta_2: self.beta2,
                weight_decay: self.weight_decay,
                max_norm: if self.max_norm == 0.0 { f64::INFINITY } else { self.max_norm },
                ..OptimizerOptions::default()
            },
            adapter: (!self.full).then_some(adapter),
            device: self.device.clone(),
            precision: self.precision.clone(),
            held_out: self.held_out,
            max_tokens: self.max_tokens,
            keep_flat: self.keep_flat,
            memory_mb: self.memory,
        };
        Job {
            run: self.run.clone(),
            model: self.model.clone(),
            data: self.data.clone(),
            init: self.init.clone(),
            options,
        }
    }
}

/// Begins a run, or goes on with it.
pub fn train(args: &TrainArgs) -> Result<ExitCode> {
    run(&args.job())
}

/// Goes on with a run.
pub fn resume(args: ResumeArgs) -> Result<ExitCode> {
    run(&Job::of_run(&args.run, args.model, args.data)?)
}

fn run(job: &Job) -> Result<ExitCode> {
    let stop = signal::install();
    let mut shown = Shown::default();
    let finished = job.run(stop, &mut |event| {
        shown.show(&event);
        // The loop asks by itself, and ends with a checkpoint; before it there is nothing to keep.
        let early = !matches!(event, JobEvent::Train(_));
        if early && stop.load(Ordering::Relaxed) { Break(()) } else { Continue(()) }
    });
    drop(shown);
    let finished = match finished {
        Err(critic_trainer::Error::Cancelled) => {
            eprintln!("stopped before the first step; go on with: critic-train resume {}", job.run.display());
            return Ok(ExitCode::from(signal::INTERRUPTED));
        }
        other => other?,
    };
    let Finished { outcome, step, evaluation } = &finished;
    if *outcome == Outcome::Stopped {
        eprintln!("stopped after step {step}; go on with: critic-train resume {}", job.run.display());
        return Ok(ExitCode::from(signal::INTERRUPTED));
    }
    match evaluation {
        Some(found) => eprintln!("{step} steps; held out: {}", of_evaluation(found)),
        None => eprintln!("{step} steps; nothing was held out, so the threshold is 0 and not calibrated"),
    }
    eprintln!("report: {}", job.run.join("report.html").display());
    let result = if job.options.adapter.is_some() { "adapter" } else { "weights.safetensors" };
    println!("{}", job.run.join(result).display());
    Ok(ExitCode::SUCCESS)
}

/// The phase that is shown.
#[derive(Default)]
struct Shown {
    phase: Option<Phase>,
    steps: u64,
}

impl Shown {
    fn show(&mut self, event: &JobEvent) {
        match event {
            JobEvent::Groups { training, held_out, too_long, flat } => {
                eprintln!("{training} drafts to train on, {held_out} held out");
                if *flat > 0 {
                    eprintln!("{flat} left out: their critiques are all worth the same");
                }
                if let [(id, tokens), ..] = too_long {
                    eprintln!(
                        "{} left out: they are too long for --max-tokens, {id} for one has {tokens} tokens",
                        too_long.len()
                    );
                }
            }
            JobEvent::Reference(done, total) => {
                let phase = self.phase.get_or_insert_with(|| Phase::new("reference", "drafts", 0, *total as u64));
                phase.set(*done as u64, "");
            }
            JobEvent::Damaged(error) => eprintln!("a checkpoint is passed over: {error}"),
            JobEvent::Begin(step, steps) => {
                self.steps = *steps;
                if *step > 0 {
                    eprintln!("going on after step {step}");
                }
                self.phase = Some(Phase::new("training", "steps", *step, *steps));
            }
            JobEvent::Train(event) => {
                let Some(phase) = &mut self.phase else { return };
                match event {
                    Event::Step(metrics) => phase.set(metrics.step, &of_step(metrics)),
                    Event::HeldOut(found) => {
                        phase.say(&format!("step {}, held out: {}", found.step, of_evaluation(found)))
                    }
                    Event::Checkpoint(_) => {}
                }
            }
        }
    }
}

fn of_step(step: &StepMetrics) -> String {
    format!(
        "loss {:.4}  residual {:.3}  KL {:.3}  {:.0} tokens/s  {} a step",
        step.loss,
        step.residual,
        step.kl,
        step.tokens as f64 / step.seconds.max(1e-9),
        if step.seconds < 10.0 { format!("{:.2} s", step.seconds) } else { duration(step.seconds) }
    )
}

fn of_evaluation(found: &EvaluationMetrics) -> String {
    let rank = found.rank_within.map_or_else(|| "none".to_owned(), |rank| format!("{rank:.2}"));
    format!(
        "loss {:.4}  KL {:.3}  CU {:.3} (reference {:.3}, best by advantage {:.3}, acting above {:.3}: {:.3})  rank \
         correlation {rank}",
        found.loss,
        found.kl,
        found.mean_cu,
        found.reference_cu,
        found.best_cu,
        found.threshold,
        found.threshold_utility
    )
}

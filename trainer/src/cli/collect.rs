//! `critic-train problems` and `collect`

use std::ops::ControlFlow::Continue;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::{Args, ValueEnum};
use critic_trainer::collect::{Author, Cast, CollectOptions, CritiqueJudge, Filter, Stop, collect};
use critic_trainer::tasks::{Part, Task, write_problems};
use critic_trainer::{Error, Result};

use super::authors::{AuthorArgs, ProblemArgs};
use super::progress::Phase;
use super::signal;

/// Arguments of `problems`.
#[derive(Debug, Args)]
pub struct ProblemsArgs {
    /// dialog, summarization, qa, math, code or steps.
    task: String,
    /// How many.
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Key of everything that is drawn.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Which templates.
    #[arg(long, value_enum, default_value = "train")]
    part: PartArg,
    /// The file to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PartArg {
    Train,
    Validation,
    Test,
}

/// `critic-train problems`
pub fn problems(args: &ProblemsArgs) -> Result<ExitCode> {
    let task = Task::parse(&args.task).ok_or_else(|| {
        Error::Invalid(format!(
            "unknown task {:?}, expected one of {}",
            args.task,
            Task::ALL.map(Task::name).join(", ")
        ))
    })?;
    let part = match args.part {
        PartArg::Train => Part::Train,
        PartArg::Validation => Part::Validation,
        PartArg::Test => Part::Test,
    };
    let all: Vec<_> = (0..args.count).map(|index| task.generate(args.seed, index, part)).collect();
    write_problems(&args.output, &all)?;
    println!("{}", args.output.display());
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `collect`.
#[derive(Debug, Args)]
pub struct CollectArgs {
    #[command(flatten)]
    problems: ProblemArgs,
    /// Folder of the collection; one that holds it already is gone on with.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Writes drafts and refinements: a model file, or URL#MODEL.
    #[arg(long)]
    actor: String,
    /// Writes critiques: a model file, MODEL+ADAPTER, or URL#MODEL [default: the actor].
    #[arg(long)]
    critic: Option<String>,
    /// Prefers, where no verifier does.
    #[arg(long)]
    judge: Option<String>,
    #[command(flatten)]
    authors: AuthorArgs,
    /// N: critiques of each draft.
    #[arg(long, default_value_t = 4)]
    critiques: usize,
    /// M: refinements of each critique.
    #[arg(long, default_value_t = 5)]
    refinements: usize,
    /// Temperature of all texts but judgements.
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// Most tokens of each text.
    #[arg(long, default_value_t = 1024)]
    max_tokens: usize,
    /// Key of everything that is drawn.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Problems that are worked on together.
    #[arg(long, default_value_t = 32)]
    problems_per_batch: usize,
    /// Has the judge compare critiques, too, for DPCO.
    #[arg(long, requires = "judge")]
    judge_critiques: bool,
    /// Keeps groups whose critiques all have the same utility.
    #[arg(long)]
    keep_flat: bool,
}

/// `critic-train collect`
pub fn run(args: &CollectArgs) -> Result<ExitCode> {
    let stop = signal::install();
    let problems = args.problems.read()?;
    let verifier = args.problems.verifier(&problems)?;
    ProblemArgs::require_judge(&verifier, &problems, args.judge.is_some())?;
    let critic = args.critic.as_ref().unwrap_or(&args.actor);
    let prompts = args.authors.prompts(critic)?;
    let waiting: Stop = Arc::new(|| stop.load(Ordering::Relaxed));
    let open = |spec: &String| args.authors.open(spec, &prompts, &waiting);
    let actor = open(&args.actor)?;
    let critic: Option<Box<dyn Author>> = args.critic.as_ref().map(open).transpose()?;
    let judge = args.judge.as_ref().map(open).transpose()?;
    let cast = Cast {
        actor: &*actor,
        critic: critic.as_deref().unwrap_or(&*actor),
        judge: judge.as_deref(),
        verifier: &verifier,
        keep: &prompts.keep,
    };
    let options = CollectOptions {
        seed: args.seed,
        critiques: args.critiques,
        refinements: args.refinements,
        draft_temperature: args.temperature,
        critique_temperature: args.temperature,
        refinement_temperature: args.temperature,
        max_tokens: args.max_tokens,
        problems_per_batch: args.problems_per_batch,
        judge_retries: 2,
        critique_judge: if args.judge_critiques { CritiqueJudge::Judge } else { CritiqueJudge::Nobody },
    };
    let mut phase = Phase::new("collecting", "problems", 0, problems.len() as u64);
    let filter = Filter { keep_flat: args.keep_flat };
    let outcome = collect(&args.out, &problems, cast, &options, filter, stop, &mut |progress| {
        let rate = progress.tokens as f64 / progress.seconds.max(1e-9);
        let cu = progress.mean_cu.map_or(String::new(), |cu| format!("  CU {cu:.3}"));
        let failed = if progress.failed > 0 { format!("  {} failed", progress.failed) } else { String::new() };
        let words = format!("{} texts  {rate:.0} tokens/s{cu}{failed}", progress.items);
        phase.set(progress.problems as u64, &words);
        Continue(())
    });
    drop(phase);
    let summary = outcome?;
    let groups = summary.groups;
    eprintln!(
        "{} groups kept, {} flat, {} with fewer than two critiques, {} without a draft; {:.0} tokens/s",
        groups.kept,
        groups.flat,
        groups.few,
        groups.no_draft,
        summary.progress.tokens as f64 / summary.progress.seconds.max(1e-9)
    );
    for (failure, count) in &summary.failures {
        eprintln!("failed {count} times: {failure}");
    }
    println!("{}", args.out.join("scored.jsonl").display());
    Ok(ExitCode::SUCCESS)
}

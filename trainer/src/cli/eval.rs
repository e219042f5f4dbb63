//! `critic-train eval`

use std::ops::ControlFlow::Continue;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clap::Args;
use critic_trainer::collect::fixed::{Keep, Oracle};
use critic_trainer::collect::{Author, Stop};
use critic_trainer::data::DataFile;
use critic_trainer::eval::{Contender, Trial, TrialOptions, correlate, evaluate};
use critic_trainer::recipe::write_summary;
use critic_trainer::{Error, Result, files};

use super::authors::{AuthorArgs, ProblemArgs};
use super::progress::Phase;
use super::signal;

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    problems: ProblemArgs,
    /// Folder of the evaluation; one that was begun is gone on with.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Writes drafts and refinements: a model file, or URL#MODEL.
    #[arg(long)]
    actor: String,
    /// A critic, NAME=MODEL: a model file, MODEL+ADAPTER, or URL#MODEL; can be given several times. The first is
    /// what others are compared with; *keep* takes part in any case.
    #[arg(long = "critic", value_name = "NAME=MODEL", required = true)]
    critics: Vec<String>,
    /// Prefers, where no verifier does.
    #[arg(long)]
    judge: Option<String>,
    #[command(flatten)]
    authors: AuthorArgs,
    /// Scored critiques on which utility advantages are ranked.
    #[arg(long, value_name = "FILE")]
    scored: Option<PathBuf>,
    /// Temperatures of critiques and refinements.
    #[arg(long, value_delimiter = ',', default_value = "1,0")]
    temperatures: Vec<f32>,
    /// Critiques of each draft above temperature 0.
    #[arg(long, default_value_t = 4)]
    critiques: usize,
    /// Rounds of critique and refinement.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Most tokens of each text.
    #[arg(long, default_value_t = 1024)]
    max_tokens: usize,
    /// Key of everything that is drawn.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Problems that are worked on together.
    #[arg(long, default_value_t = 32)]
    problems_per_batch: usize,
}

/// `critic-train eval`
pub fn run(args: &EvalArgs) -> Result<ExitCode> {
    let stop = signal::install();
    let problems = args.problems.read()?;
    let verifier = args.problems.verifier(&problems)?;
    ProblemArgs::require_judge(&verifier, &problems, args.judge.is_some())?;
    let mut named = Vec::new();
    for critic in &args.critics {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        match critic.split_once('=').filter(|(name, _)| !name.is_empty() && name.chars().all(plain)) {
            Some((name, spec)) => named.push((name, spec)),
            None => {
                return Err(Error::Invalid(format!(
                    "--critic {critic}: expected NAME=MODEL, the name of letters and digits"
                )));
            }
        }
    }
    let prompts = args.authors.prompts(named[0].1)?;
    let waiting: Stop = Arc::new(|| stop.load(Ordering::Relaxed));
    let open = |spec: &str| args.authors.open(spec, &prompts, &waiting);
    let actor = open(&args.actor)?;
    let judge = args.judge.as_deref().map(open).transpose()?;
    let opened: Vec<(&str, Box<dyn Author>)> =
        named.iter().map(|(name, spec)| Ok((*name, open(spec)?))).collect::<Result<_>>()?;
    let (keep, oracle) = (Keep { keep: &prompts.keep }, Oracle { verifier: &verifier });
    let mut contenders = vec![Contender { name: "keep".into(), critic: &keep }];
    if problems.iter().all(|problem| problem.task == "steps") {
        contenders.push(Contender { name: "oracle".into(), critic: &oracle });
    }
    contenders.extend(opened.iter().map(|(name, critic)| Contender { name: (*name).to_owned(), critic: &**critic }));
    let written = args.out.join("written");
    let trial = Trial {
        actor: &*actor,
        judge: judge.as_deref(),
        verifier: &verifier,
        keep: &prompts.keep,
        folder: &written,
        stop,
    };
    let options = TrialOptions {
        seed: args.seed,
        temperatures: args.temperatures.clone(),
        critiques: args.critiques,
        rounds: args.rounds,
        max_tokens: args.max_tokens,
        problems_per_batch: args.problems_per_batch,
    };
    let mut phase = Phase::new("evaluating", "problems", 0, problems.len() as u64);
    let outcome = evaluate(trial, &problems, &contenders, &options, &mut |progress| {
        let rate = progress.tokens as f64 / progress.seconds.max(1e-9);
        let cu = progress.mean_cu.map_or(String::new(), |cu| format!("  CU {cu:.3}"));
        phase.set(progress.problems as u64, &format!("{} texts  {rate:.0} tokens/s{cu}", progress.items));
        Continue(())
    });
    drop(phase);
    let mut evaluation = outcome?;
    if let Some(scored) = &args.scored {
        let drafts: Vec<_> = DataFile::open(scored)?.collect::<Result<_>>()?;
        for contender in &contenders {
            if let Some((correlation, points)) = correlate(contender.critic, &drafts)? {
                evaluation.correlations.insert(contender.name.clone(), correlation);
                evaluation.points.insert(contender.name.clone(), points);
            }
        }
    }
    let json = serde_json::to_vec(&evaluation).expect("plain structs are JSON");
    files::write_bytes(&args.out.join("evaluation.json"), &json)?;
    write_summary(&args.out, "Evaluation", std::slice::from_ref(&evaluation), named[0].0)?;
    println!("{}", args.out.join("summary.md").display());
    Ok(ExitCode::SUCCESS)
}

//! `critic-train export`

use std::ops::ControlFlow::{Break, Continue};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use clap::{Args, ValueEnum};
use critic_import::Quant;
use critic_trainer::export::{
    ExportOptions, ExportProgress, export_adapter, export_adapter_gguf, export_model, export_model_gguf,
};
use critic_trainer::job::Job;
use critic_trainer::{Error, Result};

use super::progress::Phase;
use super::signal;

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Run directory.
    run: PathBuf,
    /// Model file to write: the model that was trained on, with the adapter beside its weights.
    #[arg(long, short, value_name = "OUT.critic", required_unless_present_any = ["adapter", "adapter_gguf"])]
    output: Option<PathBuf>,
    /// The same as GGUF too; an adapter that is not merged is not in it.
    #[arg(long, value_name = "OUT.gguf", requires = "output")]
    gguf: Option<PathBuf>,
    /// The adapter alone, for `critic --adapter`.
    #[arg(long, value_name = "OUT.critic")]
    adapter: Option<PathBuf>,
    /// The adapter alone, for llama.cpp's `--lora`.
    #[arg(long, value_name = "OUT.gguf")]
    adapter_gguf: Option<PathBuf>,
    /// How weights are stored.
    #[arg(long, value_enum, default_value = "keep")]
    quant: QuantArg,
    /// Adds the adapter to the weights: there is no reference then, and no utility advantage.
    #[arg(long)]
    merge: bool,
    /// Merges an activated adapter too, though that changes how prompt and draft are read.
    #[arg(long, requires = "merge")]
    force: bool,
    /// Drafts of the run's data over which activations are measured, so that quantization is exact
    /// where it matters; 0: it is not told.
    #[arg(long, default_value_t = 64)]
    calibrate: usize,
    /// Name of the model.
    #[arg(long)]
    name: Option<String>,
    /// The model, if it is not where it was.
    #[arg(long)]
    model: Option<PathBuf>,
    /// The scored critiques, if they are not where they were.
    #[arg(long)]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum QuantArg {
    /// As the model that was trained on has them.
    Keep,
    /// Four bits, embedding and output in eight.
    Q4,
    /// Eight bits.
    Q8,
    /// Half precision.
    F16,
}

/// Writes what was asked for, and says what it is.
pub fn run(args: &ExportArgs) -> Result<ExitCode> {
    let stop = signal::install();
    let job = Job::of_run(&args.run, args.model.clone(), args.data.clone())?;
    if let Some(output) = &args.output {
        let options = ExportOptions {
            quant: match args.quant {
                QuantArg::Keep => Quant::Keep,
                QuantArg::Q4 => Quant::Q4,
                QuantArg::Q8 => Quant::Q8,
                QuantArg::F16 => Quant::F16,
            },
            merge: args.merge,
            force: args.force,
            name: args.name.clone(),
            calibrate: args.calibrate,
        };
        let mut phase: Option<(bool, Phase)> = None;
        let report = export_model(&job, output, &options, &mut |progress| {
            let (writing, label, unit, done, total) = match progress {
                ExportProgress::Calibrate(done, total) => (false, "measuring", "drafts", done as u64, total as u64),
                ExportProgress::Write(done, total) => (true, "writing", "MB", done >> 20, total >> 20),
            };
            if phase.as_ref().is_none_or(|(shown, _)| *shown != writing) {
                phase = Some((writing, Phase::new(label, unit, 0, total)));
            }
            let (_, phase) = phase.as_mut().expect("just made");
            phase.set(done, "");
            if stop.load(Ordering::Relaxed) { Break(()) } else { Continue(()) }
        });
        drop(phase);
        let report = match report {
            Err(Error::Cancelled) => return Ok(ExitCode::from(signal::INTERRUPTED)),
            other => other?,
        };
        lost(&report.lost);
        written(output, report.written.bytes as u64);
        if let Some(gguf) = &args.gguf {
            let report = export_model_gguf(output, gguf)?;
            lost(&report.lost);
            written(gguf, report.bytes);
        }
    }
    if let Some(path) = &args.adapter {
        export_adapter(&job, path)?;
        written(path, std::fs::metadata(path).map_err(Error::io(path))?.len());
    }
    if let Some(path) = &args.adapter_gguf {
        let report = export_adapter_gguf(&job, path)?;
        lost(&report.lost);
        written(path, report.bytes);
    }
    Ok(ExitCode::SUCCESS)
}

fn written(path: &Path, bytes: u64) {
    println!("{} ({:.1} MB)", path.display(), bytes as f64 / 1e6);
}

fn lost(lost: &[String]) {
    lost.iter().for_each(|what| eprintln!("lost: {what}"));
}

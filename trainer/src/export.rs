//! From a finished run to a model file that the runtime runs, and to GGUF.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use critic::quant::Format;
use critic_import::{
    AdapterPart, ConvertOptions, ExportReport, LoraAdapter, Quant, Report, convert, export_gguf, export_lora_gguf,
};

use crate::calibrate::activation_squares;
use crate::device;
use crate::error::{Error, Result};
use crate::files;
use crate::job::{Job, Trained};
use crate::model::load;

/// How a model file is made.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// How weights are stored.
    pub quant: Quant,
    /// Whether the adapter is added to the weights. Beside them it costs little time and keeps the
    /// reference, without which there is no utility advantage.
    pub merge: bool,
    /// Whether an activated adapter may be merged.
    pub force: bool,
    /// Name of the model, instead of the base's.
    pub name: Option<String>,
    /// Groups of the run's data over which activations are measured, for quantization to heed; 0: none.
    pub calibrate: usize,
}

/// Part of an export that takes time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportProgress {
    /// Groups over which activations were measured, of how many.
    Calibrate(usize, usize),
    /// Bytes written, of how many.
    Write(u64, u64),
}

/// Writes what the run of `job` trained, with the model that it was trained on, to `out`, a model file.
pub fn export_model(
    job: &Job,
    out: &Path,
    options: &ExportOptions,
    progress: &mut dyn FnMut(ExportProgress) -> ControlFlow<()>,
) -> Result<Report> {
    let trained = Trained::read(&job.run)?;
    let quantizes = matches!(options.quant, Quant::Q4 | Quant::Q8);
    let importance = match options.calibrate {
        0 => BTreeMap::new(),
        // Merging quantizes too, where the base is quantized.
        _ if !quantizes && !options.merge => BTreeMap::new(),
        groups => importance(job, &trained, groups, progress)?,
    };
    let mut convert_options =
        ConvertOptions { quant: options.quant, name: options.name.clone(), importance, ..ConvertOptions::default() };
    match trained {
        Trained::Adapter(lora) => {
            let part = AdapterPart { adapter: Arc::new(lora), merge: options.merge, force: options.force };
            convert_options.adapter = Some(part);
        }
        Trained::Weights(weights) => convert_options.weights = weights,
    }
    Ok(convert(&job.model, out, &convert_options, &mut |done, total| progress(ExportProgress::Write(done, total)))?)
}

fn importance(
    job: &Job,
    trained: &Trained,
    groups: usize,
    progress: &mut dyn FnMut(ExportProgress) -> ControlFlow<()>,
) -> Result<BTreeMap<String, Vec<f32>>> {
    let model = load(&job.model)?;
    let policy = trained.policy(&model, &device::open(&job.options.device)?)?;
    // Training data: what is held out says how good the result is.
    let mut data = job.groups(&model, &mut |_| ControlFlow::Continue(()))?.training;
    data.truncate(groups);
    let total = data.len();
    let mut cancelled = false;
    let found = activation_squares(&policy, &data, &mut |done| {
        cancelled |= progress(ExportProgress::Calibrate(done, total)).is_break();
        !cancelled
    });
    if cancelled { Err(Error::Cancelled) } else { Ok(found) }
}

/// Writes the adapter of the run of `job` to `out`, an adapter file that the runtime takes beside
/// its model.
pub fn export_adapter(job: &Job, out: &Path) -> Result<()> {
    files::write_bytes(out, &adapter(job)?.to_file(Format::F16)?)
}

/// Writes the adapter of the run of `job` to `out`, as llama.cpp takes it beside its model.
pub fn export_adapter_gguf(job: &Job, out: &Path) -> Result<ExportReport> {
    let adapter = adapter(job)?;
    Ok(export_lora_gguf(&adapter, load(&job.model)?.config(), out)?)
}

/// Writes the model file `model` to `out` as GGUF. An adapter that stands beside its weights is
/// not in it.
pub fn export_model_gguf(model: &Path, out: &Path) -> Result<ExportReport> {
    Ok(export_gguf(&critic::ModelFile::open(model)?, out)?)
}

fn adapter(job: &Job) -> Result<LoraAdapter> {
    match Trained::read(&job.run)? {
        Trained::Adapter(lora) => Ok(lora),
        Trained::Weights(_) => Err(Error::invalid("the run trained the model itself: there is no adapter")),
    }
}

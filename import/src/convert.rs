//! A foreign model, or one of ours, to a model file: plan, then write, one tensor at a time.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use critic::file::{Config, Dtype, ModelFile, PlannedTensor, Prompts, write_model};
use critic::quant::{BLOCK, Format, TILE};
use critic::tokenizer::{TokenKind, Vocabulary};
use serde::Serialize;

use crate::adapter::LoraAdapter;
use crate::chat::{self, SpecialTokens};
use crate::error::{Error, Result};
use crate::names::Shape;
use crate::source::{Data, Source, SourceTensor};
use crate::{gguf, hf, model, output};

/// Metadata key under which the Jinja source of the chat template is kept, for export.
pub(crate) const TEMPLATE_SOURCE: &str = "critic.chat_template_source";
const TEMPLATE: &str = "critic.chat";
const GENERATOR: &str = concat!("critic ", env!("CARGO_PKG_VERSION"));

/// How weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quant {
    /// As in the source, or in the nearest larger format.
    #[default]
    Keep,
    /// Every matrix in eight bits.
    Q8,
    /// Linear layers in four bits with a minimum, embedding and output in eight: errors there
    /// reach every token undamped, the embedding is read one row a token, and the output once
    /// a pass.
    Q4,
    /// Every matrix in half precision.
    F16,
}

/// What [`convert`] is asked for.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// How weights are stored. Matrices that already have as few bits, or fewer, keep their
    /// codes: requantizing them would only lose.
    pub quant: Quant,
    /// Name of the model, instead of the source's own.
    pub name: Option<String>,
    /// What the critic is told, instead of the source's own prompts.
    pub prompts: Option<Prompts>,
    /// An adapter, instead of the source's own.
    pub adapter: Option<AdapterPart>,
    /// Weights to take in place of the source's, row by row, by our names: those of a model
    /// that was trained whole.
    pub weights: BTreeMap<String, Vec<f32>>,
    /// For matrices by our names, E\[x²\] of the activations that each column is multiplied
    /// with: where it is known, quantization makes the errors small that are felt.
    pub importance: BTreeMap<String, Vec<f32>>,
}

/// An adapter's part in a conversion.
#[derive(Clone, Debug)]
pub struct AdapterPart {
    /// The adapter.
    pub adapter: Arc<LoraAdapter>,
    /// Whether it is added to the weights, where nothing tells it from them, or stands beside
    /// them. Without it beside them there is no reference, and so no utility advantage.
    pub merge: bool,
    /// Whether an activated adapter may be merged: it then also acts on what it was trained to
    /// find read by the base.
    pub force: bool,
}

impl AdapterPart {
    fn check(&self, config: &Config) -> Result<()> {
        self.adapter.validate()?;
        self.adapter.fits(config)?;
        match self.merge && !self.force && !self.adapter.invocation_tokens.is_empty() {
            false => Ok(()),
            true => Err(Error::unsupported(
                "adapter",
                "it is activated: it was trained on a prefix that the base reads, and merging it changes how that is \
                 read; keep it beside the weights, or force it",
            )),
        }
    }
}

/// What [`convert`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The source.
    pub read: Read,
    /// The model file.
    pub written: Written,
    /// What is lost or approximated: one sentence each.
    pub lost: Vec<String>,
    /// What became of the chat template.
    pub template: TemplateState,
}

/// The source of a conversion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Read {
    /// `gguf`, `hugging face` or `critic`.
    pub format: String,
    /// Tensors of the model that were taken.
    pub tensors: usize,
    /// Bytes of the weight files.
    pub bytes: usize,
}

/// The result of a conversion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Written {
    /// Bytes of the file.
    pub bytes: usize,
    /// Matrices and vectors of the model by format.
    pub formats: BTreeMap<String, usize>,
}

/// What became of a chat template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TemplateState {
    /// The source has none.
    None,
    /// Compiled, and equal to the source in every probe.
    Compiled,
    /// Taken over from a model file.
    Kept,
    /// Not compiled, for this reason: the model has no chat template.
    Refused(String),
}

/// Reads the model at `source` (a GGUF file, a Hugging Face directory, or a model file) and
/// writes it to `out`, which is replaced in one step, or left as it was on failure.
/// `progress` is told the bytes written so far and in all; `Break` cancels.
pub fn convert(
    source: &Path,
    out: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Report> {
    let mut source = open(source)?;
    let mut lost = std::mem::take(&mut source.lost);
    replace_weights(&mut source.tensors, &options.weights)?;
    let mut beside = None;
    if let Some(part) = &options.adapter {
        part.check(&source.config)?;
        // One adapter a file.
        source.extra.retain(|(tensor, ..)| !tensor.name.starts_with("adapter."));
        source.metadata.retain(|(key, _)| key != "critic.adapter");
        if part.merge {
            for tensor in source.tensors.iter_mut().filter(|tensor| part.adapter.pairs.contains_key(&tensor.name)) {
                tensor.merged = Some(Arc::clone(&part.adapter));
            }
        } else {
            // Halves of pairs in f32 only where the model's own matrices are.
            let f32s = source.tensors.iter().any(|tensor| {
                part.adapter.pairs.contains_key(&tensor.name) && format_of(tensor, options.quant) == Format::F32
            });
            beside = Some(part.adapter.plan(if f32s { Format::F32 } else { Format::F16 })?);
        }
    }
    let formats: Vec<Format> = source.tensors.iter().map(|tensor| format_of(tensor, options.quant)).collect();
    check_importance(&source.tensors, &options.importance)?;
    lost.extend(approximations(&source.tensors, &formats, options.quant));
    let tokenizer = source.vocabulary.build()?;
    if tokenizer.spec.vocab_size != source.config.vocab_size {
        let why =
            format!("{} tokens, but the embedding has {} rows", tokenizer.spec.vocab_size, source.config.vocab_size);
        return Err(Error::corrupt("tokenizer", why));
    }

    let mut metadata: BTreeMap<String, String> = std::mem::take(&mut source.metadata).into_iter().collect();
    let template = compile_template(&source, &mut metadata, &mut lost)?;
    let mut provenance = source.provenance.clone();
    provenance.generator = GENERATOR.to_owned();
    if let Some(name) = &options.name {
        provenance.name.clone_from(name);
    }
    if let Some(prompts) = &options.prompts {
        prompts.validate(tokenizer.spec.vocab_size)?;
        metadata.insert("critic.prompts".into(), json(prompts));
    }
    let beside = beside.map_or_else(Vec::new, |planned| {
        metadata.extend([planned.metadata]);
        planned.tensors
    });
    metadata.insert("critic.config".into(), json(&source.config));
    metadata.insert("critic.tokenizer".into(), json(&tokenizer.spec));
    metadata.insert("critic.provenance".into(), json(&provenance));

    let mut plan = Vec::new();
    for (tensor, &format) in source.tensors.iter().zip(&formats) {
        plan.push(match tensor.shape {
            Shape::Matrix { rows, columns } => PlannedTensor::matrix(&tensor.name, format, rows, columns)?,
            Shape::Vector { len } => PlannedTensor::table(&tensor.name, Dtype::F32, len),
        });
    }
    let weights = plan.len();
    plan.extend(beside.iter().map(|(plan, _)| plan.clone()));
    let extra = plan.len();
    plan.extend(source.extra.iter().map(|(plan, ..)| plan.clone()));
    let tables = plan.len();
    plan.extend(tokenizer.tables.iter().map(|(plan, _)| plan.clone()));

    let total = plan.iter().map(|tensor| tensor.bytes() as u64).sum();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let mut done = 0;
    let importance = |name: &str| options.importance.get(name).map(Vec::as_slice);
    let write = |writer: &mut std::io::BufWriter<&std::fs::File>| {
        write_model(writer, &metadata, &plan, |index, planned| {
            if progress(done, total).is_break() {
                return Err(critic::Error::Cancelled);
            }
            done += planned.bytes() as u64;
            if index >= tables {
                return Ok(tokenizer.tables[index - tables].1.clone());
            }
            if index >= extra {
                let (_, bytes, range) = &source.extra[index - extra];
                return Ok(bytes[range.clone()].to_vec());
            }
            if index >= weights {
                return Ok(beside[index - weights].1.clone());
            }
            let tensor = &source.tensors[index];
            match tensor.shape {
                Shape::Matrix { .. } => tensor.matrix(formats[index], importance(&tensor.name), threads),
                Shape::Vector { .. } => Ok(tensor.vector().iter().flat_map(|value| value.to_le_bytes()).collect()),
            }
        })
        .map_err(|error| match error {
            critic::Error::Io { source, .. } => Error::io(out)(source),
            other => other.into(),
        })
    };
    let mut bytes = 0;
    output::write_whole(out, write, |path| {
        // What the runtime would refuse does not get its name.
        let file = ModelFile::open(path)?;
        file.config()?;
        critic::Model::from_file(ModelFile::open(path)?)?;
        bytes = file.len();
        Ok(())
    })?;
    // The file has its name by now: it is too late to cancel.
    _ = progress(total, total);

    let mut counts = BTreeMap::new();
    for format in formats {
        *counts.entry(format.name().to_owned()).or_insert(0) += 1;
    }
    Ok(Report {
        read: Read { format: source.format.to_owned(), tensors: source.tensors.len(), bytes: source.bytes },
        written: Written { bytes, formats: counts },
        lost,
        template,
    })
}

/// Tells the formats apart by what they begin with.
fn open(path: &Path) -> Result<Source> {
    let mut magic = [0; 4];
    if path.is_dir() {
        return hf::open(path);
    }
    let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == gguf::MAGIC => gguf::open(path),
        _ => model::open(path),
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs are JSON")
}

/// Bits that a weight takes in the file, scales included, times the weights of a record.
fn bits(format: Format) -> usize {
    format.record_bytes() * 8 * BLOCK / (TILE * format.record_columns())
}

/// The format in which a tensor is stored.
fn format_of(tensor: &SourceTensor, quant: Quant) -> Format {
    let Shape::Matrix { columns, .. } = tensor.shape else { return Format::F32 };
    let native = tensor.kind.format();
    let wanted = match quant {
        Quant::Keep => native,
        Quant::F16 => Format::F16,
        Quant::Q8 => Format::Q8_0,
        Quant::Q4 if matches!(tensor.name.as_str(), "embedding" | "output") => Format::Q8_0,
        Quant::Q4 => Format::Q4_1,
    };
    if tensor.merged.is_some() && native.is_quantized() {
        // Its codes are no more: what is written anew gets a format that floats are quantized to.
        if bits(wanted) <= bits(Format::Q4_1) { Format::Q4_1 } else { Format::Q8_0 }
    } else if native.is_quantized() && bits(native) <= bits(wanted) {
        native
    } else if wanted.is_quantized() && !columns.is_multiple_of(BLOCK) {
        Format::F16
    } else {
        wanted
    }
}

/// Puts `weights` in place of the source's own.
fn replace_weights(tensors: &mut [SourceTensor], weights: &BTreeMap<String, Vec<f32>>) -> Result<()> {
    for (name, values) in weights {
        let Some(tensor) = tensors.iter_mut().find(|tensor| tensor.name == *name) else {
            return Err(Error::corrupt("weights", format!("the model has no {name}")));
        };
        let (rows, columns) = tensor.shape.dimensions();
        if values.len() != rows * columns {
            let why = format!("{name} has {} values, expected {rows} × {columns}", values.len());
            return Err(Error::corrupt("weights", why));
        }
        tensor.kind = gguf::GgmlType::F32;
        tensor.data = Data::Values(values.clone());
        (tensor.interleaved, tensor.plus_one) = (None, false);
    }
    Ok(())
}

/// Whether every weight is for a column of a matrix, and can be one.
fn check_importance(tensors: &[SourceTensor], importance: &BTreeMap<String, Vec<f32>>) -> Result<()> {
    for (name, values) in importance {
        let columns = tensors.iter().find(|tensor| tensor.name == *name).map(|tensor| tensor.shape.dimensions().1);
        if columns != Some(values.len()) {
            let why =
                format!("{name}: {} values, expected one for each of {} columns", values.len(), columns.unwrap_or(0));
            return Err(Error::corrupt("importance", why));
        }
        if let Some(value) = values.iter().find(|value| !(value.is_finite() && **value >= 0.0)) {
            return Err(Error::corrupt("importance", format!("{name}: {value}, expected a mean of squares")));
        }
    }
    Ok(())
}

/// One sentence for each kind of change that weights undergo.
fn approximations(tensors: &[SourceTensor], formats: &[Format], quant: Quant) -> Vec<String> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for (tensor, &format) in tensors.iter().zip(formats) {
        let Shape::Matrix { columns, .. } = tensor.shape else { continue };
        let (from, to) = (tensor.kind.name(), format.name());
        let why = if format == tensor.kind.format() {
            match tensor.kind {
                gguf::GgmlType::Q6_K => format!(
                    "{from} matrices became {to}: each weight is within half a step of its new block, and the rounding of the block's scale to f16"
                ),
                kind if !kind.is_exact() => format!(
                    "{from} matrices became {to}: codes are exact, each scale and minimum is within 2^-11 of itself"
                ),
                kind if format.is_quantized() && quant == Quant::F16
                    || kind == gguf::GgmlType::Q4_0 && quant == Quant::Q8 =>
                {
                    format!("{from} matrices keep their codes: a larger format would hold no more")
                }
                _ => continue,
            }
        } else if format.is_quantized() {
            format!("{from} matrices were quantized to {to}")
        } else if !columns.is_multiple_of(BLOCK) && quant != Quant::F16 {
            format!("{from} matrices became {to}, because their rows are no multiple of {BLOCK} weights")
        } else {
            format!("{from} matrices were rounded to {to}")
        };
        *kinds.entry(why).or_default() += 1;
    }
    kinds.into_iter().map(|(why, count)| format!("{count} {why}")).collect()
}

/// Compiles the source's template and puts it, and its text, into the metadata.
fn compile_template(
    source: &Source,
    metadata: &mut BTreeMap<String, String>,
    lost: &mut Vec<String>,
) -> Result<TemplateState> {
    let Some(text) = &source.chat_template else {
        return Ok(if metadata.contains_key(TEMPLATE) { TemplateState::Kept } else { TemplateState::None });
    };
    metadata.insert(TEMPLATE_SOURCE.into(), text.clone());
    match chat::compile(text, &special_tokens(&source.vocabulary)) {
        Ok(compiled) => {
            metadata.insert(TEMPLATE.into(), json(&compiled.template));
            lost.extend(compiled.notes.iter().map(|note| format!("chat template: {note}")));
            Ok(TemplateState::Compiled)
        }
        Err(Error::Template(why)) => {
            lost.push(format!("the chat template cannot be compiled and is left out: {why}"));
            Ok(TemplateState::Refused(why))
        }
        Err(other) => Err(other),
    }
}

/// What a template can name of a vocabulary.
fn special_tokens(vocabulary: &Vocabulary) -> SpecialTokens {
    let text = |id: u32| vocabulary.pieces.get(id as usize).map(|piece| String::from_utf8_lossy(piece).into_owned());
    let controls = (0..).zip(&vocabulary.kinds).filter(|(_, kind)| **kind == TokenKind::Control);
    SpecialTokens {
        controls: controls.filter_map(|(id, _)| Some((text(id)?, id))).collect(),
        bos: vocabulary.spec.bos.and_then(text),
        eos: vocabulary.spec.ends.first().copied().and_then(text),
    }
}

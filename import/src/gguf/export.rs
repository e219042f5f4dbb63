//! A model file of ours to GGUF, so that it runs in llama.cpp and what is built on it.

use std::io;
use std::path::Path;

use critic::file::ModelFile;
use critic::map::Slice;
use critic::quant::{BLOCK, Format, Matrix};
use critic::tokenizer::Tokenizer;
use half::{bf16, f16};
use serde::Serialize;

use super::blocks::{GgmlType, encode_block};
use super::write::{Metadata, PlannedGgml, write_gguf};
use super::{config, tokenizer};
use crate::convert::TEMPLATE_SOURCE;
use crate::error::{Error, Result};
use crate::names::{Shape, gguf_name, is_rotary, layout, rotated_row};
use crate::output::write_whole;

/// What [`export_gguf`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// What the file does not hold, or llama.cpp does not heed: one sentence each.
    pub lost: Vec<String>,
}

/// A tensor of ours on its way out.
enum Content {
    Matrix(Matrix),
    Vector(Slice<f32>),
}

struct Outgoing {
    plan: PlannedGgml,
    content: Content,
    /// Width of a head, where llama.cpp wants its rows interleaved.
    interleave: Option<usize>,
}

/// Writes `file` as GGUF to `path`, which is replaced in one step. Weights keep their codes;
/// importing the file again gives the same tensors.
pub fn export_gguf(file: &ModelFile, path: &Path) -> Result<ExportReport> {
    let config = file.config()?;
    let mut lost = Vec::new();
    let mut architecture_keys = Metadata::default();
    let architecture = config::write(&config, &mut architecture_keys, &mut lost)?;
    let mut outgoing = Vec::new();
    for slot in layout(&config) {
        if !slot.required && !file.contains(&slot.name) {
            continue;
        }
        let name = gguf_name(&slot.name).expect("every slot has a name in GGUF");
        let (kind, dimensions, content) = match slot.shape {
            Shape::Matrix { rows, columns } => {
                let matrix = file.matrix(&slot.name, rows, columns)?;
                (matrix.format().into(), vec![columns, rows], Content::Matrix(matrix))
            }
            Shape::Vector { len } => (GgmlType::F32, vec![len], Content::Vector(file.vector(&slot.name, len)?)),
        };
        let interleave = (architecture == "llama" && is_rotary(&slot.name)).then_some(config.head_dim);
        outgoing.push(Outgoing { plan: PlannedGgml { name, kind, dimensions }, content, interleave });
    }
    if file.adapter()?.is_some() {
        lost.push("the adapter is left out: GGUF has no place for one that is activated by tokens".to_owned());
    }
    let plans: Vec<PlannedGgml> = outgoing.iter().map(|tensor| tensor.plan.clone()).collect();

    let provenance = file.provenance()?;
    let mut metadata = Metadata::default();
    metadata.string("general.architecture", architecture);
    metadata.string("general.type", "model");
    metadata.string("general.name", &provenance.name);
    if !provenance.licence.is_empty() {
        metadata.string("general.license", &provenance.licence);
    }
    metadata.u32("general.file_type", file_type(&plans));
    metadata.u32("general.quantization_version", 2);
    metadata.append(architecture_keys);
    tokenizer::write(&crate::tokenizer::to_gguf(&Tokenizer::open(file)?.vocabulary())?, &mut metadata);
    if let Some(template) = file.metadata().get(TEMPLATE_SOURCE) {
        metadata.string("tokenizer.chat_template", template);
    } else if file.chat()?.is_some() {
        lost.push("the chat template is left out: the model file does not have its Jinja source".to_owned());
    }
    if let Some(prompts) = file.metadata().get("critic.prompts") {
        metadata.string("critic.prompts", prompts);
    }

    let mut bytes = 0;
    let write = |writer: &mut io::BufWriter<&std::fs::File>| {
        write_gguf(writer, &metadata, &plans, |index, _| Ok(outgoing[index].bytes())).map_err(Error::io(path))
    };
    write_whole(path, write, |written| {
        bytes = std::fs::metadata(written).map_err(Error::io(path))?.len();
        Ok(())
    })?;
    Ok(ExportReport { tensors: plans.len(), bytes, lost })
}

impl Outgoing {
    /// The tensor's bytes, row by row as ggml has them.
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.plan.bytes());
        let source = |row: usize| self.interleave.map_or(row, |head_dim| rotated_row(row, head_dim));
        match &self.content {
            Content::Vector(vector) => {
                (0..vector.len()).for_each(|at| out.extend(vector[source(at)].to_le_bytes()));
            }
            Content::Matrix(matrix) => (0..matrix.rows()).for_each(|row| push_row(matrix, source(row), &mut out)),
        }
        out
    }
}

fn push_row(matrix: &Matrix, row: usize, out: &mut Vec<u8>) {
    let format = matrix.format();
    if format.is_quantized() {
        (0..matrix.columns() / BLOCK).for_each(|block| encode_block(format, &matrix.block(row, block), out));
        return;
    }
    let mut values = vec![0.0; matrix.columns()];
    matrix.dequantize_row(row, &mut values);
    // Back to the format that they came from: exact.
    match format {
        Format::F16 => out.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
        Format::BF16 => out.extend(values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes())),
        _ => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
}

/// llama.cpp's number for the format that most bytes are in; for display alone.
fn file_type(tensors: &[PlannedGgml]) -> u32 {
    let number = |format: Format| match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q4_0 => 2,
        Format::Q4_1 => 3,
        Format::Q8_0 => 7,
        Format::Q5_0 => 8,
        Format::Q5_1 => 9,
        Format::BF16 => 32,
    };
    let weights = |format: Format| -> usize {
        let same = tensors.iter().filter(|tensor| tensor.kind == format.into());
        same.map(|tensor| tensor.dimensions.iter().product::<usize>()).sum()
    };
    Format::ALL.into_iter().max_by_key(|&format| weights(format)).map_or(0, number)
}

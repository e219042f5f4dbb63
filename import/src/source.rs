//! A model as it was found: where each of our tensors comes from, whatever the format.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use critic::file::{Config, PlannedTensor, Provenance};
use critic::map::Bytes;
use critic::quant::{Format, Matrix, MatrixBuilder, TILE};
use sha2::{Digest, Sha256};

use crate::adapter::LoraAdapter;
use crate::error::{Error, Result};
use crate::gguf::GgmlType;
use crate::gguf::blocks::{decode_row, dequantize_row};
use crate::names::{Shape, interleaved_row};
use crate::{MAX_DIMENSION, MAX_LAYERS};

/// A foreign model, described and not yet read.
pub(crate) struct Source {
    /// `gguf`, `hugging face` or `critic`.
    pub format: &'static str,
    pub config: Config,
    /// In the order of our file.
    pub tensors: Vec<SourceTensor>,
    pub vocabulary: critic::tokenizer::Vocabulary,
    /// Jinja text.
    pub chat_template: Option<String>,
    pub provenance: Provenance,
    /// Metadata of ours that the source already carries.
    pub metadata: Vec<(String, String)>,
    /// Tensors of ours that are no weights of the model and pass as they are (adapters).
    pub extra: Vec<(PlannedTensor, Arc<Bytes>, Range<usize>)>,
    /// What our file does not keep, or only approximates: one sentence each.
    pub lost: Vec<String>,
    /// Bytes of all weight files.
    pub bytes: usize,
}

/// One tensor of a foreign model, under our name and in our orientation.
pub(crate) struct SourceTensor {
    pub name: String,
    pub shape: Shape,
    /// How its rows are stored.
    pub kind: GgmlType,
    pub data: Data,
    /// Width of a head, where rows stand in the interleaved order of a llama GGUF.
    pub interleaved: Option<usize>,
    /// Whether the norm's weight is stored as w for a factor of 1 + w.
    pub plus_one: bool,
    /// An adapter to add to the matrix.
    pub merged: Option<Arc<LoraAdapter>>,
}

pub(crate) enum Data {
    /// Rows one behind the other in a file.
    Mapped { bytes: Arc<Bytes>, range: Range<usize> },
    /// A matrix of a model file of ours.
    Matrix(Matrix),
    /// Values that the source's configuration implies.
    Values(Vec<f32>),
}

impl SourceTensor {
    /// Bytes of the row of ours that is `row`.
    fn row<'a>(&self, data: &'a [u8], row: usize) -> &'a [u8] {
        let row = self.interleaved.map_or(row, |head_dim| interleaved_row(row, head_dim));
        let (_, columns) = self.shape.dimensions();
        let bytes = columns / self.kind.block_columns() * self.kind.block_bytes();
        &data[row * bytes..][..bytes]
    }

    /// The elements of a vector, as our file has them.
    pub fn vector(&self) -> Vec<f32> {
        let (_, columns) = self.shape.dimensions();
        let mut values = vec![0.0; columns];
        match &self.data {
            Data::Mapped { bytes, range } => dequantize_row(self.kind, &bytes[range.clone()], &mut values),
            Data::Matrix(matrix) => matrix.dequantize_row(0, &mut values),
            Data::Values(source) => values.copy_from_slice(source),
        }
        if let Some(head_dim) = self.interleaved {
            values = (0..columns).map(|row| values[interleaved_row(row, head_dim)]).collect();
        }
        if self.plus_one {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        values
    }

    /// The bytes of a matrix in `format`, made by `threads` threads; what is quantized heeds the
    /// `importance` of its columns, where it is known.
    pub fn matrix(&self, format: Format, importance: Option<&[f32]>, threads: usize) -> critic::Result<Vec<u8>> {
        if let Data::Matrix(matrix) = &self.data
            && matrix.format() == format
            && self.merged.is_none()
        {
            return Ok(matrix.bytes().to_vec());
        }
        let (rows, _) = self.shape.dimensions();
        let share = rows.div_ceil(TILE).div_ceil(threads.max(1)).max(1) * TILE;
        // Tiles lie one behind the other, so that the parts of the threads do, too.
        std::thread::scope(|scope| {
            let parts: Vec<_> = (0..rows)
                .step_by(share)
                .map(|start| scope.spawn(move || self.rows(format, importance, start..rows.min(start + share))))
                .collect();
            let mut bytes = Vec::new();
            for part in parts {
                let part = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                if bytes.is_empty() {
                    bytes = part;
                } else {
                    bytes.extend_from_slice(&part);
                }
            }
            Ok(bytes)
        })
    }

    fn rows(&self, format: Format, importance: Option<&[f32]>, rows: Range<usize>) -> critic::Result<Vec<u8>> {
        let (_, columns) = self.shape.dimensions();
        let mut builder = MatrixBuilder::new(format, rows.len(), columns)?;
        let mut values = vec![0.0; columns];
        let set = |builder: &mut MatrixBuilder, at: usize, values: &[f32]| match importance {
            Some(importance) => builder.set_row_weighted(at, values, importance),
            None => builder.set_row(at, values),
        };
        for (at, row) in rows.enumerate() {
            if let Some(adapter) = &self.merged {
                match &self.data {
                    Data::Mapped { bytes, range } => {
                        dequantize_row(self.kind, self.row(&bytes[range.clone()], row), &mut values);
                    }
                    Data::Matrix(matrix) => matrix.dequantize_row(row, &mut values),
                    Data::Values(source) => values.copy_from_slice(&source[row * columns..][..columns]),
                }
                adapter.add_row(&self.name, row, &mut values);
                set(&mut builder, at, &values)?;
                continue;
            }
            match &self.data {
                Data::Mapped { bytes, range } => {
                    let bytes = self.row(&bytes[range.clone()], row);
                    if format != self.kind.format() {
                        dequantize_row(self.kind, bytes, &mut values);
                        set(&mut builder, at, &values)?;
                    } else if format.is_quantized() {
                        decode_row(self.kind, bytes, |block, codes| builder.set_block(at, block, &codes));
                    } else {
                        builder.set_float_row(at, bytes);
                    }
                }
                Data::Matrix(matrix) => {
                    matrix.dequantize_row(row, &mut values);
                    set(&mut builder, at, &values)?;
                }
                Data::Values(source) => set(&mut builder, at, &source[row * columns..][..columns])?,
            }
        }
        Ok(builder.finish())
    }
}

/// Refuses sizes that cannot be: everything that is derived from them fits in memory after that.
/// What they mean together is checked by the runtime when the written file is opened.
pub(crate) fn check_sizes(config: &Config) -> Result<()> {
    let sizes = [
        ("vocab_size", config.vocab_size, MAX_DIMENSION),
        ("hidden_size", config.hidden_size, MAX_DIMENSION),
        ("intermediate_size", config.intermediate_size, MAX_DIMENSION),
        ("layers", config.layers, MAX_LAYERS),
        ("heads", config.heads, MAX_DIMENSION),
        ("kv_heads", config.kv_heads, config.heads),
        ("head_dim", config.head_dim, MAX_DIMENSION / config.heads.max(1)),
        ("context", config.context, MAX_DIMENSION),
    ];
    if let Some((name, size, most)) = sizes.iter().find(|(_, size, most)| !(1..=*most).contains(size)) {
        return Err(Error::corrupt("", format!("{name} is {size}, expected 1 to {most}")));
    }
    if !config.head_dim.is_multiple_of(2) {
        return Err(Error::unsupported("", format!("heads of odd width {}", config.head_dim)));
    }
    Ok(())
}

/// File name and checksum, as provenance records them.
pub(crate) fn fingerprint(path: &Path, bytes: &[u8]) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name} sha256:{digest}")
}

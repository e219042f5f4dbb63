//! Writes a model file in one pass: header first, then each tensor as it is produced.

use std::collections::BTreeMap;
use std::io::{self, Write};

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::{DATA_ALIGNMENT, FORMAT_VERSION, key};
use crate::error::{Error, Result};
use crate::map::ALIGNMENT;
use crate::quant::{Format, TILE};

/// Name, type and shape of a tensor that is still to be produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTensor {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl PlannedTensor {
    /// A matrix `[rows, columns]` in `format`.
    pub fn matrix(name: impl Into<String>, format: Format, rows: usize, columns: usize) -> Result<Self> {
        format.matrix_bytes(rows, columns)?;
        let (dtype, record) = match format {
            Format::F32 => (Dtype::F32, TILE),
            Format::F16 => (Dtype::F16, TILE),
            Format::BF16 => (Dtype::BF16, TILE),
            _ => (Dtype::U8, format.record_bytes()),
        };
        let shape = vec![rows.div_ceil(TILE), columns / format.record_columns(), record];
        Ok(Self { name: name.into(), dtype, shape })
    }

    /// A vector or table of `len` elements, padded with zeros to whole cache lines.
    pub fn table(name: impl Into<String>, dtype: Dtype, len: usize) -> Self {
        let line = ALIGNMENT * 8 / dtype.bitsize();
        Self { name: name.into(), dtype, shape: vec![len.max(1).next_multiple_of(line)] }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Writes a model file: `metadata` (without the version, which is added) and `tensors` in
/// their order. `produce` is called once for each, in that order, and returns its bytes;
/// what a table lacks to its padded length is filled with zeros.
///
/// `Error::Io` names no path: the caller knows where `out` leads.
pub fn write_model(
    out: &mut impl Write,
    metadata: &BTreeMap<String, String>,
    tensors: &[PlannedTensor],
    mut produce: impl FnMut(usize, &PlannedTensor) -> Result<Vec<u8>>,
) -> Result<()> {
    let io = |source: io::Error| Error::Io { path: Default::default(), source };
    let mut header = Map::new();
    let mut metadata: BTreeMap<&str, String> = metadata.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    metadata.insert(key::VERSION, FORMAT_VERSION.to_string());
    header.insert("__metadata__".into(), json!(metadata));
    let mut offset = 0;
    for tensor in tensors {
        let bytes = tensor.bytes();
        let place = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, offset + bytes]});
        if header.insert(tensor.name.clone(), place).is_some() {
            return Err(Error::invalid(format!("tensor {} is planned twice", tensor.name)));
        }
        offset += bytes;
        let padding = padding_after(bytes);
        if padding > 0 {
            let place = json!({"dtype": Dtype::U8, "shape": [padding], "data_offsets": [offset, offset + padding]});
            header.insert(format!("padding.{}", tensor.name), place);
            offset += padding;
        }
    }
    let mut header = serde_json::to_vec(&Value::Object(header)).expect("maps of strings are JSON");
    header.resize((8 + header.len()).next_multiple_of(DATA_ALIGNMENT) - 8, b' ');
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    out.write_all(&header).map_err(io)?;
    for (index, tensor) in tensors.iter().enumerate() {
        let mut data = produce(index, tensor)?;
        let expected = tensor.bytes();
        if data.len() > expected || (data.len() < expected && tensor.shape.len() != 1) {
            return Err(Error::invalid(format!(
                "tensor {} was planned with {expected} bytes and has {}",
                tensor.name,
                data.len()
            )));
        }
        data.resize(expected + padding_after(expected), 0);
        out.write_all(&data).map_err(io)?;
    }
    out.flush().map_err(io)
}

/// Zero bytes that bring the next tensor to a cache line. safetensors allows no gaps, so
/// they are a tensor of their own, `padding.NAME`.
fn padding_after(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT) - bytes
}

//! GGUF, the format of llama.cpp: a table of typed metadata, a table of tensors, and data.
//!
//! [`Gguf`] reads the container, [`write_gguf`] writes it, [`blocks`] knows the block formats,
//! `config` what the metadata of each architecture mean, `model` and `export` the ways in and
//! out; `lora` the way out for an adapter.

pub mod blocks;
mod config;
mod export;
mod lora;
mod model;
mod read;
mod tokenizer;
mod write;

pub use blocks::GgmlType;
pub use export::{ExportReport, export_gguf};
pub use lora::export_lora_gguf;
pub(crate) use model::open;
pub use read::{Array, Gguf, TensorInfo, Value};
pub use write::{Metadata, PlannedGgml, write_gguf};

/// First four bytes.
pub const MAGIC: &[u8; 4] = b"GGUF";
/// Where tensors begin, unless `general.alignment` says otherwise.
pub const DEFAULT_ALIGNMENT: usize = 32;

/// Codes of the metadata's types, as the specification numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::String,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get(code as usize).copied()
    }

    /// Bytes of one value; none for strings and arrays.
    fn width(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

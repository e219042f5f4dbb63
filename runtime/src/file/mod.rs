//! The model file: a safetensors file whose tensors the kernels read in place.
//!
//! Parsing validates: what [`ModelFile::parse`] returns has known tensors only inside the
//! file, aligned, and of the shape that the configuration asks for when they are taken.
//! The byte-by-byte specification is docs/model-format.md.
//!
//! Not here: what a tensor means (see [`crate::transformer`] and [`crate::tokenizer`]), and
//! any foreign format (the import crate).

mod metadata;
mod prompts;
mod write;

pub use metadata::{
    Activation, AdapterSpec, Affixes, ChatTemplate, Config, Part, Prompts, Provenance, Rope, TaskPrompts,
};
pub use write::{PlannedTensor, write_model};

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

pub use safetensors::Dtype;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::map::{Bytes, Plain, Slice};
use crate::quant::{Format, Matrix, TILE};

/// The version that this crate writes, and the highest one that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Longest header that is read, in bytes: hundreds of times what the largest model needs.
pub const MAX_HEADER_BYTES: usize = 16 << 20;
/// Tensor data begins on a multiple of this in the file: a page, so that it does in memory.
pub const DATA_ALIGNMENT: usize = 4096;

/// Metadata keys.
pub(crate) mod key {
    pub const VERSION: &str = "critic.version";
    pub const CONFIG: &str = "critic.config";
    pub const TOKENIZER: &str = "critic.tokenizer";
    pub const CHAT: &str = "critic.chat";
    pub const PROMPTS: &str = "critic.prompts";
    pub const ADAPTER: &str = "critic.adapter";
    pub const PROVENANCE: &str = "critic.provenance";
}

/// A tensor's place in the file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Bytes of the file.
    pub range: std::ops::Range<usize>,
}

/// An opened model file: metadata and the places of its tensors.
pub struct ModelFile {
    bytes: Arc<Bytes>,
    metadata: HashMap<String, String>,
    tensors: HashMap<String, TensorInfo>,
}

impl ModelFile {
    /// Maps and parses the file at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        Self::parse(Bytes::map(path)?).map_err(|error| error.in_file(path))
    }

    /// Parses a model that is in memory.
    pub fn parse(bytes: Bytes) -> Result<Self> {
        let data_start = data_start(&bytes)?;
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes)
            .map_err(|error| Error::corrupt(format!("not a safetensors file: {error}")))?;
        let metadata: HashMap<String, String> = header.metadata().clone().into_iter().flatten().collect();
        check_version(&metadata)?;
        if !data_start.is_multiple_of(crate::map::ALIGNMENT) {
            return Err(Error::corrupt(format!(
                "tensor data begins at byte {data_start}, which is not on a cache line"
            )));
        }
        let mut tensors = HashMap::new();
        for (name, info) in header.tensors() {
            let (start, end) = info.data_offsets;
            let range = data_start + start..data_start + end;
            if range.start > range.end || range.end > bytes.len() {
                return Err(Error::corrupt(format!(
                    "tensor {name} lies outside the file: it was cut short or damaged"
                )));
            }
            if !range.start.is_multiple_of(crate::map::ALIGNMENT) {
                return Err(Error::corrupt(format!(
                    "tensor {name} begins at byte {}, which is not on a cache line",
                    range.start
                )));
            }
            tensors.insert(name, TensorInfo { dtype: info.dtype, shape: info.shape.clone(), range });
        }
        Ok(Self { bytes: Arc::new(bytes), metadata, tensors })
    }

    /// Length of the file in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the file holds no byte; a parsed one always does.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of private memory that the file takes: none where it is mapped.
    pub fn private_bytes(&self) -> usize {
        self.bytes.private_bytes()
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the tensors are mapped from a file rather than held in private memory.
    pub fn is_mapped(&self) -> bool {
        self.bytes.is_mapped()
    }

    /// All tensors by name.
    pub fn tensors(&self) -> &HashMap<String, TensorInfo> {
        &self.tensors
    }

    /// The raw metadata.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The transformer's configuration, checked for sizes that can exist.
    pub fn config(&self) -> Result<Config> {
        let config: Config = self.required(key::CONFIG)?;
        config.validate()?;
        Ok(config)
    }

    /// Whether there is a configuration: an adapter file has none.
    pub(crate) fn has_config(&self) -> bool {
        self.metadata.contains_key(key::CONFIG)
    }

    /// The tokenizer's description.
    pub fn tokenizer(&self) -> Result<crate::tokenizer::TokenizerSpec> {
        self.required(key::TOKENIZER)
    }

    /// The chat template, if the model has one.
    pub fn chat(&self) -> Result<Option<ChatTemplate>> {
        self.optional(key::CHAT)
    }

    /// What the critic is told: the file's own prompts, or the defaults.
    pub fn prompts(&self) -> Result<Prompts> {
        Ok(self.optional(key::PROMPTS)?.unwrap_or_default())
    }

    /// The adapter's description, if the file holds one.
    pub fn adapter(&self) -> Result<Option<AdapterSpec>> {
        self.optional(key::ADAPTER)
    }

    /// Where the model comes from.
    pub fn provenance(&self) -> Result<Provenance> {
        Ok(self.optional(key::PROVENANCE)?.unwrap_or_default())
    }

    fn required<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        self.optional(key)?.ok_or_else(|| Error::corrupt(format!("metadata {key} is missing")))
    }

    fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.metadata
            .get(key)
            .map(|json| serde_json::from_str(json).map_err(|e| Error::corrupt(format!("metadata {key}: {e}"))))
            .transpose()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.tensors.get(name).ok_or_else(|| Error::corrupt(format!("tensor {name} is missing")))
    }

    /// The matrix `name`, which must be `[rows, columns]` in one of the [`Format`]s.
    pub fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
        let info = self.info(name)?;
        let format = matrix_format(info).ok_or_else(|| {
            Error::unsupported(format!("tensor {name}: {:?} {:?} is no known matrix format", info.dtype, info.shape))
        })?;
        let expected = [rows.div_ceil(TILE), columns.div_ceil(format.record_columns())];
        if info.shape[..2] != expected {
            return Err(Error::corrupt(format!(
                "tensor {name}: a {} matrix of {rows} × {columns} has {expected:?} records, found {:?}",
                format.name(),
                &info.shape[..2]
            )));
        }
        Matrix::new(format, rows, columns, self.slice(name, info)?)
            .map_err(|error| Error::corrupt(format!("tensor {name}: {error}")))
    }

    /// The f32 vector `name`, whose first `len` elements count; the rest is padding.
    pub fn vector(&self, name: &str, len: usize) -> Result<Slice<f32>> {
        self.table(name, Dtype::F32)?
            .truncated(len)
            .ok_or_else(|| Error::corrupt(format!("tensor {name} has fewer than {len} elements")))
    }

    /// A table of plain numbers: its whole tensor, padding included.
    pub fn table<T: Plain>(&self, name: &str, dtype: Dtype) -> Result<Slice<T>> {
        let info = self.info(name)?;
        if info.dtype != dtype || info.dtype.bitsize() != size_of::<T>() * 8 {
            return Err(Error::corrupt(format!("tensor {name} is {:?}, expected {dtype:?}", info.dtype)));
        }
        self.slice(name, info)
    }

    fn slice<T: Plain>(&self, name: &str, info: &TensorInfo) -> Result<Slice<T>> {
        Slice::new(&self.bytes, info.range.clone())
            .ok_or_else(|| Error::corrupt(format!("tensor {name} is not aligned to its elements")))
    }
}

/// The format of a matrix tensor `[tiles, records, …]`, told by its type and record size.
pub fn matrix_format(info: &TensorInfo) -> Option<Format> {
    let &[_, _, record] = info.shape.as_slice() else { return None };
    match info.dtype {
        Dtype::F32 if record == TILE => Some(Format::F32),
        Dtype::F16 if record == TILE => Some(Format::F16),
        Dtype::BF16 if record == TILE => Some(Format::BF16),
        Dtype::U8 => Format::ALL.into_iter().find(|f| f.is_quantized() && f.record_bytes() == record),
        _ => None,
    }
}

/// Reads the header's length and checks it against the file before anything is parsed.
fn data_start(bytes: &[u8]) -> Result<usize> {
    let Some(length) = bytes.first_chunk::<8>() else {
        return Err(Error::corrupt(format!("{} bytes are too few for a model file", bytes.len())));
    };
    if bytes.starts_with(b"GGUF") {
        return Err(Error::unsupported("this is a GGUF file: convert it with `critic convert` first"));
    }
    let length = u64::from_le_bytes(*length);
    let fits = length <= MAX_HEADER_BYTES as u64 && length <= (bytes.len() - 8) as u64;
    if !fits {
        return Err(Error::corrupt("this is no .critic file, or one that was cut short"));
    }
    Ok(8 + length as usize)
}

fn check_version(metadata: &HashMap<String, String>) -> Result<()> {
    let Some(version) = metadata.get(key::VERSION) else {
        return Err(Error::unsupported(
            "a safetensors file without critic's metadata: convert the model's folder with `critic convert`",
        ));
    };
    match version.parse::<u32>() {
        Ok(version) if (1..=FORMAT_VERSION).contains(&version) => Ok(()),
        Ok(version) => Err(Error::unsupported(format!(
            "format version {version}; this program reads versions 1 to {FORMAT_VERSION}: update it"
        ))),
        Err(_) => Err(Error::corrupt(format!("metadata {} is {version:?}, not a number", key::VERSION))),
    }
}

/// Largest value of any single dimension: far above every known model, and small enough
/// that products of two of them fit in 64 bits.
const MAX_DIMENSION: usize = 1 << 24;
/// Most layers.
const MAX_LAYERS: usize = 4096;

impl Config {
    fn validate(&self) -> Result<()> {
        let dimensions = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("context", self.context),
        ];
        for (name, value) in dimensions {
            if value == 0 || value > MAX_DIMENSION {
                return Err(Error::corrupt(format!("{name} is {value}, expected 1 to {MAX_DIMENSION}")));
            }
        }
        if self.layers > MAX_LAYERS {
            return Err(Error::corrupt(format!("{} layers, at most {MAX_LAYERS} are read", self.layers)));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::corrupt(format!("{} heads do not divide among {} kv_heads", self.heads, self.kv_heads)));
        }
        if !self.head_dim.is_multiple_of(16) || self.head_dim > 1024 {
            return Err(Error::unsupported(format!("head_dim {} is not a multiple of 16 up to 1,024", self.head_dim)));
        }
        if self.heads * self.head_dim > MAX_DIMENSION {
            return Err(Error::corrupt(format!("{} heads of {} are too wide", self.heads, self.head_dim)));
        }
        if !self.windows.is_empty() && self.windows.len() != self.layers {
            return Err(Error::corrupt(format!("{} windows for {} layers", self.windows.len(), self.layers)));
        }
        let finite = [
            ("rms_norm_eps", f64::from(self.rms_norm_eps)),
            ("embedding_scale", f64::from(self.embedding_scale)),
            ("attention_scale", f64::from(self.attention_scale)),
            ("rope.theta", self.rope.theta),
            ("rope.scale", self.rope.scale),
            ("rope_local.theta", self.rope_local.as_ref().map_or(1.0, |r| r.theta)),
            ("rope_local.scale", self.rope_local.as_ref().map_or(1.0, |r| r.scale)),
        ];
        for (name, value) in finite {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::corrupt(format!("{name} is {value}, expected a finite number of at least 0")));
            }
        }
        Ok(())
    }
}

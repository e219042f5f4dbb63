//! The tensors of a checkpoint: one safetensors file, or shards and their index.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use critic::file::Dtype;
use critic::map::Bytes;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::gguf::GgmlType;
use crate::source::fingerprint;

/// One tensor's place.
pub(crate) struct HfTensor {
    pub kind: GgmlType,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    pub bytes: Arc<Bytes>,
    pub range: Range<usize>,
}

/// All tensors of a checkpoint by name, without what multimodal ones put before it.
pub(crate) struct Weights {
    pub tensors: BTreeMap<String, HfTensor>,
    /// Bytes of all files.
    pub bytes: usize,
    /// Names and checksums of the files.
    pub sources: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    pub fn open(directory: &Path) -> Result<Self> {
        let index = directory.join("model.safetensors.index.json");
        let files: BTreeSet<String> = if index.is_file() {
            let json = std::fs::read(&index).map_err(Error::io(&index))?;
            let index_path = index.display().to_string();
            let parsed: Index =
                serde_json::from_slice(&json).map_err(|error| Error::corrupt(&index_path, error.to_string()))?;
            let files: BTreeSet<String> = parsed.weight_map.into_values().collect();
            // An index comes from a stranger and must not lead out of its folder.
            if let Some(file) = files.iter().find(|file| Path::new(file).file_name() != Some(file.as_ref())) {
                return Err(Error::corrupt(index_path, format!("shard {file:?} is not a plain file name")));
            }
            files
        } else {
            BTreeSet::from(["model.safetensors".to_owned()])
        };
        let mut weights = Self { tensors: BTreeMap::new(), bytes: 0, sources: Vec::new() };
        for file in files {
            weights.add(&directory.join(file))?;
        }
        Ok(weights)
    }

    /// The tensors of one file.
    pub fn open_file(path: &Path) -> Result<Self> {
        let mut weights = Self { tensors: BTreeMap::new(), bytes: 0, sources: Vec::new() };
        weights.add(path)?;
        Ok(weights)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let corrupt = |why: String| Error::corrupt(path.display().to_string(), why);
        let bytes = Arc::new(Bytes::map(path)?);
        let (header, metadata) =
            safetensors::SafeTensors::read_metadata(&bytes).map_err(|error| corrupt(error.to_string()))?;
        for (name, info) in metadata.tensors() {
            let kind = match info.dtype {
                Dtype::F32 => GgmlType::F32,
                Dtype::F16 => GgmlType::F16,
                Dtype::BF16 => GgmlType::BF16,
                other => {
                    let why = format!("tensor {name} is {other:?}, expected F32, F16 or BF16");
                    return Err(Error::unsupported(path.display().to_string(), why));
                }
            };
            let (start, end) = info.data_offsets;
            let range = 8 + header + start..8 + header + end;
            let expected =
                info.shape.iter().try_fold(kind.block_bytes(), |size, &dimension| size.checked_mul(dimension));
            if bytes.get(range.clone()).map(<[u8]>::len) != expected {
                return Err(corrupt(format!(
                    "tensor {name} of shape {:?} is not {} bytes long",
                    info.shape,
                    end - start
                )));
            }
            let tensor = HfTensor { kind, shape: info.shape.clone(), bytes: Arc::clone(&bytes), range };
            if self.tensors.insert(plain_name(&name), tensor).is_some() {
                return Err(corrupt(format!("tensor {name} occurs in two shards")));
            }
        }
        self.bytes += bytes.len();
        self.sources.push(fingerprint(path, &bytes));
        Ok(())
    }
}

/// The name without the part by which multimodal checkpoints tell their language model:
/// `language_model.` in front, or behind `model.`.
fn plain_name(name: &str) -> String {
    match name.strip_prefix("language_model.") {
        Some(rest) => rest.to_owned(),
        None => name.replacen("model.language_model.", "model.", 1),
    }
}

#[cfg(test)]
mod tests {
    use super::plain_name;

    #[test]
    fn language_models_of_multimodal_checkpoints() {
        for name in ["language_model.model.norm.weight", "model.language_model.norm.weight", "model.norm.weight"] {
            assert_eq!(plain_name(name), "model.norm.weight");
        }
        assert_eq!(plain_name("language_model.lm_head.weight"), "lm_head.weight");
    }
}

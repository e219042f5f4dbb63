//! A model file of ours as a source: to quantize it, or to give it another name.

use std::path::Path;
use std::sync::Arc;

use critic::file::{ModelFile, PlannedTensor};
use critic::map::Bytes;

use crate::error::Result;
use crate::gguf::GgmlType;
use crate::names::{Shape, layout};
use crate::source::{Data, Source, SourceTensor};

/// Metadata that conversion writes anew.
const REWRITTEN: [&str; 4] = ["critic.version", "critic.config", "critic.tokenizer", "critic.provenance"];

/// Describes the model file at `path`.
pub(crate) fn open(path: &Path) -> Result<Source> {
    let file = ModelFile::open(path)?;
    let config = file.config()?;
    let mut tensors = Vec::new();
    for slot in layout(&config) {
        if !file.contains(&slot.name) && !slot.required {
            continue;
        }
        let (kind, data) = match slot.shape {
            Shape::Matrix { rows, columns } => {
                let matrix = file.matrix(&slot.name, rows, columns)?;
                (GgmlType::from(matrix.format()), Data::Matrix(matrix))
            }
            Shape::Vector { len } => (GgmlType::F32, Data::Values(file.vector(&slot.name, len)?.to_vec())),
        };
        tensors.push(SourceTensor {
            name: slot.name,
            shape: slot.shape,
            kind,
            data,
            interleaved: None,
            plus_one: false,
            merged: None,
        });
    }
    let bytes = Arc::new(Bytes::map(path)?);
    let known = |name: &str| {
        name.starts_with("tokenizer.")
            || name.starts_with("padding.")
            || tensors.iter().any(|tensor| tensor.name == name)
    };
    let mut extra: Vec<_> = file.tensors().iter().filter(|(name, _)| !known(name)).collect();
    extra.sort_by_key(|(_, info)| info.range.start);
    let extra = extra.into_iter().map(|(name, info)| {
        let plan = PlannedTensor { name: name.clone(), dtype: info.dtype, shape: info.shape.clone() };
        (plan, Arc::clone(&bytes), info.range.clone())
    });
    let metadata = file.metadata().iter().filter(|(key, _)| !REWRITTEN.contains(&key.as_str()));
    Ok(Source {
        format: "critic",
        extra: extra.collect(),
        config,
        tensors,
        vocabulary: critic::tokenizer::Tokenizer::open(&file)?.vocabulary(),
        chat_template: None,
        provenance: file.provenance()?,
        metadata: metadata.map(|(key, value)| (key.clone(), value.clone())).collect(),
        lost: Vec::new(),
        bytes: file.len(),
    })
}

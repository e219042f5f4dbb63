//! A GGUF file as a model: its tensors under our names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use critic::file::Provenance;
use critic::map::Bytes;

use super::read::{Gguf, Value};
use super::{config, tokenizer};
use crate::error::{Error, Result};
use crate::names::{Shape, gguf_name, is_rotary, layout};
use crate::source::{Data, Source, SourceTensor, check_sizes, fingerprint};

/// What names of an image encoder's tensors begin with, where it lies in the same file.
const VISION: [&str; 2] = ["v.", "mm."];

/// Describes the GGUF file at `path`.
pub(crate) fn open(path: &Path) -> Result<Source> {
    let bytes = Arc::new(Bytes::map(path)?);
    let mut source = describe(&bytes).map_err(|error| error.in_file(path))?;
    source.provenance.source = fingerprint(path, &bytes);
    if source.provenance.name.is_empty() {
        source.provenance.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    }
    Ok(source)
}

/// Describes a GGUF file's bytes. Errors name no file.
fn describe(bytes: &Arc<Bytes>) -> Result<Source> {
    let gguf = Gguf::parse(bytes)?;
    let embedding = "token_embd.weight";
    let vocab_size = match gguf.tensors.get(embedding).map(|tensor| tensor.dimensions.as_slice()) {
        Some(&[_, rows]) => rows,
        _ => return Err(Error::corrupt("", format!("tensor {embedding} is missing or no matrix"))),
    };
    let config = config::read(&gguf, vocab_size)?;
    check_sizes(&config)?;
    let llama = matches!(config.family.as_str(), "llama" | "mistral");
    let mut left: BTreeMap<&str, _> = gguf.tensors.iter().map(|(name, info)| (*name, info)).collect();
    let mut tensors = Vec::new();
    for slot in layout(&config) {
        let name = gguf_name(&slot.name).expect("every slot has a name in GGUF");
        let Some(info) = left.remove(name.as_str()) else {
            if slot.required {
                return Err(Error::corrupt("", format!("tensor {name} is missing")));
            }
            continue;
        };
        let expected = match slot.shape {
            Shape::Matrix { rows, columns } => vec![columns, rows],
            Shape::Vector { len } => vec![len],
        };
        if info.dimensions != expected {
            return Err(Error::corrupt(
                "",
                format!("tensor {name} has shape {:?}, expected {expected:?}", info.dimensions),
            ));
        }
        let interleaved = (llama && is_rotary(&slot.name)).then_some(config.head_dim);
        tensors.push(SourceTensor {
            name: slot.name,
            shape: slot.shape,
            kind: info.kind,
            data: Data::Mapped { bytes: Arc::clone(bytes), range: info.range.clone() },
            interleaved,
            plus_one: false,
            merged: None,
        });
    }
    let all = left.len();
    left.retain(|name, _| !VISION.iter().any(|prefix| name.starts_with(prefix)));
    let vision = all - left.len();
    let lost = (vision > 0).then(|| format!("{vision} tensors of the image encoder are left out"));
    if let Some(name) = left.keys().next() {
        return Err(Error::unsupported("", format!("tensor {name} has no place in a {} model", config.family)));
    }
    let text = |key: &str| gguf.get(key).and_then(Value::as_str).map(str::to_owned);
    let own = ["critic.prompts"].into_iter().filter_map(|key| Some((key.to_owned(), text(key)?)));
    Ok(Source {
        format: "gguf",
        config,
        tensors,
        vocabulary: crate::tokenizer::from_gguf(&tokenizer::read(&gguf)?)?,
        chat_template: text("tokenizer.chat_template"),
        provenance: Provenance {
            name: text("general.name").unwrap_or_default(),
            licence: text("general.license").unwrap_or_default(),
            ..Provenance::default()
        },
        metadata: own.collect(),
        extra: Vec::new(),
        lost: lost.into_iter().collect(),
        bytes: bytes.len(),
    })
}

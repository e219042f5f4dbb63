//! A checkpoint's folder, put together.

use std::path::Path;

use critic::file::Provenance;
use serde_json::Value;

use super::config;
use super::weights::{HfTensor, Weights};
use crate::error::{Error, Result};
use crate::gguf::GgmlType;
use crate::names::{Shape, hf_name, layout};
use crate::source::{Data, Source, SourceTensor, check_sizes};

/// Parts of names of tensors that a text model does without, and why.
const DROPPED: [(&str, &str); 4] = [
    ("vision_tower.", "the image encoder"),
    ("multi_modal_projector.", "the image encoder"),
    ("rotary_emb.inv_freq", "RoPE frequencies, which follow from the configuration"),
    ("lm_head.weight", "the output matrix, which the configuration ties to the embedding"),
];

/// Describes the checkpoint in `directory`.
pub(crate) fn open(directory: &Path) -> Result<Source> {
    let config_path = directory.join("config.json");
    let json = json(&config_path)?.ok_or_else(|| {
        Error::corrupt(directory.display().to_string(), "no config.json: this is no Hugging Face model folder")
    })?;
    let config::HfConfig { mut config, tied, rope_factors } =
        config::read(&json).map_err(|error| error.in_file(&config_path))?;
    let mut weights = Weights::open(directory)?;
    let corrupt = |why: String| Error::corrupt(directory.display().to_string(), why);
    let embedding = "model.embed_tokens.weight";
    config.vocab_size = match weights.tensors.get(embedding).map(|tensor| tensor.shape.as_slice()) {
        Some(&[rows, _]) => rows,
        _ => return Err(corrupt(format!("tensor {embedding} is missing or no matrix"))),
    };
    check_sizes(&config).map_err(|error| error.in_file(&config_path))?;
    let sandwich = config.family == "gemma3";
    let mut tensors = Vec::new();
    for slot in layout(&config) {
        if slot.name == "rope.factors" {
            tensors.extend(rope_factors.clone().map(|values| SourceTensor {
                name: slot.name,
                shape: slot.shape,
                kind: GgmlType::F32,
                data: Data::Values(values),
                interleaved: None,
                plus_one: false,
                merged: None,
            }));
            continue;
        }
        if slot.name == "output" && tied {
            continue;
        }
        let name = hf_name(&slot.name, sandwich);
        let Some((name, tensor)) = name.and_then(|name| weights.tensors.remove_entry(&name)) else {
            if slot.required || slot.name == "output" {
                let name = hf_name(&slot.name, sandwich).unwrap_or(slot.name);
                return Err(corrupt(format!("tensor {name} is missing")));
            }
            continue;
        };
        let expected = match slot.shape {
            Shape::Matrix { rows, columns } => vec![rows, columns],
            Shape::Vector { len } => vec![len],
        };
        let HfTensor { kind, shape, bytes, range } = tensor;
        if shape != expected {
            return Err(corrupt(format!("tensor {name} has shape {shape:?}, expected {expected:?}")));
        }
        // Gemma's norms multiply by 1 + w.
        let plus_one = sandwich && matches!(slot.shape, Shape::Vector { .. });
        let data = Data::Mapped { bytes, range };
        tensors.push(SourceTensor {
            name: slot.name,
            shape: slot.shape,
            kind,
            data,
            interleaved: None,
            plus_one,
            merged: None,
        });
    }
    let lost = dropped(weights.tensors.keys(), directory)?;
    let tokenizer_path = directory.join("tokenizer.json");
    let tokenizer = self::json(&tokenizer_path)?
        .ok_or_else(|| corrupt("tokenizer.json is missing: other tokenizer files are not read".into()))?;
    let tokenizer_config = self::json(&directory.join("tokenizer_config.json"))?;
    let generation_config = self::json(&directory.join("generation_config.json"))?;
    let vocabulary = crate::tokenizer::from_tokenizer_json(
        &tokenizer,
        tokenizer_config.as_ref(),
        generation_config.as_ref(),
        config.vocab_size,
    )?;
    let name = directory.canonicalize().ok();
    let name = name.as_deref().unwrap_or(directory).file_name().unwrap_or_default();
    Ok(Source {
        format: "hugging face",
        config,
        tensors,
        vocabulary,
        chat_template: chat_template(directory, tokenizer_config.as_ref())?,
        provenance: Provenance {
            name: name.to_string_lossy().into_owned(),
            licence: licence(directory),
            source: weights.sources.join(", "),
            generator: String::new(),
        },
        metadata: Vec::new(),
        extra: Vec::new(),
        lost,
        bytes: weights.bytes,
    })
}

/// A JSON file, if it exists.
fn json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::corrupt(path.display().to_string(), error.to_string()))
}

/// One sentence for each kind of tensor that is left out; an error for one that is not known.
fn dropped<'a>(names: impl Iterator<Item = &'a String>, directory: &Path) -> Result<Vec<String>> {
    let mut counts = [0; DROPPED.len()];
    for name in names {
        let Some(reason) = DROPPED.iter().position(|(part, _)| name.contains(part)) else {
            return Err(Error::unsupported(
                directory.display().to_string(),
                format!("tensor {name} has no place in the model"),
            ));
        };
        counts[reason] += 1;
    }
    let found = DROPPED.iter().zip(counts).filter(|(_, count)| *count > 0);
    Ok(found.map(|((part, why), count)| format!("{count} tensors named {part} are left out: {why}")).collect())
}

/// The Jinja text: a file of its own, or in the tokenizer's configuration, alone or in a list
/// of named ones.
fn chat_template(directory: &Path, tokenizer_config: Option<&Value>) -> Result<Option<String>> {
    let path = directory.join("chat_template.jinja");
    if path.exists() {
        return std::fs::read_to_string(&path).map(Some).map_err(Error::io(&path));
    }
    let named = |list: &Vec<Value>| {
        let text = |entry: &Value| entry.get("template").and_then(Value::as_str).map(str::to_owned);
        list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default")).and_then(text)
    };
    Ok(match tokenizer_config.and_then(|config| config.get("chat_template")) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(list)) => named(list),
        _ => None,
    })
}

/// `license:` in the front matter of the model card; empty where there is none.
fn licence(directory: &Path) -> String {
    let card = std::fs::read_to_string(directory.join("README.md")).unwrap_or_default();
    let mut lines = card.lines();
    if lines.next().map(str::trim_end) != Some("---") {
        return String::new();
    }
    let front = lines.take_while(|line| line.trim_end() != "---");
    let licence = front.filter_map(|line| line.strip_prefix("license:")).next();
    licence.unwrap_or_default().trim().trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_and_licences_are_found_where_they_may_stand() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(chat_template(path, None).unwrap(), None);
        assert_eq!(chat_template(path, Some(&json!({"chat_template": "x"}))).unwrap().as_deref(), Some("x"));
        let list = json!({"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]});
        assert_eq!(chat_template(path, Some(&list)).unwrap().as_deref(), Some("d"));
        std::fs::write(path.join("chat_template.jinja"), "file").unwrap();
        assert_eq!(chat_template(path, Some(&list)).unwrap().as_deref(), Some("file"));
        assert_eq!(licence(path), "");
        std::fs::write(path.join("README.md"), "---\nlicense: apache-2.0\ntags: []\n---\nlicense: none").unwrap();
        assert_eq!(licence(path), "apache-2.0");
    }
}

//! The keys below `tokenizer.ggml`, to and from the values that stand for them.

use super::read::{Array, Gguf, Value};
use super::write::Metadata;
use crate::error::{Error, Result};
use crate::tokenizer::GgufTokenizer;

const PREFIX: &str = "tokenizer.ggml.";

/// Reads the tokenizer's keys.
pub(super) fn read(gguf: &Gguf) -> Result<GgufTokenizer> {
    let get = |key: &str| gguf.get(&format!("{PREFIX}{key}"));
    let wrong = |key: &str, expected: &str| Error::corrupt("", format!("metadata {PREFIX}{key}: expected {expected}"));
    let text = |key: &str| get(key).and_then(Value::as_str).map(str::to_owned);
    // Some converters write −1, or the largest number, for a token that is not there.
    let id = |key: &str| {
        let id = get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        id.filter(|&id| id != u32::MAX)
    };
    let flag = |key: &str| match get(key) {
        Some(Value::Bool(value)) => Ok(Some(value)),
        None => Ok(None),
        Some(_) => Err(wrong(key, "a truth value")),
    };
    let array = |key: &str| -> Result<Option<Array>> {
        match get(key) {
            Some(Value::Array(array)) => Ok(Some(array)),
            None => Ok(None),
            Some(_) => Err(wrong(key, "an array")),
        }
    };
    let strings = |key: &str| -> Result<Vec<Vec<u8>>> {
        let Some(array) = array(key)? else { return Ok(Vec::new()) };
        let strings = array.strings().ok_or_else(|| wrong(key, "an array of strings"))?;
        Ok(strings.map(<[u8]>::to_vec).collect())
    };
    let types = match array("token_type")? {
        None => Vec::new(),
        Some(array) => array
            .iter()
            .map(|value| match value {
                Value::Signed(value) => i32::try_from(value).ok(),
                Value::Unsigned(value) => i32::try_from(value).ok(),
                _ => None,
            })
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("token_type", "an array of small numbers"))?,
    };
    let scores = match array("scores")? {
        None => Vec::new(),
        Some(array) => array
            .iter()
            .map(|value| value.as_f64().map(|score| score as f32))
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("scores", "an array of numbers"))?,
    };
    Ok(GgufTokenizer {
        model: text("model").ok_or_else(|| wrong("model", "a string"))?,
        pre: text("pre"),
        tokens: strings("tokens")?,
        types,
        scores,
        merges: strings("merges")?,
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        eot: id("eot_token_id"),
        unk: id("unknown_token_id"),
        add_bos: flag("add_bos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
    })
}

/// Writes the tokenizer's keys.
pub(super) fn write(tokenizer: &GgufTokenizer, metadata: &mut Metadata) {
    let key = |name: &str| format!("{PREFIX}{name}");
    metadata.string(&key("model"), &tokenizer.model);
    if let Some(pre) = &tokenizer.pre {
        metadata.string(&key("pre"), pre);
    }
    metadata.strings(&key("tokens"), tokenizer.tokens.iter().map(Vec::as_slice));
    if !tokenizer.scores.is_empty() {
        metadata.f32s(&key("scores"), &tokenizer.scores);
    }
    if !tokenizer.types.is_empty() {
        metadata.i32s(&key("token_type"), &tokenizer.types);
    }
    if !tokenizer.merges.is_empty() {
        metadata.strings(&key("merges"), tokenizer.merges.iter().map(Vec::as_slice));
    }
    let ids = [
        ("bos_token_id", tokenizer.bos),
        ("eos_token_id", tokenizer.eos),
        ("eot_token_id", tokenizer.eot),
        ("unknown_token_id", tokenizer.unk),
    ];
    for (name, id) in ids {
        if let Some(id) = id {
            metadata.u32(&key(name), id);
        }
    }
    for (name, flag) in [("add_bos_token", tokenizer.add_bos), ("add_space_prefix", tokenizer.add_space_prefix)] {
        if let Some(flag) = flag {
            metadata.bool(&key(name), flag);
        }
    }
}

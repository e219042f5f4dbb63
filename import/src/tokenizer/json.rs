//! Hugging Face's `tokenizer.json`, with what its neighbours say of special tokens.

use std::collections::{HashMap, HashSet};

use critic::Result;
use critic::tokenizer::{AddedToken, Algorithm, Prefix, Splitter, TokenKind, TokenizerSpec, Vocabulary};
use serde_json::Value;

use super::gguf::unmarked;
use super::spelling::{named_byte, spelled_bytes};
use super::{corrupt, ends, unsupported};

/// Most tokens: sixty times the largest real vocabulary.
const MAX_VOCAB: usize = 1 << 24;

/// The published expressions; the runtime's `pretokenize` is their equal.
const EXPRESSIONS: [(&str, Splitter); 3] = [
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Splitter::Gpt2),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Splitter::Llama3,
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        Splitter::Qwen2,
    ),
];

/// The vocabulary of `tokenizer.json`, filled up to `vocab_size` tokens, as many as the
/// embedding has rows.
///
/// `tokenizer_config.json` and `generation_config.json` say which tokens begin and end a
/// sequence, where they are there.
pub fn from_tokenizer_json(
    tokenizer_json: &Value,
    tokenizer_config: Option<&Value>,
    generation_config: Option<&Value>,
    vocab_size: usize,
) -> Result<Vocabulary> {
    let model = &tokenizer_json["model"];
    let mut vocabulary = Vocabulary { spec: rules(tokenizer_json)?, ..Vocabulary::default() };
    let listed = listed_tokens(model)?;
    let added = added_tokens(&tokenizer_json["added_tokens"])?;
    let ids: HashMap<&str, u32> = listed.iter().map(|&(text, id, _)| (text, id)).collect();
    let highest = listed.iter().map(|&(_, id, _)| id).chain(added.iter().map(|token| token.token.id)).max();
    let count = highest.map_or(0, |id| id as usize + 1);
    if vocab_size > MAX_VOCAB {
        return Err(corrupt(format!("{vocab_size} tokens, at most {MAX_VOCAB} are read")));
    }
    if count > vocab_size {
        return Err(corrupt(format!("{count} tokens, but the model has {vocab_size}")));
    }
    vocabulary.pieces = vec![Vec::new(); vocab_size];
    vocabulary.kinds = vec![TokenKind::Unused; vocab_size];
    fill_listed(&mut vocabulary, model, &listed)?;
    for AddedEntry { mut token, special } in added {
        // As in the reference, the model's own id for a text comes before the listed one.
        token.id = ids.get(token.text.as_str()).copied().unwrap_or(token.id);
        let index = token.id as usize;
        let kind = if special { TokenKind::Control } else { TokenKind::UserDefined };
        if vocabulary.kinds[index] != TokenKind::Unknown {
            vocabulary.kinds[index] = kind;
        }
        vocabulary.pieces[index] = match kind {
            TokenKind::UserDefined if !vocabulary.spec.byte_level => unmarked(token.id, token.text.as_bytes(), kind)?,
            _ => token.text.clone().into_bytes(),
        };
        vocabulary.added.push(token);
    }
    match vocabulary.spec.algorithm {
        Algorithm::Unigram => {
            vocabulary.scores = vec![0.0; vocab_size];
            for &(_, id, score) in &listed {
                vocabulary.scores[id as usize] = score as f32;
            }
        }
        _ => vocabulary.merges = merges(&model["merges"], &ids)?,
    }
    name_tokens(&mut vocabulary, tokenizer_json, tokenizer_config, generation_config);
    Ok(vocabulary)
}

/// The model's own tokens: text, id and, with unigram, score.
fn listed_tokens(model: &Value) -> Result<Vec<(&str, u32, f64)>> {
    let malformed = || corrupt("model.vocab is malformed");
    match &model["vocab"] {
        Value::Object(vocab) => vocab
            .iter()
            .map(|(text, id)| {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(malformed)?;
                Ok((text.as_str(), id, 0.0))
            })
            .collect(),
        Value::Array(vocab) => (0..)
            .zip(vocab)
            .map(|(id, entry)| {
                let text = entry[0].as_str().ok_or_else(malformed)?;
                Ok((text, id, entry[1].as_f64().ok_or_else(malformed)?))
            })
            .collect(),
        _ => Err(malformed()),
    }
}

fn fill_listed(vocabulary: &mut Vocabulary, model: &Value, listed: &[(&str, u32, f64)]) -> Result<()> {
    let by_name = model["unk_token"].as_str().and_then(|name| listed.iter().find(|(text, ..)| *text == name));
    let by_id = model["unk_id"].as_u64().and_then(|id| listed.iter().find(|(_, listed, _)| u64::from(*listed) == id));
    vocabulary.spec.unknown = by_name.or(by_id).map(|&(_, id, _)| id);
    for &(text, id, _) in listed {
        let (kind, piece) = if vocabulary.spec.unknown == Some(id) {
            (TokenKind::Unknown, text.as_bytes().to_vec())
        } else if vocabulary.spec.byte_level {
            match spelled_bytes(text) {
                Some(bytes) => (TokenKind::Normal, bytes),
                // No text is ever spelled so: an added token that the vocabulary lists, too.
                None => (TokenKind::Unused, text.as_bytes().to_vec()),
            }
        } else {
            match named_byte(text.as_bytes()).filter(|_| vocabulary.spec.byte_fallback) {
                Some(byte) => (TokenKind::Byte, vec![byte]),
                None => (TokenKind::Normal, unmarked(id, text.as_bytes(), TokenKind::Normal)?),
            }
        };
        vocabulary.kinds[id as usize] = kind;
        vocabulary.pieces[id as usize] = piece;
    }
    Ok(())
}

struct AddedEntry {
    token: AddedToken,
    special: bool,
}

fn added_tokens(entries: &Value) -> Result<Vec<AddedEntry>> {
    let flag = |entry: &Value, name: &str| entry[name].as_bool().unwrap_or(false);
    let mut seen = HashSet::new();
    let mut added = Vec::new();
    for entry in entries.as_array().map_or(&[][..], Vec::as_slice) {
        let id = entry["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let (Some(id), Some(text)) = (id, entry["content"].as_str()) else {
            return Err(corrupt("added_tokens is malformed"));
        };
        if text.is_empty() || !seen.insert(text) {
            continue;
        }
        if flag(entry, "single_word") {
            return Err(unsupported(format!("added token {id} matches whole words only (single_word)")));
        }
        let token = AddedToken {
            text: text.to_owned(),
            id,
            lstrip: flag(entry, "lstrip"),
            rstrip: flag(entry, "rstrip"),
            normalized: flag(entry, "normalized"),
        };
        added.push(AddedEntry { token, special: flag(entry, "special") });
    }
    Ok(added)
}

/// Pairs as `"a b"` or `["a", "b"]`.
fn merges(merges: &Value, ids: &HashMap<&str, u32>) -> Result<Vec<(u32, u32)>> {
    let entries = merges.as_array().ok_or_else(|| corrupt("model.merges is malformed"))?;
    entries
        .iter()
        .enumerate()
        .map(|(rank, entry)| {
            let pair = match entry {
                Value::String(both) => both.split_once(' '),
                _ => entry[0].as_str().zip(entry[1].as_str()),
            };
            let pair = pair.and_then(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
            pair.ok_or_else(|| corrupt(format!("merge {rank} is no pair of tokens")))
        })
        .collect()
}

fn kind_of(part: &Value) -> &str {
    part["type"].as_str().unwrap_or_default()
}

/// The parts of a normalizer, pre-tokenizer or decoder: those of its sequence, or itself.
fn parts<'a>(value: &'a Value, sequence: &str) -> Vec<&'a Value> {
    match value {
        Value::Null => Vec::new(),
        _ if kind_of(value) == "Sequence" => {
            value[sequence].as_array().into_iter().flatten().flat_map(|part| parts(part, sequence)).collect()
        }
        _ => vec![value],
    }
}

fn rules(json: &Value) -> Result<TokenizerSpec> {
    let model = &json["model"];
    let mut spec = TokenizerSpec::default();
    // Files of old have no type; they are BPE, as they have merges.
    match kind_of(model) {
        "BPE" => {}
        "" if model["merges"].is_array() => {}
        "Unigram" => spec.algorithm = Algorithm::Unigram,
        other => return Err(unsupported(format!("model {other:?}"))),
    }
    if model["dropout"].as_f64().is_some_and(|rate| rate > 0.0) {
        return Err(unsupported("dropout"));
    }
    for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model[name].as_str().is_some_and(|affix| !affix.is_empty()) {
            return Err(unsupported(format!("{name} {}", model[name])));
        }
    }
    let flag = |name: &str| model[name].as_bool().unwrap_or(false);
    spec.byte_fallback = flag("byte_fallback");
    // Unigram always fuses.
    spec.fuse_unknown = flag("fuse_unk") || spec.algorithm == Algorithm::Unigram;
    spec.ignore_merges = flag("ignore_merges");
    let marked = normalizer(&json["normalizer"], &mut spec)?;
    let marked = pre_tokenizer(&json["pre_tokenizer"], marked, &mut spec)?;
    if spec.byte_level == marked {
        return Err(unsupported("neither byte-level nor with spaces spelled ▁"));
    }
    if spec.byte_level && spec.algorithm == Algorithm::Unigram {
        return Err(unsupported("byte-level unigram"));
    }
    spec.strip_first_space = parts(&json["decoder"], "decoders").into_iter().any(|part| match kind_of(part) {
        "Strip" => part["content"] == " " && part["start"].as_u64() > Some(0),
        "Metaspace" => metaspace_prefix(part) != Some(Prefix::None),
        _ => false,
    });
    Ok(spec)
}

/// Returns whether spaces become `▁`.
fn normalizer(value: &Value, spec: &mut TokenizerSpec) -> Result<bool> {
    let mut marked = false;
    for part in parts(value, "normalizers") {
        match kind_of(part) {
            "NFC" => spec.nfc = true,
            "Prepend" if part["prepend"] == "▁" || (part["prepend"] == " " && !marked) => {
                spec.prefix = Prefix::Always
            }
            "Replace" if part["pattern"]["String"] == " " && part["content"] == "▁" => marked = true,
            _ => return Err(unsupported(format!("normalizer {part}"))),
        }
    }
    Ok(marked)
}

/// Returns whether spaces are `▁` in the end.
fn pre_tokenizer(value: &Value, mut marked: bool, spec: &mut TokenizerSpec) -> Result<bool> {
    let refused = || unsupported(format!("pre-tokenizer {value}"));
    let (mut splitter, mut digits) = (None, false);
    for (index, part) in parts(value, "pretokenizers").into_iter().enumerate() {
        if spec.byte_level {
            return Err(refused());
        }
        match kind_of(part) {
            "Digits" if index == 0 && part["individual_digits"] == true => digits = true,
            "Split" if splitter.is_none() && !digits && part["pattern"]["Regex"].is_string() => {
                splitter = Some(known_expression(part).ok_or_else(refused)?);
            }
            // Finds nothing: by now there is no space left.
            "Split" if marked && part["pattern"]["String"] == " " => {}
            "ByteLevel" => {
                spec.byte_level = true;
                if part["use_regex"].as_bool().unwrap_or(true) {
                    if splitter.is_some() {
                        return Err(refused());
                    }
                    splitter = Some(if digits { Splitter::Smollm } else { Splitter::Gpt2 });
                } else if digits {
                    return Err(refused());
                }
                if part["add_prefix_space"].as_bool().unwrap_or(true) {
                    if index > 0 || spec.prefix != Prefix::None {
                        return Err(refused());
                    }
                    spec.prefix = Prefix::Missing;
                }
            }
            "Metaspace" if index == 0 && part["replacement"] == "▁" && spec.prefix == Prefix::None => {
                marked = true;
                spec.prefix = metaspace_prefix(part).ok_or_else(refused)?;
                if part["split"].as_bool().unwrap_or(true) {
                    splitter = Some(Splitter::Spaces);
                }
            }
            _ => return Err(refused()),
        }
    }
    if digits && !spec.byte_level {
        return Err(refused());
    }
    spec.splitter = splitter.unwrap_or_default();
    Ok(marked)
}

/// The splitter of a `Split` by a published expression. As each of them leaves nothing
/// between its matches, isolating them and removing all else are the same.
fn known_expression(part: &Value) -> Option<Splitter> {
    let behaviour = (part["behavior"].as_str()?, part["invert"].as_bool().unwrap_or(false));
    if !matches!(behaviour, ("Isolated", false) | ("Removed", true)) {
        return None;
    }
    let expression = part["pattern"]["Regex"].as_str()?;
    EXPRESSIONS.iter().find(|(known, _)| *known == expression).map(|(_, splitter)| *splitter)
}

fn metaspace_prefix(part: &Value) -> Option<Prefix> {
    if part["add_prefix_space"] == false {
        return Some(Prefix::None);
    }
    match part["prepend_scheme"].as_str() {
        None | Some("always") => Some(Prefix::Missing),
        Some("first") => Some(Prefix::First),
        Some("never") => Some(Prefix::None),
        Some(_) => None,
    }
}

/// Finds out which tokens begin and end a sequence.
fn name_tokens(vocabulary: &mut Vocabulary, json: &Value, config: Option<&Value>, generation: Option<&Value>) {
    let by_text: HashMap<&str, u32> = vocabulary.added.iter().map(|token| (token.text.as_str(), token.id)).collect();
    let vocab = vocabulary.pieces.len() as u64;
    let configured = |name: &str| {
        let value = &config?[name];
        by_text.get(value.as_str().or_else(|| value["content"].as_str())?).copied()
    };
    let generated = |name: &str| -> Vec<u32> {
        let value = generation.map_or(&Value::Null, |generation| &generation[name]);
        let listed = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
        listed.iter().filter_map(Value::as_u64).filter(|&id| id < vocab).map(|id| id as u32).collect()
    };
    let template = first_of_template(&json["post_processor"], &by_text);
    let bos = configured("bos_token").or_else(|| generated("bos_token_id").first().copied()).or(template);
    let add_bos = config.and_then(|config| config["add_bos_token"].as_bool()).unwrap_or(template.is_some());
    let listed = generated("eos_token_id");
    let eos = configured("eos_token").or_else(|| listed.first().copied());
    let end_ids = ends(vocabulary, eos, listed);
    let spec = &mut vocabulary.spec;
    (spec.bos, spec.add_bos, spec.ends) = (bos, add_bos && bos.is_some(), end_ids);
}

/// The special token that a template puts before a single sequence.
fn first_of_template(processor: &Value, by_text: &HashMap<&str, u32>) -> Option<u32> {
    parts(processor, "processors")
        .into_iter()
        .filter(|part| kind_of(part) == "TemplateProcessing")
        .find_map(|part| by_text.get(part["single"][0]["SpecialToken"]["id"].as_str()?).copied())
}

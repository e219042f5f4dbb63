//! Damaged model files give errors, or text; never a panic.

use std::collections::BTreeMap;
use std::ops::ControlFlow::Continue;
use std::panic::catch_unwind;

use critic::{Bytes, GenerateOptions, Model, Session, SessionOptions};
use critic_import::{ConvertOptions, Quant, convert};
use critic_tests::data;

fn model_bytes(name: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("model.critic");
    let options = ConvertOptions { quant: Quant::Q4, ..Default::default() };
    convert(&data().join("hf").join(name), &file, &options, &mut |_, _| std::ops::ControlFlow::Continue(()))
        .expect("it converts");
    std::fs::read(file).expect("just written")
}

/// Opens the bytes and, where that goes well, generates: the error, if there was one.
fn try_model(bytes: &[u8], what: &str) -> Option<String> {
    let outcome = catch_unwind(|| {
        let model = match Model::from_bytes(Bytes::copy(bytes)) {
            Ok(model) => model,
            Err(error) => return Some(error.to_string()),
        };
        // A damaged number may claim a shape whose scratch memory nobody has: 2 GB is the
        // most that the checks let such a small file ask for, and tests need not.
        if model.config().vocab_size > 1 << 20 || model.config().intermediate_size > 1 << 16 {
            return None;
        }
        let options = SessionOptions { threads: 1, ..Default::default() };
        let mut session = Session::new(&model, &options).expect("defaults are valid");
        let prompt = model.tokenizer().encode("Hello, wörld 123 <|im_end|>\n", critic::tokenizer::Special::Parse);
        let generate = GenerateOptions { max_tokens: 3, ..Default::default() };
        session.generate(&prompt, &generate, &mut |_| Continue(())).err().map(|error| error.to_string())
    });
    outcome.unwrap_or_else(|_| panic!("{what}: a panic"))
}

#[test]
fn cut_anywhere() {
    let bytes = model_bytes("llama-gqa-tied");
    assert_eq!(try_model(&bytes, "whole"), None);
    for i in 0..1000 {
        // Half of the cuts in the header, half in the tensors.
        let len = if i % 2 == 0 { i * 16 } else { bytes.len() - 1 - (bytes.len() / 1001) * (1000 - i) };
        let error = try_model(&bytes[..len.min(bytes.len() - 1)], &format!("cut at {len}"));
        assert!(error.is_some(), "cut at {len} of {}", bytes.len());
    }
}

#[test]
fn random_damage() {
    for name in ["llama-gqa-tied", "gemma3-text"] {
        let whole = model_bytes(name);
        let header = 8 + u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) as usize;
        let mut state = 9u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for round in 0..1500 {
            let mut bytes = whole.clone();
            let end = if round % 2 == 0 { header } else { bytes.len() };
            for _ in 0..1 + random(4) {
                bytes[random(end)] = random(256) as u8;
            }
            try_model(&bytes, &format!("{name} round {round}"));
        }
    }
}

/// Each number of the configuration replaced by hostile ones.
#[test]
fn each_header_field() {
    let bytes = model_bytes("qwen2-bias");
    let file = critic::ModelFile::parse(Bytes::copy(&bytes)).expect("it is whole");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let json: serde_json::Value = serde_json::from_slice(bytes[8..header].trim_ascii_end()).expect("JSON");
    let mut errors = BTreeMap::new();
    for key in ["critic.config", "critic.tokenizer", "critic.chat", "critic.prompts"] {
        let Some(value) = file.metadata().get(key) else { continue };
        let value: serde_json::Value = serde_json::from_str(value).expect("JSON");
        for field in value.as_object().expect("an object").keys() {
            for hostile in
                ["null", "-1", "0", "1", "3", "4294967295", "18446744073709551615", "1e308", "\"x\"", "[]", "{}"]
            {
                let mut value = value.clone();
                value[field] = serde_json::from_str(hostile).expect("JSON");
                let mut json = json.clone();
                json["__metadata__"][key] = value.to_string().into();
                let mut header_bytes = json.to_string().into_bytes();
                header_bytes.resize((8 + header_bytes.len()).next_multiple_of(4096) - 8, b' ');
                let mut damaged = (header_bytes.len() as u64).to_le_bytes().to_vec();
                damaged.extend(header_bytes);
                damaged.extend(&bytes[header..]);
                let what = format!("{key} {field} = {hostile}");
                if let Some(error) = try_model(&damaged, &what) {
                    errors.insert(what, error);
                }
            }
        }
    }
    // Wrong shapes must be noticed, and the message must say which tensor or field it is.
    for field in ["hidden_size", "heads", "layers", "vocab_size"] {
        let error = errors.get(&format!("critic.config {field} = 4294967295"));
        assert!(error.is_some_and(|e| e.contains(field)), "{field}: {error:?}");
    }
}

//! What the tests of several crates share: fixtures, and models converted from them.

pub mod adapters;
pub mod fixtures;
mod limit;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use critic::{Bytes, Model};
use critic_import::{ConvertOptions, Quant, convert};

pub use limit::output_within;

/// The data folder of the tests.
pub fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

/// The names of the small random models in `data/hf`, one for each architecture.
pub const ARCHITECTURES: [&str; 6] =
    ["gemma3-text", "llama-gqa-tied", "llama3-rope-scaled", "mistral-window", "qwen2-bias", "qwen3-qknorm"];

/// A small random model, converted from its Hugging Face folder in memory.
pub fn small(name: &str, quant: Quant) -> Arc<Model> {
    Model::from_bytes(Bytes::copy(&small_bytes(name, quant))).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The same with room for `context` tokens, of which its own description allows 256.
pub fn small_with_context(name: &str, quant: Quant, context: usize) -> Arc<Model> {
    Model::from_bytes(Bytes::copy(&small_bytes_with_context(name, quant, context)))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The same as a file.
pub fn small_bytes_with_context(name: &str, quant: Quant, context: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(data().join("hf").join(name)).expect("the model's folder").flatten() {
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a file is copied");
    }
    let config = folder.path().join("config.json");
    let text = std::fs::read(&config).expect("a description");
    let mut value: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    value["max_position_embeddings"] = context.into();
    std::fs::write(&config, value.to_string()).expect("a description is written");
    let file = folder.path().join("model.critic");
    convert(folder.path(), &file, &ConvertOptions { quant, ..Default::default() }, &mut |_, _| {
        std::ops::ControlFlow::Continue(())
    })
    .unwrap_or_else(|error| panic!("{name}: {error}"));
    std::fs::read(&file).expect("just written")
}

/// The same as a file.
pub fn small_bytes(name: &str, quant: Quant) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("model.critic");
    convert(&data().join("hf").join(name), &file, &ConvertOptions { quant, ..Default::default() }, &mut |_, _| {
        std::ops::ControlFlow::Continue(())
    })
    .unwrap_or_else(|error| panic!("{name}: {error}"));
    std::fs::read(&file).expect("just written")
}

/// The model in a file.
pub fn open(path: &Path) -> Arc<Model> {
    Model::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// SmolLM2-135M-Instruct, fetched and converted once.
pub fn smollm2_path() -> PathBuf {
    static LOCK: Mutex<()> = Mutex::new(());
    let _guard = LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let source = fixtures::SMOLLM2.path();
    let file = source.with_extension("critic");
    let newer = |a: &Path, b: &Path| Some(a.metadata().ok()?.modified().ok()? > b.metadata().ok()?.modified().ok()?);
    if newer(&file, &source) != Some(true) || Model::open(&file).is_err() {
        convert(&source, &file, &ConvertOptions::default(), &mut |_, _| std::ops::ControlFlow::Continue(()))
            .expect("SmolLM2 converts");
    }
    file
}

/// The same, opened.
pub fn smollm2() -> Arc<Model> {
    Model::open(&smollm2_path()).expect("just converted")
}

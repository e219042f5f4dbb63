//! Hugging Face directories: `config.json`, safetensors in one file or in shards, and the
//! tokenizer's and template's files beside them.

mod config;
mod directory;
pub(crate) mod weights;

pub(crate) use directory::open;

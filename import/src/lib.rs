//! Model files in and out of critic: what a host never needs at run time.
//!
//! [`convert()`] reads a GGUF file, a Hugging Face directory or a model of ours, and writes a
//! model of ours; [`export_gguf`] goes the other way. In between stands one description of
//! a model ([`names`] for its tensors, the runtime's `Config` for the rest), which both
//! formats are read into:
//!
//! ```text
//! GGUF (gguf/) ──────────┐                                       ┌─▶ .critic (convert.rs)
//! Hugging Face (hf/) ────┼─▶ names, shapes, places (source.rs) ──┘
//! .critic (model.rs) ────┘                                         .critic ─▶ GGUF (gguf/export.rs)
//! ```
//!
//! Adapters go another way: [`read_peft`] and [`write_peft`] know the layout in which they are
//! shared, [`export_lora_gguf`] what llama.cpp loads; [`LoraAdapter`] is what they have in common.
//!
//! Weights pass through one tensor at a time. Chat templates are programs in these formats
//! and data in ours: [`chat`] compiles them. [`tokenizer`] does the same for tokenizers.
//!
//! Everything read here comes from strangers: no input leads to a panic, or to memory in
//! excess of a small multiple of its size.

pub mod adapter;
pub mod chat;
mod convert;
mod error;
pub mod gguf;
mod hf;
mod model;
pub mod names;
mod output;
mod peft;
mod prompts;
pub mod pull;
mod source;
pub mod tokenizer;

pub use adapter::{LoraAdapter, LoraPair};
pub use convert::{AdapterPart, ConvertOptions, Quant, Read, Report, TemplateState, Written, convert};
pub use error::{Error, Result};
pub use gguf::{ExportReport, export_gguf, export_lora_gguf};
pub use peft::{read_peft, write_peft};
pub use prompts::read_prompts;

/// Most layers that are read; the runtime's own limit.
pub(crate) const MAX_LAYERS: usize = 4096;
/// Largest size of one dimension that is read; the runtime's own limit.
pub(crate) const MAX_DIMENSION: usize = 1 << 24;

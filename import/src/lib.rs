//! Model files in and out of critic.

/// GGUF, read and written.
pub mod gguf;
/// Tokenizers of foreign formats to the runtime's tables.
pub mod tokenizer;

//! Scored critiques: read, split, turned into tokens, put in an order.
//!
//! ```text
//! JSONL ─▶ ScoredDraft (read.rs) ─▶ train | held out (split.rs) ─▶ EncodedGroup (encoded.rs) ─▶ batches (order.rs)
//! ```

pub mod encoded;
pub mod order;
pub mod read;
pub mod split;

pub use encoded::{EncodeOptions, Encoded, EncodedGroup, encode};
pub use order::{Batching, batches};
pub use read::{DataFile, ScoredCritique, ScoredDraft};
pub use split::is_held_out;

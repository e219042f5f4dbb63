//! critic: a second pair of eyes that never leaves the machine.
//!
//! (essay to come)

pub mod error;
pub mod file;
pub mod map;
pub mod quant;
pub mod tokenizer;

pub use error::{Error, Result};

//! critic: a second pair of eyes that never leaves the machine.

pub mod error;
pub mod file;
pub mod kernels;
pub mod kv;
pub mod map;
pub mod pool;
pub mod quant;
pub mod tokenizer;
pub mod transformer;

pub use error::{Error, Result};

//! AArch64: NEON.

mod neon;

pub use neon::Neon;

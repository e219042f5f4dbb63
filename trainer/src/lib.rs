//! Trains critics. docs/trainer.md says how it is built.

pub mod calibrate;
pub mod checkpoint;
pub mod collect;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod evaluate;
pub mod exchange;
pub mod export;
pub mod files;
pub mod job;
pub mod lanes;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod objective;
pub mod optim;
pub mod pretrain;
pub mod random;
pub mod recipe;
pub mod reference;
pub mod report;
pub mod run;
pub mod sandbox;
pub mod schedule;
pub mod score;
pub mod scratch;
pub mod tasks;
pub mod tensors;
pub mod train;

pub use error::{Error, Result};

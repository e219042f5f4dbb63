//! One module for each command.

pub mod bench;
pub mod convert;
pub mod critique;
pub mod demo;
pub mod export;
pub mod first_finding;
pub mod generate;
pub mod improve;
pub mod info;
pub mod kl;
pub mod logits;
pub mod lsp;
pub mod pull;
pub mod refine;
pub mod score;
pub mod tokenize;

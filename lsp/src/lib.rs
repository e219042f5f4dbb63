//! The language server of critic, and what it shares with the command line: languages, a
//! project's instructions, parts of documents, reviews.
//!
//! [`serve`] speaks the Language Server Protocol 3.17 on two streams. Three threads read, write and
//! think; the one that called answers, at once, whatever the thinking one is at. A critique is
//! a job of the [`worker`]'s, which reports progress, text and findings as they come; editing a
//! document drops the jobs that are about its old text.
//!
//! It opens no socket, reads no file but `.critic.toml` and the model, and writes none but its
//! log, if asked for. Not here: how a model thinks (the crate `critic`).

pub mod document;
mod edits;
mod features;
mod jobs;
pub mod language;
pub mod position;
pub mod project;
pub mod review;
mod rpc;
mod server;
pub mod settings;
pub mod split;
pub mod worker;

pub use server::serve;

//! libcritic: what C programs see of critic.
//!
//! This crate is a layer, not a program: it turns C's pointers into values that can be
//! trusted, calls the runtime, and turns what comes back into something that C can own. It
//! decides nothing about critiques.
//!
//! Names are those of the header, letter by letter, and so are the comments: cbindgen turns
//! each public module into one section of `include/critic.h`
//! (`tests/header.rs` says how). So they speak to a C programmer.
//!
//! Behind the sections stand four modules that C does not see: [`boundary`] catches panics
//! and reports failures, [`structs`] reads and writes structs whose sizes differ from ours,
//! [`convert`] turns a request into the runtime's, and [`memory`] zeroes what is freed.
#![allow(non_camel_case_types, reason = "the header's names")]
#![allow(clippy::missing_safety_doc, reason = "each comment is the header's, and states the contract in prose")]

// Sections of the header.
pub mod event;
pub mod model;
pub mod request;
pub mod result;
pub mod run;
pub mod session;
pub mod status;
pub mod text;
pub mod version;

mod boundary;
mod convert;
mod memory;
mod structs;

#[cfg(test)]
mod layout;

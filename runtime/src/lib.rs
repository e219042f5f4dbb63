//! critic: a second pair of eyes that never leaves the machine.
//!
//! It reads a task and a draft, says what is wrong with the draft (the *critique*), writes
//! a better draft (the *refinement*), and leaves good work alone. This crate is the whole
//! of that for a program that has a model file: it opens no socket, prints nothing, reads
//! no environment variable, and never exits.
//!
//! ```no_run
//! use std::ops::ControlFlow::Continue;
//! use critic::{Host, Model, Request, Session, SessionOptions};
//!
//! # fn main() -> critic::Result<()> {
//! let model = Model::open("model.critic".as_ref())?;
//! let mut session = Session::new(&model, &SessionOptions::default())?;
//! let request = Request {
//!     prompt: "What is 48 + 24?".into(),
//!     response: "48 + 24 = 74".into(),
//!     task: "math".into(),
//!     ..Request::default()
//! };
//! let improvement = session.improve(&request, &mut Host::default(), &mut |_| Continue(()))?;
//! println!("{}\n{}", improvement.critique.text, improvement.text);
//! # Ok(())
//! # }
//! ```
//!
//! The modules stand in the order of the data. A model is bytes ([`map`]) that are a
//! [`file`](mod@file): metadata, and tensors in the formats of [`quant`]. [`weights`] and an
//! [`adapter`] are views of them. [`kernels`] do arithmetic on them in place, on the
//! [`pool`]'s threads; [`transformer`] puts the kernels in order and [`kv`] remembers what was evaluated. The [`tokenizer`] turns text into
//! tokens, [`chat`] a conversation. A [`model`] is all that is shared, a [`session`] what
//! one caller owns, and a [`prefix`] what one may leave on disk for the next; it chooses tokens with the [`sampler`], among those that a [`grammar`]
//! allows where there is one, and hands them out through [`text`]. On top stands the loop:
//! [`critique`], whose structured form is a list of [`findings`], [`refine`], [`improve`].
//!
//! Three promises hold everywhere. Bytes of a file and text of a user never cause a panic.
//! A token's logits have the same bits whatever else is computed with it: batch, chunks,
//! threads, instruction set. And text is data: it can never become a control token.

pub mod adapter;
mod branch;
pub mod chat;
pub mod critique;
pub mod divergence;
pub mod error;
pub mod file;
pub mod findings;
pub mod grammar;
mod hash;
pub mod improve;
pub mod kernels;
pub mod kv;
pub mod map;
pub mod model;
pub mod pool;
pub mod prefix;
pub mod quant;
pub mod refine;
pub mod sampler;
pub mod session;
mod speculate;
pub mod text;
pub mod tokenizer;
pub mod transformer;
pub mod weights;

pub use adapter::Adapter;
pub use critique::{Critique, CritiqueScore, Event, Forced, Phase, Request, Verdict};
pub use error::{Error, Result};
pub use file::ModelFile;
pub use findings::{Finding, Severity};
pub use improve::{Improvement, Round};
pub use kernels::Kernel;
pub use kv::Precision;
pub use map::Bytes;
pub use model::Model;
pub use prefix::PrefixCache;
pub use refine::{Host, Message, Refinement, Role};
pub use sampler::Sampling;
pub use session::{
    AdapterUse, BatchPrompt, CancelToken, GenerateOptions, Generation, Progress, Repeats, Session, SessionOptions,
    Stop, Timings,
};

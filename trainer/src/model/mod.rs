//! The critic's policy in burn: weights, the forward pass, adapters and log-probabilities.
//!
//! The mathematics is the runtime's, and so are the names of weights. Rows are tokens:
//! activations are `[rows, width]`, whatever texts the rows come from, because a group is one
//! [`Tree`]: a trunk that its critiques share, and a branch for each.

mod adapter;
mod base;
mod dropout;
mod forward;
mod logprob;
mod policy;
mod rope;
mod tree;

pub use adapter::{Adapter, AdapterOptions, Pair};
pub use base::{Base, Layer, Projection, load};
pub use critic::adapter::Target;
pub use dropout::Dropout;
pub use forward::{Cache, Observer, forward, forward_observed, prefill, prefill_observed};
pub use logprob::{LogProbs, log_probs, output_gradient};
pub use policy::Policy;
pub use tree::{GroupTree, Tree};

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

pub use adapter::{Adapter, AdapterOptions, Pair, Target};
pub use base::{Base, Layer, Projection, load};
pub use dropout::Dropout;
pub use forward::{Cache, forward, prefill};
pub use logprob::{LogProbs, log_probs, output_gradient};
pub use policy::Policy;
pub use tree::{GroupTree, Tree};

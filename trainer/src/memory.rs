//! How much memory a pass takes, and how a group is cut so that it takes no more.

use std::ops::Range;

use critic::file::Config;

use crate::data::EncodedGroup;
use crate::error::{Error, Result};
use crate::lanes::lanes;
use crate::model::Policy;

/// What a pass may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of everything that training holds at once, weights included; `usize::MAX`: no limit.
    pub memory: usize,
    /// Bytes of logits at a time.
    pub logits: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: usize::MAX, logits: 512 << 20 }
    }
}

/// Bytes of weights, and where they are trained of gradients, moments and the optimizer's next values.
pub fn weight_bytes(policy: &Policy) -> usize {
    let mut base = 0;
    policy.base.map(&mut |_, tensor| {
        base += tensor.dims().iter().product::<usize>() * tensor.dtype().size();
        tensor.clone()
    });
    let trained: usize = policy.parameters().iter().map(|(_, tensor)| tensor.dims().iter().product::<usize>()).sum();
    // In f32, whatever the base is in.
    base + 4 * 5 * trained
}

/// Bytes of the graph of `rows` rows that attend to `keys` keys: values that the backward pass of each
/// layer needs, and what it holds for a moment. The numbers of tensors were measured.
pub fn pass_bytes(config: &Config, rows: usize, keys: usize) -> usize {
    let heads = config.heads * config.head_dim;
    let kv = config.kv_heads * config.head_dim;
    let row = HIDDEN * config.hidden_size + HEADS * heads + KV * kv + INNER * config.intermediate_size;
    let scores = SCORES * config.heads * keys;
    4 * rows * (config.layers * (row + scores))
}

/// Tensors `[rows, hidden]` of a layer that are kept.
const HIDDEN: usize = 10;
/// Tensors `[rows, heads · head_dim]` of a layer that are kept.
const HEADS: usize = 8;
/// Tensors `[rows, kv_heads · head_dim]` of a layer that are kept.
const KV: usize = 8;
/// Tensors `[rows, intermediate]` of a layer that are kept.
const INNER: usize = 8;
/// Tensors `[heads, rows, keys]` of a layer that are kept.
const SCORES: usize = 2;

/// Consecutive critiques of a group that go through together.
pub fn parts(policy: &Policy, group: &EncodedGroup, limit: usize) -> Result<Vec<Range<usize>>> {
    let config = &policy.base.config;
    let shared = if policy.is_activated() { 0 } else { group.prefix.len() };
    let (cached, trunk) = (group.prefix.len() - shared, shared + group.instruction.len());
    let weights = if limit == usize::MAX { 0 } else { weight_bytes(policy) };
    let bytes =
        |rows: usize| weights.saturating_add(pass_bytes(config, lanes(policy) * trunk + rows, cached + trunk + rows));
    let (mut parts, mut first, mut rows) = (Vec::new(), 0, 0);
    for (index, critique) in group.critiques.iter().enumerate() {
        if bytes(critique.len()) > limit {
            return Err(Error::invalid(format!(
                "group {}: a critique of {} tokens after {} needs {} MB, the limit is {} MB",
                group.id,
                critique.len(),
                group.prefix.len() + group.instruction.len(),
                bytes(critique.len()) >> 20,
                limit >> 20
            )));
        }
        if index > first && bytes(rows + critique.len()) > limit {
            parts.push(first..index);
            (first, rows) = (index, 0);
        }
        rows += critique.len();
    }
    parts.push(first..group.critiques.len());
    Ok(parts)
}

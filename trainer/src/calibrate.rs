//! How large the activations are that each column of a matrix is multiplied with: where
//! quantization has to be exact.
//!
//! The error that rounding a weight makes in y = W·x is (ΔW·x)², whose mean over activations of
//! uncorrelated columns is Σ_j ΔW_j²·E\[x_j²\]: the quantizer makes that sum small (AWQ, arXiv 2306.00978,
//! looks at the same magnitudes).

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::data::EncodedGroup;
use crate::model::{Cache, GroupTree, Policy, Target, forward_observed, prefill_observed};

/// Sums of squares for a matrix, and over how many rows.
struct Squares {
    sum: Tensor<2>,
    rows: usize,
}

/// E\[x²\] of the columns of every matrix, by its name in a model file, over the tokens of `groups` as the
/// policy reads them. `progress` is told how many groups are done, and says whether to go on.
pub fn activation_squares(
    policy: &Policy,
    groups: &[EncodedGroup],
    progress: &mut dyn FnMut(usize) -> bool,
) -> BTreeMap<String, Vec<f32>> {
    let mut squares: BTreeMap<String, Squares> = BTreeMap::new();
    let mut add = |name: String, x: &Tensor<2>| {
        let rows = x.dims()[0];
        let sum = x.clone().square().sum_dim(0);
        squares
            .entry(name)
            .and_modify(|squares| {
                squares.sum = squares.sum.clone() + sum.clone();
                squares.rows += rows;
            })
            .or_insert(Squares { sum, rows });
    };
    for (done, group) in groups.iter().enumerate() {
        if !progress(done) {
            break;
        }
        let mut observer =
            |layer: usize, target: Target, x: &Tensor<2>| add(format!("layers.{layer}.{}", target.name()), x);
        let (cache, start, trunk) = match policy.is_activated() {
            true => {
                let cache = prefill_observed(&policy.base, &group.prefix, Some(&mut observer));
                (cache, group.prefix.len(), group.instruction.clone())
            }
            false => (Cache::default(), 0, [&group.prefix[..], &group.instruction].concat()),
        };
        let tree = GroupTree::new(start, &trunk, 0, &group.critiques);
        let hidden = forward_observed(policy, &tree.tree, &cache, &mut observer);
        // A tied embedding is what hidden states are multiplied with, and else only looked up.
        let output = if policy.base.output.is_some() { "output" } else { "embedding" };
        add(output.to_owned(), &hidden);
    }
    let mean = |squares: Squares| -> Vec<f32> {
        (squares.sum / squares.rows as f64).into_data().try_to_vec().expect("activations are f32")
    };
    squares.into_iter().map(|(name, squares)| (name, mean(squares))).collect()
}

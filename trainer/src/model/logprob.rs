//! From hidden states to log-probabilities: the only way there is.
//!
//! Logits `[rows, vocab]` exist for some rows at a time and in no graph, because the gradient of a
//! row's log p(t) = z_t − log Σ exp z with respect to its hidden state h, z = W·h, is known:
//! W_t − Σ_v p_v·W_v. A loss whose factor on that row is f then has the gradient f times this.

use burn::tensor::{DType, Tensor, TensorData, activation};

use super::tree::indices;

/// Log-probabilities of some targets.
pub struct LogProbs {
    /// Natural logarithms, `[targets]`.
    pub values: Vec<f32>,
    /// ∂log p/∂hidden of each, `[targets, hidden]`, where it was asked for.
    pub directions: Option<Tensor<2>>,
}

/// Rows of logits in `limit` bytes; a pass holds about four tensors of that size at once.
fn chunk_rows(vocab: usize, limit: usize) -> usize {
    (limit / (4 * 4 * vocab)).max(1)
}

/// log p of `targets` after `hidden` `[targets, hidden]`, with `output` `[vocab, hidden]`. Logits
/// take about `limit` bytes at a time. Both tensors are outside any graph.
pub fn log_probs(hidden: &Tensor<2>, output: &Tensor<2>, targets: &[u32], limit: usize, directions: bool) -> LogProbs {
    let [_, width] = hidden.dims();
    let [vocab, _] = output.dims();
    let device = hidden.device();
    let (mut values, mut found) = (Vec::new(), Vec::new());
    for (chunk, targets) in targets.chunks(chunk_rows(vocab, limit)).enumerate() {
        let first = chunk * chunk_rows(vocab, limit);
        let h = hidden.clone().slice([first..first + targets.len(), 0..width]);
        let (logits, p) = distribution(h, output);
        let column = indices(targets.iter().map(|&t| t as usize), &device).reshape([targets.len(), 1]);
        // The largest probability is exp(0) / Σ: its logarithm is minus the shifted log-sum-exp,
        // which saves a second pass of exponentials.
        let log_p = logits.clone().gather(1, column) - logits.max_dim(1) + p.clone().max_dim(1).log();
        values.push(log_p);
        if directions {
            let rows = indices(targets.iter().map(|&t| t as usize), &device);
            let expected = p.cast(output.dtype()).matmul(output.clone()).cast(DType::F32);
            found.push(output.clone().select(0, rows).cast(DType::F32) - expected);
        }
    }
    let values = match values.is_empty() {
        true => Vec::new(),
        false => Tensor::cat(values, 0).into_data().try_to_vec().expect("log-probabilities are f32"),
    };
    LogProbs { values, directions: (!found.is_empty()).then(|| Tensor::cat(found, 0)) }
}

/// ∂(Σ factor · log p)/∂output, `[vocab, hidden]`: what a trained output layer adds to its
/// gradient. `factors` are `[targets]`.
pub fn output_gradient(
    hidden: &Tensor<2>,
    output: &Tensor<2>,
    targets: &[u32],
    factors: &[f32],
    limit: usize,
) -> Tensor<2> {
    let [_, width] = hidden.dims();
    let [vocab, _] = output.dims();
    let device = hidden.device();
    let rows = chunk_rows(vocab, limit);
    let mut sum = Tensor::zeros([vocab, width], &device);
    for (chunk, (targets, factors)) in targets.chunks(rows).zip(factors.chunks(rows)).enumerate() {
        let h = hidden.clone().slice([chunk * rows..chunk * rows + targets.len(), 0..width]);
        let (_, p) = distribution(h.clone(), output);
        let factors = Tensor::<2>::from_data(TensorData::new(factors.to_vec(), [targets.len(), 1]), &device);
        let weighted = h * factors;
        sum = sum - p.transpose().matmul(weighted.clone());
        let rows = indices(targets.iter().map(|&t| t as usize), &device);
        sum = sum.select_assign(0, rows, weighted, burn::tensor::IndexingUpdateOp::Add);
    }
    sum
}

/// Logits and probabilities, `[rows, vocab]` each.
fn distribution(hidden: Tensor<2>, output: &Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let logits = hidden.cast(output.dtype()).matmul(output.clone().transpose()).cast(DType::F32);
    let p = activation::softmax(logits.clone(), 1);
    (logits, p)
}

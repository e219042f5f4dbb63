//! The optimizer: gradients of a whole step, the limit on their norm, and AdamW (burn's).

use std::path::Path;

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer as _};
use burn::tensor::{Device, Gradients, Tensor};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::Policy;
use crate::tensors::{Matrices, take, to_host};

/// The gradient of a step's loss for each trained tensor, in the order of
/// [`Policy::parameters`]. Groups add to it one after the other.
#[derive(Clone, Default)]
pub struct Gradient(Vec<Option<Tensor<2>>>);

impl Gradient {
    /// Adds what a backward pass found for the leaves of `policy`, and takes it out of `found`.
    pub fn add(&mut self, policy: &Policy, found: &mut Gradients) {
        for (index, (_, leaf)) in policy.parameters().into_iter().enumerate() {
            if let Some(found) = leaf.grad_remove(found) {
                self.add_to(index, found);
            }
        }
    }

    /// Adds another gradient of the same parameters.
    pub fn append(&mut self, other: Self) {
        for (index, found) in other.0.into_iter().enumerate() {
            if let Some(found) = found {
                self.add_to(index, found);
            }
        }
    }

    /// Adds `found` to the gradient of parameter `index`.
    pub fn add_to(&mut self, index: usize, found: Tensor<2>) {
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        let sum = self.0[index].take();
        self.0[index] = Some(sum.map_or(found.clone(), |sum| sum + found));
    }

    /// The gradient of parameter `index`; `None` where it is zero.
    pub fn get(&self, index: usize) -> Option<&Tensor<2>> {
        self.0.get(index)?.as_ref()
    }

    /// Euclidean norm over all tensors. Rows are summed on the device, and the sums on the host,
    /// where the order is fixed.
    pub fn norm(&self) -> f64 {
        let rows: Vec<Tensor<2>> = self.0.iter().flatten().map(|tensor| tensor.clone().square().sum_dim(1)).collect();
        if rows.is_empty() {
            return 0.0;
        }
        let sums: Vec<f32> = Tensor::cat(rows, 0).into_data().try_to_vec().expect("gradients are f32");
        sums.into_iter().map(f64::from).sum::<f64>().sqrt()
    }
}

/// What AdamW is asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimizerOptions {
    /// Decay of the mean gradient.
    pub beta_1: f32,
    /// Decay of the mean squared gradient.
    pub beta_2: f32,
    /// Added to the root of the mean square.
    pub epsilon: f32,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f32,
    /// Gradients whose norm over all tensors is larger are scaled down to it.
    pub max_norm: f64,
}

impl Default for OptimizerOptions {
    fn default() -> Self {
        Self { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0, max_norm: 1.0 }
    }
}

/// AdamW with its moments, one state for each trained tensor.
pub struct Optimizer {
    options: OptimizerOptions,
    matrices: AdamW,
    /// Norms and biases do not decay.
    vectors: AdamW,
    states: Vec<Option<AdamWState<2>>>,
}

impl Optimizer {
    /// An optimizer that has seen nothing.
    pub fn new(options: &OptimizerOptions) -> Self {
        let adamw = |weight_decay| {
            AdamWConfig::new()
                .with_beta_1(options.beta_1)
                .with_beta_2(options.beta_2)
                .with_epsilon(options.epsilon)
                .with_weight_decay(weight_decay)
                .build()
        };
        Self {
            options: options.clone(),
            matrices: adamw(options.weight_decay),
            vectors: adamw(0.0),
            states: Vec::new(),
        }
    }

    /// The policy after a step against `gradient`, whose norm is `norm`.
    pub fn step(&mut self, policy: &Policy, gradient: &Gradient, norm: f64, learning_rate: f64) -> Policy {
        let factor = if norm > self.options.max_norm { self.options.max_norm / norm } else { 1.0 };
        let mut index = 0;
        policy.map(&mut |_, tensor| {
            self.states.resize(self.states.len().max(index + 1), None);
            let found =
                gradient.get(index).map(|found| if factor < 1.0 { found.clone() * factor } else { found.clone() });
            index += 1;
            let Some(found) = found else { return tensor.clone() };
            let adamw = if tensor.dims()[0] == 1 { &self.vectors } else { &self.matrices };
            let (tensor, state) = adamw.step(learning_rate, tensor.clone(), found, self.states[index - 1].take());
            self.states[index - 1] = state;
            tensor
        })
    }

    /// The moments of `policy`'s parameters by name.
    pub fn to_host(&self, policy: &Policy) -> Matrices {
        let mut tensors = Vec::new();
        for ((name, _), state) in policy.parameters().into_iter().zip(&self.states) {
            let Some(AdamWState { momentum }) = state else { continue };
            let time = Tensor::from_floats([[momentum.time as f32]], &momentum.moment_1.device());
            tensors.push((format!("{name}.moment_1"), momentum.moment_1.clone()));
            tensors.push((format!("{name}.moment_2"), momentum.moment_2.clone()));
            tensors.push((format!("{name}.time"), time));
        }
        to_host(tensors)
    }

    /// An optimizer that goes on from what [`Optimizer::to_host`] gave.
    pub fn from_host(
        options: &OptimizerOptions,
        policy: &Policy,
        mut matrices: Matrices,
        device: &Device,
        path: &Path,
    ) -> Result<Self> {
        let mut optimizer = Self::new(options);
        for (name, tensor) in policy.parameters() {
            let Some((_, time)) = matrices.remove(&format!("{name}.time")) else {
                optimizer.states.push(None);
                continue;
            };
            let mut moment = |which| take(&mut matrices, &format!("{name}.{which}"), tensor.dims(), device, path);
            let momentum = AdaptiveMomentumState {
                time: time.first().copied().unwrap_or(0.0) as usize,
                moment_1: moment("moment_1")?,
                moment_2: moment("moment_2")?,
                max_moment_2: None,
            };
            optimizer.states.push(Some(AdamWState { momentum }));
        }
        Ok(optimizer)
    }
}

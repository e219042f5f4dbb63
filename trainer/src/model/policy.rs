//! The policy π_θ: a base and, unless the base itself is trained, an adapter.

use burn::tensor::{Device, Tensor};

use super::adapter::Adapter;
use super::base::Base;

/// What scores critiques, and is trained.
#[derive(Clone)]
pub struct Policy {
    /// The model's weights: trained where there is no adapter.
    pub base: Base,
    /// What is trained instead of them.
    pub adapter: Option<Adapter>,
}

impl Policy {
    /// Whether tokens before the critique instruction run without gradient: under an adapter that
    /// acts from there on.
    pub fn is_activated(&self) -> bool {
        self.adapter.as_ref().is_some_and(|adapter| adapter.options.activated)
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        self.base.device()
    }

    /// Trained tensors by name, always in the same order.
    pub fn parameters(&self) -> Vec<(String, Tensor<2>)> {
        let mut parameters = Vec::new();
        self.map(&mut |name, tensor| {
            parameters.push((name, tensor.clone()));
            tensor.clone()
        });
        parameters
    }

    /// The same policy with each trained tensor replaced.
    pub fn map(&self, change: &mut dyn FnMut(String, &Tensor<2>) -> Tensor<2>) -> Self {
        match &self.adapter {
            Some(adapter) => Self { base: self.base.clone(), adapter: Some(adapter.map(change)) },
            None => Self { base: self.base.map(change), adapter: None },
        }
    }

    /// The same policy with `parameters` in the order of [`Policy::parameters`].
    pub fn with(&self, parameters: Vec<Tensor<2>>) -> Self {
        let mut parameters = parameters.into_iter();
        let policy = self.map(&mut |_, _| parameters.next().expect("as many as there are parameters"));
        assert!(parameters.next().is_none(), "as many as there are parameters");
        policy
    }

    /// The same policy, whose trained tensors are leaves of a new graph.
    pub fn tracked(&self) -> Self {
        self.map(&mut |_, tensor| tensor.clone().autodiff().require_grad())
    }
}

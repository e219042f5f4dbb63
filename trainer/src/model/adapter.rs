//! Low-rank adapters (LoRA, arXiv 2106.09685): y += scale · B·A·x.

use burn::tensor::{Device, Tensor, TensorData};
use critic::adapter::Target;
use critic::file::Config;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::random::Random;

/// What an adapter is like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterOptions {
    /// Rank r of every pair.
    pub rank: usize,
    /// The pairs' products are multiplied by alpha / rank.
    pub alpha: f64,
    /// Matrices that have a pair, in every block.
    pub targets: Vec<Target>,
    /// Share of a pair's inputs that are dropped in training.
    pub dropout: f64,
    /// Whether it acts on the critique and its instruction only; else on the whole text.
    pub activated: bool,
}

impl Default for AdapterOptions {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, targets: Target::ALL.to_vec(), dropout: 0.0, activated: true }
    }
}

impl AdapterOptions {
    /// Checks ranges.
    pub fn validate(&self) -> Result<()> {
        if self.rank == 0 || self.targets.is_empty() {
            return Err(Error::invalid("an adapter needs a rank of at least 1 and a target"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::invalid(format!(
                "adapter dropout is {}, expected 0 or more and less than 1",
                self.dropout
            )));
        }
        Ok(())
    }

    /// Factor on B·A·x.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// The pair of one matrix.
#[derive(Clone)]
pub struct Pair {
    /// `[rank, in]`
    pub a: Tensor<2>,
    /// `[out, rank]`
    pub b: Tensor<2>,
}

/// The pairs of all blocks.
#[derive(Clone)]
pub struct Adapter {
    /// What it is like.
    pub options: AdapterOptions,
    /// `[layers][target]`, by [`Target`]'s order; `None` where the matrix has none.
    pub layers: Vec<[Option<Pair>; 7]>,
}

impl Adapter {
    /// A fresh adapter, which changes nothing: A uniform in ±1/√in, as PEFT draws it (Kaiming with
    /// a = √5), B zero.
    pub fn new(config: &Config, options: &AdapterOptions, seed: u64, device: &Device) -> Result<Self> {
        options.validate()?;
        Self::build(config, options, |layer, target, part, [rows, columns]| {
            let mut values = vec![0.0; rows * columns];
            if part == "a" {
                let bound = 1.0 / (columns as f64).sqrt();
                let mut random = Random::new(seed, "adapter", &[layer as u64, target as u64]);
                values.fill_with(|| (bound * (2.0 * random.uniform() - 1.0)) as f32);
            }
            Ok(Tensor::from_data(TensorData::new(values, [rows, columns]), device))
        })
    }

    /// An adapter from the values of `take(name, [rows, columns])`, by the names of
    /// [`Adapter::map`].
    pub fn from_values(
        config: &Config,
        options: &AdapterOptions,
        device: &Device,
        take: &mut dyn FnMut(&str, [usize; 2]) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        options.validate()?;
        Self::build(config, options, |layer, target, part, shape| {
            let values = take(&format!("layers.{layer}.{}.{part}", target.name()), shape)?;
            Ok(Tensor::from_data(TensorData::new(values, shape), device))
        })
    }

    fn build(
        config: &Config,
        options: &AdapterOptions,
        mut tensor: impl FnMut(usize, Target, &str, [usize; 2]) -> Result<Tensor<2>>,
    ) -> Result<Self> {
        let rank = options.rank;
        let mut layers = Vec::with_capacity(config.layers);
        for layer in 0..config.layers {
            let mut pairs = [const { None }; 7];
            for target in Target::ALL.into_iter().filter(|target| options.targets.contains(target)) {
                let (out, input) = target.shape(config);
                let a = tensor(layer, target, "a", [rank, input])?;
                let b = tensor(layer, target, "b", [out, rank])?;
                pairs[target as usize] = Some(Pair { a, b });
            }
            layers.push(pairs);
        }
        Ok(Self { options: options.clone(), layers })
    }

    /// The same adapter with each tensor replaced by what `change` makes of it, by its name
    /// (`layers.N.attention.q.a`), always in the same order.
    pub fn map(&self, change: &mut dyn FnMut(String, &Tensor<2>) -> Tensor<2>) -> Self {
        let layer = |(layer, pairs): (usize, &[Option<Pair>; 7])| {
            Target::ALL.map(|target| {
                pairs[target as usize].as_ref().map(|pair| Pair {
                    a: change(format!("layers.{layer}.{}.a", target.name()), &pair.a),
                    b: change(format!("layers.{layer}.{}.b", target.name()), &pair.b),
                })
            })
        };
        Self { options: self.options.clone(), layers: self.layers.iter().enumerate().map(layer).collect() }
    }
}

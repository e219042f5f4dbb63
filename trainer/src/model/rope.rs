//! Rotary embedding (arXiv 2104.09864), rotate-half: pairs (i, i + head_dim/2) turn.

use burn::tensor::{Device, Tensor, TensorData};
use critic::Model;
use critic::file::Rope;

use crate::error::Result;

/// The angles of a model and the swap of a head's halves.
#[derive(Clone)]
pub struct Rotary {
    /// Angle of each pair at position 1, `[head_dim / 2]`: of `Config::rope` and `rope_local`.
    frequencies: [Vec<f64>; 2],
    /// `[head_dim, head_dim]`: x · swap = (−x₂, x₁) for x = (x₁, x₂). A product with zeros and ones is
    /// exact, one node of the graph, and far cheaper than taking halves apart.
    swap: Tensor<2>,
}

/// Cosines and sines of some rows' positions, for one rotary embedding.
#[derive(Clone)]
pub struct Turns {
    /// `[rows, 1, head_dim]`
    cos: Tensor<3>,
    /// `[rows, 1, head_dim]`
    sin: Tensor<3>,
    swap: Tensor<2>,
}

impl Rotary {
    /// The rotary embeddings of `model`, as the runtime has them.
    pub fn new(model: &Model, device: &Device) -> Result<Self> {
        let config = model.config();
        let half = config.head_dim / 2;
        let factors = match model.file().contains("rope.factors") {
            true => Some(model.file().vector("rope.factors", half)?),
            false => None,
        };
        let frequencies = |rope: &Rope, factors: Option<&[f32]>| -> Vec<f64> {
            let factor = |i: usize| factors.map_or(1.0, |f| f64::from(f[i]));
            (0..half).map(|i| rope.scale * rope.theta.powf(-(i as f64) / half as f64) / factor(i)).collect()
        };
        let mut swap = vec![0.0f32; config.head_dim * config.head_dim];
        for i in 0..half {
            swap[(half + i) * config.head_dim + i] = -1.0;
            swap[i * config.head_dim + half + i] = 1.0;
        }
        Ok(Self {
            frequencies: [
                frequencies(&config.rope, factors.as_deref()),
                config.rope_local.as_ref().map_or(Vec::new(), |rope| frequencies(rope, None)),
            ],
            swap: Tensor::from_data(TensorData::new(swap, [config.head_dim; 2]), device),
        })
    }

    /// Cosines and sines at `positions` for both rotary embeddings; `None` where there is but one.
    pub fn turns(&self, positions: &[usize]) -> [Option<Turns>; 2] {
        let device = self.swap.device();
        [0, 1].map(|which| {
            let frequencies = &self.frequencies[which];
            if frequencies.is_empty() {
                return None;
            }
            let table = |of: fn(f64) -> f64| {
                let row = |&position: &usize| {
                    let values = frequencies.iter().map(move |f| of(position as f64 * f) as f32);
                    values.clone().chain(values)
                };
                let values: Vec<f32> = positions.iter().flat_map(row).collect();
                Tensor::from_data(TensorData::new(values, [positions.len(), 1, 2 * frequencies.len()]), &device)
            };
            Some(Turns { cos: table(f64::cos), sin: table(f64::sin), swap: self.swap.clone() })
        })
    }
}

impl Turns {
    /// Turns every head of every row. `[rows, heads, head_dim]`
    pub fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        let [rows, heads, head_dim] = x.dims();
        let swapped = x.clone().reshape([rows * heads, head_dim]).matmul(self.swap.clone());
        x * self.cos.clone() + swapped.reshape([rows, heads, head_dim]) * self.sin.clone()
    }

    /// Where the tables are.
    pub fn device(&self) -> Device {
        self.cos.device()
    }

    /// The same, with every result multiplied by `factor`.
    pub fn scaled(&self, factor: f32) -> Self {
        Self { cos: self.cos.clone() * factor, sin: self.sin.clone() * factor, swap: self.swap.clone() }
    }
}

//! The weights of one model: views of its file, checked against its configuration.
//!
//! Not here: what is computed with them (see [`crate::transformer`]).

use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::file::{Config, ModelFile};
use crate::map::Slice;
use crate::quant::{Matrix, TILE};

/// The weights of one model, read in place.
pub struct Weights {
    /// Shape and variant.
    pub config: Config,
    /// `[vocab, hidden]`
    pub embedding: Matrix,
    /// The blocks in order.
    pub layers: Vec<Layer>,
    /// `[hidden]`
    pub norm: Slice<f32>,
    /// `[vocab, hidden]`; the embedding where the two are tied.
    pub output: Matrix,
    /// What [`crate::transformer::Run::adapted`] adds.
    pub adapter: Option<Adapter>,
    /// Angle of each pair at position 1, `[head_dim / 2]`: of [`Config::rope`], `rope_local`.
    pub(crate) frequencies: [Vec<f64>; 2],
}

/// The weights of one block.
pub struct Layer {
    /// `[hidden]`, before attention.
    pub attention_norm: Slice<f32>,
    /// Queries, keys and values, side by side in the scratch row `[q | k | v]`.
    pub qkv: [Projection; 3],
    /// `[head_dim]`: norm of each query head (Qwen 3, Gemma 3).
    pub q_norm: Option<Slice<f32>>,
    /// `[head_dim]`: norm of each key head.
    pub k_norm: Option<Slice<f32>>,
    /// `[hidden, heads · head_dim]`
    pub o: Matrix,
    /// `[hidden]`, after attention and before the residual addition (Gemma 3).
    pub attention_post_norm: Option<Slice<f32>>,
    /// `[hidden]`, before the MLP.
    pub mlp_norm: Slice<f32>,
    /// `[intermediate, hidden]`
    pub gate: Matrix,
    /// `[intermediate, hidden]`
    pub up: Matrix,
    /// `[hidden, intermediate]`
    pub down: Matrix,
    /// `[hidden]`, after the MLP and before the residual addition (Gemma 3).
    pub mlp_post_norm: Option<Slice<f32>>,
}

impl Layer {
    /// Queries', keys' and values' matrices.
    pub fn qkv_matrices(&self) -> [&Matrix; 3] {
        self.qkv.each_ref().map(|projection| &projection.matrix)
    }
}

/// A matrix and the bias that some families add (Qwen 2).
pub struct Projection {
    /// `[out, hidden]`
    pub matrix: Matrix,
    /// `[out]`
    pub bias: Option<Slice<f32>>,
}

impl Weights {
    /// Views of all tensors, checked against the configuration, and of the file's adapter.
    pub fn load(file: &ModelFile) -> Result<Self> {
        let config = file.config()?;
        for (name, width) in [("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)] {
            if !width.is_multiple_of(TILE) {
                return Err(Error::unsupported(format!("{name} {width} is not a multiple of {TILE}")));
            }
        }
        let hidden = config.hidden_size;
        let embedding = file.matrix("embedding", config.vocab_size, hidden)?;
        let output = match file.contains("output") {
            true => file.matrix("output", config.vocab_size, hidden)?,
            false => embedding.clone(),
        };
        let layers: Vec<_> =
            (0..config.layers).map(|layer| Layer::load(file, &config, layer)).collect::<Result<_>>()?;
        let norm = file.vector("norm", hidden)?;
        for (index, layer) in layers.iter().enumerate() {
            if layer.gate.format().is_quantized() != layer.up.format().is_quantized() {
                return Err(Error::unsupported(format!(
                    "layer {index}: mlp.gate and mlp.up are not both quantized or both floats"
                )));
            }
        }
        let factors = match file.contains("rope.factors") {
            true => Some(file.vector("rope.factors", config.head_dim / 2)?),
            false => None,
        };
        let frequencies = |rope: &crate::file::Rope, factors: Option<&[f32]>| -> Vec<f64> {
            let half = config.head_dim / 2;
            let factor = |i: usize| factors.map_or(1.0, |f| f64::from(f[i]));
            (0..half).map(|i| rope.scale * rope.theta.powf(-(i as f64) / half as f64) / factor(i)).collect()
        };
        let frequencies = [
            frequencies(&config.rope, factors.as_deref()),
            config.rope_local.as_ref().map_or(Vec::new(), |rope| frequencies(rope, None)),
        ];
        if frequencies.iter().flatten().any(|f| !f.is_finite()) {
            return Err(Error::corrupt("rope.factors hold zeros or infinities"));
        }
        let mut weights = Self { config, embedding, layers, norm, output, adapter: None, frequencies };
        if file.adapter()?.is_some() {
            weights.adapter = Some(Adapter::load(file, &weights)?);
        }
        Ok(weights)
    }

    /// All that a token is multiplied with, in the order of a forward pass.
    pub fn matrices(&self) -> Vec<&Matrix> {
        let layers = self
            .layers
            .iter()
            .flat_map(|layer| layer.qkv_matrices().into_iter().chain([&layer.o, &layer.gate, &layer.up, &layer.down]));
        layers.chain([&self.output]).collect()
    }

    /// Number of weights, without padding and without an adapter's.
    pub fn parameters(&self) -> u64 {
        let size = |m: &Matrix| (m.rows() * m.columns()) as u64;
        let layers = self.layers.iter().map(|layer| {
            let qkv: u64 =
                layer.qkv.iter().map(|p| size(&p.matrix) + p.bias.as_ref().map_or(0, |b| b.len() as u64)).sum();
            let norms = [&layer.q_norm, &layer.k_norm, &layer.attention_post_norm, &layer.mlp_post_norm];
            let norms: usize = norms.into_iter().flatten().map(|n| n.len()).sum();
            qkv + size(&layer.o)
                + size(&layer.gate)
                + size(&layer.up)
                + size(&layer.down)
                + (norms + layer.attention_norm.len() + layer.mlp_norm.len()) as u64
        });
        let tied = std::ptr::eq(self.output.bytes(), self.embedding.bytes());
        layers.sum::<u64>() + size(&self.embedding) + self.norm.len() as u64 + if tied { 0 } else { size(&self.output) }
    }
}

impl Layer {
    fn load(file: &ModelFile, config: &Config, layer: usize) -> Result<Self> {
        let name = |part: &str| format!("layers.{layer}.{part}");
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let vector = |part: &str, len| file.vector(&name(part), len);
        let optional = |part: &str, len| file.contains(&name(part)).then(|| vector(part, len)).transpose();
        let projection = |part: &str, heads: usize| {
            Ok(Projection {
                matrix: file.matrix(&name(part), heads * head_dim, hidden)?,
                bias: optional(&format!("{part}_bias"), heads * head_dim)?,
            })
        };
        Ok(Self {
            attention_norm: vector("attention.norm", hidden)?,
            qkv: [
                projection("attention.q", config.heads)?,
                projection("attention.k", config.kv_heads)?,
                projection("attention.v", config.kv_heads)?,
            ],
            q_norm: optional("attention.q_norm", head_dim)?,
            k_norm: optional("attention.k_norm", head_dim)?,
            o: file.matrix(&name("attention.o"), hidden, config.heads * head_dim)?,
            attention_post_norm: optional("attention.post_norm", hidden)?,
            mlp_norm: vector("mlp.norm", hidden)?,
            gate: file.matrix(&name("mlp.gate"), config.intermediate_size, hidden)?,
            up: file.matrix(&name("mlp.up"), config.intermediate_size, hidden)?,
            down: file.matrix(&name("mlp.down"), hidden, config.intermediate_size)?,
            mlp_post_norm: optional("mlp.post_norm", hidden)?,
        })
    }
}

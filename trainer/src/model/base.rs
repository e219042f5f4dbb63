//! The weights of a model as burn tensors, dequantized exactly.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use critic::Model;
use critic::file::Config;
use critic::quant::Matrix;
use critic_import::{ConvertOptions, convert};

use super::rope::Rotary;
use crate::device::Precision;
use crate::error::{Error, Result};

/// The weights of one model. Vectors are `[1, width]`, so that they meet rows.
#[derive(Clone)]
pub struct Base {
    /// Shape and variant.
    pub config: Config,
    /// `[vocab, hidden]`
    pub embedding: Tensor<2>,
    /// The blocks in order.
    pub layers: Vec<Layer>,
    /// `[1, hidden]`
    pub norm: Tensor<2>,
    /// `[vocab, hidden]`; `None`: the embedding.
    pub output: Option<Tensor<2>>,
    /// What turns queries and keys.
    pub rotary: Rotary,
    /// What matrices are multiplied in.
    pub precision: Precision,
}

/// The weights of one block.
#[derive(Clone)]
pub struct Layer {
    /// `[1, hidden]`, before attention.
    pub attention_norm: Tensor<2>,
    /// Queries.
    pub q: Projection,
    /// Keys.
    pub k: Projection,
    /// Values.
    pub v: Projection,
    /// `[1, head_dim]`: norm of each query head.
    pub q_norm: Option<Tensor<2>>,
    /// `[1, head_dim]`: norm of each key head.
    pub k_norm: Option<Tensor<2>>,
    /// `[hidden, heads · head_dim]`
    pub o: Tensor<2>,
    /// `[1, hidden]`, after attention and before the residual addition.
    pub attention_post_norm: Option<Tensor<2>>,
    /// `[1, hidden]`, before the MLP.
    pub mlp_norm: Tensor<2>,
    /// `[intermediate, hidden]`
    pub gate: Tensor<2>,
    /// `[intermediate, hidden]`
    pub up: Tensor<2>,
    /// `[hidden, intermediate]`
    pub down: Tensor<2>,
    /// `[1, hidden]`, after the MLP and before the residual addition.
    pub mlp_post_norm: Option<Tensor<2>>,
}

/// A matrix and the bias that some families add.
#[derive(Clone)]
pub struct Projection {
    /// `[out, hidden]`
    pub matrix: Tensor<2>,
    /// `[1, out]`
    pub bias: Option<Tensor<2>>,
}

/// Opens the model at `path`: a model file as it is, anything else that can be imported (a
/// Hugging Face directory, GGUF) by way of a temporary one, so that one loader serves all.
pub fn load(path: &Path) -> Result<Arc<Model>> {
    if path.is_file()
        && let Ok(model) = Model::open(path)
    {
        return Ok(model);
    }
    let folder = tempfile::tempdir().map_err(Error::io(path))?;
    let file = folder.path().join("model.critic");
    convert(path, &file, &ConvertOptions::default(), &mut |_, _| ControlFlow::Continue(()))?;
    // The file goes with its folder: its bytes must not.
    Ok(Model::from_bytes(critic::Bytes::read(&file)?)?)
}

impl Base {
    /// The weights of `model` on `device`.
    pub fn new(model: &Model, device: &Device, precision: Precision) -> Result<Self> {
        let weights = model.weights();
        let config = weights.config.clone();
        let dtype = precision.dtype();
        let matrix = |matrix: &Matrix| matrix_tensor(matrix, device, dtype);
        let vector = |values: &[f32]| vector_tensor(values, device);
        let optional = |values: &Option<critic::map::Slice<f32>>| values.as_ref().map(|values| vector(values));
        let projection =
            |p: &critic::weights::Projection| Projection { matrix: matrix(&p.matrix), bias: optional(&p.bias) };
        let layers = weights.layers.iter().map(|layer| Layer {
            attention_norm: vector(&layer.attention_norm),
            q: projection(&layer.qkv[0]),
            k: projection(&layer.qkv[1]),
            v: projection(&layer.qkv[2]),
            q_norm: optional(&layer.q_norm),
            k_norm: optional(&layer.k_norm),
            o: matrix(&layer.o),
            attention_post_norm: optional(&layer.attention_post_norm),
            mlp_norm: vector(&layer.mlp_norm),
            gate: matrix(&layer.gate),
            up: matrix(&layer.up),
            down: matrix(&layer.down),
            mlp_post_norm: optional(&layer.mlp_post_norm),
        });
        let tied = std::ptr::eq(weights.output.bytes(), weights.embedding.bytes());
        Ok(Self {
            embedding: matrix(&weights.embedding),
            layers: layers.collect(),
            norm: vector(&weights.norm),
            output: (!tied).then(|| matrix(&weights.output)),
            rotary: Rotary::new(model, device)?,
            precision,
            config,
        })
    }

    /// What hidden states are projected to logits with. `[vocab, hidden]`
    pub fn output(&self) -> &Tensor<2> {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.norm.device().without_autodiff()
    }

    /// The same model with each weight replaced by what `change` makes of it, by the name that it
    /// has in a model file, always in the same order.
    pub fn map(&self, change: &mut dyn FnMut(String, &Tensor<2>) -> Tensor<2>) -> Self {
        let embedding = change("embedding".into(), &self.embedding);
        let layers = self.layers.iter().enumerate().map(|(index, layer)| layer.map(index, change)).collect();
        Self {
            config: self.config.clone(),
            embedding,
            layers,
            norm: change("norm".into(), &self.norm),
            output: self.output.as_ref().map(|output| change("output".into(), output)),
            rotary: self.rotary.clone(),
            precision: self.precision,
        }
    }
}

impl Layer {
    fn map(&self, index: usize, change: &mut dyn FnMut(String, &Tensor<2>) -> Tensor<2>) -> Self {
        let mut change = |part: &str, tensor: &Tensor<2>| change(format!("layers.{index}.{part}"), tensor);
        let attention_norm = change("attention.norm", &self.attention_norm);
        let mut projection = |part: &str, projection: &Projection| Projection {
            matrix: change(part, &projection.matrix),
            bias: projection.bias.as_ref().map(|bias| change(&format!("{part}_bias"), bias)),
        };
        let (q, k, v) = (
            projection("attention.q", &self.q),
            projection("attention.k", &self.k),
            projection("attention.v", &self.v),
        );
        let mut optional = |part: &str, tensor: &Option<Tensor<2>>| tensor.as_ref().map(|t| change(part, t));
        Self {
            attention_norm,
            q,
            k,
            v,
            q_norm: optional("attention.q_norm", &self.q_norm),
            k_norm: optional("attention.k_norm", &self.k_norm),
            attention_post_norm: optional("attention.post_norm", &self.attention_post_norm),
            mlp_post_norm: optional("mlp.post_norm", &self.mlp_post_norm),
            o: change("attention.o", &self.o),
            mlp_norm: change("mlp.norm", &self.mlp_norm),
            gate: change("mlp.gate", &self.gate),
            up: change("mlp.up", &self.up),
            down: change("mlp.down", &self.down),
        }
    }
}

fn matrix_tensor(matrix: &Matrix, device: &Device, dtype: DType) -> Tensor<2> {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let mut values = vec![0.0; rows * columns];
    for (row, values) in values.chunks_exact_mut(columns).enumerate() {
        matrix.dequantize_row(row, values);
    }
    Tensor::from_data(TensorData::new(values, [rows, columns]).convert_dtype(dtype), (device, dtype))
}

fn vector_tensor(values: &[f32], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), (device, DType::F32))
}

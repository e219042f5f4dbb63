//! Random adapters, and models with one: beside the weights, or merged into them.

use std::collections::BTreeMap;
use std::sync::Arc;

use critic::adapter::{PairValues, Target, write_adapter};
use critic::file::{AdapterSpec, Config, PlannedTensor, Provenance, write_model};
use critic::quant::{Format, MatrixBuilder};
use critic::{Bytes, Model};

use crate::small_bytes;

/// Name, A `[rank, in]`, B `[out, rank]`, in, out.
pub type NamedPair = (String, Vec<f32>, Vec<f32>, usize, usize);

/// An adapter that is still values.
pub struct RandomAdapter {
    /// Its description; change it at will.
    pub spec: AdapterSpec,
    /// The pairs, in the order of a forward pass.
    pub pairs: Vec<NamedPair>,
}

impl RandomAdapter {
    /// Pairs for `targets` of all layers, that change a product by about `strength` times what
    /// an input's size is.
    pub fn new(config: &Config, targets: &[Target], rank: usize, strength: f32, seed: u64) -> Self {
        let mut state = seed;
        let mut floats = |count: usize, size: f32| -> Vec<f32> {
            let next = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * size
            });
            next.take(count).collect()
        };
        let mut pairs = Vec::new();
        for layer in 0..config.layers {
            for &target in targets {
                let (outputs, inputs) = target.shape(config);
                let a = floats(rank * inputs, (inputs as f32).powf(-0.5));
                let b = floats(outputs * rank, strength * (rank as f32).powf(-0.5));
                pairs.push((format!("layers.{layer}.{}", target.name()), a, b, inputs, outputs));
            }
        }
        let spec = AdapterSpec {
            rank,
            scale: 2.0,
            invocation_tokens: Vec::new(),
            beta: 0.0,
            threshold: 0.0,
            base: String::new(),
        };
        Self { spec, pairs }
    }

    /// The file of an adapter that estimates utilities, and whose threshold none of them reaches.
    pub fn gate(config: &Config) -> Vec<u8> {
        let mut adapter = Self::new(config, &Target::ALL, 16, 0.1, 7);
        (adapter.spec.beta, adapter.spec.threshold) = (1.0, f32::MAX);
        adapter.file(Format::F16)
    }

    /// As the writer takes them.
    pub fn values(&self) -> impl Iterator<Item = PairValues<'_>> {
        self.pairs.iter().map(|(name, a, b, inputs, outputs)| PairValues {
            name,
            a,
            b,
            inputs: *inputs,
            outputs: *outputs,
        })
    }

    /// An adapter file.
    pub fn file(&self, format: Format) -> Vec<u8> {
        let mut out = Vec::new();
        write_adapter(&mut out, &self.spec, self.values(), format, &Provenance::default()).expect("an adapter file");
        out
    }

    /// The model in `bytes` with this adapter beside its weights, in f32.
    pub fn beside(&self, bytes: &[u8]) -> Arc<Model> {
        let adapter = Bytes::copy(&self.file(Format::F32));
        Model::from_bytes_with_adapter(Bytes::copy(bytes), adapter).expect("they fit")
    }

    /// The model in `bytes` with W + scale·B·A, computed in f64, in place of each W, in f32.
    pub fn merged(&self, bytes: &[u8]) -> Arc<Model> {
        let model = Model::from_bytes(Bytes::copy(bytes)).expect("a model");
        let file = model.file();
        let pairs: BTreeMap<&str, _> = self.pairs.iter().map(|pair| (pair.0.as_str(), pair)).collect();
        let mut tensors: Vec<_> = file.tensors().iter().filter(|(name, _)| !name.starts_with("padding.")).collect();
        tensors.sort_by_key(|(_, info)| info.range.start);
        let plans: Vec<_> = tensors
            .iter()
            .map(|(name, info)| match pairs.get(name.as_str()) {
                Some(&&(_, _, _, inputs, outputs)) => {
                    PlannedTensor::matrix(*name, Format::F32, outputs, inputs).expect("a shape")
                }
                None => PlannedTensor { name: (*name).clone(), dtype: info.dtype, shape: info.shape.clone() },
            })
            .collect();
        let metadata = file.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut out = Vec::new();
        write_model(&mut out, &metadata, &plans, |index, _| {
            let (name, info) = tensors[index];
            let Some((_, a, b, inputs, outputs)) = pairs.get(name.as_str()) else {
                return Ok(bytes[info.range.clone()].to_vec());
            };
            let (weights, rank) = (file.matrix(name, *outputs, *inputs)?, self.spec.rank);
            let mut merged = MatrixBuilder::new(Format::F32, *outputs, *inputs)?;
            let mut row = vec![0.0; *inputs];
            for output in 0..*outputs {
                weights.dequantize_row(output, &mut row);
                for (input, weight) in row.iter_mut().enumerate() {
                    let products =
                        (0..rank).map(|r| f64::from(b[output * rank + r]) * f64::from(a[r * inputs + input]));
                    *weight = (f64::from(*weight) + f64::from(self.spec.scale) * products.sum::<f64>()) as f32;
                }
                merged.set_row(output, &row)?;
            }
            Ok(merged.finish())
        })
        .expect("a merged model");
        Model::from_bytes(Bytes::copy(&out)).expect("just written")
    }
}

/// A small model with a random adapter on all its matrices, and the model's own bytes.
pub fn adapted(name: &str, quant: critic_import::Quant, rank: usize) -> (Vec<u8>, RandomAdapter) {
    let bytes = small_bytes(name, quant);
    let model = Model::from_bytes(Bytes::copy(&bytes)).expect("a model");
    let adapter = RandomAdapter::new(model.config(), &Target::ALL, rank, 0.1, 7);
    (bytes, adapter)
}

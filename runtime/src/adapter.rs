//! Low-rank adapters: `y = W·x + scale · B·(A·x)` (LoRA, arXiv 2106.09685, equation 3), with
//! weights of their own beside those of the model, and where in a text they act.
//!
//! An *activated* adapter (arXiv 2504.12397) acts from its invocation tokens on, so that what
//! is before them is read, and cached, as the base model does. One without such tokens acts
//! on the whole text.
//!
//! Not here: the products (see [`crate::kernels::low_rank`]), foreign layouts (the import
//! crate), what the utility advantage is for (see [`crate::critique`]).

use std::collections::BTreeMap;
use std::io::Write;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::file::{AdapterSpec, Config, ModelFile, PlannedTensor, Provenance, key, write_model};
use crate::hash::Fnv;
use crate::quant::{Format, Matrix, MatrixBuilder};
use crate::weights::Weights;

/// Largest rank: several times what adapters have, and little enough scratch memory.
pub const MAX_RANK: usize = 1024;
/// What the names of its tensors begin with.
const PREFIX: &str = "adapter.";

/// A linear layer that an adapter can add to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention's output.
    O,
    /// The MLP's gate.
    Gate,
    /// What the gate is multiplied with.
    Up,
    /// The MLP's output.
    Down,
}

impl Target {
    /// In the order of a forward pass.
    pub const ALL: [Target; 7] = [Target::Q, Target::K, Target::V, Target::O, Target::Gate, Target::Up, Target::Down];

    /// Its name in a layer: `attention.q`, `mlp.down`.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Q => "attention.q",
            Target::K => "attention.k",
            Target::V => "attention.v",
            Target::O => "attention.o",
            Target::Gate => "mlp.gate",
            Target::Up => "mlp.up",
            Target::Down => "mlp.down",
        }
    }

    /// Outputs and inputs of the layer's matrix.
    pub fn shape(self, config: &Config) -> (usize, usize) {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let (heads, kv_heads) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        match self {
            Target::Q => (heads, hidden),
            Target::K | Target::V => (kv_heads, hidden),
            Target::O => (hidden, heads),
            Target::Gate | Target::Up => (intermediate, hidden),
            Target::Down => (hidden, intermediate),
        }
    }
}

/// The two factors for one matrix.
pub struct Pair {
    /// `[rank, in]`
    pub a: Matrix,
    /// `[out, rank]`
    pub b: Matrix,
    /// Factor on `B·A·x`.
    pub scale: f32,
}

/// The pairs of one layer; any may be absent.
#[derive(Default)]
pub struct AdaptedLayer {
    pairs: [Option<Pair>; Target::ALL.len()],
}

impl AdaptedLayer {
    /// The pair of one matrix.
    pub fn get(&self, target: Target) -> Option<&Pair> {
        self.pairs[target as usize].as_ref()
    }
}

/// An adapter, read in place, that fits its model.
pub struct Adapter {
    /// Rank, scale, where it acts, and what it was trained for.
    pub spec: AdapterSpec,
    /// One for each of the model's.
    pub layers: Vec<AdaptedLayer>,
    tensors: usize,
}

impl Adapter {
    /// The adapter in `file`, which may be the model's own file or one of its own, checked
    /// against the model that it is to act on.
    pub fn load(file: &ModelFile, weights: &Weights) -> Result<Self> {
        let config = &weights.config;
        let Some(spec) = file.adapter()? else {
            return Err(Error::unsupported("holds no adapter: metadata critic.adapter is missing"));
        };
        spec.validate(Some(config.vocab_size))?;
        if !spec.base.is_empty() && spec.base != weights.fingerprint() {
            return Err(Error::unsupported(format!(
                "the adapter was trained for another model: its base is {}, this model is {}",
                spec.base,
                weights.fingerprint()
            )));
        }
        for name in file.tensors().keys().filter(|name| name.starts_with(PREFIX)) {
            known(name, config.layers).ok_or_else(|| {
                Error::corrupt(format!("tensor {name} belongs to no matrix of a model with {} layers", config.layers))
            })?;
        }
        let mut tensors = 0;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let mut layer = AdaptedLayer::default();
            for target in Target::ALL {
                let [a, b] = ["a", "b"].map(|half| format!("{PREFIX}layers.{index}.{}.{half}", target.name()));
                if !file.contains(&a) && !file.contains(&b) {
                    continue;
                }
                let (outputs, inputs) = target.shape(config);
                let pair = Pair {
                    a: float_matrix(file, &a, spec.rank, inputs)?,
                    b: float_matrix(file, &b, outputs, spec.rank)?,
                    scale: spec.scale,
                };
                layer.pairs[target as usize] = Some(pair);
                tensors += 2;
            }
            layers.push(layer);
        }
        if tensors == 0 {
            return Err(Error::corrupt("the adapter has no tensors"));
        }
        Ok(Self { spec, layers, tensors })
    }

    /// Number of its matrices: two for each that it adds to.
    pub fn tensors(&self) -> usize {
        self.tensors
    }

    /// The matrices that it adds to, in any layer.
    pub fn targets(&self) -> Vec<Target> {
        let any = |target: &Target| self.layers.iter().any(|layer| layer.get(*target).is_some());
        Target::ALL.into_iter().filter(any).collect()
    }

    /// Index of the first token of `tokens` on which the adapter acts, where nothing but the
    /// tokens says so: the last occurrence of the invocation tokens (the convention of PEFT),
    /// or [`NEVER`] where they do not occur.
    pub fn acts_from(&self, tokens: &[u32]) -> usize {
        let invocation = &self.spec.invocation_tokens;
        match invocation.len() {
            0 => 0,
            length => tokens.windows(length).rposition(|window| window == invocation).unwrap_or(NEVER),
        }
    }
}

/// The index from which an adapter acts that does not act.
pub const NEVER: usize = usize::MAX;

impl AdapterSpec {
    /// Numbers must be ones that can be computed with, tokens the vocabulary's.
    pub fn validate(&self, vocab_size: Option<usize>) -> Result<()> {
        if !(1..=MAX_RANK).contains(&self.rank) {
            return Err(Error::corrupt(format!("the adapter's rank is {}, expected 1 to {MAX_RANK}", self.rank)));
        }
        for (name, value, least) in
            [("scale", self.scale, f32::MIN), ("beta", self.beta, 0.0), ("threshold", self.threshold, f32::MIN)]
        {
            if !(value.is_finite() && value >= least) {
                return Err(Error::corrupt(format!("the adapter's {name} is {value}, expected a finite number")));
            }
        }
        let outside = |&&token: &&u32| vocab_size.is_some_and(|size| token as usize >= size);
        match self.invocation_tokens.iter().find(outside) {
            Some(token) => {
                Err(Error::corrupt(format!("the adapter's invocation token {token} is outside the vocabulary")))
            }
            None => Ok(()),
        }
    }
}

impl Weights {
    /// Tells models apart whatever their quantization: FNV-1a (64 bits) in hexadecimal, over
    /// the shape as eight-byte numbers (vocabulary, hidden and intermediate size, layers, heads,
    /// KV heads, width of a head), and then all norms in f32, in the order of a forward pass.
    /// Norms are f32 in every quantization, and no two models that were trained apart share them.
    pub fn fingerprint(&self) -> String {
        let mut hash = Fnv::new();
        let mut take = |bytes: &[u8]| hash = hash.extend(bytes);
        let c = &self.config;
        for size in [c.vocab_size, c.hidden_size, c.intermediate_size, c.layers, c.heads, c.kv_heads, c.head_dim] {
            take(&(size as u64).to_le_bytes());
        }
        let layers = self.layers.iter().flat_map(|layer| {
            let attention = [Some(&layer.attention_norm), layer.q_norm.as_ref(), layer.k_norm.as_ref()];
            let rest = [layer.attention_post_norm.as_ref(), Some(&layer.mlp_norm), layer.mlp_post_norm.as_ref()];
            attention.into_iter().chain(rest).flatten()
        });
        for norm in layers.chain([&self.norm]) {
            norm.iter().for_each(|weight| take(&weight.to_le_bytes()));
        }
        format!("{:016x}", hash.finish())
    }
}

/// A matrix in one of the float formats.
fn float_matrix(file: &ModelFile, name: &str, rows: usize, columns: usize) -> Result<Matrix> {
    let matrix = file.matrix(name, rows, columns)?;
    match matrix.format().is_quantized() {
        true => Err(Error::unsupported(format!("tensor {name} is {}, adapters are floats", matrix.format().name()))),
        false => Ok(matrix),
    }
}

/// Layer and target of a tensor's name, if there can be one.
fn known(name: &str, layers: usize) -> Option<(usize, Target)> {
    let (pair, half) = name.strip_prefix(PREFIX)?.rsplit_once('.')?;
    let place = place(pair)?;
    (place.0 < layers && matches!(half, "a" | "b")).then_some(place)
}

/// Layer and target of `layers.N.attention.q`.
fn place(pair: &str) -> Option<(usize, Target)> {
    let (layer, target) = pair.strip_prefix("layers.")?.split_once('.')?;
    let index: usize = layer.parse().ok()?;
    let target = Target::ALL.into_iter().find(|known| known.name() == target)?;
    // One spelling of a number: no sign, no leading zero.
    (index.to_string() == layer).then_some((index, target))
}

/// A pair that is to be written.
#[derive(Clone, Copy, Debug)]
pub struct PairValues<'a> {
    /// The matrix that it adds to: `layers.0.attention.q`.
    pub name: &'a str,
    /// `[rank, inputs]`
    pub a: &'a [f32],
    /// `[outputs, rank]`
    pub b: &'a [f32],
    /// Columns of the matrix.
    pub inputs: usize,
    /// Rows of the matrix.
    pub outputs: usize,
}

/// An adapter as part of a file: to stand alone in one, or beside the tensors of its model.
pub struct PlannedAdapter {
    /// Key and value of its metadata.
    pub metadata: (String, String),
    /// Its tensors with their bytes, in the order of a forward pass.
    pub tensors: Vec<(PlannedTensor, Vec<u8>)>,
}

/// Lays `pairs` out for a file, in `format`, which is one of the floats.
pub fn plan<'a>(
    spec: &AdapterSpec,
    pairs: impl IntoIterator<Item = PairValues<'a>>,
    format: Format,
) -> Result<PlannedAdapter> {
    spec.validate(None)?;
    if format.is_quantized() {
        return Err(Error::invalid(format!("adapters are written as floats, not as {}", format.name())));
    }
    let mut placed = BTreeMap::new();
    for pair in pairs {
        let Some(place) = place(pair.name) else {
            return Err(Error::invalid(format!("an adapter cannot add to {}", pair.name)));
        };
        if placed.insert(place, pair).is_some() {
            return Err(Error::invalid(format!("the adapter has two pairs for {}", pair.name)));
        }
    }
    let mut tensors = Vec::with_capacity(placed.len() * 2);
    for pair in placed.values() {
        let halves = [("a", pair.a, spec.rank, pair.inputs), ("b", pair.b, pair.outputs, spec.rank)];
        for (half, values, rows, columns) in halves {
            let name = format!("{PREFIX}{}.{half}", pair.name);
            if rows.checked_mul(columns) != Some(values.len()) || values.is_empty() {
                let found = values.len();
                return Err(Error::invalid(format!("{name}: {rows} × {columns} values are expected, found {found}")));
            }
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(Error::invalid(format!("{name} holds {value}")));
            }
            let mut matrix = MatrixBuilder::new(format, rows, columns)?;
            for (row, values) in values.chunks_exact(columns).enumerate() {
                matrix.set_row(row, values)?;
            }
            tensors.push((PlannedTensor::matrix(name, format, rows, columns)?, matrix.finish()));
        }
    }
    let json = serde_json::to_string(spec).expect("plain numbers are JSON");
    Ok(PlannedAdapter { metadata: (key::ADAPTER.to_owned(), json), tensors })
}

/// Writes an adapter file: the container of model files, with an adapter and nothing else.
pub fn write_adapter<'a>(
    out: &mut impl Write,
    spec: &AdapterSpec,
    pairs: impl IntoIterator<Item = PairValues<'a>>,
    format: Format,
    provenance: &Provenance,
) -> Result<()> {
    let planned = plan(spec, pairs, format)?;
    if planned.tensors.is_empty() {
        return Err(Error::invalid("an adapter of no pairs"));
    }
    let provenance = serde_json::to_string(provenance).expect("texts are JSON");
    let metadata = [planned.metadata, (key::PROVENANCE.to_owned(), provenance)].into();
    let (tensors, mut bytes): (Vec<_>, Vec<_>) = planned.tensors.into_iter().unzip();
    write_model(out, &metadata, &tensors, |index, _| Ok(std::mem::take(&mut bytes[index])))
}

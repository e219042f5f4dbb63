//! A low-rank adapter between formats: pairs of matrices by our names of what they adapt.

use std::collections::{BTreeMap, BTreeSet};

use critic::adapter::{MAX_RANK, PairValues, PlannedAdapter, Target, plan, write_adapter};
use critic::file::{AdapterSpec, Config, Provenance};
use critic::quant::Format;

use crate::error::{Error, Result};
use crate::names::{Shape, layout};

/// Matrices of a layer that can be adapted, behind `layers.N.`.
pub const TARGETS: [&str; Target::ALL.len()] = [
    Target::Q.name(),
    Target::K.name(),
    Target::V.name(),
    Target::O.name(),
    Target::Gate.name(),
    Target::Up.name(),
    Target::Down.name(),
];

/// A LoRA adapter (arXiv 2106.09685), or an activated one (arXiv 2504.12397):
/// y += scale · B·(A·x) for each of its pairs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraAdapter {
    /// Rank r of every pair.
    pub rank: usize,
    /// alpha, as it was chosen.
    pub alpha: f32,
    /// The factor that is applied: alpha / r, or alpha / √r (rank-stabilised, arXiv 2312.03732).
    pub scale: f32,
    /// Tokens from whose first one on it acts; empty: it acts everywhere.
    pub invocation_tokens: Vec<u32>,
    /// Name of the model that it was trained for; empty where unknown.
    pub base_model: String,
    /// Share of inputs that were dropped in training.
    pub dropout: f32,
    /// β of the objective that trained it; 0 where there is no utility advantage.
    pub beta: f32,
    /// Utility advantage above which a critique is acted on.
    pub threshold: f32,
    /// Fingerprint of the model that it was trained for ([`critic::transformer::Weights::fingerprint`]);
    /// empty where unknown.
    pub fingerprint: String,
    /// By our name of the matrix, such as `layers.0.attention.q`.
    pub pairs: BTreeMap<String, LoraPair>,
}

/// The two factors of one matrix's change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraPair {
    /// A, `[rank, inputs]`, row by row.
    pub a: Vec<f32>,
    /// B, `[outputs, rank]`, row by row.
    pub b: Vec<f32>,
    /// Input width of the matrix.
    pub inputs: usize,
    /// Output width of the matrix.
    pub outputs: usize,
}

impl LoraAdapter {
    /// Whether its parts agree: ranks, lengths, names, and values that are numbers.
    pub fn validate(&self) -> Result<()> {
        let corrupt = |why: String| Err(Error::corrupt("adapter", why));
        if !(1..=MAX_RANK).contains(&self.rank) {
            return corrupt(format!("rank is {}, expected 1 to {MAX_RANK}", self.rank));
        }
        if !self.scale.is_finite() || !self.alpha.is_finite() {
            return corrupt(format!("scale is {} and alpha {}, expected numbers", self.scale, self.alpha));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return corrupt(format!("dropout is {}, expected 0 to 1", self.dropout));
        }
        if !(self.beta.is_finite() && self.beta >= 0.0 && self.threshold.is_finite()) {
            return corrupt(format!("beta is {} and threshold {}, expected numbers", self.beta, self.threshold));
        }
        if self.pairs.is_empty() {
            return corrupt("no matrices are adapted".into());
        }
        for (name, pair) in &self.pairs {
            if !is_target(name) {
                return corrupt(format!("{name} is no matrix of a layer"));
            }
            for (which, values, rows, columns) in
                [("A", &pair.a, self.rank, pair.inputs), ("B", &pair.b, pair.outputs, self.rank)]
            {
                if rows.checked_mul(columns) != Some(values.len()) || values.is_empty() {
                    return corrupt(format!(
                        "{name}: {which} has {} values, expected {rows} × {columns}",
                        values.len()
                    ));
                }
                if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                    return corrupt(format!("{name}: {which} holds {value}"));
                }
            }
        }
        Ok(())
    }

    /// Whether every pair has a matrix of its shape in a model of `config`.
    pub fn fits(&self, config: &Config) -> Result<()> {
        let shapes: BTreeMap<String, Shape> = layout(config).into_iter().map(|slot| (slot.name, slot.shape)).collect();
        for (name, pair) in &self.pairs {
            let found = Shape::Matrix { rows: pair.outputs, columns: pair.inputs };
            match shapes.get(name) {
                Some(&shape) if shape == found => {}
                Some(&shape) => {
                    let (rows, columns) = shape.dimensions();
                    let why = format!(
                        "{name} is {} × {}, but {rows} × {columns} in the model: it was trained for another one",
                        pair.outputs, pair.inputs
                    );
                    return Err(Error::unsupported("adapter", why));
                }
                None => {
                    let why = format!("the model has no {name}, only {} layers", config.layers);
                    return Err(Error::unsupported("adapter", why));
                }
            }
        }
        Ok(())
    }

    /// What a model file says of it.
    pub fn spec(&self) -> AdapterSpec {
        AdapterSpec {
            rank: self.rank,
            scale: self.scale,
            invocation_tokens: self.invocation_tokens.clone(),
            beta: self.beta,
            threshold: self.threshold,
            base: self.fingerprint.clone(),
        }
    }

    fn values(&self) -> impl Iterator<Item = PairValues<'_>> {
        self.pairs.iter().map(|(name, pair)| PairValues {
            name,
            a: &pair.a,
            b: &pair.b,
            inputs: pair.inputs,
            outputs: pair.outputs,
        })
    }

    /// Its tensors for a model file, in `format`, which is one of the floats.
    pub fn plan(&self, format: Format) -> Result<PlannedAdapter> {
        self.validate()?;
        Ok(plan(&self.spec(), self.values(), format)?)
    }

    /// The bytes of an adapter file in `format`, which is one of the floats.
    pub fn to_file(&self, format: Format) -> Result<Vec<u8>> {
        self.validate()?;
        let mut bytes = Vec::new();
        let provenance = Provenance { name: self.base_model.clone(), ..Provenance::default() };
        write_adapter(&mut bytes, &self.spec(), self.values(), format, &provenance)?;
        Ok(bytes)
    }

    /// Adds what the adapter makes of row `row` of matrix `name` to `values`: scale · (B·A)\[row\].
    pub(crate) fn add_row(&self, name: &str, row: usize, values: &mut [f32]) {
        let Some(pair) = self.pairs.get(name) else { return };
        let mut sums = vec![0.0f64; values.len()];
        for (b, a) in pair.b[row * self.rank..][..self.rank].iter().zip(pair.a.chunks_exact(pair.inputs)) {
            sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += f64::from(*b) * f64::from(*a));
        }
        let scale = f64::from(self.scale);
        values.iter_mut().zip(sums).for_each(|(value, sum)| *value = (f64::from(*value) + scale * sum) as f32);
    }

    /// Which kinds of matrices are adapted, in the order of a forward pass.
    pub fn targets(&self) -> Vec<&'static str> {
        let found: BTreeSet<&str> = self.pairs.keys().filter_map(|name| Some(part(name)?.1)).collect();
        TARGETS.into_iter().filter(|target| found.contains(target)).collect()
    }
}

/// Whether `name` is that of a matrix that can be adapted.
pub(crate) fn is_target(name: &str) -> bool {
    part(name).is_some_and(|(layer, part)| layer < crate::MAX_LAYERS && TARGETS.contains(&part))
}

/// `layers.N.part` to N and part, N as we write it.
fn part(name: &str) -> Option<(usize, &str)> {
    let (number, part) = name.strip_prefix("layers.")?.split_once('.')?;
    let layer: usize = number.parse().ok()?;
    (layer.to_string() == number).then_some((layer, part))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Rank 2 on the query, value and down matrices of two layers, hidden 32, 2 heads of 16
    /// over 1 of keys, 64 wide inside.
    pub(crate) fn sample() -> LoraAdapter {
        let pair = |seed: usize, outputs: usize, inputs: usize| {
            let value = |at: usize| ((at * 31 + seed * 17) % 64) as f32 / 32.0 - 1.0;
            LoraPair {
                a: (0..2 * inputs).map(value).collect(),
                b: (0..outputs * 2).map(|at| value(at + 5)).collect(),
                inputs,
                outputs,
            }
        };
        let pairs = (0..2).flat_map(|layer| {
            [("attention.q", 32, 32), ("attention.v", 16, 32), ("mlp.down", 32, 64)]
                .map(|(part, rows, columns)| (format!("layers.{layer}.{part}"), pair(layer + rows, rows, columns)))
        });
        LoraAdapter {
            rank: 2,
            alpha: 8.0,
            scale: 4.0,
            invocation_tokens: vec![5, 70_000],
            base_model: "org/model".into(),
            dropout: 0.05,
            beta: 0.1,
            threshold: 0.02,
            fingerprint: "0123456789abcdef".into(),
            pairs: pairs.collect(),
        }
    }

    #[test]
    fn parts_have_to_agree() {
        sample().validate().unwrap();
        let refused = |change: fn(&mut LoraAdapter), part: &str| {
            let mut adapter = sample();
            change(&mut adapter);
            let message = adapter.validate().unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        };
        refused(|adapter| adapter.rank = 0, "rank is 0");
        refused(|adapter| adapter.rank = usize::MAX, "expected 1 to 1024");
        refused(|adapter| adapter.rank = 3, "expected 3 × 32");
        refused(|adapter| adapter.scale = f32::NAN, "scale is NaN");
        refused(|adapter| adapter.pairs.clear(), "no matrices");
        refused(|adapter| adapter.pairs.get_mut("layers.1.mlp.down").unwrap().b[3] = f32::INFINITY, "B holds inf");
        refused(|adapter| adapter.pairs.get_mut("layers.1.mlp.down").unwrap().outputs = usize::MAX, "B has 64 values");
        refused(|adapter| _ = adapter.pairs.insert("layers.01.mlp.up".into(), LoraPair::default()), "no matrix");
        refused(|adapter| _ = adapter.pairs.insert("embedding".into(), LoraPair::default()), "embedding is no matrix");
        assert_eq!(sample().targets(), ["attention.q", "attention.v", "mlp.down"]);
    }
}

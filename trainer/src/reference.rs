//! log p_ref: what every log-ratio is taken against, computed once.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use sha2::{Digest, Sha256};

use crate::data::EncodedGroup;
use crate::error::{Error, Result};
use crate::memory::Limits;
use crate::model::Policy;
use crate::score::score_with_keep;

/// log p_ref of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupReference {
    /// Of each critique.
    pub critiques: Vec<f64>,
    /// Of *keep*.
    pub keep: f64,
}

/// log p_ref of all groups, in the order of the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference(pub Vec<GroupReference>);

/// What the file's numbers depend on: it is computed anew where this differs.
pub fn fingerprint(policy: &Policy, model: &str, groups: &[EncodedGroup], limits: &Limits) -> String {
    let mut hash = Sha256::new();
    // Shapes of passes decide the last bits: the logits' limit and the cut at the instruction do.
    hash.update(format!(
        "{model}\n{:?}\n{:?}\n{} {}\n",
        policy.device(),
        policy.base.precision,
        policy.is_activated(),
        limits.logits
    ));
    let mut tokens = |tokens: &[u32]| {
        hash.update((tokens.len() as u64).to_le_bytes());
        tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
    };
    for group in groups {
        tokens(&group.prefix);
        tokens(&group.instruction);
        tokens(&group.keep);
        tokens(&[group.critiques.len() as u32]);
        group.critiques.iter().for_each(|critique| tokens(critique));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Reference {
    /// Scores all groups with the adapter in place and zero, by the operations that training
    /// uses: while the adapter is zero, log p_θ − log p_ref is 0.0. Without an adapter the policy as it
    /// is now is the reference. `progress` is told how many groups are done, and may stop it by an error.
    pub fn compute(
        policy: &Policy,
        groups: &[EncodedGroup],
        limits: &Limits,
        progress: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let policy = zeroed(policy);
        let one = |(done, group): (usize, &EncodedGroup)| {
            progress(done)?;
            let (critiques, keep) = score_with_keep(&policy, group, limits)?;
            Ok(GroupReference { critiques, keep })
        };
        groups.iter().enumerate().map(one).collect::<Result<_>>().map(Self)
    }

    /// The bytes of `reference.safetensors`: `critiques` in the order of the data, `keep` by group.
    pub fn encode(&self, fingerprint: &str) -> Vec<u8> {
        let bytes = |values: &mut dyn Iterator<Item = f64>| values.flat_map(f64::to_le_bytes).collect::<Vec<u8>>();
        let critiques = bytes(&mut self.0.iter().flat_map(|group| group.critiques.iter().copied()));
        let keep = bytes(&mut self.0.iter().map(|group| group.keep));
        let view = |bytes| TensorView::new(Dtype::F64, vec![<[u8]>::len(bytes) / 8], bytes).expect("whole numbers");
        let metadata = std::collections::HashMap::from([("fingerprint".to_owned(), fingerprint.to_owned())]);
        serialize([("critiques", view(&critiques)), ("keep", view(&keep))], Some(metadata)).expect("two tensors")
    }

    /// What [`Reference::encode`] wrote for these groups; `None` where it was written for other
    /// data, another model or another device.
    pub fn decode(bytes: &[u8], path: &Path, fingerprint: &str, groups: &[EncodedGroup]) -> Result<Option<Self>> {
        let corrupt = |error: safetensors::SafeTensorError| Error::corrupt(path, error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(corrupt)?;
        let found = metadata.metadata().as_ref().and_then(|metadata| metadata.get("fingerprint"));
        if found.map(String::as_str) != Some(fingerprint) {
            return Ok(None);
        }
        let file = SafeTensors::deserialize(bytes).map_err(corrupt)?;
        let values = |name: &str, count: usize| -> Result<Vec<f64>> {
            let view = file.tensor(name).map_err(corrupt)?;
            if view.dtype() != Dtype::F64 || view.shape() != [count] {
                return Err(Error::corrupt(
                    path,
                    format!("tensor {name} is {:?} {:?}, expected F64 [{count}]", view.dtype(), view.shape()),
                ));
            }
            Ok(view
                .data()
                .chunks_exact(8)
                .map(|word| f64::from_le_bytes(word.try_into().expect("eight bytes")))
                .collect())
        };
        let critiques = values("critiques", groups.iter().map(|group| group.critiques.len()).sum())?;
        let keep = values("keep", groups.len())?;
        let mut critiques = critiques.into_iter();
        let group = |(group, keep): (&EncodedGroup, f64)| GroupReference {
            critiques: critiques.by_ref().take(group.critiques.len()).collect(),
            keep,
        };
        Ok(Some(Self(groups.iter().zip(keep).map(group).collect())))
    }
}

/// The policy with every B of its adapter zero.
fn zeroed(policy: &Policy) -> Policy {
    match &policy.adapter {
        None => policy.clone(),
        Some(_) => {
            policy.map(&mut |name, tensor| if name.ends_with(".b") { tensor.zeros_like() } else { tensor.clone() })
        }
    }
}

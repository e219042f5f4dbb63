//! LoRA adapters in the layout of Hugging Face's PEFT: a folder with `adapter_config.json` and
//! `adapter_model.safetensors`.
//!
//! What PEFT has no place for (β, the threshold, which model it fits) stands in a third file,
//! `critic.json`, which PEFT does not look at.
//!
//! `config` reads and writes what is said about an adapter and refuses what we could not apply
//! as it was meant; the tensors are here. Names and fields are those of PEFT 0.21.

mod config;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use critic::file::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

use crate::MAX_DIMENSION;
use crate::adapter::{LoraAdapter, LoraPair, TARGETS, is_target};
use crate::error::{Error, Result};
use crate::gguf::blocks::dequantize_row;
use crate::hf::weights::{HfTensor, Weights};
use crate::names::hf_name;
use crate::output::write_whole;

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const OURS: &str = "critic.json";
/// Largest `critic.json` that is read.
const MAX_OURS: u64 = 1 << 16;
/// What PEFT puts before the name of every adapted module.
const PREFIX: &str = "base_model.model.";
/// Behind the module's name.
const SUFFIXES: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

/// Reads the adapter in the folder `directory`.
pub fn read_peft(directory: &Path) -> Result<LoraAdapter> {
    let config_path = directory.join(CONFIG);
    let (mut adapter, targets) = config::read(&config_path)?;
    let path = directory.join(TENSORS);
    if !path.exists() && directory.join("adapter_model.bin").exists() {
        let why = "adapter_model.bin is a pickle, which can run programs: save it as safetensors";
        return Err(Error::unsupported(directory.display().to_string(), why));
    }
    let weights = Weights::open_file(&path)?;
    let has = |target: &String| weights.tensors.keys().any(|name| name.contains(&format!("{target}.lora_")));
    if let Some(target) = targets.iter().find(|target| !has(target)) {
        let why = format!("target_modules has {target:?}, of which {TENSORS} has no tensors");
        return Err(Error::corrupt(config_path.display().to_string(), why));
    }
    let mut halves = Halves::new();
    for (name, tensor) in weights.tensors {
        let (module, which) = place(&name).map_err(|error| error.in_file(&path))?;
        let values = values(&name, &tensor, which, adapter.rank).map_err(|error| error.in_file(&path))?;
        halves.entry(module).or_default()[which] = Some((values, tensor.shape));
    }
    adapter.pairs = pairs(halves).map_err(|error| error.in_file(&path))?;
    let ours = Ours::read(&directory.join(OURS))?;
    (adapter.beta, adapter.threshold, adapter.fingerprint) = (ours.beta, ours.threshold, ours.fingerprint);
    adapter.validate().map_err(|error| named(error, &path))?;
    Ok(adapter)
}

/// `critic.json`.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Ours {
    beta: f32,
    threshold: f32,
    fingerprint: String,
}

impl Ours {
    fn read(path: &Path) -> Result<Self> {
        let bytes = match std::fs::metadata(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            found => found.map_err(Error::io(path))?.len(),
        };
        if bytes > MAX_OURS {
            let why = format!("{bytes} bytes, expected at most {MAX_OURS}");
            return Err(Error::corrupt(path.display().to_string(), why));
        }
        let text = std::fs::read(path).map_err(Error::io(path))?;
        serde_json::from_slice(&text).map_err(|error| Error::corrupt(path.display().to_string(), error.to_string()))
    }
}

/// A and B by our name of the matrix, each with its shape, as far as they were found.
type Halves = BTreeMap<String, [Option<(Vec<f32>, Vec<usize>)>; 2]>;

/// Our name of the matrix, and 0 for A, 1 for B. Errors name no file.
fn place(name: &str) -> Result<(String, usize)> {
    let refused = || {
        let why = format!("tensor {name} is no LoRA pair of a layer's linear module: nothing else can be applied");
        Error::unsupported("", why)
    };
    let which = SUFFIXES.iter().position(|suffix| name.ends_with(suffix)).ok_or_else(refused)?;
    let module = name.strip_suffix(SUFFIXES[which]).and_then(|name| name.strip_prefix(PREFIX)).ok_or_else(refused)?;
    let layer = module.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')).ok_or_else(refused)?.0;
    let ours = TARGETS.iter().map(|part| format!("layers.{layer}.{part}"));
    let found = ours.into_iter().find(|ours| is_target(ours) && module_name(ours).as_deref() == Some(module));
    Ok((found.ok_or_else(refused)?, which))
}

/// Hugging Face's name of the module behind our matrix `name`.
fn module_name(name: &str) -> Option<String> {
    // Families differ in the names of norms, which are not adapted.
    Some(hf_name(name, false)?.strip_suffix(".weight")?.to_owned())
}

/// The values of one half, whose rank must be `rank`.
fn values(name: &str, tensor: &HfTensor, which: usize, rank: usize) -> Result<Vec<f32>> {
    let shape = &tensor.shape;
    let fits = shape.len() == 2 && shape[which] == rank && (1..=MAX_DIMENSION).contains(&shape[1 - which]);
    if !fits {
        let expected = if which == 0 { format!("[{rank}, inputs]") } else { format!("[outputs, {rank}]") };
        return Err(Error::corrupt("", format!("tensor {name} has shape {shape:?}, expected {expected}")));
    }
    let mut values = vec![0.0; shape[0] * shape[1]];
    dequantize_row(tensor.kind, &tensor.bytes[tensor.range.clone()], &mut values);
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(Error::corrupt("", format!("tensor {name} holds {value}"))),
        None => Ok(values),
    }
}

fn pairs(halves: Halves) -> Result<BTreeMap<String, LoraPair>> {
    let pairs = halves.into_iter().map(|(name, halves)| match halves {
        [Some((a, a_shape)), Some((b, b_shape))] => {
            Ok((name, LoraPair { a, b, inputs: a_shape[1], outputs: b_shape[0] }))
        }
        [a, _] => {
            let missing = SUFFIXES[usize::from(a.is_some())];
            let module = module_name(&name).unwrap_or(name);
            Err(Error::corrupt("", format!("tensor {PREFIX}{module}{missing} is missing")))
        }
    });
    pairs.collect()
}

fn named(error: Error, path: &Path) -> Error {
    match error {
        Error::Corrupt { why, .. } => Error::corrupt(path.display().to_string(), why),
        other => other,
    }
}

/// Writes `adapter` into the folder `directory`, which is made where it is missing. Each file is
/// replaced in one step, the configuration last.
pub fn write_peft(adapter: &LoraAdapter, directory: &Path) -> Result<()> {
    adapter.validate()?;
    std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    let mut tensors = Vec::new();
    for (name, pair) in &adapter.pairs {
        let module = module_name(name).expect("a valid adapter has targets alone");
        let halves = [([adapter.rank, pair.inputs], bytes(&pair.a)), ([pair.outputs, adapter.rank], bytes(&pair.b))];
        for ((shape, data), suffix) in halves.into_iter().zip(SUFFIXES) {
            tensors.push((format!("{PREFIX}{module}{suffix}"), shape, data));
        }
    }
    let views = tensors.iter().map(|(name, shape, data)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), data).expect("as many bytes as the shape asks for");
        (name, view)
    });
    // PEFT refuses files that do not say which framework's tensors they are.
    let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
    let path = directory.join(TENSORS);
    let file = safetensors::serialize(views, metadata)
        .map_err(|error| Error::corrupt(path.display().to_string(), error.to_string()))?;
    write_whole(&path, |out| out.write_all(&file).map_err(Error::io(&path)), |_| Ok(()))?;
    let ours = Ours { beta: adapter.beta, threshold: adapter.threshold, fingerprint: adapter.fingerprint.clone() };
    let ours = serde_json::to_vec_pretty(&ours).expect("plain fields are JSON");
    let path = directory.join(OURS);
    write_whole(&path, |out| out.write_all(&ours).map_err(Error::io(&path)), |_| Ok(()))?;
    let path = directory.join(CONFIG);
    let text = config::write(adapter, |name| module_name(&format!("layers.0.{name}")));
    write_whole(&path, |out| out.write_all(text.as_bytes()).map_err(Error::io(&path)), |_| Ok(()))
}

#[cfg(test)]
mod tests;

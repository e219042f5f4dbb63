//! An adapter between burn's tensors and the form in which files hold it.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use critic::Model;
use critic::critique::{Context, Request};
use critic_import::{LoraAdapter, LoraPair};

use crate::error::{Error, Result};
use crate::model::{Adapter, AdapterOptions, Target};

/// What files say of an adapter beside its values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// Name of the model that it was trained for.
    pub base_model: String,
    /// Fingerprint of that model.
    pub fingerprint: String,
    /// Tokens from whose first one on it acts; empty: everywhere.
    pub invocation_tokens: Vec<u32>,
    /// β of the utility advantage; 0: there is none.
    pub beta: f64,
    /// Utility advantage above which a critique is acted on.
    pub threshold: f64,
}

/// `adapter` as files hold it.
pub fn to_lora(adapter: &Adapter, about: About) -> LoraAdapter {
    let AdapterOptions { rank, alpha, dropout, .. } = adapter.options;
    let values = |tensor: &Tensor<2>| -> Vec<f32> {
        tensor.clone().into_data().try_to_vec().expect("an adapter's values are f32")
    };
    let mut pairs = BTreeMap::new();
    for (layer, of_layer) in adapter.layers.iter().enumerate() {
        for target in Target::ALL {
            let Some(pair) = &of_layer[target as usize] else { continue };
            let ([_, inputs], [outputs, _]) = (pair.a.dims(), pair.b.dims());
            let pair = LoraPair { a: values(&pair.a), b: values(&pair.b), inputs, outputs };
            pairs.insert(format!("layers.{layer}.{}", target.name()), pair);
        }
    }
    LoraAdapter {
        rank,
        alpha: alpha as f32,
        scale: adapter.options.scale() as f32,
        invocation_tokens: about.invocation_tokens,
        base_model: about.base_model,
        dropout: dropout as f32,
        beta: about.beta as f32,
        threshold: about.threshold as f32,
        fingerprint: about.fingerprint,
        pairs,
    }
}

/// The adapter in `lora` on `device`, to be trained further on `model`. The dropout is that of
/// `options`; all else in `options` has to be what the adapter is.
pub fn from_lora(lora: &LoraAdapter, model: &Model, options: &AdapterOptions, device: &Device) -> Result<Adapter> {
    let fingerprint = model.weights().fingerprint();
    if !lora.fingerprint.is_empty() && lora.fingerprint != fingerprint {
        let why =
            format!("it was trained for a model with fingerprint {}, this one has {fingerprint}", lora.fingerprint);
        return Err(Error::Adapter(why));
    }
    lora.validate()?;
    lora.fits(model.config())?;
    let differs = |what: &str, found: String, asked: String| {
        Err(Error::Adapter(format!("{what} is {found}, but {asked} was asked for")))
    };
    if lora.rank != options.rank {
        return differs("its rank", lora.rank.to_string(), options.rank.to_string());
    }
    if f64::from(lora.scale) != f64::from(options.scale() as f32) {
        return differs("its scale", lora.scale.to_string(), options.scale().to_string());
    }
    if lora.invocation_tokens.is_empty() == options.activated {
        let name = |activated: bool| if activated { "activated" } else { "over the whole text" }.to_owned();
        return differs("it", name(!options.activated), name(options.activated));
    }
    let names: Vec<_> = options.targets.iter().map(|target| target.name()).collect();
    let mut wanted = names.clone();
    let mut found = lora.targets();
    wanted.sort_unstable();
    found.sort_unstable();
    if wanted != found {
        return differs("what it adds to", found.join(", "), wanted.join(", "));
    }
    Adapter::from_values(model.config(), options, device, &mut |name, [rows, columns]| {
        let (matrix, half) = name.rsplit_once('.').expect("a matrix and a half");
        let pair = lora.pairs.get(matrix).ok_or_else(|| Error::Adapter(format!("it has no {matrix}")))?;
        let values = if half == "a" { &pair.a } else { &pair.b };
        match values.len() == rows * columns {
            true => Ok(values.clone()),
            false => Err(Error::Adapter(format!("{name} has {} values, expected {rows} × {columns}", values.len()))),
        }
    })
}

/// The tokens that every critique instruction of `model` begins with, whatever the task and what was
/// asked: an activated adapter is said to act from their last occurrence on.
///
/// The runtime's own loop knows where its instruction begins and does not look for them; they serve
/// programs that see tokens alone. Fails where they are no sign: where instructions begin
/// differently, or their beginning occurs in them again.
pub fn invocation_tokens(model: &Model) -> Result<Vec<u32>> {
    let mut common: Option<Vec<u32>> = None;
    let mut contexts = Vec::new();
    for task in model.prompts().tasks.keys() {
        // Two requests that have nothing in common: what remains is the instruction's own.
        for (prompt, response) in [("What is 2 + 2?", "4"), ("Name a colour", "red or blue, perhaps")] {
            let request = Request {
                task: task.clone(),
                prompt: prompt.to_owned(),
                response: response.to_owned(),
                ..Request::default()
            };
            let context = Context::new(model, &request)?;
            let instruction = &context.tokens[context.invocation..];
            let shared = match &common {
                None => instruction.len(),
                Some(common) => common.iter().zip(instruction).take_while(|(a, b)| a == b).count(),
            };
            common = Some(instruction[..shared].to_vec());
            contexts.push((task, context));
        }
    }
    let common = common.unwrap_or_default();
    for (task, context) in contexts {
        let length = common.len().max(1);
        let found = context.tokens.windows(length).rposition(|window| window == common);
        if found != Some(context.invocation) {
            let why = format!(
                "the critique instruction of task {task:?} has no beginning of its own that all tasks share, so no \
                 tokens can say where an activated adapter acts; train one over the whole text, or change the prompts"
            );
            return Err(Error::Adapter(why));
        }
    }
    Ok(common)
}

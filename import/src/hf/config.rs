//! `config.json` in the spellings of transformers 4 and 5.

use critic::file::{Activation, Config, Rope};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The fields that matter. What is absent has its family's default in transformers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    model_type: String,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    tie_word_embeddings: Option<bool>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<Map<String, Value>>,
    rope_parameters: Option<Map<String, Value>>,
    layer_types: Option<Vec<String>>,
    sliding_window: Option<usize>,
    sliding_window_pattern: Option<usize>,
    _sliding_window_pattern: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    use_bidirectional_attention: Option<bool>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    partial_rotary_factor: Option<f64>,
    num_local_experts: Option<usize>,
    num_experts: Option<usize>,
    quantization_config: Option<Value>,
}

/// What `config.json` says.
#[derive(Debug)]
pub(crate) struct HfConfig {
    /// Without the size of the vocabulary, which the embedding tells (multimodal
    /// checkpoints leave it out).
    pub config: Config,
    /// Whether the embedding is also the output.
    pub tied: bool,
    /// Divisors of the RoPE frequencies: `[head_dim / 2]`.
    pub rope_factors: Option<Vec<f32>>,
}

/// Reads `config.json`. Errors name no file.
pub(crate) fn read(json: &Value) -> Result<HfConfig> {
    // A multimodal checkpoint keeps its language model's configuration one level down.
    let text = json.get("text_config").unwrap_or(json);
    let mut fields: Fields =
        serde_json::from_value(text.clone()).map_err(|error| Error::corrupt("", format!("config.json: {error}")))?;
    if fields.tie_word_embeddings.is_none() {
        fields.tie_word_embeddings = json.get("tie_word_embeddings").and_then(Value::as_bool);
    }
    let family = match fields.model_type.as_str() {
        "llama" | "mistral" | "qwen2" | "qwen3" => fields.model_type.clone(),
        "gemma3" | "gemma3_text" => "gemma3".to_owned(),
        other => {
            let why = format!("model_type {other:?}, expected llama, mistral, qwen2, qwen3 or gemma3");
            return Err(Error::unsupported("", why));
        }
    };
    fields.refuse()?;
    let gemma = family == "gemma3";
    // Gemma 3's multimodal checkpoints rely on the defaults of their class.
    let (heads, kv_heads, head_dim, context) =
        if gemma { (Some(8), Some(4), Some(256), 131_072) } else { (None, None, None, 2048) };
    let size = |name: &str, value: Option<usize>| {
        value
            .filter(|&size| size > 0)
            .ok_or_else(|| Error::corrupt("", format!("config.json: {name} is missing or zero")))
    };
    let hidden_size = size("hidden_size", fields.hidden_size)?;
    let heads = size("num_attention_heads", fields.num_attention_heads.or(heads))?;
    let layers = size("num_hidden_layers", fields.num_hidden_layers)?;
    let head_dim = match family.as_str() {
        "qwen3" => fields.head_dim.unwrap_or(128),
        _ => fields.head_dim.or(head_dim).unwrap_or(hidden_size / heads),
    };
    if layers > crate::MAX_LAYERS || head_dim == 0 || head_dim > crate::MAX_DIMENSION {
        return Err(Error::corrupt("", format!("config.json: {layers} layers with heads of {head_dim}")));
    }
    let scale_width =
        fields.query_pre_attn_scalar.filter(|_| gemma).unwrap_or(if gemma { 256.0 } else { head_dim as f64 });
    let (rope, rope_factors) = fields.rope(gemma, head_dim)?;
    let rope_local = if gemma { Some(fields.rope_local()?) } else { None };
    Ok(HfConfig {
        tied: fields.tie_word_embeddings.unwrap_or(gemma),
        rope_factors,
        config: Config {
            vocab_size: 0,
            hidden_size,
            intermediate_size: size("intermediate_size", fields.intermediate_size)?,
            layers,
            heads,
            kv_heads: fields.num_key_value_heads.or(kv_heads).unwrap_or(heads),
            head_dim,
            context: fields.max_position_embeddings.unwrap_or(context),
            rms_norm_eps: fields.rms_norm_eps.unwrap_or(1e-6) as f32,
            activation: fields.activation(gemma)?,
            embedding_scale: if gemma { (hidden_size as f64).sqrt() as f32 } else { 1.0 },
            attention_scale: (1.0 / scale_width.sqrt()) as f32,
            rope,
            rope_local,
            windows: fields.windows(&family, layers)?,
            family,
        },
    })
}

impl Fields {
    /// Refuses what would change the forward pass and has no place in our configuration.
    fn refuse(&self) -> Result<()> {
        let found = [
            ("attention_bias true", self.attention_bias == Some(true)),
            ("mlp_bias true", self.mlp_bias == Some(true)),
            ("use_bidirectional_attention true", self.use_bidirectional_attention == Some(true)),
            ("attn_logit_softcapping", self.attn_logit_softcapping.is_some_and(|cap| cap != 0.0)),
            ("final_logit_softcapping", self.final_logit_softcapping.is_some_and(|cap| cap != 0.0)),
            ("partial_rotary_factor", self.partial_rotary_factor.is_some_and(|share| share != 1.0)),
            ("a mixture of experts", self.num_local_experts.or(self.num_experts).is_some_and(|count| count > 1)),
            ("quantization_config: only unquantized checkpoints are read", self.quantization_config.is_some()),
        ];
        match found.iter().find(|(_, found)| *found) {
            Some((what, _)) => Err(Error::unsupported("", format!("config.json: {what}"))),
            None => Ok(()),
        }
    }

    fn activation(&self, gemma: bool) -> Result<Activation> {
        let name = self.hidden_activation.as_deref().or(self.hidden_act.as_deref());
        match name.unwrap_or(if gemma { "gelu_pytorch_tanh" } else { "silu" }) {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
            other => Err(Error::unsupported("", format!("config.json: activation {other:?}"))),
        }
    }

    /// The table of RoPE for one kind of layer, in the newer spelling.
    fn parameters(&self, layer_type: &str) -> Option<&Map<String, Value>> {
        let parameters = self.rope_parameters.as_ref()?;
        match parameters.get(layer_type) {
            Some(Value::Object(own)) => Some(own),
            // Flat: one table for all layers, which windowed ones of Gemma 3 do not share.
            _ if layer_type == "full_attention" => Some(parameters),
            _ => None,
        }
    }

    /// RoPE of layers that see everything, and divisors of its frequencies.
    fn rope(&self, gemma: bool, head_dim: usize) -> Result<(Rope, Option<Vec<f32>>)> {
        let table = self.parameters("full_attention").or(self.rope_scaling.as_ref());
        let number = |name: &str| table.and_then(|table| table.get(name)).and_then(Value::as_f64);
        let theta = number("rope_theta").or(self.rope_theta).unwrap_or(if gemma { 1e6 } else { 1e4 });
        let required = |name: &str| {
            number(name)
                .filter(|&value| value > 0.0)
                .ok_or_else(|| Error::corrupt("", format!("config.json: rope scaling lacks a positive {name}")))
        };
        match rope_type(table) {
            "default" => Ok((Rope { theta, scale: 1.0 }, None)),
            "linear" => Ok((Rope { theta, scale: 1.0 / required("factor")? }, None)),
            "llama3" => {
                let scaling = Llama3 {
                    factor: required("factor")?,
                    low: required("low_freq_factor")?,
                    high: required("high_freq_factor")?,
                    original_context: required("original_max_position_embeddings")?,
                };
                Ok((Rope { theta, scale: 1.0 }, Some(scaling.factors(theta, head_dim))))
            }
            other => Err(Error::unsupported("", format!("config.json: rope type {other:?}"))),
        }
    }

    /// RoPE of Gemma 3's windowed layers.
    fn rope_local(&self) -> Result<Rope> {
        let table = self.parameters("sliding_attention");
        let number = |name: &str| table.and_then(|table| table.get(name)).and_then(Value::as_f64);
        let theta = number("rope_theta").or(self.rope_local_base_freq).unwrap_or(1e4);
        match (rope_type(table), number("factor")) {
            ("default", _) => Ok(Rope { theta, scale: 1.0 }),
            ("linear", Some(factor)) if factor > 0.0 => Ok(Rope { theta, scale: 1.0 / factor }),
            (other, _) => Err(Error::unsupported("", format!("config.json: rope type {other:?} in windowed layers"))),
        }
    }

    /// Windows of the layers: empty where all see everything.
    fn windows(&self, family: &str, layers: usize) -> Result<Vec<usize>> {
        let qwen = matches!(family, "qwen2" | "qwen3");
        let window = match family {
            // Qwen's configurations name a window that they do not use.
            _ if qwen && self.use_sliding_window != Some(true) => 0,
            "llama" => 0,
            "gemma3" => self.sliding_window.unwrap_or(4096),
            _ => self.sliding_window.unwrap_or(0),
        };
        if window == 0 {
            return Ok(Vec::new());
        }
        let windowed: Vec<bool> = match &self.layer_types {
            Some(types) if types.len() != layers => {
                return Err(Error::corrupt(
                    "",
                    format!("config.json: {} layer_types for {layers} layers", types.len()),
                ));
            }
            Some(types) => types
                .iter()
                .map(|kind| match kind.as_str() {
                    "sliding_attention" => Ok(true),
                    "full_attention" => Ok(false),
                    other => Err(Error::unsupported("", format!("config.json: layer type {other:?}"))),
                })
                .collect::<Result<_>>()?,
            None if family == "gemma3" => {
                let period = self.sliding_window_pattern.or(self._sliding_window_pattern).unwrap_or(6);
                (1..=layers).map(|layer| !layer.is_multiple_of(period)).collect()
            }
            None if qwen => (0..layers).map(|layer| layer >= self.max_window_layers.unwrap_or(28)).collect(),
            None => vec![true; layers],
        };
        if !windowed.contains(&true) {
            return Ok(Vec::new());
        }
        Ok(windowed.into_iter().map(|on| if on { window } else { 0 }).collect())
    }
}

fn rope_type(table: Option<&Map<String, Value>>) -> &str {
    let name = |key: &str| table.and_then(|table| table.get(key)).and_then(Value::as_str);
    name("rope_type").or_else(|| name("type")).unwrap_or("default")
}

/// Llama 3.1's scaling: waves longer than the original context are stretched by `factor`,
/// short ones are left, those between change over smoothly.
struct Llama3 {
    factor: f64,
    low: f64,
    high: f64,
    original_context: f64,
}

impl Llama3 {
    /// What each frequency is divided by: `[head_dim / 2]`.
    fn factors(&self, theta: f64, head_dim: usize) -> Vec<f32> {
        let wavelength = |i: usize| std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
        (0..head_dim / 2)
            .map(|i| {
                let waves = self.original_context / wavelength(i);
                let factor = if waves < self.low {
                    self.factor
                } else if waves > self.high {
                    1.0
                } else {
                    let smooth = (waves - self.low) / (self.high - self.low);
                    1.0 / ((1.0 - smooth) / self.factor + smooth)
                };
                factor as f32
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn base(model_type: &str, more: Value) -> Value {
        let mut json = json!({"model_type": model_type, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2});
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json
    }

    fn check(model_type: &str, more: Value) -> HfConfig {
        read(&base(model_type, more)).unwrap()
    }

    #[test]
    fn old_and_new_spellings_of_rope_agree() {
        let scaling = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
        let with = |key: &str, value: Value| {
            let mut scaling = scaling.clone();
            scaling[key] = value;
            scaling
        };
        let old = check("llama", json!({"rope_theta": 5e5, "rope_scaling": with("rope_type", "llama3".into())}));
        let mut parameters = with("rope_type", "llama3".into());
        parameters["rope_theta"] = 5e5.into();
        let new = check("llama", json!({ "rope_parameters": parameters }));
        assert_eq!(old.config, new.config);
        assert_eq!(old.rope_factors, new.rope_factors);
        let factors = old.rope_factors.unwrap();
        assert_eq!((factors.len(), factors[0], factors[7]), (8, 1.0, 8.0));
        assert!(factors.windows(2).all(|pair| pair[0] <= pair[1]), "{factors:?}");
        let linear = check("llama", json!({"rope_scaling": {"type": "linear", "factor": 4.0}}));
        assert_eq!(linear.config.rope, Rope { theta: 1e4, scale: 0.25 });
    }

    #[test]
    fn gemma_spellings_and_defaults() {
        let old = check(
            "gemma3_text",
            json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4, "sliding_window": 8, "sliding_window_pattern": 2, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        );
        let new = check(
            "gemma3_text",
            json!({"layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"], "sliding_window": 8,
            "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
        );
        assert_eq!(old.config, new.config);
        assert_eq!(new.config.windows, [8, 0, 8, 0]);
        assert_eq!(new.config.rope_local, Some(Rope { theta: 1e4, scale: 1.0 }));
        assert_eq!((new.config.head_dim, new.config.embedding_scale, new.tied), (256, 8.0, true));
        let nested = read(&json!({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024}})).unwrap();
        assert_eq!((nested.config.heads, nested.config.kv_heads, nested.config.windows[5]), (8, 4, 0));
        assert_eq!(check("gemma3_text", json!({"query_pre_attn_scalar": 64})).config.attention_scale, 0.125);
    }

    #[test]
    fn windows_that_are_not_used() {
        assert!(check("qwen2", json!({"sliding_window": 8, "use_sliding_window": false})).config.windows.is_empty());
        assert_eq!(
            check("qwen2", json!({"sliding_window": 8, "use_sliding_window": true, "max_window_layers": 3}))
                .config
                .windows,
            [0, 0, 0, 8]
        );
        assert!(check("mistral", json!({ "sliding_window": null })).config.windows.is_empty());
        assert_eq!(check("mistral", json!({"sliding_window": 8})).config.windows, [8; 4]);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (more, named) in [
            (json!({"attention_bias": true}), "attention_bias"),
            (json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping"),
            (json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}), "yarn"),
            (json!({"num_local_experts": 8}), "experts"),
            (json!({"hidden_act": "relu"}), "relu"),
            (json!({"model_type": "phi3"}), "phi3"),
            (json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        ] {
            let error = read(&base("llama", more)).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}

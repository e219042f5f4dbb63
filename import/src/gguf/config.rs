//! What the metadata of each architecture mean: keys to [`Config`] and back.

use critic::file::{Activation, Config, Rope};

use super::read::{Gguf, Value};
use super::write::Metadata;
use crate::error::{Error, Result};

/// Architectures of llama.cpp that this crate reads and writes.
const ARCHITECTURES: [&str; 4] = ["llama", "qwen2", "qwen3", "gemma3"];
/// Every how many layers one sees everything, where a Gemma 3 file does not say.
const GEMMA3_PERIOD: u64 = 6;
/// Base of the windowed layers' RoPE, where a Gemma 3 file does not say.
const GEMMA3_LOCAL_THETA: f64 = 1e4;
/// Gemma 3 27B is told by its number of layers, as llama.cpp does: it alone scales queries
/// by the width of a head that hidden_size/heads would give.
const GEMMA3_27B_LAYERS: usize = 62;

/// The architecture's metadata, whose keys begin with its name.
struct Keys<'a> {
    gguf: &'a Gguf<'a>,
    architecture: &'a str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<Value<'_>> {
        self.gguf.get(&format!("{}.{key}", self.architecture))
    }

    fn wrong(&self, key: &str, expected: &str, found: Option<Value>) -> Error {
        let found = match found {
            None => "nothing".to_owned(),
            Some(Value::Array(array)) => format!("an array of {}", array.len()),
            Some(other) => format!("{other:?}"),
        };
        Error::corrupt("", format!("metadata {}.{key}: expected {expected}, found {found}", self.architecture))
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.wrong(key, "a number", None))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key)
            .map(|value| {
                value
                    .as_u64()
                    .and_then(|size| usize::try_from(size).ok())
                    .ok_or_else(|| self.wrong(key, "a number that fits in memory", Some(value)))
            })
            .transpose()
    }

    fn float(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|value| value.as_f64().ok_or_else(|| self.wrong(key, "a number", Some(value)))).transpose()
    }

    fn refuse_nonzero(&self, key: &str) -> Result<()> {
        match self.float(key)? {
            None | Some(0.0) => Ok(()),
            Some(value) => Err(Error::unsupported("", format!("metadata {}.{key} is {value}", self.architecture))),
        }
    }
}

/// The configuration of a model whose embedding has `vocab_size` rows.
pub(crate) fn read(gguf: &Gguf, vocab_size: usize) -> Result<Config> {
    let architecture = gguf
        .get("general.architecture")
        .and_then(Value::as_str)
        .ok_or_else(|| Error::corrupt("", "metadata general.architecture is missing"))?;
    if !ARCHITECTURES.contains(&architecture) {
        return Err(Error::unsupported(
            "",
            format!("architecture {architecture:?}, expected one of {}", ARCHITECTURES.join(", ")),
        ));
    }
    let keys = Keys { gguf, architecture };
    for key in ["expert_count", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale"] {
        keys.refuse_nonzero(key)?;
    }
    let gemma = architecture == "gemma3";
    let hidden_size = keys.size("embedding_length")?;
    let heads = keys.size("attention.head_count")?;
    let layers = keys.size("block_count")?;
    let even = hidden_size.checked_div(heads).ok_or_else(|| keys.wrong("attention.head_count", "at least 1", None))?;
    let head_dim = keys.optional_size("attention.key_length")?.unwrap_or(even);
    for key in ["attention.value_length", "rope.dimension_count"] {
        match keys.optional_size(key)? {
            Some(size) if size != head_dim => {
                let why = format!("metadata {architecture}.{key} is {size}, expected the width of a head, {head_dim}");
                return Err(Error::unsupported("", why));
            }
            _ => {}
        }
    }
    let default_scale = attention_scale(architecture, hidden_size, heads, head_dim, layers);
    let theta = keys.float("rope.freq_base")?.unwrap_or(if gemma { 1e6 } else { 1e4 });
    let rope_local = gemma
        .then(|| -> Result<Rope> {
            let theta = keys.float("rope.freq_base_swa")?.unwrap_or(GEMMA3_LOCAL_THETA);
            let scale = gguf.get("critic.rope_local_scale").and_then(Value::as_f64).unwrap_or(1.0);
            Ok(Rope { theta, scale })
        })
        .transpose()?;
    let family = match gguf.get("critic.family").and_then(Value::as_str) {
        Some("mistral") if architecture == "llama" => "mistral",
        _ => architecture,
    };
    let eps = "attention.layer_norm_rms_epsilon";
    Ok(Config {
        family: family.to_owned(),
        vocab_size,
        hidden_size,
        intermediate_size: keys.size("feed_forward_length")?,
        layers,
        heads,
        kv_heads: keys.optional_size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        context: keys.size("context_length")?,
        rms_norm_eps: keys.float(eps)?.ok_or_else(|| keys.wrong(eps, "a number", None))? as f32,
        activation: if gemma { Activation::GeluTanh } else { Activation::Silu },
        embedding_scale: if gemma { (hidden_size as f64).sqrt() as f32 } else { 1.0 },
        attention_scale: keys.float("attention.scale")?.map_or(default_scale, |scale| scale as f32),
        rope: Rope { theta, scale: rope_scale(&keys)? },
        rope_local,
        windows: windows(&keys, layers)?,
    })
}

/// The factor on q·k that llama.cpp uses for an architecture.
fn attention_scale(architecture: &str, hidden_size: usize, heads: usize, head_dim: usize, layers: usize) -> f32 {
    let width = match architecture {
        "gemma3" if layers == GEMMA3_27B_LAYERS => hidden_size as f64 / heads as f64,
        _ => head_dim as f64,
    };
    (1.0 / width.sqrt()) as f32
}

fn rope_scale(keys: &Keys) -> Result<f64> {
    let kind = keys.get("rope.scaling.type");
    let factor = match kind.map(|kind| kind.as_str()) {
        None => keys.float("rope.scale_linear")?,
        Some(Some("none")) => None,
        Some(Some("linear")) => keys.float("rope.scaling.factor")?,
        Some(Some(other)) => {
            let why = format!("rope scaling {other:?}, expected none or linear");
            return Err(Error::unsupported("", why));
        }
        Some(None) => return Err(keys.wrong("rope.scaling.type", "a string", kind)),
    };
    match factor {
        // llama.cpp, too, takes zero for no scaling.
        None | Some(0.0) => Ok(1.0),
        Some(factor) => Ok(1.0 / factor),
    }
}

/// Windows of the layers: empty where all see everything.
fn windows(keys: &Keys, layers: usize) -> Result<Vec<usize>> {
    let window = keys.optional_size("attention.sliding_window")?.unwrap_or(0);
    // A count that is compared with real tensors only later must not be allocated now.
    if window == 0 || layers > crate::MAX_LAYERS {
        return Ok(Vec::new());
    }
    let pattern = "attention.sliding_window_pattern";
    let windowed: Vec<bool> = match keys.get(pattern) {
        Some(Value::Array(array)) => array.iter().map(|value| matches!(value, Value::Bool(true))).collect(),
        Some(value) => {
            let period = value.as_u64().ok_or_else(|| keys.wrong(pattern, "a period or truth values", Some(value)))?;
            periodic(period, layers)
        }
        None => match keys.architecture {
            "gemma3" => periodic(GEMMA3_PERIOD, layers),
            // Mistral: every layer.
            "llama" => vec![true; layers],
            // Qwen's converters write a window that the model does not use.
            _ => return Ok(Vec::new()),
        },
    };
    if windowed.len() != layers {
        return Err(Error::corrupt(
            "",
            format!("metadata {pattern} has {} values for {layers} layers", windowed.len()),
        ));
    }
    Ok(if windowed.contains(&true) {
        windowed.into_iter().map(|on| if on { window } else { 0 }).collect()
    } else {
        Vec::new()
    })
}

/// Every `period`-th layer sees everything; with 0 none does, as llama.cpp has it.
fn periodic(period: u64, layers: usize) -> Vec<bool> {
    (0..layers as u64).map(|layer| period == 0 || layer % period < period - 1).collect()
}

/// Writes `config` under the keys of its architecture, which is returned, and says what
/// llama.cpp will not heed.
pub(crate) fn write(config: &Config, metadata: &mut Metadata, lost: &mut Vec<String>) -> Result<&'static str> {
    let family = if config.family == "mistral" { "llama" } else { config.family.as_str() };
    let architecture = ARCHITECTURES.into_iter().find(|&name| name == family).ok_or_else(|| {
        Error::unsupported("GGUF", format!("family {:?}, expected one of {}", config.family, ARCHITECTURES.join(", ")))
    })?;
    let gemma = architecture == "gemma3";
    let embedding_scale = if gemma { (config.hidden_size as f64).sqrt() as f32 } else { 1.0 };
    let activation = if gemma { Activation::GeluTanh } else { Activation::Silu };
    if config.embedding_scale != embedding_scale
        || config.activation != activation
        || config.rope_local.is_some() != gemma
    {
        let why = format!(
            "a {} model with embedding scale {} and activation {:?}",
            config.family, config.embedding_scale, config.activation
        );
        return Err(Error::unsupported("GGUF", why));
    }
    let key = |name: &str| format!("{architecture}.{name}");
    if config.family != architecture {
        metadata.string("critic.family", &config.family);
    }
    let sizes = [
        ("vocab_size", config.vocab_size),
        ("context_length", config.context),
        ("embedding_length", config.hidden_size),
        ("block_count", config.layers),
        ("feed_forward_length", config.intermediate_size),
        ("rope.dimension_count", config.head_dim),
        ("attention.head_count", config.heads),
        ("attention.head_count_kv", config.kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
    ];
    for (name, size) in sizes {
        // Sizes of an opened model are below 2²⁴.
        metadata.u32(&key(name), size as u32);
    }
    metadata.f32(&key("attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
    metadata.f32(&key("rope.freq_base"), config.rope.theta as f32);
    if config.rope.scale != 1.0 {
        metadata.string(&key("rope.scaling.type"), "linear");
        metadata.f32(&key("rope.scaling.factor"), (1.0 / config.rope.scale) as f32);
    }
    if let Some(local) = &config.rope_local {
        metadata.f32(&key("rope.freq_base_swa"), local.theta as f32);
        if local.scale != 1.0 {
            metadata.f32("critic.rope_local_scale", local.scale as f32);
            lost.push(format!("llama.cpp has no RoPE scaling of windowed layers alone; theirs is {}", local.scale));
        }
    }
    let usual = attention_scale(architecture, config.hidden_size, config.heads, config.head_dim, config.layers);
    if config.attention_scale != usual {
        metadata.f32(&key("attention.scale"), config.attention_scale);
        lost.push(format!(
            "llama.cpp scales the attention of {architecture} by {usual}; this model's {} is noted as {}, which it may ignore",
            config.attention_scale,
            key("attention.scale")
        ));
    }
    write_windows(config, architecture, metadata, lost)?;
    Ok(architecture)
}

fn write_windows(config: &Config, architecture: &str, metadata: &mut Metadata, lost: &mut Vec<String>) -> Result<()> {
    let Some(&window) = config.windows.iter().max().filter(|&&window| window > 0) else { return Ok(()) };
    if config.windows.iter().any(|&other| other != 0 && other != window) {
        return Err(Error::unsupported("GGUF", "layers with windows of different widths"));
    }
    metadata.u32(&format!("{architecture}.attention.sliding_window"), u32::try_from(window).unwrap_or(u32::MAX));
    let windowed: Vec<bool> = config.windows.iter().map(|&window| window != 0).collect();
    let pattern = format!("{architecture}.attention.sliding_window_pattern");
    let period = (0..=config.layers as u64).find(|&period| periodic(period, config.layers) == windowed);
    match (architecture, period) {
        ("gemma3", _) if periodic(GEMMA3_PERIOD, config.layers) == windowed => {}
        ("gemma3", Some(period)) => metadata.u32(&pattern, period as u32),
        ("llama", _) if windowed.iter().all(|&on| on) => {}
        _ => metadata.bools(&pattern, &windowed),
    }
    if architecture != "gemma3" {
        lost.push(format!("llama.cpp ignores the attention window of {window} tokens in architecture {architecture}: texts beyond it differ"));
    } else if period.is_none() {
        lost.push("llama.cpp expects windowed layers to follow a period; this model's do not".to_owned());
    }
    Ok(())
}

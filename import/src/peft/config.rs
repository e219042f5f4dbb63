//! `adapter_config.json`: what PEFT says about an adapter.

use std::path::Path;

use critic::adapter::MAX_RANK;
use serde_json::{Map, Value, json};

use crate::adapter::LoraAdapter;
use crate::error::{Error, Result};

/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// Fields that say how an adapter was begun, run or published, and not what it computes.
const WITHOUT_EFFECT: [&str; 17] = [
    "auto_mapping",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "monteclora_config",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];
/// Fields that are read below.
const READ: [&str; 12] = [
    "alora_invocation_tokens",
    "base_model_name_or_path",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "target_modules",
    "task_type",
    "use_rslora",
    "invocation_string",
];
/// Ways to begin that leave the base model's weights as they are; others take the adapter's
/// first value out of them.
const BEGINNINGS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The adapter of the configuration at `path`, still without its pairs, and the modules that it
/// names as adapted, where it lists them.
pub(super) fn read(path: &Path) -> Result<(LoraAdapter, Vec<String>)> {
    let bytes = std::fs::metadata(path).map_err(Error::io(path))?.len();
    if bytes > MAX_BYTES {
        let why = format!("{bytes} bytes, expected at most {MAX_BYTES}");
        return Err(Error::corrupt(path.display().to_string(), why));
    }
    let text = std::fs::read(path).map_err(Error::io(path))?;
    let fields: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| Error::corrupt(path.display().to_string(), error.to_string()))?;
    parse(&fields).map_err(|error| error.in_file(path))
}

/// Errors name no file.
fn parse(fields: &Map<String, Value>) -> Result<(LoraAdapter, Vec<String>)> {
    only_what_is_known(fields)?;
    let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let wrong = |name: &str, expected: &str| {
        let found = field(name).map_or("missing".to_owned(), Value::to_string);
        Error::corrupt("", format!("{name} is {found}, expected {expected}"))
    };
    let number = |name: &str, expected: &str| field(name).and_then(Value::as_f64).ok_or_else(|| wrong(name, expected));
    let rank = field("r").and_then(Value::as_u64).filter(|rank| (1..=MAX_RANK as u64).contains(rank));
    let rank = rank.ok_or_else(|| wrong("r", &format!("1 to {MAX_RANK}")))? as usize;
    let alpha = number("lora_alpha", "a number")? as f32;
    let stabilised = field("use_rslora").and_then(Value::as_bool).unwrap_or(false);
    let scale = scale(alpha, rank, stabilised);
    if !scale.is_finite() {
        return Err(wrong("lora_alpha", "a number"));
    }
    let dropout = if field("lora_dropout").is_some() { number("lora_dropout", "0 to 1")? as f32 } else { 0.0 };
    if !(0.0..1.0).contains(&dropout) {
        return Err(wrong("lora_dropout", "0 to 1"));
    }
    let token = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let tokens = |list: &Value| list.as_array()?.iter().map(token).collect::<Option<Vec<u32>>>();
    let invocation_tokens = match field("alora_invocation_tokens") {
        None => Vec::new(),
        Some(list) => tokens(list).ok_or_else(|| wrong("alora_invocation_tokens", "a list of token ids"))?,
    };
    // Anything but a list is a pattern; the tensors say what it matched.
    let targets = field("target_modules").and_then(Value::as_array).into_iter().flatten();
    let targets = targets.filter_map(Value::as_str).map(str::to_owned).collect();
    let text = |name: &str| field(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let base_model = text("base_model_name_or_path");
    let adapter = LoraAdapter { rank, alpha, scale, invocation_tokens, base_model, dropout, ..LoraAdapter::default() };
    Ok((adapter, targets))
}

/// Refuses adapters that compute something else than y += scale · B·(A·x) for whole layers.
fn only_what_is_known(fields: &Map<String, Value>) -> Result<()> {
    let is = |name: &str, allowed: &[&str]| match fields.get(name) {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(text)) if allowed.contains(&text.as_str()) => Ok(()),
        Some(other) => Err(Error::unsupported("", format!("{name} is {other}, expected {}", allowed.join(" or ")))),
    };
    if !fields.contains_key("peft_type") {
        return Err(Error::corrupt("", "peft_type is missing: this is no adapter of PEFT"));
    }
    is("peft_type", &["LORA"])?;
    is("task_type", &["CAUSAL_LM"])?;
    is("bias", &["none"])?;
    if !matches!(fields.get("init_lora_weights"), Some(Value::Bool(_))) {
        is("init_lora_weights", &BEGINNINGS)?;
    }
    // Older activated adapters have the text alone, with other semantics of its first token.
    let named = |name: &str| fields.get(name).is_some_and(|value| !is_empty(value));
    if named("invocation_string") && !named("alora_invocation_tokens") {
        let why = "invocation_string without alora_invocation_tokens: save it again with a current PEFT";
        return Err(Error::unsupported("", why));
    }
    for (name, value) in fields {
        let known = READ.contains(&name.as_str()) || WITHOUT_EFFECT.contains(&name.as_str());
        if !known && !is_empty(value) {
            return Err(Error::unsupported("", format!("{name} is {value}: only plain LoRA can be applied")));
        }
    }
    Ok(())
}

/// Whether a field says "not used".
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn scale(alpha: f32, rank: usize, stabilised: bool) -> f32 {
    alpha / if stabilised { (rank as f32).sqrt() } else { rank as f32 }
}

/// The text of a configuration; `module` is PEFT's name of one of our matrices in a layer.
pub(super) fn write(adapter: &LoraAdapter, module: impl Fn(&str) -> Option<String>) -> String {
    let stabilised = adapter.scale != scale(adapter.alpha, adapter.rank, false)
        && adapter.scale == scale(adapter.alpha, adapter.rank, true);
    let exact = adapter.scale == scale(adapter.alpha, adapter.rank, stabilised);
    let alpha = if exact { adapter.alpha } else { adapter.scale * adapter.rank as f32 };
    // PEFT declares a whole number.
    let alpha = if alpha.fract() == 0.0 && alpha.abs() < 1e9 { json!(alpha as i64) } else { json!(alpha) };
    let short = |name: &str| Some(module(name)?.rsplit('.').next()?.to_owned());
    let targets: Vec<String> = adapter.targets().into_iter().filter_map(short).collect();
    let tokens = (!adapter.invocation_tokens.is_empty()).then_some(&adapter.invocation_tokens);
    let fields = json!({
        "alora_invocation_tokens": tokens,
        "base_model_name_or_path": adapter.base_model,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": alpha,
        "lora_dropout": (f64::from(adapter.dropout) * 1e6).round() / 1e6,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": adapter.rank,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": stabilised,
    });
    let mut text = serde_json::to_string_pretty(&fields).expect("a configuration is JSON");
    text.push('\n');
    text
}

//! `critic info`

use std::collections::BTreeMap;
use std::fmt::Write;

use critic::Model;
use critic::file::{AdapterSpec, Affixes, Config, FORMAT_VERSION, Part, Prompts, Provenance, matrix_format};
use critic::tokenizer::{Algorithm, Splitter};
use serde::Serialize;

use crate::args::{InfoArgs, ModelArgs};
use crate::failure::Failure;
use crate::output::{json, line};

#[derive(Serialize)]
struct Answer<'a> {
    file: String,
    bytes: usize,
    format_version: u32,
    provenance: &'a Provenance,
    architecture: &'a Config,
    parameters: u64,
    /// By format, or `tables` for what belongs to the tokenizer, `adapter` for an adapter's.
    tensors: BTreeMap<String, Tensors>,
    /// Bits of a weight on average, scales included.
    bits_per_weight: f64,
    tokenizer: Tokenizer,
    /// A conversation as the model sees it.
    chat_template: String,
    tasks: Vec<&'a str>,
    keep: &'a str,
    /// In force: the file's own, or the defaults.
    prompts: &'a Prompts,
    /// What an adapter for this model names as its base.
    fingerprint: String,
    adapter: Option<Adapter<'a>>,
}

#[derive(Serialize)]
struct Adapter<'a> {
    #[serde(flatten)]
    spec: &'a AdapterSpec,
    tensors: usize,
    targets: Vec<&'static str>,
}

#[derive(Default, Serialize)]
struct Tensors {
    tensors: usize,
    bytes: usize,
}

#[derive(Serialize)]
struct Tokenizer {
    algorithm: Algorithm,
    splitter: Splitter,
    tokens: usize,
    /// Put before every prompt.
    bos: Option<String>,
    /// End an answer.
    ends: Vec<String>,
}

pub fn run(args: &InfoArgs) -> Result<(), Failure> {
    let model = args.model.clone().or_else(|| args.model_flag.clone());
    let asked = ModelArgs {
        model,
        threads: None,
        kernel: None,
        context: None,
        fine: false,
        prefix_cache: None,
        adapted: args.adapted.clone(),
    };
    let path = asked.path()?;
    let model = asked.open_at(&path)?;
    if args.prompts {
        let text = serde_json::to_string_pretty(model.prompts()).map_err(|error| Failure::Failed(error.to_string()))?;
        return line(&text);
    }
    let file = model.file();
    let mut tensors: BTreeMap<String, Tensors> = BTreeMap::new();
    for (name, info) in file.tensors() {
        let kind = match matrix_format(info) {
            _ if name.starts_with("adapter.") => "adapter".to_owned(),
            Some(format) => format.name().to_owned(),
            None if name.starts_with("tokenizer.") => "tables".to_owned(),
            None if name.starts_with("padding.") => "padding".to_owned(),
            None => format!("{:?} vectors", info.dtype).to_lowercase(),
        };
        let entry = tensors.entry(kind).or_default();
        entry.tensors += 1;
        entry.bytes += info.range.len();
    }
    let weights = tensors.iter().filter(|(kind, _)| !matches!(kind.as_str(), "adapter" | "tables" | "padding"));
    let weight_bytes: usize = weights.map(|(_, tensors)| tensors.bytes).sum();
    let tokenizer = model.tokenizer();
    let piece = |id: u32| String::from_utf8_lossy(tokenizer.piece(id)).into_owned();
    let parameters = model.weights().parameters();
    let answer = Answer {
        file: path.display().to_string(),
        bytes: file.len(),
        format_version: FORMAT_VERSION,
        provenance: model.provenance(),
        architecture: model.config(),
        parameters,
        bits_per_weight: weight_bytes as f64 * 8.0 / parameters as f64,
        tensors,
        tokenizer: Tokenizer {
            algorithm: tokenizer.spec().algorithm,
            splitter: tokenizer.spec().splitter,
            tokens: tokenizer.vocab_size(),
            bos: tokenizer.add_bos().map(piece),
            ends: tokenizer.end_ids().iter().map(|&id| piece(id)).collect(),
        },
        chat_template: rendered(&model),
        tasks: model.prompts().tasks.keys().map(String::as_str).collect(),
        keep: &model.prompts().keep,
        prompts: model.prompts(),
        fingerprint: model.weights().fingerprint(),
        adapter: model.adapter().filter(|_| !args.adapted.no_adapter).map(|adapter| Adapter {
            spec: &adapter.spec,
            tensors: adapter.tensors(),
            targets: adapter.targets().into_iter().map(|target| target.name()).collect(),
        }),
    };
    if args.json { json(&answer) } else { line(&text(&answer)) }
}

/// A short conversation through the chat template, with control tokens by their names.
fn rendered(model: &Model) -> String {
    let chat = model.chat();
    let part = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Control(id) => String::from_utf8_lossy(model.tokenizer().piece(*id)).into_owned(),
    };
    let parts = |parts: &[Part]| parts.iter().map(part).collect::<String>();
    let message = |affixes: &Affixes, content: &str| parts(&affixes.prefix) + content + &parts(&affixes.suffix);
    let mut out = parts(&chat.start);
    let system = model.prompts().system.as_deref().or(chat.default_system.as_deref());
    let user = match (&chat.system, system) {
        (Some(affixes), Some(system)) => {
            out += &message(affixes, system);
            "{user}".to_owned()
        }
        (None, Some(system)) => format!("{system}{}{{user}}", chat.system_separator),
        (_, None) => "{user}".to_owned(),
    };
    out + &message(&chat.user, &user) + &message(&chat.assistant, "{assistant}")
}

fn describe(adapter: &Adapter) -> String {
    let AdapterSpec { rank, scale, invocation_tokens, beta, threshold, base } = adapter.spec;
    let acts = match invocation_tokens.len() {
        0 => "acts on the whole text".to_owned(),
        count => format!("acts from its {count} invocation tokens on"),
    };
    let utility = match *beta {
        0.0 => "no utility advantage".to_owned(),
        beta => format!("utility advantage with β {beta} and threshold {threshold}"),
    };
    let base = if base.is_empty() { "a model that it does not name" } else { base };
    format!("rank {rank}, scale {scale}, on {}\n{acts}\n{utility}\nfor {base}", adapter.targets.join(", "))
}

fn text(answer: &Answer) -> String {
    let config = answer.architecture;
    let mut out = String::new();
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            _ = writeln!(out, "{name:<14}{}", value.replace('\n', "\n              "));
        }
    };
    row("name", answer.provenance.name.clone());
    row("file", answer.file.clone());
    row("size", format!("{} bytes, format version {}", answer.bytes, answer.format_version));
    row("licence", answer.provenance.licence.clone());
    row("source", answer.provenance.source.clone());
    row("written by", answer.provenance.generator.clone());
    row(
        "architecture",
        format!(
            "{}: {} layers, hidden size {}, {} heads on {} KV heads of {}, MLP {}, context {}",
            config.family,
            config.layers,
            config.hidden_size,
            config.heads,
            config.kv_heads,
            config.head_dim,
            config.intermediate_size,
            config.context
        ),
    );
    row("parameters", format!("{} ({:.2} bits each)", answer.parameters, answer.bits_per_weight));
    let tensors: Vec<_> = answer
        .tensors
        .iter()
        .map(|(kind, tensors)| format!("{kind:<12} {:>5} tensors {:>13} bytes", tensors.tensors, tensors.bytes))
        .collect();
    row("tensors", tensors.join("\n"));
    let tokenizer = &answer.tokenizer;
    row(
        "tokenizer",
        format!(
            "{:?}, {:?} splitter, {} tokens, begins with {}, ends with {}",
            tokenizer.algorithm,
            tokenizer.splitter,
            tokenizer.tokens,
            tokenizer.bos.as_deref().unwrap_or("nothing"),
            tokenizer.ends.join(" ")
        ),
    );
    row("chat", answer.chat_template.trim_end().to_owned());
    row("tasks", answer.tasks.join(", "));
    row("says to keep", answer.keep.to_owned());
    row("fingerprint", answer.fingerprint.clone());
    row("adapter", answer.adapter.as_ref().map_or("none".to_owned(), describe));
    out.trim_end().to_owned()
}

//! Memory and time of an RCO step for models of several sizes, by the trainer's own formula.
//!
//! usage: training_cost SECONDS
//!
//! SECONDS is what a step of SmolLM2-135M takes on the device: `cargo xtask bench-step` prints it for this
//! machine's CPU. It gives the rate for the others. A step is one group: 4 critiques of 80 tokens after a
//! prefix of 200 and an instruction of 20, with an activated adapter of rank 16.

use critic::adapter::Target;
use critic::file::{Activation, Config, Rope};
use critic_trainer::memory::pass_bytes;

const PREFIX: usize = 200;
const INSTRUCTION: usize = 20;
const CRITIQUES: usize = 4;
const CRITIQUE: usize = 80;
const RANK: usize = 16;
/// Of each value of an adapter: itself, its gradient, two moments, and the optimizer's next value.
const COPIES: usize = 5;

/// Name, vocabulary, hidden, intermediate, layers, heads, KV heads, tied: as published.
const MODELS: [(&str, usize, usize, usize, usize, usize, usize, bool); 4] = [
    ("SmolLM2-135M", 49_152, 576, 1536, 30, 9, 3, true),
    ("Llama 3.2 1B", 128_256, 2048, 8192, 16, 32, 8, true),
    ("Llama 3.2 3B", 128_256, 3072, 8192, 28, 24, 8, true),
    ("Llama 3.1 8B", 128_256, 4096, 14_336, 32, 32, 8, false),
];

fn main() {
    let measured: f64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        eprintln!("usage: training_cost SECONDS");
        std::process::exit(2);
    });
    println!("| model | operations a group, 10¹² | seconds a group | memory f32, GB | memory bf16, GB |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    // Operations a second, by the first model.
    let mut rate = None;
    for (name, vocab, hidden, inner, layers, heads, kv_heads, tied) in MODELS {
        let config = config(vocab, hidden, inner, layers, heads, kv_heads);
        let linears: usize = Target::ALL.iter().map(|target| area(target.shape(&config))).sum::<usize>() * layers;
        let adapter: usize =
            Target::ALL.iter().map(|target| edge(target.shape(&config))).sum::<usize>() * layers * RANK;
        let operations = operations(&config, linears, adapter);
        let rate = *rate.get_or_insert(operations / measured);
        let weights = linears + vocab * hidden * if tied { 1 } else { 2 };
        let rows = INSTRUCTION + CRITIQUES * CRITIQUE;
        let rest = 4 * COPIES * adapter + pass_bytes(&config, rows, PREFIX + rows);
        let gb = |bytes: usize| bytes as f64 / 1e9;
        println!(
            "| {name} | {:.2} | {:.1} | {:.1} | {:.1} |",
            operations / 1e12,
            operations / rate,
            gb(4 * weights + rest),
            gb(2 * weights + rest)
        );
    }
    eprintln!("rate: {:.0}·10⁹ operations a second", rate.unwrap_or(f64::NAN) / 1e9);
}

fn area((outputs, inputs): (usize, usize)) -> usize {
    outputs * inputs
}

fn edge((outputs, inputs): (usize, usize)) -> usize {
    outputs + inputs
}

/// Multiplications and additions. A weight costs 2 a token forward; where a gradient passes
/// through, 2 more for that of its input, and an adapter's 2 more for its own. The vocabulary is
/// projected to once, and its gradient is one product more.
fn operations(config: &Config, linears: usize, adapter: usize) -> f64 {
    let rows = (INSTRUCTION + CRITIQUES * CRITIQUE) as f64;
    let targets = (CRITIQUES * CRITIQUE) as f64;
    let prefix = PREFIX as f64 * 2.0 * linears as f64;
    let adapted = rows * (4.0 * linears as f64 + 6.0 * adapter as f64);
    let output = targets * 4.0 * (config.vocab_size * config.hidden_size) as f64;
    prefix + adapted + output
}

fn config(vocab_size: usize, hidden_size: usize, inner: usize, layers: usize, heads: usize, kv_heads: usize) -> Config {
    Config {
        family: "llama".into(),
        vocab_size,
        hidden_size,
        intermediate_size: inner,
        layers,
        heads,
        kv_heads,
        // Of all of them: 64 for the two smallest, 128 for the others.
        head_dim: if hidden_size > 2048 { 128 } else { 64 },
        context: 2048,
        rms_norm_eps: 1e-5,
        activation: Activation::Silu,
        embedding_scale: 1.0,
        attention_scale: 0.125,
        rope: Rope { theta: 1e4, scale: 1.0 },
        rope_local: None,
        windows: Vec::new(),
    }
}

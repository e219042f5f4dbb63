//! Times one RCO training step with an activated adapter: `cargo xtask bench-step` runs it beside PyTorch.
//!
//! usage: rco_step MODEL [PREFIX INSTRUCTION CRITIQUE CRITIQUES RANK STEPS [DEVICE [PRECISION]]]
//!
//! DEVICE is what `critic-train devices` lists (flex), PRECISION f32 or bf16.
//!
//! Prints the median seconds of a step: prefix, forward, loss, backward, clipping and AdamW. Reference
//! log-probabilities are given, as they are in training. Tokens are arbitrary: speed does not depend on them.

use std::path::Path;
use std::time::Instant;

use critic_trainer::data::EncodedGroup;
use critic_trainer::device::{self, Precision};
use critic_trainer::memory::Limits;
use critic_trainer::model::{Adapter, AdapterOptions, Base, Policy, load};
use critic_trainer::objective::{Normalizer, Objective};
use critic_trainer::optim::{Gradient, Optimizer, OptimizerOptions};
use critic_trainer::random::Random;
use critic_trainer::score::differentiate;
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let model = load(Path::new(arguments.first().ok_or("usage: rco_step MODEL [PREFIX …]")?))?;
    let mut sizes = [200, 20, 80, 4, 16, 5];
    for (size, text) in sizes.iter_mut().zip(&arguments[1..]) {
        *size = text.parse()?;
    }
    let [prefix, instruction, critique, critiques, rank, steps] = sizes;
    let device = device::open(arguments.get(7).map_or("flex", String::as_str))?;
    let precision = Precision::parse(arguments.get(8).map_or("f32", String::as_str), &device)?;
    let base = Base::new(&model, &device, precision)?;
    let options = AdapterOptions { rank, alpha: 2.0 * rank as f64, ..AdapterOptions::default() };
    let adapter = Adapter::new(&base.config, &options, 0, &device)?;
    let mut policy = Policy { base, adapter: Some(adapter) };
    let mut random = Random::new(0, "tokens", &[]);
    let vocab = policy.base.config.vocab_size;
    let mut tokens = |count: usize| -> Vec<u32> { (0..count).map(|_| random.below(vocab) as u32).collect() };
    let group = EncodedGroup {
        id: "timed".to_owned(),
        prefix: tokens(prefix),
        instruction: tokens(instruction),
        critiques: (0..critiques).map(|_| tokens(critique)).collect(),
        keep: tokens(4),
        utilities: (0..critiques).map(|at| at as f64 / (critiques - 1).max(1) as f64).collect(),
        preferred: None,
    };
    let log_reference = vec![-10.0 * critique as f64; critiques];
    let objective = Objective::Rco { beta: 0.1, normalizer: Normalizer::Centred };
    let mut optimizer = Optimizer::new(&OptimizerOptions::default());
    let (mut seconds, mut computed) = (Vec::new(), 0);
    // The first step is not counted: it fills caches.
    for at in 0..=steps {
        let begun = Instant::now();
        let mut gradient = Gradient::default();
        let limits = Limits::default();
        let done = differentiate(&policy, &group, &log_reference, objective, 1.0, None, &limits, &mut gradient)?;
        let norm = gradient.norm();
        policy = optimizer.step(&policy, &gradient, norm, 1e-4);
        computed = done.tokens;
        if at > 0 {
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    println!("{}", json!({"seconds": sorted[sorted.len() / 2], "all": seconds, "tokens": computed}));
    Ok(())
}

//! Training moves what it should: on a space of critiques that can be enumerated, the optimum is known.
//!
//! A critique is one token, so the vocabulary is the whole space and probabilities over it sum to one.
//! RCO's optimum is p*(c) = p(c)·exp(CU(c)/β)/Z (rco.rs).

use std::ops::ControlFlow::Continue;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use critic_import::Quant;
use critic_tests::small;
use critic_trainer::data::EncodedGroup;
use critic_trainer::device::Precision;
use critic_trainer::memory::Limits;
use critic_trainer::model::{Base, Policy};
use critic_trainer::objective::{Normalizer, Objective};
use critic_trainer::optim::{Optimizer, OptimizerOptions};
use critic_trainer::random::Random;
use critic_trainer::reference::Reference;
use critic_trainer::score::score;
use critic_trainer::train::{Data, TrainOptions, Trainer};

const BETA: f64 = 0.25;
/// Critiques of a group, as they are sampled from the reference.
const SAMPLED: usize = 8;

/// CU of a critique: one of 0, ¼, ½, ¾, 1, without any order among tokens.
fn utility(token: usize) -> f64 {
    (token * 7 % 5) as f64 / 4.0
}

fn group(id: usize, tokens: &[usize]) -> EncodedGroup {
    EncodedGroup {
        id: format!("g{id}"),
        prefix: vec![5, 6, 7, 8],
        instruction: vec![9, 10, 11],
        critiques: tokens.iter().map(|&token| vec![token as u32]).collect(),
        keep: vec![0],
        utilities: tokens.iter().map(|&token| utility(token)).collect(),
        preferred: None,
    }
}

/// log p of every critique there is.
fn distribution(policy: &Policy, vocab: usize) -> Vec<f64> {
    let all: Vec<Vec<u32>> = (0..vocab as u32).map(|token| vec![token]).collect();
    let log_p = score(policy, &group(0, &[0]), &all, &Limits::default()).expect("a pass");
    let sum: f64 = log_p.iter().map(|p| p.exp()).sum();
    assert!((sum - 1.0).abs() < 1e-4, "the space is not the whole one: {sum}");
    log_p
}

/// KL(q‖p) and total variation.
fn distance(q: &[f64], p: &[f64]) -> (f64, f64) {
    let kl = q.iter().zip(p).map(|(q, p)| q.exp() * (q - p)).sum();
    let variation = q.iter().zip(p).map(|(q, p)| (q.exp() - p.exp()).abs()).sum::<f64>() / 2.0;
    (kl, variation)
}

fn sample(random: &mut Random, log_p: &[f64]) -> usize {
    let mut left = random.uniform();
    let mut find = |p: &f64| {
        left -= p.exp();
        left < 0.0
    };
    log_p.iter().position(&mut find).unwrap_or(log_p.len() - 1)
}

#[test]
fn rco_reaches_its_optimum() {
    let model = small("llama-gqa-tied", Quant::Keep);
    let base = Base::new(&model, &Device::flex(), Precision::F32).expect("a base");
    let vocab = base.config.vocab_size;
    let reference_policy = Policy { base, adapter: None };
    let reference = distribution(&reference_policy, vocab);
    let z: f64 = reference.iter().enumerate().map(|(token, p)| (p + utility(token) / BETA).exp()).sum();
    let optimum: Vec<f64> = reference.iter().enumerate().map(|(token, p)| p + utility(token) / BETA - z.ln()).collect();

    let mut random = Random::new(1, "critiques", &[]);
    let groups: Vec<EncodedGroup> = (0..1500)
        .map(|id| group(id, &(0..SAMPLED).map(|_| sample(&mut random, &reference)).collect::<Vec<_>>()))
        .collect();
    let log_reference =
        Reference::compute(&reference_policy, &groups, &Limits::default(), &mut |_| Ok(())).expect("a reference");
    let data = Data { groups: &groups, reference: &log_reference };
    let begin = distance(&reference, &optimum);
    println!("| policy | KL to the optimum | total variation | mean CU |");
    println!("| --- | ---: | ---: | ---: |");
    let line = |name: &str, p: &[f64]| {
        let (kl, variation) = distance(p, &optimum);
        let cu: f64 = p.iter().enumerate().map(|(token, p)| p.exp() * utility(token)).sum();
        println!("| {name} | {kl:.4} | {variation:.4} | {cu:.4} |");
        kl
    };
    line("reference", &reference);
    line("optimum", &optimum);
    let fitted = [Normalizer::Estimated, Normalizer::Centred].map(|normalizer| {
        let mut trainer = Trainer {
            options: TrainOptions {
                steps: 250,
                groups_per_step: 16,
                learning_rate: 1e-3,
                warmup: 10,
                floor: 0.02,
                beta: BETA,
                ..TrainOptions::default()
            },
            limits: Limits::default(),
            objective: Objective::Rco { beta: BETA, normalizer },
            policy: reference_policy.clone(),
            optimizer: Optimizer::new(&OptimizerOptions { max_norm: f64::INFINITY, ..OptimizerOptions::default() }),
            step: 0,
            checkpoints: None,
        };
        let nothing = Data { groups: &[], reference: &Reference(Vec::new()) };
        trainer.run(data, nothing, &AtomicBool::new(false), &mut |_| Continue(())).expect("a run");
        line(&format!("{normalizer:?}"), &distribution(&trainer.policy, vocab))
    });
    // What is left of the distance: critiques that 12,000 samples of 512 show a few times, or never.
    assert!(fitted[1] < 0.02 * begin.0, "centred: {} of {}", fitted[1], begin.0);
    assert!(fitted[1] < fitted[0], "{fitted:?}");
}

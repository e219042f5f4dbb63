//! What always holds of training: docs/trainer.md's invariants on small random models.

use std::ops::ControlFlow::{self, Break, Continue};
use std::path::Path;
use std::sync::atomic::AtomicBool;

use burn::tensor::{Device, Tensor};
use critic_import::Quant;
use critic_tests::{ARCHITECTURES, small};
use critic_trainer::Error;
use critic_trainer::checkpoint;
use critic_trainer::data::EncodedGroup;
use critic_trainer::device::Precision;
use critic_trainer::lanes::lanes;
use critic_trainer::memory::{Limits, pass_bytes, weight_bytes};
use critic_trainer::model::{Adapter, AdapterOptions, Base, Dropout, Policy};
use critic_trainer::objective::{Normalizer, Objective};
use critic_trainer::optim::{Gradient, Optimizer, OptimizerOptions};
use critic_trainer::random::Random;
use critic_trainer::reference::{Reference, fingerprint};
use critic_trainer::score::{Differentiated, differentiate, score};
use critic_trainer::tensors::to_host;
use critic_trainer::train::{Data, Event, Outcome, TrainOptions, Trainer};

const RCO: Objective = Objective::Rco { beta: 0.25, normalizer: Normalizer::Centred };

fn base(name: &str) -> Base {
    Base::new(&small(name, Quant::Keep), &Device::flex(), Precision::F32).expect("a base")
}

fn fresh(name: &str, options: &AdapterOptions) -> Policy {
    let base = base(name);
    let adapter = Adapter::new(&base.config, options, 3, &Device::flex()).expect("an adapter");
    Policy { base, adapter: Some(adapter) }
}

fn options() -> AdapterOptions {
    AdapterOptions { rank: 4, alpha: 8.0, ..AdapterOptions::default() }
}

/// A policy whose adapter has been somewhere: no gradient is zero.
fn moved(policy: &Policy) -> Policy {
    let mut random = Random::new(99, "moved", &[]);
    policy.map(&mut |name, tensor| {
        let [rows, columns] = tensor.dims();
        let values: Vec<f32> = (0..rows * columns).map(|_| 0.05 * (random.uniform() as f32 - 0.5)).collect();
        match name.ends_with(".b") {
            true => Tensor::<1>::from_floats(values.as_slice(), &Device::flex()).reshape([rows, columns]),
            false => tensor.clone(),
        }
    })
}

fn groups(count: usize, vocab: usize) -> Vec<EncodedGroup> {
    let mut random = Random::new(5, "groups", &[]);
    let mut tokens = |count: usize| -> Vec<u32> { (0..count).map(|_| random.below(vocab) as u32).collect() };
    let group = |index: usize| EncodedGroup {
        id: format!("g{index}"),
        prefix: tokens(9 + index),
        instruction: tokens(4),
        critiques: (0..4).map(|i| tokens(3 + 2 * i)).collect(),
        keep: tokens(3),
        utilities: vec![0.0, 0.25, 0.5, 1.0],
        preferred: None,
    };
    (0..count).map(group).collect()
}

fn reference(policy: &Policy, groups: &[EncodedGroup]) -> Reference {
    Reference::compute(policy, groups, &Limits::default(), &mut |_| Ok(())).expect("a reference")
}

fn gradient_of(
    policy: &Policy,
    group: &EncodedGroup,
    limits: &Limits,
    dropout: Option<&Dropout>,
) -> (Gradient, Differentiated) {
    let reference = reference(policy, std::slice::from_ref(group));
    let mut gradient = Gradient::default();
    let done = differentiate(policy, group, &reference.0[0].critiques, RCO, 1.0, dropout, limits, &mut gradient)
        .expect("a pass");
    (gradient, done)
}

/// |a − b| / |b| over all tensors.
fn distance(policy: &Policy, a: &Gradient, b: &Gradient) -> f64 {
    let mut difference = Gradient::default();
    for index in 0..policy.parameters().len() {
        if let (Some(a), Some(b)) = (a.get(index), b.get(index)) {
            difference.add_to(index, a.clone() - b.clone());
        } else {
            assert!(a.get(index).is_none() && b.get(index).is_none());
        }
    }
    difference.norm() / b.norm()
}

/// A limit that `critiques` tokens of critiques of `group` just fit.
fn limit(policy: &Policy, group: &EncodedGroup, critiques: usize) -> Limits {
    let prefix = if policy.is_activated() { 0 } else { group.prefix.len() };
    let rows = lanes(policy) * group.instruction.len() + critiques + prefix;
    let keys = group.prefix.len() + group.instruction.len() + critiques;
    let memory = weight_bytes(policy) + pass_bytes(&policy.base.config, rows, keys);
    Limits { memory, ..Limits::default() }
}

#[test]
fn a_zero_adapter_changes_nothing_exactly() {
    for name in ARCHITECTURES {
        for activated in [true, false] {
            let policy = fresh(name, &AdapterOptions { activated, ..options() });
            let group = &groups(1, policy.base.config.vocab_size)[0];
            let reference = reference(&policy, std::slice::from_ref(group));
            for limits in [Limits::default(), limit(&policy, group, 9)] {
                let (_, done) = gradient_of(&policy, group, &limits, None);
                assert_eq!(done.log_policy, reference.0[0].critiques, "{name} activated {activated}");
            }
        }
    }
}

#[test]
fn parts_of_a_group_have_the_gradient_of_the_whole() {
    let dropout = Dropout { rate: 0.2, seed: 1, step: 2, group: 3 };
    for name in ARCHITECTURES {
        for (activated, dropout) in [(true, None), (false, None), (true, Some(&dropout))] {
            let policy = moved(&fresh(name, &AdapterOptions { activated, ..options() }));
            let group = &groups(1, policy.base.config.vocab_size)[0];
            let (whole, done) = gradient_of(&policy, group, &Limits::default(), dropout);
            let (parts, again) = gradient_of(&policy, group, &limit(&policy, group, 9), dropout);
            assert!(again.tokens > done.tokens, "the limit cut nothing");
            let distance = distance(&policy, &parts, &whole);
            assert!(distance < 1e-5, "{name} activated {activated}: {distance}");
        }
    }
}

#[test]
fn what_does_not_fit_the_limit_is_named() {
    let policy = fresh("qwen2-bias", &options());
    let group = &groups(1, policy.base.config.vocab_size)[0];
    let reference = reference(&policy, std::slice::from_ref(group));
    let mut gradient = Gradient::default();
    let limits = limit(&policy, group, 2);
    let error = differentiate(&policy, group, &reference.0[0].critiques, RCO, 1.0, None, &limits, &mut gradient);
    let message = error.expect_err("it does not fit").to_string();
    assert!(message.contains("group g0") && message.contains("limit"), "{message}");
}

/// The derivative of the loss along the gradient is the gradient's squared norm.
#[test]
fn gradients_are_those_of_the_loss() {
    for name in ARCHITECTURES {
        let adapted = |activated| moved(&fresh(name, &AdapterOptions { activated, ..options() }));
        for policy in [adapted(true), adapted(false), Policy { base: base(name), adapter: None }] {
            let group = &groups(1, policy.base.config.vocab_size)[0];
            let mut log_reference = reference(&policy, std::slice::from_ref(group)).0[0].critiques.clone();
            log_reference[0] -= 1.0;
            let mut gradient = Gradient::default();
            let limits = Limits { logits: 16 * policy.base.config.vocab_size * 5, ..Limits::default() };
            differentiate(&policy, group, &log_reference, RCO, 1.0, None, &limits, &mut gradient).expect("a pass");
            let norm = gradient.norm();
            let loss = |distance: f64| {
                let mut index = 0;
                let policy = policy.map(&mut |_, tensor| {
                    index += 1;
                    match gradient.get(index - 1) {
                        Some(gradient) => tensor.clone() + gradient.clone() * (distance / norm),
                        None => tensor.clone(),
                    }
                });
                let group = critic_trainer::objective::ScoredGroup {
                    log_policy: score(&policy, group, &group.critiques, &limits).expect("a pass"),
                    log_reference: log_reference.clone(),
                    utilities: group.utilities.clone(),
                    lengths: group.critiques.iter().map(Vec::len).collect(),
                    preferred: None,
                };
                RCO.evaluate(&group).expect("a loss").loss
            };
            let step = 2e-3;
            let slope = (loss(step) - loss(-step)) / (2.0 * step);
            assert!((slope / norm - 1.0).abs() < 2e-2, "{name}: slope {slope}, norm {norm}");
        }
    }
}

#[test]
fn the_end_token_is_in_the_loss() {
    let policy = moved(&fresh("llama-gqa-tied", &options()));
    let group = groups(1, policy.base.config.vocab_size).remove(0);
    let scored = |group: &EncodedGroup| score(&policy, group, &group.critiques, &Limits::default()).expect("a pass");
    let mut other = group.clone();
    for critique in &mut other.critiques {
        let end = critique.last_mut().expect("a token");
        *end = (*end + 1) % policy.base.config.vocab_size as u32;
    }
    let (with, without) = (scored(&group), scored(&other));
    assert!(with.iter().zip(&without).all(|(a, b)| a != b), "{with:?} {without:?}");
    let gradient = |group| gradient_of(&policy, group, &Limits::default(), None).0;
    assert!(distance(&policy, &gradient(&other), &gradient(&group)) > 1e-2);
}

/// Trains in `folder` and calls `at` after every step.
fn run(
    policy: Policy,
    groups: &[EncodedGroup],
    folder: &Path,
    options: TrainOptions,
    at: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> (Outcome, Policy, Vec<f64>) {
    let reference = reference(&policy, groups);
    let optimizer = OptimizerOptions::default();
    let restored = checkpoint::newest(folder, &policy, &optimizer).expect("readable");
    let (step, policy, optimizer) = match restored {
        Some(restored) => (restored.state.step, restored.policy, restored.optimizer),
        None => (0, policy, Optimizer::new(&optimizer)),
    };
    let checkpoints = Some(folder.to_owned());
    let limits = Limits::default();
    let mut trainer = Trainer { options, limits, objective: RCO, policy, optimizer, step, checkpoints };
    let data = Data { groups, reference: &reference };
    let mut losses = Vec::new();
    let outcome = trainer
        .run(data, data, &AtomicBool::new(false), &mut |event| match event {
            Event::Step(metrics) => {
                losses.push(metrics.loss);
                at(metrics.step)
            }
            _ => Continue(()),
        })
        .expect("a run");
    (outcome, trainer.policy, losses)
}

fn train_options() -> TrainOptions {
    TrainOptions {
        steps: 12,
        groups_per_step: 2,
        learning_rate: 1e-2,
        warmup: 2,
        checkpoint_every: 4,
        ..Default::default()
    }
}

#[test]
fn a_run_that_was_stopped_anywhere_ends_in_the_same_bytes() {
    for adapter in [Some(AdapterOptions { dropout: 0.1, ..options() }), None] {
        let policy = match &adapter {
            Some(options) => fresh("qwen3-qknorm", options),
            None => Policy { base: base("qwen3-qknorm"), adapter: None },
        };
        let groups = groups(5, policy.base.config.vocab_size);
        let folder = || tempfile::tempdir().expect("a folder");
        let options = || TrainOptions { learning_rate: if adapter.is_some() { 5e-4 } else { 2e-5 }, ..train_options() };
        let (outcome, whole, losses) = run(policy.clone(), &groups, folder().path(), options(), &mut |_| Continue(()));
        assert_eq!((outcome, losses.len()), (Outcome::Finished, 12));
        assert!(losses[9..].iter().sum::<f64>() < losses[..3].iter().sum(), "{losses:?}");
        let again = run(policy.clone(), &groups, folder().path(), options(), &mut |_| Continue(()));
        assert_eq!(losses, again.2);
        assert_eq!(to_host(whole.parameters()), to_host(again.1.parameters()));

        let folder = folder();
        let mut all = Vec::new();
        for stop in [3, 7, 100] {
            let at = &mut |step| if step == stop { Break(()) } else { Continue(()) };
            let (outcome, stopped, losses) = run(policy.clone(), &groups, folder.path(), options(), at);
            all.extend(losses);
            if outcome == Outcome::Finished {
                assert_eq!(to_host(stopped.parameters()), to_host(whole.parameters()));
            }
        }
        assert_eq!(all, losses);
        let left: Vec<u64> =
            checkpoint::list(folder.path()).expect("a folder").into_iter().map(|(step, _)| step).collect();
        assert_eq!(left, [7, 8, 12]);
    }
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let policy = fresh("llama-gqa-tied", &options());
    let groups = groups(3, policy.base.config.vocab_size);
    let folder = tempfile::tempdir().expect("a folder");
    run(policy.clone(), &groups, folder.path(), train_options(), &mut |_| Continue(()));
    let newest = || checkpoint::newest(folder.path(), &policy, &OptimizerOptions::default());
    let files = ["step-000012/adapter.safetensors", "step-000008/state.json", "step-000004/optimizer.safetensors"];
    for (file, left) in files.into_iter().zip([Some(8), Some(4), None]) {
        let path = folder.path().join(file);
        let mut bytes = std::fs::read(&path).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        if file.ends_with("json") {
            bytes.truncate(middle);
        }
        std::fs::write(&path, bytes).expect("written");
        match (newest(), left) {
            (Ok(Some(restored)), Some(step)) => assert_eq!(restored.state.step, step),
            (Err(error), None) => assert!(error.to_string().contains("SHA-256"), "{error}"),
            (found, _) => panic!("{file}: step {:?}", found.map(|found| found.map(|found| found.state.step))),
        }
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_group() {
    let policy = fresh("llama-gqa-tied", &options());
    let mut groups = groups(4, policy.base.config.vocab_size);
    let reference = reference(&policy, &groups);
    groups[2].utilities[1] = f64::NAN;
    let folder = tempfile::tempdir().expect("a folder");
    let mut trainer = Trainer {
        options: TrainOptions { groups_per_step: 1, checkpoint_every: 1, ..train_options() },
        limits: Limits::default(),
        objective: RCO,
        policy: policy.clone(),
        optimizer: Optimizer::new(&OptimizerOptions::default()),
        step: 0,
        checkpoints: Some(folder.path().to_owned()),
    };
    let data = Data { groups: &groups, reference: &reference };
    let error = trainer.run(data, data, &AtomicBool::new(false), &mut |_| Continue(())).expect_err("a NaN");
    assert!(matches!(&error, Error::NotFinite { group, .. } if group == "g2"), "{error}");
    let restored = checkpoint::newest(folder.path(), &policy, &OptimizerOptions::default()).expect("readable");
    assert_eq!(restored.map_or(0, |restored| restored.state.step), trainer.step);
}

#[test]
fn a_reference_is_read_back_for_what_it_was_made_for() {
    let policy = fresh("llama-gqa-tied", &options());
    let groups = groups(3, policy.base.config.vocab_size);
    let limits = Limits::default();
    let reference = reference(&moved(&policy), &groups);
    let print = |groups: &[EncodedGroup]| fingerprint(&policy, "a model", groups, &limits);
    let bytes = reference.encode(&print(&groups));
    let path = Path::new("reference.safetensors");
    let read = |print: &str| Reference::decode(&bytes, path, print, &groups).expect("readable");
    assert_eq!(read(&print(&groups)), Some(reference));
    let mut other = groups.clone();
    other[1].critiques[2][0] ^= 1;
    assert_eq!(read(&print(&other)), None);
    assert!(Reference::decode(&bytes[..bytes.len() - 1], path, &print(&groups), &groups).is_err());
}

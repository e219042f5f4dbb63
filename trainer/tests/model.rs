//! The forward pass in burn: golden values, the runtime's exact path, and trees against texts.

use burn::tensor::{Device, Tensor};
use critic::transformer::{Engine, Logits, Run};
use critic::{Kernel, Model, Precision};
use critic_import::Quant;
use critic_tests::{ARCHITECTURES, data, small};
use critic_trainer::device;
use critic_trainer::model::{
    Adapter, AdapterOptions, Base, Cache, GroupTree, Policy, Target, Tree, forward, log_probs, prefill,
};

fn base(model: &Model) -> Base {
    Base::new(model, &Device::flex(), device::Precision::F32).expect("a base")
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

/// Tokens and logits `[tokens, vocab]` that transformers computed in f32.
fn golden(name: &str) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(data().join("hf").join(name).join("expected.safetensors")).expect("test data");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let words = |name: &str| -> Vec<[u8; 4]> {
        let data = file.tensor(name).expect("the tensor").data();
        data.chunks_exact(4).map(|word| word.try_into().expect("four bytes")).collect()
    };
    let tokens = words("input_ids").into_iter().map(u32::from_le_bytes).collect();
    (tokens, words("logits").into_iter().map(f32::from_le_bytes).collect())
}

/// Logits of every token, `[tokens, vocab]`.
fn logits(policy: &Policy, tokens: &[u32]) -> Vec<f32> {
    let hidden = forward(policy, &Tree::trunk(0, tokens), &Cache::default(), None);
    values(hidden.matmul(policy.base.output().clone().transpose()))
}

/// The same by the runtime, in f32.
fn runtime_logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut engine = Engine::new(model.config(), Kernel::best(), 1, Precision::Exact).expect("memory");
    let mut sequence = engine.sequence();
    let mut all = Vec::new();
    let mut runs = [Run { sequence: &mut sequence, tokens, logits: Logits::All, adapted: false }];
    engine
        .forward(model.weights(), &mut runs, &Default::default(), &mut |_, _, logits| all.extend_from_slice(logits))
        .expect("a pass");
    all
}

/// Largest difference, in standard deviations of what is expected.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let n = expected.len() as f64;
    let mean = expected.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let deviation = (expected.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt();
    let most = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    most / deviation
}

/// An adapter that changes much: both factors of every pair are drawn.
fn adapter(base: &Base, activated: bool) -> Adapter {
    let options = AdapterOptions { rank: 4, alpha: 8.0, activated, ..Default::default() };
    let adapter = Adapter::new(&base.config, &options, 7, &base.device()).expect("an adapter");
    let mut count = 0;
    adapter.map(&mut |_, tensor| {
        count += 1;
        let [rows, columns] = tensor.dims();
        let values: Vec<f32> = (0..rows * columns).map(|i| 0.2 * ((i * 37 + count * 11) as f32).sin()).collect();
        Tensor::<1>::from_floats(values.as_slice(), &base.device()).reshape([rows, columns])
    })
}

/// The base with the adapter's products added to its matrices: `W + scale · B·A`.
fn merged(base: &Base, adapter: &Adapter) -> Base {
    base.map(&mut |name, tensor| {
        let pair = Target::ALL.into_iter().find_map(|target| {
            let layer = name.strip_prefix("layers.")?.strip_suffix(target.name())?.trim_end_matches('.');
            adapter.layers[layer.parse::<usize>().ok()?][target as usize].as_ref()
        });
        match pair {
            Some(pair) => tensor.clone() + pair.b.clone().matmul(pair.a.clone()) * adapter.options.scale(),
            None => tensor.clone(),
        }
    })
}

#[test]
fn logits_equal_golden_values_and_the_runtimes() {
    for name in ARCHITECTURES {
        let (tokens, expected) = golden(name);
        for quant in [Quant::Keep, Quant::Q4] {
            let model = small(name, quant);
            let found = logits(&Policy { base: base(&model), adapter: None }, &tokens);
            let runtime = distance(&found, &runtime_logits(&model, &tokens));
            println!("{name} {quant:?}: {runtime:.1e} of the standard deviation from the runtime");
            assert!(runtime < 5e-5, "{name} {quant:?}: {runtime}");
            if quant == Quant::Keep {
                let golden = distance(&found, &expected);
                println!("{name}: {golden:.1e} of the standard deviation from the golden values");
                assert!(golden < 1e-4, "{name}: {golden}");
            }
        }
    }
}

/// Each critique of a group, scored in the group's tree, has the log-probability that it has as
/// the end of a text of its own, under a base that has the adapter added to its matrices from the
/// instruction on (activated) or everywhere.
#[test]
fn a_tree_scores_critiques_as_texts_of_their_own() {
    for name in ARCHITECTURES {
        let model = small(name, Quant::Keep);
        let (tokens, _) = golden(name);
        let (prefix, rest) = tokens.split_at(7);
        let (instruction, rest) = rest.split_at(4);
        let critiques = [rest[..5].to_vec(), rest[2..3].to_vec(), rest.to_vec()];
        for activated in [true, false] {
            let base = base(&model);
            let adapter = adapter(&base, activated);
            let policy = Policy { base: base.clone(), adapter: Some(adapter.clone()) };
            let (cache, start, trunk) = match activated {
                true => (prefill(&base, prefix), prefix.len(), instruction.to_vec()),
                false => (Cache::default(), 0, [prefix, instruction].concat()),
            };
            let group = GroupTree::new(start, &trunk, 0, &critiques);
            let hidden = forward(&policy, &group.tree, &cache, None);
            let rows: Vec<i32> = group.predictors.iter().map(|&row| row as i32).collect();
            let hidden = hidden.select(0, Tensor::<1, burn::tensor::Int>::from_ints(rows.as_slice(), &base.device()));
            // A limit that cuts the logits into chunks of a few rows.
            let limit = 16 * base.config.vocab_size * 3;
            let found = group.sums(&log_probs(&hidden, base.output(), &group.targets, limit, false).values);

            let whole = Policy { base: merged(&base, &adapter), adapter: None };
            for (critique, found) in critiques.iter().zip(found) {
                let text = [&trunk[..], critique].concat();
                let hidden = values(forward(&whole, &Tree::trunk(start, &text), &cache, None));
                let width = base.config.hidden_size;
                let output = values(base.output().clone());
                let expected: f64 = (trunk.len()..text.len())
                    .map(|at| {
                        let hidden = &hidden[(at - 1) * width..at * width];
                        let logit = |row: &[f32]| -> f64 {
                            row.iter().zip(hidden).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                        };
                        let logits: Vec<f64> = output.chunks_exact(width).map(logit).collect();
                        let most = logits.iter().copied().fold(f64::MIN, f64::max);
                        let sum: f64 = logits.iter().map(|logit| (logit - most).exp()).sum();
                        logits[text[at] as usize] - most - sum.ln()
                    })
                    .sum();
                let difference = (found - expected).abs() / expected.abs();
                assert!(difference < 1e-5, "{name} activated {activated}: {found} is not {expected}");
            }
        }
    }
}

/// A prefix in chunks leaves the cache that it leaves whole: the next rows cannot tell.
#[test]
fn a_long_prefix_is_evaluated_in_chunks() {
    let model = small("mistral-window", Quant::Keep);
    let policy = Policy { base: base(&model), adapter: None };
    let tokens: Vec<u32> = (0..700).map(|i| (i * 7 % policy.base.config.vocab_size) as u32).collect();
    let (prefix, rest) = tokens.split_at(690);
    let hidden = forward(&policy, &Tree::trunk(690, rest), &prefill(&policy.base, prefix), None);
    let whole = values(forward(&policy, &Tree::trunk(0, &tokens), &Cache::default(), None));
    let distance = distance(&values(hidden), &whole[690 * policy.base.config.hidden_size..]);
    assert!(distance < 1e-5, "{distance}");
}

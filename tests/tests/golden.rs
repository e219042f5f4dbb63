//! Logits of six architectures against those that transformers computes in f32.

use critic::transformer::Logits;
use critic::{Kernel, Precision, Session, SessionOptions};
use critic_import::Quant;
use critic_tests::{ARCHITECTURES, data, small};
use std::ops::ControlFlow::Continue;

struct Expected {
    tokens: Vec<u32>,
    /// `[tokens, vocab]`
    logits: Vec<f32>,
}

fn expected(name: &str) -> Expected {
    let bytes = std::fs::read(data().join("hf").join(name).join("expected.safetensors")).expect("test data");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let words = |name: &str| -> Vec<[u8; 4]> {
        let data = file.tensor(name).expect("the tensor").data();
        data.chunks_exact(4).map(|word| word.try_into().expect("four bytes")).collect()
    };
    Expected {
        tokens: words("input_ids").into_iter().map(u32::from_le_bytes).collect(),
        logits: words("logits").into_iter().map(f32::from_le_bytes).collect(),
    }
}

/// The largest difference over the expected logits' standard deviation.
fn check(name: &str, options: &SessionOptions) -> f64 {
    let expected = expected(name);
    let model = small(name, Quant::Keep);
    let mut session = Session::new(&model, options).expect("a session");
    let mut got = Vec::new();
    session
        .prefill(&expected.tokens, Logits::All, &mut |_| Continue(()), &mut |_, row| got.extend_from_slice(row))
        .expect("a forward pass");
    assert_eq!(got.len(), expected.logits.len());
    let n = got.len() as f64;
    let mean = expected.logits.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let deviation = (expected.logits.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt();
    let largest = got.iter().zip(&expected.logits).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    largest / deviation
}

#[test]
fn exact_logits_agree() {
    for name in ARCHITECTURES {
        for kernel in Kernel::available() {
            let options = SessionOptions { kernel: Some(kernel), precision: Precision::Exact, ..Default::default() };
            let difference = check(name, &options);
            println!("{name} {kernel:?} exact: {difference:.1e} of the standard deviation");
            // f32 sums in another order differ by a few ulp of the largest term.
            assert!(difference < 1e-4, "{name} {kernel:?}: {difference}");
        }
    }
}

/// With float weights the fast path differs only by its KV cache in f16: 2⁻¹¹ relative in
/// each key and value.
#[test]
fn fast_logits_are_close() {
    for name in ARCHITECTURES {
        let difference = check(name, &SessionOptions::default());
        println!("{name} fast: {difference:.1e} of the standard deviation");
        assert!(difference < 2e-2, "{name}: {difference}");
    }
}

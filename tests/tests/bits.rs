//! The same bits, whatever else is computed: chunks, threads, neighbours, kernels, sessions.

use std::ops::ControlFlow::Continue;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use critic::tokenizer::Special;
use critic::transformer::{Engine, Logits, Run};
use critic::{GenerateOptions, Kernel, Model, Precision, Sampling, Session, SessionOptions};
use critic_import::Quant;
use critic_tests::{ARCHITECTURES, data, small, smollm2};

/// A pass over `runs` of (sequence, tokens): the bits of all logits, run by run.
fn evaluate(model: &Model, engine: &mut Engine, runs: &mut [Run]) -> Vec<Vec<u32>> {
    let mut bits = vec![Vec::new(); runs.len()];
    engine
        .forward(model.weights(), runs, &AtomicBool::new(false), &mut |run, _, logits| {
            bits[run].extend(logits.iter().map(|x| x.to_bits()));
        })
        .expect("a forward pass");
    bits
}

/// Bits of every logit of `tokens`, evaluated in chunks of `chunk`.
fn in_chunks(model: &Model, tokens: &[u32], chunk: usize, kernel: Kernel, threads: usize) -> Vec<u32> {
    let mut engine = Engine::new(model.config(), kernel, threads, Precision::Fast);
    let mut sequence = engine.sequence();
    let chunks = tokens.chunks(chunk).flat_map(|tokens| {
        let run = Run { sequence: &mut sequence, tokens, logits: Logits::All };
        evaluate(model, &mut engine, &mut [run]).remove(0)
    });
    chunks.collect()
}

/// Bits of every logit of `tokens`, in pieces of 5 beside another sequence's pieces of 3.
fn beside_another(model: &Model, tokens: &[u32], kernel: Kernel) -> Vec<u32> {
    let mut engine = Engine::new(model.config(), kernel, 2, Precision::Fast);
    let (mut one, mut other) = (engine.sequence(), engine.sequence());
    let mut bits = Vec::new();
    for (index, piece) in tokens.chunks(5).enumerate() {
        let start = index * 3 % (tokens.len() - 3);
        let mut runs = [
            Run { sequence: &mut other, tokens: &tokens[start..start + 3], logits: Logits::Last },
            Run { sequence: &mut one, tokens: piece, logits: Logits::All },
        ];
        bits.extend(evaluate(model, &mut engine, &mut runs).remove(1));
    }
    bits
}

fn text_tokens(model: &Model, count: usize) -> Vec<u32> {
    let text = std::fs::read_to_string(data().join("kl-text.txt")).expect("test data");
    let mut tokens = model.tokenizer().encode(&text, Special::Text);
    tokens.truncate(count);
    tokens
}

#[test]
fn real_model() {
    let model = smollm2();
    let tokens = text_tokens(&model, 600);
    let kernel = Kernel::best();
    let expected = in_chunks(&model, &tokens, 512, kernel, 2);
    for chunk in [1, 7, 64] {
        // One token at a time is slow: a part of the text is enough to cross pages.
        let part = if chunk == 1 { 150 } else { tokens.len() };
        let bits = in_chunks(&model, &tokens[..part], chunk, kernel, 2);
        assert!(bits[..] == expected[..bits.len()], "chunks of {chunk}");
    }
    for threads in [1, 3] {
        assert!(in_chunks(&model, &tokens, 512, kernel, threads) == expected, "{threads} threads");
    }
    assert!(beside_another(&model, &tokens[..200], kernel)[..] == expected[..200 * model.config().vocab_size]);
}

#[test]
fn every_architecture_format_and_kernel() {
    for name in ARCHITECTURES {
        for quant in [Quant::Keep, Quant::Q4, Quant::Q8, Quant::F16] {
            let model = small(name, quant);
            let tokens = text_tokens(&model, 200);
            let expected = in_chunks(&model, &tokens, 512, Kernel::available()[0], 1);
            assert!(expected.iter().all(|&bits| f32::from_bits(bits).is_finite()));
            for kernel in Kernel::available() {
                for (chunk, threads) in [(512, 1), (1, 2), (7, 3), (64, 2)] {
                    let bits = in_chunks(&model, &tokens, chunk, kernel, threads);
                    assert!(bits == expected, "{name} {quant:?} {kernel:?}: chunks of {chunk}, {threads} threads");
                }
                assert!(beside_another(&model, &tokens, kernel) == expected, "{name} {quant:?} {kernel:?}: neighbours");
            }
        }
    }
}

/// Forks and truncation: a sequence that was cut back and grown again equals a fresh one,
/// and forks do not see each other.
#[test]
fn forks_and_truncation() {
    let model = small("qwen3-qknorm", Quant::Q4);
    let tokens = text_tokens(&model, 180);
    let expected = in_chunks(&model, &tokens, 512, Kernel::best(), 2);
    let vocab = model.config().vocab_size;
    let mut engine = Engine::new(model.config(), Kernel::best(), 2, Precision::Fast);
    for at in [1, 63, 64, 65, 100, 128, 179] {
        let mut base = engine.sequence();
        evaluate(&model, &mut engine, &mut [Run { sequence: &mut base, tokens: &tokens[..at], logits: Logits::None }]);
        let (mut right, mut wrong) = (base.fork(), base.fork());
        let garbage: Vec<u32> = tokens.iter().rev().copied().take(70).collect();
        evaluate(&model, &mut engine, &mut [Run { sequence: &mut wrong, tokens: &garbage, logits: Logits::None }]);
        let run = Run { sequence: &mut right, tokens: &tokens[at..], logits: Logits::All };
        assert!(evaluate(&model, &mut engine, &mut [run])[0][..] == expected[at * vocab..], "fork at {at}");
        wrong.truncate(at.min(50));
        let rest = &tokens[wrong.len()..];
        let from = wrong.len() * vocab;
        let run = Run { sequence: &mut wrong, tokens: rest, logits: Logits::All };
        assert!(evaluate(&model, &mut engine, &mut [run])[0][..] == expected[from..], "cut back from {at}");
    }
}

#[test]
fn ten_sessions_in_ten_threads() {
    let model = smollm2();
    let text = |model: &Arc<Model>| {
        let mut session = Session::new(model, &SessionOptions { threads: 2, ..Default::default() }).expect("a session");
        let prompt = model.tokenizer().encode("The three most important things in life are", Special::Text);
        let sampling = Sampling { temperature: 0.9, top_p: 0.95, seed: 11, ..Default::default() };
        let options = GenerateOptions { sampling, max_tokens: 24, stop: Vec::new() };
        session.generate(&prompt, &options, &mut |_| Continue(())).expect("text").text
    };
    let alone = text(&model);
    assert!(!alone.is_empty());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..10).map(|_| scope.spawn(|| text(&model))).collect();
        for thread in threads {
            assert_eq!(thread.join().expect("no panic"), alone);
        }
    });
}

//! The same bits, whatever else is computed: chunks, threads, neighbours, kernels, sessions.

use std::ops::ControlFlow::Continue;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use critic::grammar::TokenSet;
use critic::kernels::attention::{PAGE_TOKENS, SEGMENT_PAGES};
use critic::quant::Format;
use critic::tokenizer::Special;
use critic::transformer::{Engine, Logits, Run};
use critic::{BatchPrompt, Bytes, GenerateOptions, Kernel, Model, Precision, Sampling, Session, SessionOptions};
use critic_import::Quant;
use critic_tests::adapters::adapted;
use critic_tests::{ARCHITECTURES, data, small, small_with_context, smollm2};

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
    let mut engine = Engine::new(model.config(), kernel, threads, Precision::Fast).expect("memory");
    let mut sequence = engine.sequence();
    let chunks = tokens.chunks(chunk).flat_map(|tokens| {
        let run = Run { sequence: &mut sequence, tokens, logits: Logits::All, adapted: false };
        evaluate(model, &mut engine, &mut [run]).remove(0)
    });
    chunks.collect()
}

/// Bits of every logit of `tokens`, in pieces of 5 beside another sequence's pieces of 3.
fn beside_another(model: &Model, tokens: &[u32], kernel: Kernel) -> Vec<u32> {
    let mut engine = Engine::new(model.config(), kernel, 2, Precision::Fast).expect("memory");
    let (mut one, mut other) = (engine.sequence(), engine.sequence());
    let mut bits = Vec::new();
    for (index, piece) in tokens.chunks(5).enumerate() {
        let start = index * 3 % (tokens.len() - 3);
        let mut runs = [
            Run { sequence: &mut other, tokens: &tokens[start..start + 3], logits: Logits::Last, adapted: false },
            Run { sequence: &mut one, tokens: piece, logits: Logits::All, adapted: false },
        ];
        bits.extend(evaluate(model, &mut engine, &mut runs).remove(1));
    }
    bits
}

/// Bits of every logit of `tokens`, without the adapter before `from` and with it after, in pieces
/// of `chunk` beside two other sequences: one with it, one without.
fn adapted_beside_others(
    model: &Model,
    tokens: &[u32],
    from: usize,
    chunk: usize,
    kernel: Kernel,
    threads: usize,
    precision: Precision,
) -> Vec<u32> {
    let mut engine = Engine::new(model.config(), kernel, threads, precision).expect("memory");
    let (mut one, mut with, mut without) = (engine.sequence(), engine.sequence(), engine.sequence());
    let mut bits = Vec::new();
    let (before, after) = tokens.split_at(from);
    let pieces = before.chunks(chunk).map(|piece| (piece, false)).chain(after.chunks(chunk).map(|piece| (piece, true)));
    for (index, (piece, adapted)) in pieces.enumerate() {
        let start = index * 3 % (tokens.len() - 3);
        let other = &tokens[start..start + 3];
        let mut runs = [
            Run { sequence: &mut with, tokens: &other[..2], logits: Logits::Last, adapted: true },
            Run { sequence: &mut one, tokens: piece, logits: Logits::All, adapted },
            Run { sequence: &mut without, tokens: other, logits: Logits::Last, adapted: false },
        ];
        bits.extend(evaluate(model, &mut engine, &mut runs).remove(1));
    }
    bits
}

/// Adapted rows, too, depend on nothing but themselves, and rows that are not adapted have the
/// bits of a model without an adapter.
#[test]
fn adapted_rows() {
    for (name, rank) in ARCHITECTURES.into_iter().zip([16, 5, 16, 8, 20, 33]) {
        for quant in [Quant::Keep, Quant::Q4, Quant::F16] {
            let (bytes, adapter) = adapted(name, quant, rank);
            let base = Model::from_bytes(Bytes::copy(&bytes)).expect("a model");
            let adapter = Bytes::copy(&adapter.file([Format::F32, Format::F16, Format::BF16][rank % 3]));
            let model = Model::from_bytes_with_adapter(Bytes::copy(&bytes), adapter).expect("they fit");
            let (tokens, from) = (text_tokens(&model, 90), 37);
            for precision in [Precision::Fast, Precision::Fine, Precision::Exact] {
                // The exact path dequantizes a tile for each pass: a few passes are enough.
                let ways = [(512, 2), (7, 3), (64, 1), (1, 2), (2, 1)];
                let ways = if precision == Precision::Exact { &ways[..2] } else { &ways[..] };
                let scalar = Kernel::available()[0];
                let expected = adapted_beside_others(&model, &tokens, from, 512, scalar, 1, precision);
                assert!(expected.iter().all(|&bits| f32::from_bits(bits).is_finite()));
                if precision == Precision::Fast {
                    let without = in_chunks(&base, &tokens, 512, scalar, 1);
                    let prefix = from * model.config().vocab_size;
                    assert!(expected[..prefix] == without[..prefix], "{name} {quant:?}: before the adapter acts");
                    assert!(expected[prefix..] != without[prefix..], "{name} {quant:?}: it does act");
                }
                for kernel in Kernel::available() {
                    for &(chunk, threads) in ways {
                        let bits = adapted_beside_others(&model, &tokens, from, chunk, kernel, threads, precision);
                        let how = format!("chunks of {chunk}, {threads} threads");
                        assert!(bits == expected, "{name} {quant:?} {precision:?} {kernel:?}: {how}");
                    }
                }
            }
        }
    }
}

/// A host whose callback panics, and that goes on, finds the engine whole.
#[test]
fn a_callback_that_panics_changes_nothing() {
    let model = small("llama-gqa-tied", Quant::Q4);
    let tokens: Vec<u32> = text_tokens(&model, 40);
    for precision in [Precision::Fast, Precision::Fine] {
        let mut engine = Engine::new(model.config(), Kernel::best(), 2, precision).expect("memory");
        let whole = |engine: &mut Engine| {
            let mut sequence = engine.sequence();
            let run = Run { sequence: &mut sequence, tokens: &tokens, logits: Logits::All, adapted: false };
            evaluate(&model, engine, &mut [run]).remove(0)
        };
        let expected = whole(&mut engine);
        let mut sequence = engine.sequence();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let run = Run { sequence: &mut sequence, tokens: &tokens, logits: Logits::All, adapted: false };
            let cancel = AtomicBool::new(false);
            engine.forward(model.weights(), &mut [run], &cancel, &mut |_, index, _| assert!(index < 20))
        }));
        assert!(panicked.is_err());
        assert!(whole(&mut engine) == expected, "{precision:?}");
    }
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

/// Where few queries meet a long context, its segments are jobs of their own, each of which stores the keys and values of its own
/// positions: chunks of one to three tokens over the end of the first segment, beside another sequence, in both precisions.
#[test]
fn few_tokens_over_the_end_of_a_segment() {
    const LONG: usize = SEGMENT_PAGES * PAGE_TOKENS;
    for name in ["qwen2-bias", "mistral-window", "llama-gqa-tied"] {
        let model = small_with_context(name, Quant::Q8, 1024);
        let tokens = text_tokens(&model, LONG + 12);
        assert_eq!(tokens.len(), LONG + 12, "the text is long enough");
        for precision in [Precision::Fast, Precision::Exact] {
            let mut engine = Engine::new(model.config(), Kernel::best(), 2, precision).expect("memory");
            let mut whole = engine.sequence();
            let run = Run { sequence: &mut whole, tokens: &tokens, logits: Logits::All, adapted: false };
            let expected = evaluate(&model, &mut engine, &mut [run]).remove(0);
            let expected = &expected[(LONG - 8) * model.config().vocab_size..];
            for (chunk, threads) in [(1, 1), (1, 2), (2, 2), (3, 2)] {
                let mut engine = Engine::new(model.config(), Kernel::best(), threads, precision).expect("memory");
                let mut sequences = [engine.sequence(), engine.sequence()];
                for (sequence, length) in sequences.iter_mut().zip([LONG - 8, LONG - 13]) {
                    let run = Run { sequence, tokens: &tokens[..length], logits: Logits::None, adapted: false };
                    evaluate(&model, &mut engine, &mut [run]);
                }
                let [one, other] = &mut sequences;
                let mut bits = Vec::new();
                for (index, piece) in tokens[LONG - 8..].chunks(chunk).enumerate() {
                    let next = LONG - 13 + index;
                    let beside = &tokens[next..next + 1];
                    let mut runs = [
                        Run { sequence: &mut *other, tokens: beside, logits: Logits::Last, adapted: false },
                        Run { sequence: &mut *one, tokens: piece, logits: Logits::All, adapted: false },
                    ];
                    bits.extend(evaluate(&model, &mut engine, &mut runs).remove(1));
                }
                assert!(bits == expected, "{name} {precision:?} chunks of {chunk}, {threads} threads");
            }
        }
    }
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
    let mut engine = Engine::new(model.config(), Kernel::best(), 2, Precision::Fast).expect("memory");
    for at in [1, 63, 64, 65, 100, 128, 179] {
        let mut base = engine.sequence();
        evaluate(
            &model,
            &mut engine,
            &mut [Run { sequence: &mut base, tokens: &tokens[..at], logits: Logits::None, adapted: false }],
        );
        let (mut right, mut wrong) = (base.fork(), base.fork());
        let garbage: Vec<u32> = tokens.iter().rev().copied().take(70).collect();
        evaluate(
            &model,
            &mut engine,
            &mut [Run { sequence: &mut wrong, tokens: &garbage, logits: Logits::None, adapted: false }],
        );
        let run = Run { sequence: &mut right, tokens: &tokens[at..], logits: Logits::All, adapted: false };
        assert!(evaluate(&model, &mut engine, &mut [run])[0][..] == expected[at * vocab..], "fork at {at}");
        wrong.truncate(at.min(50));
        let rest = &tokens[wrong.len()..];
        let from = wrong.len() * vocab;
        let run = Run { sequence: &mut wrong, tokens: rest, logits: Logits::All, adapted: false };
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
        let options = GenerateOptions { sampling, max_tokens: 24, ..Default::default() };
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

/// Logits of some tokens alone are those that they have among all, also beside a run that wants others, and one that
/// wants all of them.
#[test]
fn logits_of_some_tokens() {
    for (name, precision) in
        [("smollm2", Precision::Fast), ("smollm2", Precision::Fine), ("llama-gqa-tied", Precision::Exact)]
    {
        let model = if name == "smollm2" { smollm2() } else { small(name, Quant::Q4) };
        let vocab = model.config().vocab_size as u32;
        let set = |ids: &[u32]| {
            let mut set = TokenSet::default();
            set.clear(vocab as usize);
            ids.iter().for_each(|&id| set.insert(id));
            set
        };
        // Neighbours, both ends, the same tile twice; none; more than a part of the tiles could hold.
        let few = [0, 1, 15, 16, 33, vocab / 2, vocab - 2, vocab - 1];
        let others = [2, 34, vocab / 3];
        let most: Vec<u32> = (0..vocab).step_by(3).collect();
        let tokens = [[5, 6, 7], [8, 9, 10], [11, 12, 13]];
        for threads in [1, 2] {
            let mut engine = Engine::new(model.config(), Kernel::best(), threads, precision).expect("memory");
            let pass = |engine: &mut Engine, logits: [Logits; 3]| {
                let mut sequences = [(); 3].map(|()| engine.sequence());
                let mut runs: Vec<Run> = sequences
                    .iter_mut()
                    .zip(&tokens)
                    .zip(logits)
                    .map(|((sequence, tokens), logits)| Run { sequence, tokens, logits, adapted: false })
                    .collect();
                evaluate(&model, engine, &mut runs)
            };
            // Of another engine: this one's memory has none of them.
            let mut other = Engine::new(model.config(), Kernel::best(), threads, precision).expect("memory");
            let expected = pass(&mut other, [Logits::Last; 3]);
            for sets in [[&few[..], &others, &few[3..]], [&few, &[], &others], [&few, &most, &others]] {
                let sets = sets.map(set);
                let found = pass(&mut engine, [0, 1, 2].map(|i| Logits::LastOf(&sets[i])));
                for (run, set) in sets.iter().enumerate() {
                    let equal = |id: u32| found[run][id as usize] == expected[run][id as usize];
                    assert!(set.iter().all(equal), "{name}: run {run} with {threads} threads");
                }
            }
            let few = set(&few);
            let found = pass(&mut engine, [Logits::LastOf(&few), Logits::All, Logits::None]);
            assert!(few.iter().all(|id| found[0][id as usize] == expected[0][id as usize]), "{name}: beside all");
            assert!(found[1].ends_with(&expected[1]) && found[2].is_empty(), "{name}: all");
        }
    }
}

/// Texts of a batch, adapted and not, long and short, are those that each prompt gives alone.
#[test]
fn batches_of_prompts() {
    for name in ["llama-gqa-tied", "mistral-window"] {
        let (bytes, adapter) = adapted(name, Quant::Q4, 4);
        let model = adapter.beside(&bytes);
        let new = || Session::new(&model, &SessionOptions { threads: 2, ..Default::default() }).expect("a session");
        let tokens: Vec<u32> = (0..90).map(|i| (i * 7 % model.config().vocab_size) as u32).collect();
        let prompt = |from: usize, to: usize, adapted_from: usize, seed: u64| BatchPrompt {
            tokens: &tokens[from..to],
            adapted_from,
            seed,
            candidate: 0,
        };
        let prompts = [
            prompt(0, 30, 20, 1),
            prompt(0, 30, 20, 2),
            prompt(0, 30, usize::MAX, 2),
            prompt(0, 45, 20, 3),
            prompt(5, 90, usize::MAX, 4),
            prompt(7, 8, 0, 5),
        ];
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let options = GenerateOptions { sampling, max_tokens: 12, logprob: true, ..GenerateOptions::default() };
        let of = |session: &mut Session, prompts: &[BatchPrompt]| -> Vec<(Vec<u32>, Option<u64>)> {
            let written = session.generate_batch(prompts, &options, &mut |_| Continue(())).expect("texts");
            written.into_iter().map(|text| (text.tokens, text.logprob.map(f64::to_bits))).collect()
        };
        let together = of(&mut new(), &prompts);
        assert!(together.iter().any(|(tokens, logprob)| tokens.len() > 3 && logprob.is_some()));
        for (index, prompt) in prompts.iter().enumerate() {
            let alone = of(&mut new(), std::slice::from_ref(prompt));
            assert_eq!(alone[0], together[index], "{name}: prompt {index}");
        }
        assert!(of(&mut new(), &[]).is_empty());
    }
}

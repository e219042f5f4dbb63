//! Low-rank adapters: right, where they act, what the cache keeps of them, and what the loop
//! makes of the utility advantage.

use std::ops::ControlFlow::Continue;
use std::panic::catch_unwind;
use std::sync::Arc;

use critic::adapter::{NEVER, PairValues, Target, plan, write_adapter};
use critic::critique::Context;
use critic::file::{AdapterSpec, Provenance};
use critic::quant::Format;
use critic::session::AdapterUse;
use critic::tokenizer::Special;
use critic::transformer::Logits;
use critic::{Bytes, Critique, Host, Model, Precision, Request, Session, SessionOptions, Verdict};
use critic_import::Quant;
use critic_tests::adapters::{RandomAdapter, adapted};
use critic_tests::{ARCHITECTURES, data};

fn session(model: &Arc<Model>, precision: Precision) -> Session {
    Session::new(model, &SessionOptions { threads: 2, precision, ..Default::default() }).expect("a session")
}

fn base_session(model: &Arc<Model>) -> Session {
    let options = SessionOptions { threads: 2, adapter: AdapterUse::Off, ..Default::default() };
    Session::new(model, &options).expect("a session")
}

fn open(bytes: &[u8]) -> Arc<Model> {
    Model::from_bytes(Bytes::copy(bytes)).expect("a model")
}

/// Logits `[tokens, vocab]` in a fresh session, the adapter acting from `from` on.
fn logits(model: &Arc<Model>, tokens: &[u32], from: usize, precision: Precision) -> Vec<f32> {
    let mut all = Vec::new();
    session(model, precision)
        .prefill_from(tokens, from, Logits::All, &mut |_| Continue(()), &mut |_, row| all.extend_from_slice(row))
        .expect("logits");
    all
}

fn text_tokens(model: &Model, count: usize) -> Vec<u32> {
    let text = std::fs::read_to_string(data().join("kl-text.txt")).expect("test data");
    let mut tokens = model.tokenizer().encode(&text, Special::Text);
    tokens.truncate(count);
    tokens
}

fn deviation(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    (values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt()
}

/// Largest difference, in standard deviations of the first.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let most = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs()).fold(0.0, f64::max);
    most / deviation(a)
}

/// Root of the mean squared difference, in standard deviations of the first.
fn mean_distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>();
    (squares / a.len() as f64).sqrt() / deviation(a)
}

/// f32 sums in another order: 1e-5 of a standard deviation in the mean, and for the worst of
/// the tens of thousands of logits three times as much.
fn assert_equal(expected: &[f32], found: &[f32], what: &str) {
    let (mean, most) = (mean_distance(expected, found), distance(expected, found));
    assert!(mean < 1e-5 && most < 3e-5, "{what}: {mean:.1e}, at most {most:.1e}");
}

fn request(prompt: &str, response: &str) -> Request {
    Request { prompt: prompt.into(), response: response.into(), max_tokens: 12, ..Request::default() }
}

/// An activated adapter: invoked by tokens that no text here holds, unless it is put there.
fn activated(name: &str, beta: f32, threshold: f32) -> (Vec<u8>, Arc<Model>) {
    let (bytes, mut adapter) = adapted(name, Quant::Q4, 16);
    let invocation_tokens = text_tokens(&open(&bytes), 60)[50..].to_vec();
    adapter.spec = AdapterSpec { invocation_tokens, beta, threshold, ..adapter.spec };
    let model = adapter.beside(&bytes);
    (bytes, model)
}

#[test]
fn equals_merged_weights() {
    for (name, rank) in ARCHITECTURES.into_iter().zip([16, 5, 16, 8, 20, 33]) {
        let (bytes, adapter) = adapted(name, Quant::Keep, rank);
        let (model, merged) = (adapter.beside(&bytes), adapter.merged(&bytes));
        let tokens = text_tokens(&model, 100);
        let expected = logits(&merged, &tokens, NEVER, Precision::Exact);
        let found = logits(&model, &tokens, 0, Precision::Exact);
        let effect = mean_distance(&expected, &logits(&model, &tokens, NEVER, Precision::Exact));
        let (mean, most) = (mean_distance(&expected, &found), distance(&expected, &found));
        println!("{name}, rank {rank}: {mean:.1e} of a standard deviation, at most {most:.1e}; without it {effect:.2}");
        assert_equal(&expected, &found, name);
        assert!(effect > 0.05, "{name}: the adapter does nothing");
        // The convention for a whole-text adapter needs no index.
        let mut all = Vec::new();
        session(&model, Precision::Exact)
            .prefill(&tokens, Logits::All, &mut |_| Continue(()), &mut |_, row| all.extend_from_slice(row))
            .expect("logits");
        assert!(all == found);
    }
}

#[test]
fn each_matrix_by_itself() {
    for name in ["gemma3-text", "qwen2-bias"] {
        let (bytes, _) = adapted(name, Quant::Keep, 16);
        let base = open(&bytes);
        let tokens = text_tokens(&base, 40);
        let without = logits(&base, &tokens, NEVER, Precision::Exact);
        for target in Target::ALL {
            let adapter = RandomAdapter::new(base.config(), &[target], 16, 0.2, 3);
            let found = logits(&adapter.beside(&bytes), &tokens, 0, Precision::Exact);
            let expected = logits(&adapter.merged(&bytes), &tokens, NEVER, Precision::Exact);
            assert_equal(&expected, &found, &format!("{name} {target:?}"));
            assert!(found != without, "{name} {target:?}: the adapter does nothing");
        }
    }
}

/// Before it acts, the base model's bits; from token 0 on, the merged weights'; and a plain call
/// finds the last invocation.
#[test]
fn acts_from_the_invocation_on() {
    for name in ARCHITECTURES {
        let (bytes, mut adapter) = adapted(name, Quant::Keep, 16);
        let base = open(&bytes);
        let tokens = text_tokens(&base, 90);
        adapter.spec.invocation_tokens = tokens[40..44].to_vec();
        let model = adapter.beside(&bytes);
        let at = model.adapter().expect("it has one").acts_from(&tokens);
        assert!(tokens[at..].starts_with(&tokens[40..44]) && at >= 40);
        let (with, without) =
            (logits(&model, &tokens, at, Precision::Exact), logits(&base, &tokens, NEVER, Precision::Exact));
        let prefix = at * base.config().vocab_size;
        assert!(with[..prefix] == without[..prefix] && with[prefix..] != without[prefix..], "{name}");
        let mut plain = Vec::new();
        session(&model, Precision::Exact)
            .prefill(&tokens, Logits::All, &mut |_| Continue(()), &mut |_, row| plain.extend_from_slice(row))
            .expect("logits");
        assert!(plain == with, "{name}: the convention");
        // Twice: the last one counts. Not at all: it does not act.
        let twice = [&tokens[40..60], &tokens[40..60]].concat();
        assert_eq!(model.adapter().map(|a| a.acts_from(&twice)), Some(20), "{name}");
        assert_eq!(model.adapter().map(|a| a.acts_from(&tokens[..42])), Some(NEVER), "{name}");
        let mut off = base_session(&model);
        assert_eq!(off.adapted_from(&tokens), NEVER);
        let mut last = Vec::new();
        off.prefill(&tokens, Logits::Last, &mut |_| Continue(()), &mut |_, row| last = row.to_vec()).expect("logits");
        let fast = logits(&base, &tokens, NEVER, Precision::Fast);
        assert!(last[..] == fast[fast.len() - last.len()..], "{name}: switched off");
        let merged = logits(&adapter.merged(&bytes), &tokens[40..], NEVER, Precision::Exact);
        let found = logits(&model, &tokens[40..], 0, Precision::Exact);
        assert_equal(&merged, &found, &format!("{name}: invoked at the start"));
    }
}

/// With quantized weights the fast path is as near to the exact one with an adapter as without.
#[test]
fn quantized_weights() {
    for name in ARCHITECTURES {
        for quant in [Quant::Q4, Quant::Q8] {
            let (bytes, adapter) = adapted(name, quant, 16);
            let model = adapter.beside(&bytes);
            let tokens = text_tokens(&model, 100);
            let error = |from| {
                mean_distance(
                    &logits(&model, &tokens, from, Precision::Exact),
                    &logits(&model, &tokens, from, Precision::Fast),
                )
            };
            let (with, without) = (error(0), error(NEVER));
            println!("{name} {quant:?}: {with:.4} with the adapter, {without:.4} without");
            assert!(with < 2.0 * without && with < 0.05, "{name} {quant:?}: {with}, without the adapter {without}");
        }
    }
}

#[test]
fn a_zero_adapter_changes_nothing() {
    for name in ARCHITECTURES {
        for quant in [Quant::Keep, Quant::Q4] {
            let (bytes, mut adapter) = adapted(name, quant, 16);
            adapter.pairs.iter_mut().for_each(|pair| pair.2.fill(0.0));
            let (base, model) = (open(&bytes), adapter.beside(&bytes));
            let tokens = text_tokens(&model, 70);
            for precision in [Precision::Fast, Precision::Exact] {
                let expected = logits(&base, &tokens, NEVER, precision);
                assert!(logits(&model, &tokens, 0, precision) == expected, "{name} {quant:?} {precision:?}");
            }
        }
    }
}

/// One session that goes to and fro between base and adapter gives the bits of fresh ones.
#[test]
fn the_cache_knows_what_was_adapted() {
    for name in ["llama-gqa-tied", "mistral-window"] {
        let (_, model) = activated(name, 0.0, 0.0);
        let tokens = text_tokens(&model, 200);
        let mut kept = session(&model, Precision::Fast);
        let calls = [(150, NEVER, 0), (200, 100, 100), (200, 120, 100), (130, NEVER, 120), (200, 0, 0), (200, 0, 199)];
        for (len, from, reused) in calls {
            let last = |session: &mut Session| {
                let mut last = Vec::new();
                let take = &mut |_: usize, row: &[f32]| last = row.to_vec();
                session.take_timings();
                session.prefill_from(&tokens[..len], from, Logits::Last, &mut |_| Continue(()), take).expect("logits");
                last
            };
            let (found, expected) = (last(&mut kept), last(&mut session(&model, Precision::Fast)));
            assert!(found == expected, "{name}: {len} tokens from {from}");
            assert_eq!(kept.take_timings().reused_tokens, reused, "{name}: {len} tokens from {from}");
        }
    }
}

#[test]
fn critique_scores_are_scores() {
    let (bytes, model) = activated("qwen3-qknorm", 1.0, 0.0);
    let request = request("What is 48 + 24?", "48 + 24 = 74");
    let critiques = ["The sum is wrong.", "No changes needed.", ""];
    let mut scoring = session(&model, Precision::Fast);
    let scores = scoring.critique_scores(&request, &critiques, &mut |_| Continue(())).expect("scores");
    let context = Context::new(&model, &request).expect("a context");
    for (text, score) in critiques.into_iter().zip(scores) {
        let tokens = [&context.tokens[..], &context.target(&model, text)].concat();
        let sum = |logprobs: Vec<f64>| logprobs[context.tokens.len() - 1..].iter().sum::<f64>();
        let reference = base_session(&model).score(&tokens, &mut |_| Continue(())).expect("a score");
        assert_eq!(score.log_reference, sum(reference), "{text:?}");
        // A plain call finds the critique instruction where that is the invocation.
        let (_, mut adapter) = adapted("qwen3-qknorm", Quant::Q4, 16);
        adapter.spec.invocation_tokens = context.tokens[context.invocation..].to_vec();
        let invoked = adapter.beside(&bytes);
        let policy = session(&invoked, Precision::Fast).score(&tokens, &mut |_| Continue(())).expect("a score");
        assert_eq!(score.log_policy, sum(policy), "{text:?}");
    }
    let refused = base_session(&model).critique_scores(&request, &critiques, &mut |_| Continue(()));
    assert!(refused.expect_err("no adapter").to_string().contains("adapter"));
}

/// What the loop says of a critique is β times the difference of log-ratios, for activated and
/// whole-text adapters; the highest is chosen.
#[test]
fn candidates_are_ranked_by_utility() {
    for whole in [false, true] {
        let (_, mut adapter) = adapted("llama-gqa-tied", Quant::Q4, 16);
        let bytes = adapted("llama-gqa-tied", Quant::Q4, 16).0;
        adapter.spec.beta = 0.5;
        adapter.spec.threshold = f32::MIN;
        adapter.spec.invocation_tokens = if whole { Vec::new() } else { text_tokens(&open(&bytes), 3) };
        let model = adapter.beside(&bytes);
        let request = Request { candidates: 5, ..request("Name a colour.", "Seven") };
        let mut writing = session(&model, Precision::Fast);
        let critique = writing.critique(&request, &mut |_| Continue(())).expect("a critique");
        let advantages: Vec<f32> =
            critique.candidates.iter().map(|c| c.utility_advantage.expect("each has one")).collect();
        println!("whole {whole}: {advantages:?}");
        let best = advantages.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(critique.utility_advantage, Some(best));
        let chosen = critique.candidates.iter().find(|c| c.utility_advantage == Some(best)).expect("it is one of them");
        assert_eq!((&chosen.critique, chosen.verdict), (&critique.text, critique.verdict));
        // What a critique that was sampled and one that was given are worth is computed alike.
        let mut scoring = session(&model, Precision::Fast);
        let given = scoring.given_critique(&request, "It is no colour.", &mut |_| Continue(())).expect("a critique");
        let keep = model.prompts().keep.clone();
        let scores =
            scoring.critique_scores(&request, &["It is no colour.", &keep], &mut |_| Continue(())).expect("scores");
        let expected = 0.5 * (scores[0].log_ratio() - scores[1].log_ratio());
        assert_eq!(given.utility_advantage, Some(expected as f32));
        let kept = scoring.given_critique(&request, &keep, &mut |_| Continue(())).expect("a critique");
        assert_eq!((kept.verdict, kept.utility_advantage), (Verdict::Keep, Some(0.0)));

        // The refinement is the base model's own, whatever was evaluated before it.
        let refined = |session: &mut Session, critique: &Critique| {
            let mut accept = |_: &str, _: &str| Ok(true);
            let mut host = Host { accept: Some(&mut accept), ..Host::default() };
            session.refine(&request, critique, &mut host, &mut |_| Continue(())).expect("a refinement").text
        };
        assert_eq!(refined(&mut writing, &critique), refined(&mut base_session(&model), &critique));
        let reused = writing.take_timings().reused_tokens;
        assert!(reused > 0);
    }
}

#[test]
fn utility_gates_refinement() {
    let low = f32::MIN;
    for (beta, threshold, writes) in [(1.0, low, true), (1.0, f32::MAX, false), (0.0, f32::MAX, true)] {
        let (_, model) = activated("qwen2-bias", beta, threshold);
        let request = request("What is 48 + 24?", "48 + 24 = 74");
        let mut session = session(&model, Precision::Fast);
        let critique = session.given_critique(&request, "It is wrong.", &mut |_| Continue(())).expect("a critique");
        assert_eq!(critique.utility_advantage.is_some(), beta != 0.0);
        let acted_on = writes || beta == 0.0;
        // β = 0: there is no advantage, and so no gate.
        assert_eq!(critique.acted_on(&model), acted_on, "β {beta}, threshold {threshold}");
        session.take_timings();
        let (mut asked, mut judged) = (0, false);
        let refinement = {
            let mut accept = |_: &str, _: &str| {
                asked += 1;
                Ok(false)
            };
            let mut host = Host { accept: Some(&mut accept), ..Host::default() };
            session.refine(&request, &critique, &mut host, &mut |_| Continue(())).expect("a refinement")
        };
        assert!(!refinement.accepted, "the host decides");
        let written = session.take_timings().generated_tokens > 0;
        assert_eq!(written, acted_on);
        assert!(acted_on || (refinement.text == request.response && refinement.complete && asked == 0));
        let own = session
            .refine(&request, &critique, &mut Host::default(), &mut |event| {
                judged |= event.phase == critic::Phase::Judge;
                Continue(())
            })
            .expect("a refinement");
        assert_eq!(judged, beta == 0.0 && own.complete, "self-judgement only where nothing else decides");
        if beta != 0.0 && acted_on && own.complete {
            assert_eq!(own.accepted, !own.text.trim().is_empty() && own.text.trim() != request.response);
        }
        let improvement = session.improve(&request, &mut Host::default(), &mut |_| Continue(())).expect("a round");
        if !acted_on {
            assert_eq!(improvement.text, request.response);
            assert!(!improvement.accepted && improvement.rounds[0].refinement.is_none());
        }
    }
}

#[test]
fn for_one_model_in_every_quantization() {
    let prints: Vec<String> = ARCHITECTURES
        .into_iter()
        .map(|name| {
            let print = |quant| open(&adapted(name, quant, 1).0).weights().fingerprint();
            let first = print(Quant::Keep);
            assert!([Quant::Q4, Quant::Q8, Quant::F16].into_iter().all(|quant| print(quant) == first), "{name}");
            first
        })
        .collect();
    assert!(prints.iter().all(|print| print.len() == 16));
    assert!((1..prints.len()).all(|i| !prints[..i].contains(&prints[i])), "{prints:?}");
    let (bytes, mut adapter) = adapted(ARCHITECTURES[0], Quant::Q4, 4);
    adapter.spec.base = prints[0].clone();
    adapter.beside(&bytes);
    adapter.spec.base = prints[1].clone();
    let refused = beside(&bytes, &adapter.file(Format::F32)).err().expect("another model's");
    assert!(refused.contains("trained for another model"), "{refused}");
}

fn beside(model: &[u8], adapter: &[u8]) -> Result<Arc<Model>, String> {
    let opened = catch_unwind(|| Model::from_bytes_with_adapter(Bytes::copy(model), Bytes::copy(adapter)));
    opened.expect("no panic").map_err(|error| error.to_string())
}

/// The adapter file with one text of its header replaced by another of the same length.
fn forged(file: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = file.windows(from.len()).position(|window| window == from.as_bytes()).unwrap_or_else(|| panic!("{from}"));
    assert_eq!(from.len(), to.len());
    let mut file = file.to_vec();
    file[at..at + to.len()].copy_from_slice(to.as_bytes());
    file
}

#[test]
fn attacks() {
    let (bytes, adapter) = adapted("llama-gqa-tied", Quant::Q4, 16);
    let file = adapter.file(Format::F16);
    assert!(beside(&bytes, &file).is_ok());
    let refused = |file: &[u8], why: &str| match beside(&bytes, file) {
        Ok(_) => panic!("not refused: {why}"),
        Err(error) => assert!(error.contains(why), "{error:?} lacks {why:?}"),
    };
    refused(&forged(&file, "attention.q.a", "attention.q.x"), "belongs to no matrix");
    refused(&forged(&file, "\"adapter.layers.0.attention.q.a", "\"adapteR.layers.0.attention.q.a"), "is missing");
    refused(&forged(&file, "\"adapter.layers.0.mlp.down.b", "\"adapteR.layers.0.mlp.down.b"), "is missing");
    refused(&forged(&file, "adapter.layers.0.", "adapter.layers.9."), "belongs to no matrix");
    refused(&forged(&file, "adapter.layers.0.", "adapter.layers.-."), "belongs to no matrix");
    refused(&forged(&file, "\\\"rank\\\":16", "\\\"rank\\\":00"), "critic.adapter");
    refused(&forged(&file, "\\\"rank\\\":16", "\\\"rank\\\": 0"), "rank is 0");
    refused(&forged(&file, "\\\"rank\\\":16", "\\\"rank\\\":17"), "tensor adapter.");
    refused(&forged(&file, "\\\"rank\\\":16", "\\\"rank\\\":15"), "tensor adapter.");
    refused(&forged(&file, "\\\"scale\\\":2.0", "\\\"scale\\\":NaN"), "critic.adapter");
    // Refused as it is read, or as infinity: which, is a matter of serde_json's features.
    refused(&forged(&file, "\\\"scale\\\":2.0,\\\"inv", "\\\"scale\\\":1e99,\\\"in"), "adapter");
    refused(&forged(&file, "critic.adapter", "critic.adaptre"), "holds no adapter");
    refused(&bytes, "holds no adapter");
    for cut in (0..file.len()).step_by(file.len() / 200) {
        assert!(beside(&bytes, &file[..cut]).is_err(), "cut at {cut}");
    }
    let other = adapted("gemma3-text", Quant::Q4, 16).1;
    assert!(beside(&bytes, &other.file(Format::F32)).is_err(), "another model's shapes");
    let alone = Model::from_bytes(Bytes::copy(&file)).err().expect("no model").to_string();
    assert!(alone.contains("an adapter alone is no model"), "{alone}");

    // The writer refuses what the reader would.
    let spec = |change: fn(&mut AdapterSpec)| {
        let mut spec = adapter.spec.clone();
        change(&mut spec);
        write_adapter(&mut Vec::new(), &spec, adapter.values(), Format::F32, &Provenance::default())
            .expect_err("a spec that is no use")
            .to_string()
    };
    assert!(spec(|spec| spec.rank = 0).contains("rank is 0"));
    assert!(spec(|spec| spec.rank = 1 << 40).contains("expected 1 to 1024"));
    assert!(spec(|spec| spec.rank = 8).contains("values are expected"));
    assert!(spec(|spec| spec.scale = f32::NAN).contains("scale is NaN"));
    assert!(spec(|spec| spec.beta = -1.0).contains("beta is -1"));
    assert!(spec(|spec| spec.threshold = f32::INFINITY).contains("threshold is inf"));
    let (a, b) = (vec![0.0; 16 * 4], vec![f32::NAN; 16 * 4]);
    let pair = |name| PairValues { name, a: &a, b: &b, inputs: 4, outputs: 4 };
    for (name, why) in
        [("layers.0.attention.q", "holds NaN"), ("layers.01.attention.q", "cannot add to"), ("norm", "cannot add to")]
    {
        let error = plan(&adapter.spec, [pair(name)], Format::F32).err().expect("refused").to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(plan(&adapter.spec, adapter.values(), Format::Q8_0).is_err());
}

//! What was trained is what runs: log-probabilities of the trainer and of the runtime.

mod common;

use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use common::{hf, options, scored};
use critic::critique::{Context, Request};
use critic::transformer::{Engine, Logits, Run};
use critic::{Kernel, Model, Precision, Session, SessionOptions};
use critic_import::Quant;
use critic_trainer::data::{DataFile, EncodedGroup, ScoredDraft};
use critic_trainer::export::{ExportOptions, export_model};
use critic_trainer::job::{Job, Trained};
use critic_trainer::memory::Limits;
use critic_trainer::model::{Policy, load};
use critic_trainer::score::score_with_keep;
use critic_trainer::train::Outcome;

/// Trains on the model in `source` and returns the job.
fn trained(folder: &Path, source: &Path, activated: bool, full: bool) -> Job {
    let mut options = options(4, activated);
    if full {
        options.adapter = None;
        options.train.learning_rate = 1e-4;
    }
    let job = Job { run: folder.join("run"), model: source.to_owned(), data: scored(folder, 12), init: None, options };
    let finished = job.run(&AtomicBool::new(false), &mut |_| Continue(())).expect("a run");
    assert_eq!(finished.outcome, Outcome::Finished);
    job
}

fn exported(job: &Job, options: &ExportOptions) -> Arc<Model> {
    let path = job.run.join("out.critic");
    export_model(job, &path, options, &mut |_| Continue(())).expect("a model file");
    critic_tests::open(&path)
}

fn drafts(job: &Job) -> Vec<ScoredDraft> {
    DataFile::open(&job.data).expect("the data").take(3).map(|draft| draft.expect("a draft")).collect()
}

/// The trainer's log p of a draft's critiques and of *keep*.
fn trainer(job: &Job, policy: &Policy, draft: &ScoredDraft) -> Vec<f64> {
    let model = load(&job.model).expect("the model");
    let group = EncodedGroup::new(&model, draft, &job.data).expect("a group");
    let (mut critiques, keep) = score_with_keep(policy, &group, &Limits::default()).expect("a pass");
    critiques.push(keep);
    critiques
}

fn texts<'a>(model: &'a Model, draft: &'a ScoredDraft) -> Vec<&'a str> {
    draft.critiques.iter().map(|critique| critique.text.as_str()).chain([model.prompts().keep.as_str()]).collect()
}

fn request(draft: &ScoredDraft) -> Request {
    Request {
        task: draft.task.clone(),
        prompt: draft.prompt.clone(),
        response: draft.response.clone(),
        ..Request::default()
    }
}

/// The runtime's, with the adapter and without.
fn runtime(model: &Arc<Model>, draft: &ScoredDraft, precision: Precision) -> (Vec<f64>, Vec<f64>) {
    let options = SessionOptions { precision, threads: 1, ..SessionOptions::default() };
    let mut session = Session::new(model, &options).expect("a session");
    let scores = session.critique_scores(&request(draft), &texts(model, draft), &mut |_| Continue(())).expect("scores");
    scores.into_iter().map(|score| (score.log_policy, score.log_reference)).unzip()
}

/// The runtime's by plain weights.
fn plain(model: &Arc<Model>, draft: &ScoredDraft) -> Vec<f64> {
    let context = Context::new(model, &request(draft)).expect("a context");
    let one = |text: &str| {
        let target = context.target(model, text);
        let tokens = [&context.tokens[..], &target].concat();
        let mut sum = 0.0;
        each_logits(model, &tokens, &mut |at, logits| {
            if at + 1 >= context.tokens.len() && at + 1 < tokens.len() {
                let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let z: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
                sum += f64::from(logits[tokens[at + 1] as usize] - most) - z.ln();
            }
        });
        sum
    };
    texts(model, draft).into_iter().map(one).collect()
}

/// The runtime's logits `[vocab]` of each token, in f32, without an adapter.
fn each_logits(model: &Arc<Model>, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) {
    let mut engine = Engine::new(model.config(), Kernel::best(), 1, Precision::Exact).expect("memory");
    let mut sequence = engine.sequence();
    let mut runs = [Run { sequence: &mut sequence, tokens, logits: Logits::All, adapted: false }];
    let on_logits = &mut |_: usize, at: usize, logits: &[f32]| each(at, logits);
    engine.forward(model.weights(), &mut runs, &AtomicBool::new(false), on_logits).expect("a pass");
}

fn largest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// f32 sums in two orders, over some tens of tokens.
const BOUND: f64 = 1e-3;

#[test]
fn an_adapter_gives_in_the_runtime_what_it_gave_in_the_trainer() {
    for (name, activated) in
        [("llama-gqa-tied", true), ("llama-gqa-tied", false), ("qwen3-qknorm", true), ("gemma3-text", false)]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let job = trained(folder.path(), &hf(name), activated, false);
        let source = load(&job.model).expect("the model");
        let policy = Trained::read(&job.run).and_then(|trained| trained.policy(&source, &Device::flex())).expect("it");
        let base = Policy { base: policy.base.clone(), adapter: None };
        let model = exported(&job, &ExportOptions::default());
        let mut moved: f64 = 0.0;
        for draft in drafts(&job) {
            let expected = [trainer(&job, &policy, &draft), trainer(&job, &base, &draft)];
            let found = runtime(&model, &draft, Precision::Exact);
            let differences = [largest(&found.0, &expected[0]), largest(&found.1, &expected[1])];
            assert!(differences.iter().all(|&d| d < BOUND), "{name} activated {activated}: {differences:?}");
            moved = moved.max(largest(&expected[0], &expected[1]));
        }
        assert!(moved > 100.0 * BOUND, "{name}: the adapter does nothing, this compares nothing");
        if !activated {
            let merged = exported(&job, &ExportOptions { merge: true, ..ExportOptions::default() });
            assert!(merged.adapter().is_none());
            for draft in drafts(&job) {
                let difference = largest(&plain(&merged, &draft), &trainer(&job, &policy, &draft));
                assert!(difference < BOUND, "{name} merged: {difference}");
            }
        }
    }
}

#[test]
fn a_model_that_was_trained_whole_gives_what_it_gave_in_the_trainer() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = trained(folder.path(), &hf("qwen3-qknorm"), false, true);
    let source = load(&job.model).expect("the model");
    let policy = Trained::read(&job.run).and_then(|trained| trained.policy(&source, &Device::flex())).expect("it");
    let model = exported(&job, &ExportOptions::default());
    for draft in drafts(&job) {
        let expected = trainer(&job, &policy, &draft);
        let difference = largest(&plain(&model, &draft), &expected);
        assert!(difference < BOUND, "{difference}");
        assert!(largest(&plain(&source, &draft), &expected) > 100.0 * BOUND, "training did nothing");
    }
}

/// On quantized weights: the trainer has them dequantized exactly, the runtime's f32 path too.
#[test]
fn on_quantized_weights_the_adapter_is_trained_against_what_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    for (quant, name) in [(Quant::Q8, "q8"), (Quant::Q4, "q4")] {
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).expect("a folder");
        let source = folder.join("base.critic");
        std::fs::write(&source, critic_tests::small_bytes("llama-gqa-tied", quant)).expect("written");
        let job = trained(&folder, &source, true, false);
        let base = load(&job.model).expect("the model");
        let policy = Trained::read(&job.run).and_then(|t| t.policy(&base, &Device::flex())).expect("it");
        let model = exported(&job, &ExportOptions::default());
        for draft in drafts(&job) {
            let expected = trainer(&job, &policy, &draft);
            let (exact, exact_base) = runtime(&model, &draft, Precision::Exact);
            let (fast, fast_base) = runtime(&model, &draft, Precision::Fast);
            let (rounding, rounding_base) = (largest(&fast, &expected), largest(&fast_base, &exact_base));
            let exact = largest(&exact, &expected);
            println!(
                "{name}: largest difference of log p: f32 path {exact:.1e}, fast path {rounding:.1e} (without the \
                 adapter {rounding_base:.1e})"
            );
            // The adapter beside quantized weights is stored in f16: eleven bits.
            assert!(exact < 2e-2, "{name}: {exact}");
            // Eight-bit activations cost these random weights as much without an adapter: it is computed in f32.
            assert!(rounding < 4.0 * rounding_base, "{name}: {rounding} {rounding_base}");
        }
    }
}

/// Quantization that is told of the activations is nearer to what was trained than one that is not.
#[test]
fn calibrated_quantization_is_nearer() {
    let folder = tempfile::tempdir().expect("a folder");
    let job = trained(folder.path(), &hf("llama-gqa-tied"), false, false);
    let merged = |quant: Quant, calibrate: usize| {
        exported(&job, &ExportOptions { quant, merge: true, calibrate, ..ExportOptions::default() })
    };
    let logits = |model: &Arc<Model>| -> Vec<f32> {
        let mut all = Vec::new();
        for draft in drafts(&job) {
            let context = Context::new(model, &request(&draft)).expect("a context");
            each_logits(model, &context.tokens, &mut |_, logits| all.extend_from_slice(logits));
        }
        all
    };
    let exact = logits(&merged(Quant::Keep, 0));
    let error = |calibrate: usize| {
        let found = logits(&merged(Quant::Q4, calibrate));
        let squares = found.iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2));
        (squares.sum::<f64>() / exact.len() as f64).sqrt()
    };
    let (plain, calibrated) = (error(0), error(64));
    println!("root mean square error of logits in q4: {plain:.5} without activations, {calibrated:.5} with them");
    assert!(calibrated < plain, "{calibrated} {plain}");
}

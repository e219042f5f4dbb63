//! Structured critiques by models that know nothing: whatever they would like to say, it is a
//! valid list of findings, whose quotes stand where they say, within the budget of tokens.
//!
//! `CRITIC_GENERATIONS=10000 cargo test --release -p critic-tests --test structured hostile` is
//! the long form.

use std::ops::ControlFlow::Continue;
use std::sync::Arc;

use critic::adapter::NEVER;
use critic::grammar::FindingGrammar;
use critic::tokenizer::Special;
use critic::{
    BatchPrompt, Finding, GenerateOptions, Generation, Model, Request, Sampling, Session, SessionOptions, Stop,
    Verdict, findings,
};
use critic_import::Quant;
use critic_tests::{ARCHITECTURES, small_with_context, smollm2};
use jsonschema::Validator;
use serde_json::{Value, json};

/// What drafts are made of: all that could lead quotes, JSON or characters astray.
const HOSTILE: [&str; 28] = [
    "\"",
    "\\",
    "\\\"",
    "{",
    "}",
    "[]",
    "\"}],",
    "\r\n",
    "\n\n",
    "\t",
    " ",
    "  ",
    "é",
    "e\u{301}",
    "👩\u{200d}👩\u{200d}👧",
    "🇩🇪🇫🇷",
    "👍🏽",
    "שלום",
    "\u{202e}مرحبا\u{202c}",
    "日本語の文章",
    "<|im_end|>",
    "</s><s>",
    "\u{0}\u{1}\u{1b}[31m",
    "\u{7f}\u{85}",
    "the cat ",
    "the cat the cat ",
    "aaaaaaaaaaaaaaaa",
    "fn main() { println!(\"hi\"); }",
];

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % limit
    }

    fn draft(&mut self) -> String {
        let parts = 1 + self.below(30);
        let mut text: String = (0..parts).map(|_| HOSTILE[self.below(HOSTILE.len())]).collect();
        if self.below(20) == 0 {
            text = text.repeat(1 + 300 / text.len());
        }
        // A draft of nothing is no draft, but one of blank space is.
        text
    }
}

fn schema() -> Value {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/findings.schema.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Of the findings, and of the list as the model says it.
fn validators() -> (Validator, Validator) {
    let mut list = schema();
    list["$ref"] = json!("#/$defs/list");
    for key in ["type", "maxItems", "items"] {
        list.as_object_mut().unwrap().remove(key);
    }
    (jsonschema::validator_for(&schema()).unwrap(), jsonschema::validator_for(&list).unwrap())
}

fn check(draft: &str, text: &str, found: &[Finding], verdict: Verdict, validators: &(Validator, Validator)) {
    let list: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert!(validators.1.is_valid(&list), "{text}");
    let value = serde_json::to_value(found).unwrap();
    assert!(validators.0.is_valid(&value), "{value}");
    assert_eq!(verdict == Verdict::Keep, found.is_empty());
    assert_eq!(list.as_array().unwrap().is_empty(), found.is_empty());
    for (index, finding) in found.iter().enumerate() {
        assert_eq!(&draft[finding.start..finding.end], finding.quote);
        let same = |other: &Finding| (other.start, other.end) == (finding.start, finding.end);
        assert!(!found[..index].iter().any(same), "two findings at one place: {text}");
    }
    // The list says it once more, with numbers in place of ranges.
    assert_eq!(findings::parse(text, draft).unwrap(), found);
    if let Some(applied) = findings::apply(draft, found) {
        let mut rest = applied.as_str();
        let mut done = 0;
        for finding in findings::applicable(found) {
            rest = rest.strip_prefix(&draft[done..finding.start]).expect("what is outside the quotes stays");
            rest = rest.strip_prefix(finding.replacement.as_deref().unwrap()).unwrap();
            done = finding.end;
        }
        assert_eq!(rest, &draft[done..]);
    }
}

/// Runs `count` critiques of hostile drafts, and returns how many findings there were.
fn hostile(model: &Arc<Model>, count: usize, seed: u64) -> usize {
    let validators = validators();
    let mut random = Random(seed);
    let options = SessionOptions { threads: 1, ..Default::default() };
    let mut session = Session::new(model, &options).unwrap();
    let mut total = 0;
    for round in 0..count {
        let response = random.draft();
        let max_tokens = 4 + random.below(400);
        let sampling = Sampling { temperature: 2.0, seed: seed + round as u64, ..Default::default() };
        let candidates = if random.below(8) == 0 { 3 } else { 1 };
        let structured = true;
        let request = Request {
            response,
            prompt: "p".into(),
            sampling,
            max_tokens,
            candidates,
            structured,
            ..Default::default()
        };
        let critique = session.critique(&request, &mut |_| Continue(())).unwrap_or_else(|error| {
            panic!("{error}: draft {:?}, {max_tokens} tokens, round {round}", request.response)
        });
        let used = session.take_timings().generated_tokens;
        assert!(used <= max_tokens * candidates, "{used} tokens of {max_tokens}");
        check(&request.response, &critique.text, &critique.findings, critique.verdict, &validators);
        for candidate in &critique.candidates {
            let found = findings::parse(&candidate.critique, &request.response).unwrap();
            check(&request.response, &candidate.critique, &found, candidate.verdict, &validators);
        }
        total += critique.findings.len();
    }
    total
}

#[test]
fn hostile_drafts_get_valid_findings_from_random_models() {
    let all: usize = std::env::var("CRITIC_GENERATIONS").map_or(600, |count| count.parse().expect("a number"));
    let count = all.div_ceil(ARCHITECTURES.len());
    let mut total = 0;
    for (index, name) in ARCHITECTURES.into_iter().enumerate() {
        let found = hostile(&small_with_context(name, Quant::Keep, 8192), count, 1 + 1_000_000 * index as u64);
        println!("{name}: {count} critiques, {found} findings");
        total += found;
    }
    assert!(total > all / 5, "only {total} findings: nothing was tested");
}

#[test]
fn the_real_vocabulary_gives_valid_findings_too() {
    let count = std::env::var("CRITIC_GENERATIONS").map_or(8, |count| count.parse::<usize>().expect("a number") / 100);
    assert!(hostile(&smollm2(), count, 5) > 0);
}

#[test]
fn greedy_structured_critiques_are_the_same_with_candidates_and_in_pieces() {
    let model = small_with_context("llama-gqa-tied", Quant::Keep, 4096);
    let request = Request {
        prompt: "Say it.".into(),
        response: "the cat sat on the mat, the cat slept".into(),
        max_tokens: 120,
        structured: true,
        sampling: Sampling { temperature: 1.0, seed: 3, ..Default::default() },
        ..Default::default()
    };
    let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
    let alone = session.critique(&request, &mut |_| Continue(())).unwrap();
    let many = Request { candidates: 4, ..request.clone() };
    let first = session.critique(&many, &mut |_| Continue(())).unwrap().candidates.remove(0);
    assert_eq!(alone.text, first.critique, "candidate 0 is what it is alone");
}

/// Where no log-probability is wanted, logits are computed only of the tokens that may come next: the list is the one
/// that all logits give, and so is why it ended.
#[test]
fn lists_are_the_same_with_only_the_logits_that_they_need() {
    let draft = "the cat sat on the mat, the \"cat\" slept; fn main() { }\nthe end of the cat";
    let mut stops = Vec::new();
    for name in ARCHITECTURES.into_iter().chain(["smollm2"]) {
        let real = name == "smollm2";
        let model = if real { smollm2() } else { small_with_context(name, Quant::Q4, 4096) };
        let prompt = model.tokenizer().encode("What is wrong with it?", Special::Text);
        let grammar = FindingGrammar::new(&model, draft).unwrap();
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        // A text that stops where the list ends stops for that reason, either way.
        let mut stopped = |logprob| {
            let (grammar, stop) = (Some(Arc::clone(&grammar)), vec!["]".to_owned()]);
            let options = GenerateOptions { grammar, stop, max_tokens: 160, logprob, ..Default::default() };
            let written = session.generate(&prompt, &options, &mut |_| Continue(())).unwrap();
            (written.text, written.tokens, written.end, written.stop)
        };
        assert_eq!(stopped(false), stopped(true), "{name}");
        let mut list = |sampling: &Sampling, max_tokens, logprob| {
            let (sampling, grammar) = (sampling.clone(), Some(Arc::clone(&grammar)));
            let options = GenerateOptions { sampling, grammar, max_tokens, logprob, ..Default::default() };
            let Generation { text, tokens, end, stop, logprob: sum } =
                session.generate(&prompt, &options, &mut |_| Continue(())).unwrap();
            assert_eq!(sum.is_some(), logprob);
            (text, tokens, end, stop)
        };
        for seed in 0..if real { 3 } else { 12 } {
            let hot = Sampling { temperature: 1.5, seed, ..Default::default() };
            for sampling in [Sampling::default(), hot.clone(), Sampling { repetition_penalty: 1.3, ..hot }] {
                // Small ones bar tokens that the model would have liked.
                for max_tokens in [20 + 7 * seed as usize, 160] {
                    let expected = list(&sampling, max_tokens, true);
                    assert_eq!(
                        list(&sampling, max_tokens, false),
                        expected,
                        "{name}: {sampling:?}, {max_tokens} tokens"
                    );
                    stops.push(expected.3);
                }
            }
        }
    }
    assert!(stops.contains(&Stop::Length) && stops.contains(&Stop::End), "both ends were seen");
}

/// Lists of a batch, each at another place of its form, are those that each prompt gives alone.
#[test]
fn lists_of_a_batch() {
    for model in [small_with_context("llama-gqa-tied", Quant::Q4, 4096), smollm2()] {
        let texts = ["What is wrong with it?", "Say what is wrong.", "List the mistakes, gravest first."];
        let prompts: Vec<_> = texts.iter().map(|text| model.tokenizer().encode(text, Special::Text)).collect();
        let grammar = FindingGrammar::new(&model, "the cat sat on the mat, and the \"cat\" slept").unwrap();
        // Hot, so that few lists are empty.
        let sampling = Sampling { temperature: 3.0, ..Default::default() };
        let options = GenerateOptions { sampling, grammar: Some(grammar), max_tokens: 90, ..Default::default() };
        let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
        let mut lists = |prompts: &[BatchPrompt], logprob| -> Vec<_> {
            let options = GenerateOptions { logprob, ..options.clone() };
            let written = session.generate_batch(prompts, &options, &mut |_| Continue(())).unwrap();
            written.into_iter().map(|list| (list.text, list.tokens, list.end, list.stop)).collect()
        };
        let prompt = |at: usize| BatchPrompt {
            tokens: &prompts[at % prompts.len()],
            adapted_from: NEVER,
            seed: at as u64,
            candidate: at,
        };
        let batch: Vec<_> = (0..9).map(prompt).collect();
        let together = lists(&batch, false);
        assert_eq!(together, lists(&batch, true));
        for (prompt, list) in batch.iter().zip(&together) {
            assert_eq!(lists(std::slice::from_ref(prompt), false)[0], *list);
        }
        let long = together.iter().filter(|list| list.1.len() > 20).count();
        assert!(long > 1, "{long} lists where there was something to choose");
    }
}

#[test]
fn too_small_a_budget_is_refused_and_a_small_one_kept() {
    let model = small_with_context("llama-gqa-tied", Quant::Keep, 4096);
    let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
    let mut with = |max_tokens| {
        let request = Request {
            prompt: "p".into(),
            response: "some draft".into(),
            structured: true,
            max_tokens,
            ..Default::default()
        };
        session.critique(&request, &mut |_| Continue(()))
    };
    let error = with(1).unwrap_err().to_string();
    assert!(error.contains("max_tokens is 1, expected at least 2"), "{error}");
    let least = with(2).unwrap();
    assert_eq!((least.text.as_str(), least.verdict), ("[]", Verdict::Keep));
}

#[test]
fn replacements_are_a_refinement_without_decoding() {
    let model = small_with_context("llama-gqa-tied", Quant::Keep, 4096);
    let mut session = Session::new(&model, &SessionOptions::default()).unwrap();
    let request = Request {
        prompt: "p".into(),
        response: "\nthe cat sat\n".into(),
        structured: true,
        apply: true,
        ..Default::default()
    };
    let list = r#"[{"quote":"cat","message":"wrong animal","severity":"error","replacement":"dog"}]"#;
    let critique = session.given_critique(&request, list, &mut |_| Continue(())).unwrap();
    session.take_timings();
    let mut yes = |_: &str, _: &str| Ok(true);
    let mut host = critic::Host { accept: Some(&mut yes), ..Default::default() };
    let refinement = session.refine(&request, &critique, &mut host, &mut |_| Continue(())).unwrap();
    assert_eq!((refinement.text.as_str(), refinement.accepted), ("\nthe dog sat\n", true));
    assert_eq!(session.take_timings(), critic::Timings::default(), "nothing was evaluated");
    let unstructured = Request { structured: false, ..request };
    assert!(session.critique(&unstructured, &mut |_| Continue(())).is_err());
}

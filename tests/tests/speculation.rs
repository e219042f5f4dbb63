//! Guesses change how long a text takes, and nothing else.

use std::ops::ControlFlow::{Break, Continue};
use std::sync::Arc;

use critic::tokenizer::Special;
use critic::{
    Error, Forced, GenerateOptions, Generation, Host, Model, Progress, Repeats, Request, Sampling, Session,
    SessionOptions, Stop, Timings, Verdict,
};
use critic_import::Quant;
use critic_tests::{ARCHITECTURES, small, smollm2};

fn session(model: &Arc<Model>) -> Session {
    Session::new(model, &SessionOptions { threads: 2, ..Default::default() }).expect("a session")
}

fn generate(session: &mut Session, prompt: &[u32], options: &GenerateOptions) -> (Generation, Timings) {
    session.take_timings();
    let generation = session.generate(prompt, options, &mut |_| Continue(())).expect("a text");
    (generation, session.take_timings())
}

/// Everything that a caller can see of a text.
fn seen(generation: &Generation) -> (&str, &[u32], Option<u32>, Option<u64>, Stop) {
    let Generation { text, tokens, end, logprob, stop } = generation;
    (text, tokens, *end, logprob.map(f64::to_bits), *stop)
}

/// Texts that a refinement may be of: the same, with edits, another, none.
fn drafts(tokens: &[u32], vocab: u32) -> Vec<Vec<u32>> {
    let (third, half) = (tokens.len() / 3, tokens.len() / 2);
    let strange = |i: usize| (tokens[i] + 1) % vocab;
    vec![
        tokens.to_vec(),
        [&tokens[..half], &[strange(half)], &tokens[half + 1..]].concat(),
        [&tokens[..third], &tokens[third + 3..]].concat(),
        [&tokens[..third], &[strange(0), strange(1)], &tokens[third..]].concat(),
        tokens[half..].to_vec(),
        tokens.iter().rev().copied().collect(),
        Vec::new(),
    ]
}

fn samplings() -> [Sampling; 3] {
    [
        Sampling::default(),
        Sampling { temperature: 0.9, top_p: 0.9, seed: 5, ..Default::default() },
        Sampling { temperature: 0.7, repetition_penalty: 1.3, seed: 6, ..Default::default() },
    ]
}

#[test]
fn texts_are_the_same_with_and_without() {
    for name in ARCHITECTURES {
        let model = small(name, Quant::Q4);
        let prompt = model.tokenizer().encode("The quick brown fox", Special::Text);
        for sampling in samplings() {
            let plain = GenerateOptions { sampling, max_tokens: 60, logprob: true, ..Default::default() };
            let (expected, _) = generate(&mut session(&model), &prompt, &plain);
            for draft in drafts(&expected.tokens, model.config().vocab_size as u32) {
                for repeats in [Repeats::Draft(vec![draft.clone(), prompt.clone()]), Repeats::Quotes(vec![draft])] {
                    let mut session = session(&model);
                    let options = GenerateOptions { repeats, ..plain.clone() };
                    let (found, timings) = generate(&mut session, &prompt, &options);
                    assert_eq!(seen(&found), seen(&expected), "{name} {:?}", options.repeats);
                    assert_eq!(timings.generated_tokens, expected.tokens.len());
                    // What the session keeps is fit to go on from.
                    let more = [&prompt[..], &expected.tokens, &prompt].concat();
                    let (after, _) = generate(&mut session, &more, &plain);
                    session.reset();
                    assert_eq!(seen(&after), seen(&generate(&mut session, &more, &plain).0));
                }
            }
        }
    }
}

#[test]
fn right_guesses_are_used() {
    let model = small("llama-gqa-tied", Quant::Q4);
    let prompt = model.tokenizer().encode("The quick brown fox", Special::Text);
    let plain = GenerateOptions { max_tokens: 60, ..Default::default() };
    let (expected, timings) = generate(&mut session(&model), &prompt, &plain);
    assert_eq!(timings.guessed_tokens, 0);
    let options = GenerateOptions { repeats: Repeats::Draft(vec![expected.tokens.clone()]), ..plain };
    let (_, timings) = generate(&mut session(&model), &prompt, &options);
    assert!(timings.guessed_tokens * 2 > expected.tokens.len(), "{timings:?}");
}

#[test]
fn limits_and_stop_strings_cut_at_the_same_place() {
    let model = smollm2();
    let prompt = model.tokenizer().encode("One, two, three, four, five,", Special::Text);
    let plain = GenerateOptions { max_tokens: 40, ..Default::default() };
    let (whole, _) = generate(&mut session(&model), &prompt, &plain);
    let middle = whole.text.char_indices().nth(whole.text.chars().count() / 2).expect("some text").0;
    let stop: String = whole.text[middle..].chars().take(5).collect();
    for options in [
        GenerateOptions { stop: vec![stop], ..plain.clone() },
        GenerateOptions { max_tokens: 1, ..plain.clone() },
        GenerateOptions { max_tokens: 2, ..plain.clone() },
        GenerateOptions { max_tokens: 17, ..plain.clone() },
    ] {
        let (expected, _) = generate(&mut session(&model), &prompt, &options);
        let with = GenerateOptions { repeats: Repeats::Draft(vec![whole.tokens.clone()]), ..options };
        let mut text = String::new();
        let mut on_progress = |progress: Progress| {
            if let Progress::Text(part) = progress {
                text += part;
            }
            Continue(())
        };
        let found = session(&model).generate(&prompt, &with, &mut on_progress).expect("a text");
        assert_eq!(seen(&found), seen(&expected));
        assert_eq!(text, expected.text, "what is streamed is the text");
    }
}

#[test]
fn a_caller_can_break_off_in_the_middle() {
    let model = small("qwen3-qknorm", Quant::Q4);
    let prompt = model.tokenizer().encode("The quick brown fox", Special::Text);
    let plain = GenerateOptions { max_tokens: 60, ..Default::default() };
    let (expected, _) = generate(&mut session(&model), &prompt, &plain);
    let options = GenerateOptions { repeats: Repeats::Draft(vec![expected.tokens.clone()]), ..plain };
    let mut session = session(&model);
    let mut parts = 0;
    let result = session.generate(&prompt, &options, &mut |progress| {
        parts += usize::from(matches!(progress, Progress::Text(_)));
        if parts == 3 { Break(()) } else { Continue(()) }
    });
    assert!(matches!(result, Err(Error::Cancelled)), "{:?}", result.map(|g| g.text));
    // From another thread, too: the next call sees it.
    session.cancel_token().cancel();
    assert!(matches!(session.generate(&prompt, &options, &mut |_| Continue(())), Err(Error::Cancelled)));
    assert_eq!(seen(&generate(&mut session, &prompt, &options).0), seen(&expected));
}

/// The loop with the real model: the refinement is the text that plain decoding writes, greedy
/// and sampled, and with candidates.
#[test]
fn refinements_are_what_plain_decoding_writes() {
    let model = smollm2();
    for (temperature, candidates) in [(0.0, 1), (0.8, 1), (0.0, 3)] {
        let request = Request {
            prompt: "Name the first three planets.".into(),
            response: "The first three planets are Mercury, Venus and the Moon.".into(),
            sampling: Sampling { temperature, seed: 3, ..Default::default() },
            max_tokens: 40,
            candidates,
            ..Request::default()
        };
        let mut session = session(&model);
        let mut critique = session.critique(&request, &mut |_| Continue(())).expect("a critique");
        critique.verdict = Verdict::Revise;
        let mut accept = |_: &str, _: &str| Ok(true);
        let mut host = Host { accept: Some(&mut accept), ..Host::default() };
        let refinement = session.refine(&request, &critique, &mut host, &mut |_| Continue(())).expect("a refinement");
        let mut chat = critic::refine::conversation(&model, &request, &critique).expect("a conversation");
        let options = GenerateOptions { sampling: request.sampling.clone(), max_tokens: 40, ..Default::default() };
        session.reset();
        let (plain, _) = generate(&mut session, chat.tokens(), &options);
        assert_eq!(refinement.text, plain.text.trim_matches('\n'), "temperature {temperature}");
    }
}

#[test]
fn forced_texts_are_written() {
    let model = smollm2();
    let forced = Forced {
        critique: "The Moon is no planet.".into(),
        refinement: "The first three planets are Mercury, Venus and Earth.".into(),
    };
    let request = Request {
        prompt: "Name the first three planets.".into(),
        response: "The first three planets are Mercury, Venus and the Moon.".into(),
        forced: Some(forced.clone()),
        ..Request::default()
    };
    let mut session = session(&model);
    let mut accept = |_: &str, _: &str| Ok(true);
    let mut host = Host { accept: Some(&mut accept), ..Host::default() };
    let improvement = session.improve(&request, &mut host, &mut |_| Continue(())).expect("the loop");
    assert_eq!((&improvement.critique.text, &improvement.text), (&forced.critique, &forced.refinement));
    assert!(session.take_timings().guessed_tokens >= 5);
}

//! `critic bench`: the speed of this machine, at one model.

use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::time::Instant;

use critic::adapter::NEVER;
use critic::critique::Context;
use critic::sampler::argmax;
use critic::transformer::Logits;
use critic::{Critique, Model, Precision, Request, Session};
use serde::{Deserialize, Serialize};

use crate::args::BenchArgs;
use crate::commands::first_finding::{FirstFinding, first_finding};
use crate::failure::Failure;
use crate::output::{json, line};
use crate::text::read_file;

#[derive(Serialize)]
struct Answer {
    kernel: &'static str,
    threads: usize,
    /// Whether an adapter acted on every token.
    adapter: bool,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
    open_ms: f64,
    /// From before the model is opened to the first token of an answer to a short prompt.
    first_token_ms: f64,
    /// Null where the system does not say.
    resident_bytes: Option<u64>,
    model_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    cases: Option<Vec<CaseAnswer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_finding: Option<FirstFinding>,
}

/// One conversation with all its texts given.
#[derive(Deserialize)]
struct Case {
    name: String,
    kind: String,
    #[serde(default)]
    task: String,
    prompt: String,
    draft: String,
    critique: String,
    refinement: String,
}

#[derive(Serialize)]
struct CaseAnswer {
    name: String,
    kind: String,
    /// Tokens of the task, the draft and the instructions.
    prompt_tokens: usize,
    critique_tokens: usize,
    refinement_tokens: usize,
    prefill_ms: f64,
    critique_ms: f64,
    refinement_ms: f64,
    /// All of it.
    ms: f64,
}

pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let cases = args.cases.as_deref().map(read_cases).transpose()?;
    let path = args.model.path()?;
    let started = Instant::now();
    let model = args.model.open_at(&path)?;
    let open_ms = ms(started);
    let mut session = args.model.session(&model, Precision::Fast)?;
    let (prompt, depth, generated) = (args.prompt_tokens as usize, args.depth as usize, args.gen_tokens as usize);
    let needed = depth + prompt.max(generated + 1);
    if needed > session.context_tokens() {
        return Err(critic::Error::ContextFull { needed, available: session.context_tokens() }.into());
    }
    let tokens = arbitrary_tokens(&model, needed);
    evaluate(&mut session, &tokens[..needed.min(16)], Logits::Last)?;
    let first_token_ms = ms(started);

    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        session.reset();
        if depth > 0 {
            evaluate(&mut session, &tokens[..depth], Logits::None)?;
        }
        let started = Instant::now();
        evaluate(&mut session, &tokens[..depth + prompt], Logits::Last)?;
        prefill.push(prompt as f64 * 1e3 / ms(started));
        // Back to the depth: each evaluation adds one token to it.
        let mut written = tokens[..depth + 1].to_vec();
        let started = Instant::now();
        for _ in 0..generated {
            let next = evaluate(&mut session, &written, Logits::Last)?;
            written.push(next);
        }
        decode.push(generated as f64 * 1e3 / ms(started));
    }
    let cases = cases.map(|cases| cases.iter().map(|case| run_case(&mut session, case)).collect()).transpose()?;
    let first_finding =
        args.findings.as_deref().map(|file| first_finding(&mut session, file, args.repeat)).transpose()?;
    let answer = Answer {
        kernel: session.kernel().name(),
        threads: session.threads(),
        adapter: session.adapter().is_some(),
        prefill_tokens_per_second: median(&mut prefill),
        decode_tokens_per_second: median(&mut decode),
        open_ms,
        first_token_ms,
        resident_bytes: resident_bytes(),
        model_bytes: model.file().len(),
        cases,
        first_finding,
    };
    if args.json { json(&answer) } else { line(&text(&answer, args)) }
}

/// Brings the session to hold `tokens`, with the adapter acting on all of them, if there is
/// one; the likeliest next token.
fn evaluate(session: &mut Session, tokens: &[u32], logits: Logits) -> Result<u32, Failure> {
    let adapted_from = if session.adapter().is_some() { 0 } else { NEVER };
    evaluate_from(session, tokens, adapted_from, logits)
}

fn evaluate_from(session: &mut Session, tokens: &[u32], adapted_from: usize, logits: Logits) -> Result<u32, Failure> {
    let mut next = 0;
    session
        .prefill_from(tokens, adapted_from, logits, &mut |_| Continue(()), &mut |_, logits| next = argmax(logits))?;
    Ok(next)
}

/// Text tokens in no order that the model could profit from, the same in every run.
fn arbitrary_tokens(model: &Model, count: usize) -> Vec<u32> {
    let tokenizer = model.tokenizer();
    let vocab = model.config().vocab_size as u64;
    let mut state = 1u64;
    let next = std::iter::repeat_with(|| {
        // Knuth's MMIX generator; its high bits are the good ones.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 33) % vocab) as u32
    });
    // A vocabulary of nothing but control tokens would leave none.
    let text: Vec<u32> = next.take(count * 8).filter(|&id| !tokenizer.is_control(id)).take(count).collect();
    if text.len() == count { text } else { vec![0; count] }
}

fn read_cases(path: &Path) -> Result<Vec<Case>, Failure> {
    let text = read_file(path)?;
    serde_json::from_str(&text).map_err(|error| Failure::file(path, format!("not a list of cases: {error}")))
}

/// The loop with both texts forced: each of their tokens is evaluated alone, as decoding does.
fn run_case(session: &mut Session, case: &Case) -> Result<CaseAnswer, Failure> {
    let model = session.model().clone();
    let request = Request {
        task: case.task.clone(),
        prompt: case.prompt.clone(),
        response: case.draft.clone(),
        ..Request::default()
    };
    let critique = Critique::given(&case.critique, &model);
    let before = critic::critique::conversation(&model, &request)?.tokens().to_vec();
    let with_critique = {
        let mut chat = critic::critique::conversation(&model, &request)?;
        chat.text(&case.critique);
        chat.tokens().to_vec()
    };
    let asked = critic::refine::conversation(&model, &request, &critique)?.tokens().to_vec();
    let whole = {
        let mut chat = critic::refine::conversation(&model, &request, &critique)?;
        chat.text(&case.refinement);
        chat.tokens().to_vec()
    };
    session.reset();
    let adapted_from = session.critique_adapted_from(&Context::new(&model, &request)?);
    let mut forced = |from: usize, tokens: &[u32], adapted_from: usize| {
        let started = Instant::now();
        for end in from + 1..=tokens.len() {
            evaluate_from(session, &tokens[..end], adapted_from, Logits::Last)?;
        }
        Ok::<_, Failure>(ms(started))
    };
    let started = Instant::now();
    // Reading ends where decoding begins.
    let read = forced(before.len() - 1, &before, adapted_from)?;
    let critique_ms = forced(before.len(), &with_critique, adapted_from)?;
    let instruction = forced(asked.len() - 1, &asked, NEVER)?;
    let refinement_ms = forced(asked.len(), &whole, NEVER)?;
    Ok(CaseAnswer {
        name: case.name.clone(),
        kind: case.kind.clone(),
        prompt_tokens: before.len() + asked.len() - with_critique.len(),
        critique_tokens: with_critique.len() - before.len(),
        refinement_tokens: whole.len() - asked.len(),
        prefill_ms: read + instruction,
        critique_ms,
        refinement_ms,
        ms: ms(started),
    })
}

pub fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The middle value; of an even number, the mean of the two in the middle.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

/// Memory of this process that is in RAM, mapped files included.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn text(answer: &Answer, args: &BenchArgs) -> String {
    let mut out = format!(
        "{} with {} threads{}, {} tokens in context\n\
         prefill      {:>9.1} tokens/s ({} tokens)\n\
         decode       {:>9.1} tokens/s ({} tokens)\n\
         open         {:>9.1} ms\n\
         first token  {:>9.1} ms\n",
        answer.kernel,
        answer.threads,
        if answer.adapter { " and an adapter" } else { "" },
        args.depth,
        answer.prefill_tokens_per_second,
        args.prompt_tokens,
        answer.decode_tokens_per_second,
        args.gen_tokens,
        answer.open_ms,
        answer.first_token_ms
    );
    if let Some(bytes) = answer.resident_bytes {
        out += &format!("resident     {:>9.1} MB\n", bytes as f64 / 1e6);
    }
    out += &format!("model        {:>9.1} MB", answer.model_bytes as f64 / 1e6);
    if let Some(times) = &answer.first_finding {
        out += &format!("\n{times}");
    }
    for case in answer.cases.iter().flatten() {
        let CaseAnswer { name, kind, prompt_tokens, critique_tokens, refinement_tokens, .. } = case;
        out += &format!(
            "\n{name} ({kind}): {:.0} ms = {:.0} to read {prompt_tokens} + {:.0} for a critique of {critique_tokens} \
             + {:.0} for a refinement of {refinement_tokens} tokens",
            case.ms, case.prefill_ms, case.critique_ms, case.refinement_ms
        );
    }
    out
}

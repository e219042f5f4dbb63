//! `critic bench`: the speed of this machine, at one model.

mod batches;
mod cases;
mod limits;

use std::ops::ControlFlow::Continue;
use std::time::Instant;

use critic::adapter::NEVER;
use critic::sampler::argmax;
use critic::transformer::Logits;
use critic::{Model, Precision, Session};
use serde::Serialize;

use crate::args::BenchArgs;
use crate::commands::first_finding::{FirstFinding, first_finding};
use crate::failure::Failure;
use crate::output::{json, line};
use batches::Batch;
use cases::CaseAnswer;
use limits::Limits;

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
    /// Those of them that are this process's alone: without the mapped model.
    private_bytes: Option<u64>,
    model_bytes: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    batches: Vec<Batch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limits: Option<Limits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cases: Option<Vec<CaseAnswer>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_finding: Option<FirstFinding>,
}

pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let cases = args.cases.as_deref().map(cases::read).transpose()?;
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
    let (resident_bytes, private_bytes) = (memory("VmRSS:"), memory("RssAnon:"));
    let batches = batches::measure(&model, &session, &tokens[..depth], &args.batch, args.repeat)?;
    let limits = args.limits.then(|| limits::measure(&mut session, args.repeat)).transpose()?;
    let cases = cases.map(|cases| cases::measure(&mut session, &cases, args.free, args.repeat)).transpose()?;
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
        resident_bytes,
        private_bytes,
        model_bytes: model.file().len(),
        batches,
        limits,
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

/// Milliseconds since `since`.
pub fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// The middle value; of an even number, the mean of the two in the middle.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 }
}

/// A figure of this process's memory that is in RAM, where the system gives it.
fn memory(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
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
    if let Some(bytes) = answer.private_bytes {
        out += &format!("private      {:>9.1} MB\n", bytes as f64 / 1e6);
    }
    out += &format!("model        {:>9.1} MB", answer.model_bytes as f64 / 1e6);
    if let Some(times) = &answer.first_finding {
        out += &format!("\n{times}");
    }
    for batch in &answer.batches {
        out += &format!(
            "\nbatch of {}: {:.2} ms as one text, {:.2} ms as so many texts",
            batch.tokens, batch.ms, batch.candidates_ms
        );
    }
    if let Some(limits) = &answer.limits {
        out += &format!(
            "\nreads        {:>9.1} GB/s: at most {:.1} tokens/s, of which decoding reaches {:.0} %, and products \
             alone {:.0} %",
            limits.read_bytes_per_second / 1e9,
            limits.decode_tokens_per_second,
            100.0 * limits.decode_share,
            100.0 * limits.products_share
        );
        if let (Some(answer), Some(region)) = (limits.answer_ns, limits.region_ns) {
            out += &format!(
                "\nthreads      {answer:>9.0} ns from asking another one to its answer, {region:.0} ns to share out jobs"
            );
        }
    }
    for case in answer.cases.iter().flatten() {
        out += &format!("\n{case}");
    }
    out
}

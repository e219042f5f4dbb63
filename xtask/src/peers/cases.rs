//! The loop on given cases: `critic bench --cases` against two calls of llama-server.
//!
//! Both sides write the given texts. llama-server gets its prompt cache, and for each text the
//! faster of plain decoding and its n-gram speculation. Plain decoding is what so many tokens
//! take it when it writes freely. Under speculation the text is forced by a grammar; what the
//! grammar costs without speculation, compared with free writing, is taken off again.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use super::server::Server;
use super::{CASES, Sides, critic_json, median};

/// Lengths of the n-gram that is looked up, and of the guess: the default, and shorter ones.
pub const SPECULATION: [[&str; 2]; 3] = [["12", "48"], ["4", "16"], ["3", "8"]];

/// Its options for one of these.
pub fn speculation([n, m]: [&str; 2]) -> [&str; 6] {
    ["--spec-type", "ngram-simple", "--spec-ngram-simple-size-n", n, "--spec-ngram-simple-size-m", m]
}

/// Milliseconds of one case.
struct Times {
    ours: Vec<f64>,
    gated: Vec<f64>,
    theirs: Vec<f64>,
}

pub fn run(sides: &Sides) -> Result<String, String> {
    let &Sides { ref program, ref gguf, ref ours, threads, repeat } = sides;
    let texts: Value = std::fs::read(CASES)
        .map_err(|error| error.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
        .map_err(|error| format!("{CASES}: {error}"))?;
    let mut times: BTreeMap<String, (String, Times)> = BTreeMap::new();
    let mut best = 0;
    for round in 0..repeat {
        eprintln!("cases, round {} of {repeat}", round + 1);
        let answer = loop_json(ours, threads, &[])?;
        let cases = answer["cases"].as_array().ok_or("bench gives no cases")?;
        let plain: Vec<Plain> = {
            let server = Server::start(program, gguf, threads, &[])?;
            cases
                .iter()
                .zip(texts.as_array().ok_or("not a list of cases")?)
                .map(|(case, text)| plain(&server, case, text))
                .collect::<Result<_, _>>()?
        };
        // The first round finds the setting that serves it best.
        let settings = if round == 0 { 0..SPECULATION.len() } else { best..best + 1 };
        let mut fastest: Option<(f64, Vec<f64>)> = None;
        for setting in settings {
            let server = Server::start(program, gguf, threads, &speculation(SPECULATION[setting]))?;
            let written: Vec<f64> =
                plain.iter().map(|plain| plain.with_speculation(&server)).collect::<Result<_, _>>()?;
            let total = written.iter().sum();
            if fastest.as_ref().is_none_or(|(least, _)| total < *least) {
                (fastest, best) = (Some((total, written)), setting);
            }
        }
        let written = fastest.map(|(_, written)| written).unwrap_or_default();
        for ((case, plain), written) in cases.iter().zip(&plain).zip(written) {
            let text = |key: &str| case[key].as_str().unwrap_or("?").to_owned();
            let empty = || (text("kind"), Times { ours: Vec::new(), gated: Vec::new(), theirs: Vec::new() });
            let (_, times) = times.entry(text("name")).or_insert_with(empty);
            times.ours.push(number(case, "ms")?);
            times.gated.push(number(case, "gated_ms")?);
            times.theirs.push(plain.before + written);
        }
    }
    Ok(table(&mut times, SPECULATION[best], repeat))
}

/// What `critic bench` says of the cases.
pub fn loop_json(model: &Path, threads: usize, more: &[&str]) -> Result<Value, String> {
    critic_json(model, threads, &[&["--prompt-tokens", "16", "--gen-tokens", "1", "--cases", CASES], more].concat())
}

/// What the server does without speculation.
struct Plain {
    /// Milliseconds up to where the refinement begins.
    before: f64,
    /// Of the refinement, written freely.
    free: f64,
    /// Of each token, what a grammar adds.
    grammar: f64,
    prompt: Vec<u64>,
    tokens: usize,
    refinement: String,
}

fn plain(server: &Server, case: &Value, text: &Value) -> Result<Plain, String> {
    let (asked, prompt) = (list(case, "critique_prompt")?, list(case, "refinement_prompt")?);
    let (critique, tokens) = (number(case, "critique_tokens")? as usize, number(case, "refinement_tokens")? as usize);
    // Each text has a token that ends it.
    let first = server.goes_on(&asked, critique + 1, None)?;
    // The critique as it is given, so that only what follows it is read by the second call.
    server.goes_on(&prompt[..asked.len() + critique], 1, None)?;
    let second = server.goes_on(&prompt, tokens + 1, None)?;
    let refinement = text["refinement"].as_str().unwrap_or_default().to_owned();
    let forced = server.goes_on(&prompt, tokens, Some(&refinement))?;
    let rate = second.written_ms / second.written_tokens;
    Ok(Plain {
        before: first.prompt_ms + first.written_ms + second.prompt_ms,
        free: second.written_ms,
        grammar: (forced.written_ms / forced.written_tokens - rate).max(0.0),
        prompt,
        tokens,
        refinement,
    })
}

impl Plain {
    /// Milliseconds for the refinement, with speculation where that is faster.
    fn with_speculation(&self, server: &Server) -> Result<f64, String> {
        server.goes_on(&self.prompt, 1, None)?;
        let forced = server.goes_on(&self.prompt, self.tokens, Some(&self.refinement))?;
        // A grammar may write the same text in other, and more, tokens than the tokenizer does.
        let canonical = (self.tokens + 1) as f64 / forced.written_tokens;
        let speculated = (forced.written_ms - self.grammar * forced.written_tokens) * canonical.min(1.0);
        Ok(self.free.min(speculated.max(0.0)))
    }
}

/// A list of tokens.
pub fn list(case: &Value, key: &str) -> Result<Vec<u64>, String> {
    let tokens = case[key].as_array().ok_or_else(|| format!("bench gives no {key}"))?;
    Ok(tokens.iter().filter_map(Value::as_u64).collect())
}

pub fn number(case: &Value, key: &str) -> Result<f64, String> {
    case[key].as_f64().ok_or_else(|| format!("bench gives no {key}"))
}

fn table(times: &mut BTreeMap<String, (String, Times)>, [n, m]: [&str; 2], repeat: usize) -> String {
    let mut out = format!(
        "Milliseconds of the whole loop, medians of {repeat} rounds; llama-server with its prompt cache and, where it \
         helps, `--spec-type ngram-simple` with n-grams of {n} and guesses of {m} tokens.\n\n\
         | case | kind | critic | llama-server | ratio | critic with the gate | ratio |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: |\n"
    );
    let mut kinds: BTreeMap<String, Vec<[f64; 2]>> = BTreeMap::new();
    for (name, (kind, times)) in times.iter_mut() {
        let (ours, gated, theirs) = (median(&mut times.ours), median(&mut times.gated), median(&mut times.theirs));
        let ratios = [theirs / ours, theirs / gated];
        kinds.entry(kind.clone()).or_default().push(ratios);
        let _ = writeln!(
            out,
            "| {name} | {kind} | {ours:.0} | {theirs:.0} | {:.2} | {gated:.0} | {:.2} |",
            ratios[0], ratios[1]
        );
    }
    for (kind, ratios) in &mut kinds {
        let [mut plain, mut gated] = [0, 1].map(|i| ratios.iter().map(|r| r[i]).collect::<Vec<_>>());
        let _ = writeln!(
            out,
            "| median of {} | {kind} | | | **{:.2}** | | **{:.2}** |",
            ratios.len(),
            median(&mut plain),
            median(&mut gated)
        );
    }
    out
}

//! The loop in free writing: `critic bench --cases --free` against two calls of llama-server.
//!
//! Both write greedily with the same model, up to the same number of tokens, and each goes on from its own critique.
//! Their arithmetic differs in the last bits, and so, after a while, may their texts: the table has what each wrote.

use std::path::Path;

use serde_json::Value;

use super::cases::{SPECULATION, list, number, speculation};
use super::server::Server;
use super::{critic_json, median};

/// Most tokens of each text.
const MOST: usize = 160;

/// What one side did with a case, in all rounds.
#[derive(Default)]
struct Side {
    ms: Vec<f64>,
    tokens: usize,
    texts: [String; 2],
}

pub fn run(
    program: &Path,
    gguf: &Path,
    model: &Path,
    file: &Path,
    threads: usize,
    repeat: usize,
) -> Result<String, String> {
    let most = MOST.to_string();
    // Without speculation, or with one of its settings: whatever serves it best in the first round.
    let settings: Vec<Option<[&str; 2]>> = std::iter::once(None).chain(SPECULATION.map(Some)).collect();
    let mut best = 0;
    let mut rows: Vec<(String, String, [Side; 2])> = Vec::new();
    for round in 0..repeat {
        eprintln!("free writing, round {} of {repeat}", round + 1);
        let file = file.to_string_lossy();
        let arguments = ["--prompt-tokens", "16", "--gen-tokens", "1", "--cases", &file, "--free", &most];
        let ours = critic_json(model, threads, &arguments)?;
        let cases = ours["cases"].as_array().ok_or("bench gives no cases")?;
        let tried = if round == 0 { 0..settings.len() } else { best..best + 1 };
        let mut fastest: Option<Vec<(f64, usize, [String; 2])>> = None;
        for setting in tried {
            let flags = settings[setting].map(speculation);
            let server = Server::start(program, gguf, threads, flags.as_ref().map_or(&[], |flags| &flags[..]))?;
            let done: Vec<_> = cases.iter().map(|case| theirs(&server, case)).collect::<Result<_, _>>()?;
            let total = |done: &[(f64, usize, [String; 2])]| done.iter().map(|(ms, ..)| ms).sum::<f64>();
            if fastest.as_ref().is_none_or(|before| total(&done) < total(before)) {
                (fastest, best) = (Some(done), setting);
            }
        }
        if rows.is_empty() {
            let text = |case: &Value, key: &str| case[key].as_str().unwrap_or("?").to_owned();
            rows = cases.iter().map(|case| (text(case, "name"), text(case, "kind"), Default::default())).collect();
        }
        for (((.., sides), case), done) in rows.iter_mut().zip(cases).zip(fastest.unwrap_or_default()) {
            let text = |key: &str| case[key].as_str().unwrap_or("?").trim().to_owned();
            sides[0].ms.push(number(case, "ms")?);
            sides[0].tokens = (number(case, "critique_tokens")? + number(case, "refinement_tokens")?) as usize;
            sides[0].texts = [text("critique"), text("refinement")];
            sides[1].ms.push(done.0);
            (sides[1].tokens, sides[1].texts) = (done.1, done.2);
        }
    }
    Ok(table(&mut rows, settings[best], repeat))
}

/// Two calls: milliseconds, tokens written, and the texts.
fn theirs(server: &Server, case: &Value) -> Result<(f64, usize, [String; 2]), String> {
    let (asked, prompt) = (list(case, "critique_prompt")?, list(case, "refinement_prompt")?);
    let after = &prompt[prompt.len() - number(case, "after_critique")? as usize..];
    let (first, critique, written) = server.writes(&asked, MOST)?;
    let (second, refinement, also) = server.writes(&[&asked[..], &written, after].concat(), MOST)?;
    let ms = [first, second].map(|timing| timing.prompt_ms + timing.written_ms).iter().sum();
    // As on our side: without the tokens that end a text.
    Ok((ms, written.len() + also.len(), [critique.trim().to_owned(), refinement.trim().to_owned()]))
}

fn table(rows: &mut [(String, String, [Side; 2])], speculation: Option<[&str; 2]>, repeat: usize) -> String {
    let how = speculation.map_or("without speculation, which did not serve it".to_owned(), |[n, m]| {
        format!("with `--spec-type ngram-simple`, n-grams of {n} and guesses of {m} tokens")
    });
    let mut out = format!(
        "Milliseconds of the whole loop, medians of {repeat} rounds, both writing what they like, greedily, up to {MOST} \
         tokens a text; llama-server with its prompt cache, {how}. The last column is the ratio of the times for one token \
         written.\n\n\
         | case | kind | critic | tokens | llama-server | tokens | ratio | for a token |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
    );
    let (mut ratios, mut by_token, mut same) = (Vec::new(), Vec::new(), 0);
    for (name, kind, [ours, theirs]) in rows.iter_mut() {
        let (ms, their_ms) = (median(&mut ours.ms), median(&mut theirs.ms));
        let ratio = their_ms / ms;
        let each = ratio * ours.tokens as f64 / theirs.tokens as f64;
        ratios.push(ratio);
        by_token.push(each);
        same += ours.texts.iter().zip(&theirs.texts).filter(|(a, b)| a == b).count();
        out += &format!(
            "| {name} | {kind} | {ms:.0} | {} | {their_ms:.0} | {} | {ratio:.2} | {each:.2} |\n",
            ours.tokens, theirs.tokens
        );
    }
    let texts = 2 * ratios.len();
    out += &format!(
        "| median of {} | | | | | | **{:.2}** | **{:.2}** |\n\nOf {texts} texts, {same} are the same on both sides.\n\n",
        ratios.len(),
        median(&mut ratios),
        median(&mut by_token)
    );
    out
}

//! The loop in free writing: `critic bench --cases --free` against two calls of llama-server.
//!
//! Both write greedily with the same model, up to the same number of tokens, and each goes on from its own critique.
//! Their arithmetic differs in the last bits, and so, after a while, may their texts: the table has what each wrote.

use serde_json::Value;

use super::cases::{SPECULATION, list, loop_json, number, speculation};
use super::server::Server;
use super::{Sides, median};

/// Most tokens of each text.
const MOST: usize = 160;

/// A case's loop, once.
#[derive(Clone, Default)]
struct Loop {
    ms: f64,
    /// Of both texts, without the tokens that end them.
    tokens: usize,
    texts: [String; 2],
}

/// One case on both sides.
struct Row {
    name: String,
    kind: String,
    /// Milliseconds, by round.
    ms: [Vec<f64>; 2],
    /// The last round's.
    last: [Loop; 2],
}

pub fn run(sides: &Sides) -> Result<String, String> {
    let &Sides { ref program, ref gguf, ref ours, threads, repeat } = sides;
    // Without speculation, or with one of its settings: whatever serves it best in the first round.
    let settings: Vec<Option<[&str; 2]>> = std::iter::once(None).chain(SPECULATION.map(Some)).collect();
    let mut best = 0;
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..repeat {
        eprintln!("free writing, round {} of {repeat}", round + 1);
        let answer = loop_json(ours, threads, &["--free", &MOST.to_string()])?;
        let cases = answer["cases"].as_array().ok_or("bench gives no cases")?;
        let tried = if round == 0 { 0..settings.len() } else { best..best + 1 };
        let mut fastest: Option<Vec<Loop>> = None;
        for setting in tried {
            let flags = settings[setting].map(speculation);
            let server = Server::start(program, gguf, threads, flags.as_ref().map_or(&[], |flags| &flags[..]))?;
            let done: Vec<_> = cases.iter().map(|case| theirs(&server, case)).collect::<Result<_, _>>()?;
            let total = |done: &[Loop]| done.iter().map(|one| one.ms).sum::<f64>();
            if fastest.as_ref().is_none_or(|before| total(&done) < total(before)) {
                (fastest, best) = (Some(done), setting);
            }
        }
        if rows.is_empty() {
            let text = |case: &Value, key: &str| case[key].as_str().unwrap_or("?").to_owned();
            let row = |case| Row {
                name: text(case, "name"),
                kind: text(case, "kind"),
                ms: Default::default(),
                last: Default::default(),
            };
            rows = cases.iter().map(row).collect();
        }
        for ((row, case), theirs) in rows.iter_mut().zip(cases).zip(fastest.unwrap_or_default()) {
            row.last = [own(case)?, theirs];
            row.ms.iter_mut().zip(&row.last).for_each(|(ms, one)| ms.push(one.ms));
        }
    }
    Ok(table(&mut rows, settings[best], repeat))
}

/// Our side, as `critic bench` gives it.
fn own(case: &Value) -> Result<Loop, String> {
    let text = |key: &str| case[key].as_str().unwrap_or("?").trim().to_owned();
    let tokens = (number(case, "critique_tokens")? + number(case, "refinement_tokens")?) as usize;
    Ok(Loop { ms: number(case, "ms")?, tokens, texts: [text("critique"), text("refinement")] })
}

/// Two calls of the server.
fn theirs(server: &Server, case: &Value) -> Result<Loop, String> {
    let (asked, prompt) = (list(case, "critique_prompt")?, list(case, "refinement_prompt")?);
    let after = &prompt[prompt.len() - number(case, "after_critique")? as usize..];
    let (first, critique, written) = server.writes(&asked, MOST)?;
    let (second, refinement, also) = server.writes(&[&asked[..], &written, after].concat(), MOST)?;
    Ok(Loop {
        ms: [first, second].map(|timing| timing.prompt_ms + timing.written_ms).iter().sum(),
        tokens: written.len() + also.len(),
        texts: [critique.trim().to_owned(), refinement.trim().to_owned()],
    })
}

fn table(rows: &mut [Row], speculation: Option<[&str; 2]>, repeat: usize) -> String {
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
    for Row { name, kind, ms, last: [ours, theirs] } in rows.iter_mut() {
        let [ms, their_ms] = ms.each_mut().map(|values| median(values));
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

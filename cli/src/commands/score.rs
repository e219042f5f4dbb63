//! `critic score`

use std::fmt::Write;

use critic::Precision;
use serde::Serialize;

use crate::args::ScoreArgs;
use crate::failure::Failure;
use crate::output::{Stream, To, json, line};

#[derive(Serialize)]
struct Answer {
    /// The beginning-of-sequence token included, where the model asks for one.
    tokens: Vec<u32>,
    /// Natural; one fewer than tokens, because nothing predicts the first.
    logprobs: Vec<f64>,
    /// Null where there is no prediction.
    perplexity: Option<f64>,
}

pub fn run(args: &ScoreArgs) -> Result<(), Failure> {
    let text = args.text.read()?;
    let model = args.text.model.open()?;
    let precision = if args.exact { Precision::Exact } else { Precision::Fast };
    let mut session = args.text.model.session(&model, precision)?;
    let tokens = session.tokenize(&text, args.text.special());
    let mut stream = Stream::new(true);
    let result = session.score(&tokens, &mut |progress| stream.show(progress, To::Stderr));
    let logprobs = stream.finish(result)?;
    let mean = logprobs.iter().sum::<f64>() / logprobs.len() as f64;
    let perplexity = (!logprobs.is_empty()).then(|| (-mean).exp());
    if args.text.json {
        return json(&Answer { tokens, logprobs, perplexity });
    }
    let mut out = String::new();
    let tokenizer = model.tokenizer();
    for (at, &token) in tokens.iter().enumerate() {
        let logprob = at.checked_sub(1).map_or("-".to_owned(), |at| format!("{:.4}", logprobs[at]));
        let piece = String::from_utf8_lossy(tokenizer.piece(token));
        _ = writeln!(out, "{logprob:>10} {token:>7} {piece:?}");
    }
    let perplexity = perplexity.map_or("-".to_owned(), |perplexity| format!("{perplexity:.4}"));
    _ = write!(out, "perplexity {perplexity}");
    line(&out)
}

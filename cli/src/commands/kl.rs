//! `critic kl`

use critic::Precision;
use critic::divergence::divergence;
use critic::tokenizer::Special;
use serde::Serialize;

use crate::args::KlArgs;
use crate::failure::Failure;
use crate::output::{Stream, To, json, line};
use crate::text::read_file;

#[derive(Serialize)]
struct Answer {
    mean_kl: f64,
    same_top: f64,
    tokens: usize,
}

pub fn run(args: &KlArgs) -> Result<(), Failure> {
    let text = read_file(&args.text_file)?;
    let model = args.model.open()?;
    let mut fast = args.model.session_without_interrupt(&model, Precision::Fast)?;
    // The slow one is where Ctrl-C finds it nearly always.
    let mut exact = args.model.session(&model, Precision::Exact)?;
    let tokens = exact.tokenize(&text, Special::Text);
    let mut stream = Stream::new(true);
    let result = divergence(&mut exact, &mut fast, &tokens, args.chunk as usize, &mut |p| stream.show(p, To::Stderr));
    let found = stream.finish(result)?;
    if args.json {
        return json(&Answer { mean_kl: found.mean_kl, same_top: found.same_top, tokens: found.tokens });
    }
    line(&format!(
        "mean KL divergence  {:.6}\nsame top token      {:.2} %\nperplexity ratio    {:.4}\ntokens compared     {}",
        found.mean_kl,
        found.same_top * 100.0,
        found.perplexity_ratio,
        found.tokens
    ))
}

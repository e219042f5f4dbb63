//! `critic tokenize`

use critic::tokenizer::Special;
use serde::Serialize;

use crate::args::{TextArgs, TokenizeArgs};
use crate::failure::Failure;
use crate::output::{json, line};

#[derive(Serialize)]
struct Answer {
    tokens: Vec<u32>,
}

pub fn run(args: &TokenizeArgs) -> Result<(), Failure> {
    let TextArgs { model, json: as_json, .. } = &args.text;
    let text = args.text.read()?;
    let model = model.open()?;
    let tokens = tokens(model.tokenizer(), &text, args.text.special());
    if *as_json {
        return json(&Answer { tokens });
    }
    let ids: Vec<_> = tokens.iter().map(u32::to_string).collect();
    line(&ids.join(" "))
}

/// As [`critic::Session::tokenize`], without the threads of a session.
fn tokens(tokenizer: &critic::tokenizer::Tokenizer, text: &str, special: Special) -> Vec<u32> {
    let mut tokens: Vec<u32> = tokenizer.add_bos().into_iter().collect();
    tokenizer.encode_into(text, special, true, &mut tokens);
    tokens
}

//! Tokenizers of foreign formats, to and from the runtime's [`Vocabulary`].
//!
//! Rules are recognised by their structure and by the published regular expressions; what is
//! not known exactly is refused, as a tokenizer that is nearly right spoils a model silently.

mod gguf;
mod json;
mod spelling;

pub use gguf::{GgufTokenizer, from_gguf, to_gguf};
pub use json::from_tokenizer_json;

use critic::Error;
use critic::tokenizer::{TokenKind, Vocabulary};

/// Names that end an answer or a turn in the families that are known, whatever the
/// configuration says.
const END_NAMES: [&str; 9] = [
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
];

fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::Unsupported(format!("unsupported tokenizer: {what}"))
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::Corrupt(format!("tokenizer: {what}"))
}

/// The end tokens: `first` as given, then those named and those known by name, by id.
fn ends(vocabulary: &Vocabulary, first: Option<u32>, named: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let known = vocabulary.added.iter().filter(|token| {
        vocabulary.kinds.get(token.id as usize) == Some(&TokenKind::Control) && END_NAMES.contains(&token.text.as_str())
    });
    let mut rest: Vec<u32> = named.into_iter().chain(known.map(|token| token.id)).collect();
    rest.sort_unstable();
    rest.dedup();
    rest.retain(|&id| Some(id) != first);
    first.into_iter().chain(rest).collect()
}

//! Groups as tokens: exactly those that the runtime scores a critique by.

use std::path::Path;

use critic::critique::{Context, Request};
use critic::model::Model;

use super::read::ScoredDraft;
use crate::error::{Error, Result};

/// The critiques of one draft, as tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedGroup {
    /// Name of the draft.
    pub id: String,
    /// What comes before the critique instruction.
    pub prefix: Vec<u32>,
    /// The critique instruction, the markup of its turn included: an activated adapter acts from
    /// its first token on.
    pub instruction: Vec<u32>,
    /// The critiques, each with its end token.
    pub critiques: Vec<Vec<u32>>,
    /// The critique that says *keep*, with its end token.
    pub keep: Vec<u32>,
    /// CU of each critique.
    pub utilities: Vec<f64>,
    /// Share of judgements in favour of each critique itself, where they were judged.
    pub preferred: Option<Vec<f64>>,
}

impl EncodedGroup {
    /// The tokens of `draft` for `model`. Errors call the data `file`.
    pub fn new(model: &Model, draft: &ScoredDraft, file: &Path) -> Result<Self> {
        let request = Request {
            task: draft.task.clone(),
            prompt: draft.prompt.clone(),
            response: draft.response.clone(),
            ..Request::default()
        };
        let fault = |field: &str, why: String| Error::Data {
            file: file.to_owned(),
            line: draft.line,
            field: field.to_owned(),
            why,
        };
        let context = Context::new(model, &request).map_err(|error| match error {
            // Of the request's fields the task alone can be invalid.
            critic::Error::InvalidArgument(why) => fault("task", why),
            other => other.into(),
        })?;
        let prefix = context.tokens[..context.invocation].to_vec();
        let instruction = context.tokens[context.invocation..].to_vec();
        if instruction.is_empty() {
            return Err(fault("task", "the model's prompts say nothing before a critique".into()));
        }
        let critiques: Vec<Vec<u32>> = draft.critiques.iter().map(|c| context.target(model, &c.text)).collect();
        if let Some(at) = critiques.iter().position(Vec::is_empty) {
            let why = "no tokens: the text is empty, and the model has no token that ends it";
            return Err(fault(&format!("critiques[{at}].text"), why.into()));
        }
        Ok(Self {
            id: draft.id.clone(),
            prefix,
            instruction,
            critiques,
            keep: context.target(model, &model.prompts().keep),
            utilities: draft.critiques.iter().map(|critique| critique.cu).collect(),
            preferred: draft.critiques.iter().map(|critique| critique.preferred).collect(),
        })
    }

    /// Tokens of the context and the longest critique, *keep* included.
    pub fn longest(&self) -> usize {
        let target = self.critiques.iter().chain([&self.keep]).map(Vec::len).max().unwrap_or(0);
        self.prefix.len() + self.instruction.len() + target
    }

    /// Tokens that a step over the group computes: the context once, and every critique.
    pub fn tokens(&self) -> usize {
        self.prefix.len() + self.instruction.len() + self.critiques.iter().map(Vec::len).sum::<usize>()
    }

    /// Whether all critiques have the same utility, so that none is better than another.
    pub fn is_flat(&self) -> bool {
        self.utilities.windows(2).all(|pair| pair[0] == pair[1])
    }
}

/// Which groups are kept.
#[derive(Clone, Copy, Debug)]
pub struct EncodeOptions {
    /// Most tokens of a context with its longest critique.
    pub max_tokens: usize,
    /// Whether groups whose critiques all have the same utility stay: they pull the critic back
    /// to the reference, and nowhere else.
    pub keep_flat: bool,
}

/// The groups that are kept, and the names of those that are not.
#[derive(Clone, Debug, Default)]
pub struct Encoded {
    /// In the order of the data.
    pub groups: Vec<EncodedGroup>,
    /// Ids of groups with more than `max_tokens` tokens, and how many they have.
    pub too_long: Vec<(String, usize)>,
    /// Ids of groups that were left out because all their utilities are equal.
    pub flat: Vec<String>,
}

impl Encoded {
    /// Sorts `group` in. Nothing is ever cut to fit: a critique without its end, or a draft
    /// without its middle, would be another example than the one that was scored.
    pub fn add(&mut self, group: EncodedGroup, options: &EncodeOptions) {
        if group.longest() > options.max_tokens {
            self.too_long.push((group.id.clone(), group.longest()));
        } else if group.is_flat() && !options.keep_flat {
            self.flat.push(group.id);
        } else {
            self.groups.push(group);
        }
    }

    /// Groups that were left out, whatever the reason.
    pub fn dropped(&self) -> usize {
        self.too_long.len() + self.flat.len()
    }
}

/// Turns all `drafts` into tokens. Errors call the data `file`.
pub fn encode(
    model: &Model,
    drafts: impl IntoIterator<Item = Result<ScoredDraft>>,
    file: &Path,
    options: &EncodeOptions,
) -> Result<Encoded> {
    let mut encoded = Encoded::default();
    for draft in drafts {
        encoded.add(EncodedGroup::new(model, &draft?, file)?, options);
    }
    Ok(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(id: &str, prefix: usize, critiques: &[usize], utilities: &[f64]) -> EncodedGroup {
        EncodedGroup {
            id: id.into(),
            prefix: vec![1; prefix],
            instruction: vec![2; 3],
            critiques: critiques.iter().map(|&len| vec![3; len]).collect(),
            keep: vec![4; 2],
            utilities: utilities.to_vec(),
            preferred: None,
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_named() {
        let fits = group("fits", 5, &[4, 2], &[1.0, 0.0]);
        assert_eq!((fits.longest(), fits.tokens()), (12, 14));
        let options = EncodeOptions { max_tokens: 12, keep_flat: false };
        let mut encoded = Encoded::default();
        for group in [fits, group("long", 5, &[5], &[1.0]), group("flat", 1, &[2, 2], &[0.5, 0.5])] {
            encoded.add(group, &options);
        }
        assert_eq!(encoded.groups.len(), 1);
        assert_eq!(encoded.groups[0].critiques[0].len(), 4, "nothing is cut");
        assert_eq!(encoded.too_long, [("long".to_owned(), 13)]);
        assert_eq!(encoded.flat, ["flat"]);
        assert_eq!(encoded.dropped(), 2);
        let mut kept = Encoded::default();
        kept.add(group("flat", 1, &[2, 2], &[0.5, 0.5]), &EncodeOptions { keep_flat: true, ..options });
        assert_eq!(kept.groups.len(), 1);
    }
}

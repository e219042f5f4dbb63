//! Text to tokens and back, as each model's own tokenizer does it.
//!
//! Data passes: added tokens are cut out ([`added`]), the rest is normalized
//! ([`normalize`]), split into words ([`pretokenize`]), and each word becomes tokens
//! ([`bpe`], [`unigram`]). The tables lie in the model file and are used in place
//! ([`tables`], [`hash`]): opening a tokenizer of 256,000 tokens allocates nothing in
//! proportion to them.
//!
//! Text is data: under [`Special::Text`] nothing that it contains becomes a control token.
//!
//! Time is linear in the text, up to the logarithm of one word's length. Not here: foreign
//! formats (the import crate fills a [`Vocabulary`]) and chat templates.

mod added;
mod bpe;
mod decode;
mod hash;
mod normalize;
mod pretokenize;
mod spec;
mod tables;
mod unigram;
mod vocabulary;

pub use decode::Detokenizer;
pub use spec::{Algorithm, Prefix, Special, Splitter, TokenKind, TokenizerSpec};
pub use vocabulary::{AddedToken, TokenizerTables, Vocabulary};

use added::{Added, LSTRIP, NORMALIZED, Pass, RSTRIP, Segment};
use bpe::Bpe;
use tables::Tables;
use unigram::Unigram;

use crate::error::Result;
use crate::file::ModelFile;

/// A model's tokenizer, shared by all threads.
pub struct Tokenizer {
    spec: TokenizerSpec,
    tables: Tables,
    added: Added,
}

impl Tokenizer {
    /// Opens the tokenizer of a model file.
    pub fn open(file: &ModelFile) -> Result<Self> {
        let spec = file.tokenizer()?;
        let tables = Tables::open(file, &spec)?;
        let added = Added::open(file, &spec, &tables)?;
        Ok(Self { spec, tables, added })
    }

    /// Algorithm and rules.
    pub fn spec(&self) -> &TokenizerSpec {
        &self.spec
    }

    /// Number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.tables.vocab()
    }

    /// The tokens of `text`, which is the start of the input. No beginning-of-sequence token is
    /// added: see [`Tokenizer::add_bos`].
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        let mut tokens = Vec::new();
        self.encode_into(text, special, true, &mut tokens);
        tokens
    }

    /// Appends the tokens of `text` to `tokens`.
    ///
    /// `at_start` says whether a model that puts a space before text does so here: at the start
    /// of the input, and after a control token where [`Tokenizer::prefixes_after_control`].
    ///
    /// Under [`Special::Text`] no token is one for which [`Tokenizer::is_control`] holds,
    /// whatever `text` contains, except the unknown token, for characters that the model has no
    /// tokens for.
    pub fn encode_into(&self, text: &str, special: Special, at_start: bool, tokens: &mut Vec<u32>) {
        let mut encoder = Encoder::new(&self.spec, &self.tables);
        let mut start = true;
        self.added.split(Pass::Raw, text, special, &self.tables, |segment| {
            let first = std::mem::replace(&mut start, false);
            match segment {
                Segment::Token(id) => tokens.push(id),
                Segment::Text(text) => self.encode_segment(text, special, first, at_start, &mut encoder, tokens),
            }
        });
    }

    /// Encodes what lies between two added tokens of the raw text. `first`: none is before it.
    fn encode_segment(
        &self,
        text: &str,
        special: Special,
        first: bool,
        at_start: bool,
        encoder: &mut Encoder<'_>,
        tokens: &mut Vec<u32>,
    ) {
        let spaced = !first || at_start;
        let text = normalize::normalize(&self.spec, text, self.spec.prefix == Prefix::Always && spaced);
        let mut start = first;
        self.added.split(Pass::Normalized, &text, special, &self.tables, |segment| {
            let first = std::mem::replace(&mut start, false);
            let text = match segment {
                Segment::Token(id) => return tokens.push(id),
                Segment::Text(text) => text,
            };
            let prefixed = match self.spec.prefix {
                Prefix::None | Prefix::Always => false,
                Prefix::First => first && at_start,
                Prefix::Missing => !first || at_start,
            };
            if prefixed && !text.starts_with(' ') {
                encoder.encode(&normalize::prefix(text), tokens);
            } else {
                encoder.encode(text, tokens);
            }
        });
    }

    /// Whether a model that puts a space before text does so after a control token, too.
    pub fn prefixes_after_control(&self) -> bool {
        matches!(self.spec.prefix, Prefix::Missing | Prefix::Always)
    }

    /// The token that every prompt begins with, where the model asks for one.
    pub fn add_bos(&self) -> Option<u32> {
        self.spec.bos.filter(|_| self.spec.add_bos)
    }

    /// Whether `id` ends an answer.
    pub fn is_end(&self, id: u32) -> bool {
        self.spec.ends.contains(&id)
    }

    /// All tokens that end an answer.
    pub fn end_ids(&self) -> &[u32] {
        &self.spec.ends
    }

    /// Whether `id` stands outside the text: control tokens, the unknown token, and ids that
    /// do not exist.
    pub fn is_control(&self, id: u32) -> bool {
        self.tables.kind(id).is_none_or(TokenKind::is_control)
    }

    /// What `id` is.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.tables.kind(id)
    }

    /// The bytes that `id` adds to the text, or a control token's name. Empty for an id out of
    /// range.
    pub fn piece(&self, id: u32) -> &[u8] {
        self.tables.piece(id)
    }

    /// The control token named `text`.
    pub fn control_id(&self, text: &str) -> Option<u32> {
        self.added.find(text).filter(|&id| self.is_control(id))
    }

    /// The text of `ids`. Control tokens show as nothing, and what is no UTF-8 as U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.stream();
        let mut text = String::new();
        for &id in ids {
            text.push_str(stream.push(id));
        }
        text.push_str(stream.flush());
        text
    }

    /// Decodes tokens as they come. All that it returns together is what
    /// [`Tokenizer::decode`] gives.
    pub fn stream(&self) -> Detokenizer<'_> {
        Detokenizer::new(self)
    }

    /// The tokenizer as plain data, for export. Building it again gives the same tables.
    pub fn vocabulary(&self) -> Vocabulary {
        let ids = 0..self.vocab_size() as u32;
        let pieces = ids.clone().map(|id| self.piece(id).to_vec()).collect();
        let kinds = ids.map(|id| self.tables.kind(id).unwrap_or(TokenKind::Unused)).collect();
        let merges = match self.spec.algorithm {
            Algorithm::Bpe => self.tables.merges(),
            // Derived from the scores.
            Algorithm::BpeScores | Algorithm::Unigram => Vec::new(),
        };
        let added = self.added.entries().map(|entry| {
            let normalized = entry.flags & NORMALIZED != 0;
            let text = String::from_utf8_lossy(entry.text);
            let text = match text.strip_prefix(' ') {
                // Building normalizes again, which puts the space back.
                Some(bare) if normalized && self.spec.prefix == Prefix::Always => bare.to_owned(),
                _ => text.into_owned(),
            };
            let (lstrip, rstrip) = (entry.flags & LSTRIP != 0, entry.flags & RSTRIP != 0);
            AddedToken { text, id: entry.id, lstrip, rstrip, normalized }
        });
        Vocabulary {
            spec: self.spec.clone(),
            pieces,
            kinds,
            scores: self.tables.scores().to_vec(),
            merges,
            added: added.collect(),
        }
    }
}

/// Words to tokens, with the buffers of one call.
struct Encoder<'a> {
    spec: &'a TokenizerSpec,
    tables: &'a Tables,
    model: Model,
}

enum Model {
    Bpe(Bpe),
    Unigram(Unigram),
}

impl<'a> Encoder<'a> {
    fn new(spec: &'a TokenizerSpec, tables: &'a Tables) -> Self {
        let model = match spec.algorithm {
            Algorithm::Bpe | Algorithm::BpeScores => Model::Bpe(Bpe::default()),
            Algorithm::Unigram => Model::Unigram(Unigram::new(tables)),
        };
        Self { spec, tables, model }
    }

    fn encode(&mut self, text: &str, tokens: &mut Vec<u32>) {
        pretokenize::split(self.spec.splitter, text, |word| match &mut self.model {
            Model::Bpe(bpe) => bpe.encode(self.tables, self.spec, word, tokens),
            Model::Unigram(unigram) => unigram.encode(self.tables, self.spec, word, tokens),
        });
    }
}

#[cfg(test)]
mod tests;

//! A model that is open: shared by all threads, read in place.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::file::{ChatTemplate, Config, ModelFile, Prompts, Provenance};
use crate::map::Bytes;
use crate::tokenizer::{Special, Tokenizer};
use crate::transformer::Weights;

/// Weights, tokenizer and prompts of one file. Cheap to share: an [`Arc`] away.
pub struct Model {
    file: ModelFile,
    weights: Weights,
    tokenizer: Tokenizer,
    chat: ChatTemplate,
    prompts: Prompts,
    provenance: Provenance,
}

impl Model {
    /// Maps the model file at `path`. Costs milliseconds and little memory, whatever its size.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        Self::from_file(ModelFile::open(path)?)
    }

    /// Opens a model from bytes in memory.
    pub fn from_bytes(bytes: Bytes) -> Result<Arc<Self>> {
        Self::from_file(ModelFile::parse(bytes)?)
    }

    /// Opens what was parsed already.
    pub fn from_file(file: ModelFile) -> Result<Arc<Self>> {
        let weights = Weights::load(&file)?;
        let tokenizer = Tokenizer::open(&file)?;
        let chat = file.chat()?.unwrap_or_else(ChatTemplate::plain);
        chat.validate(&tokenizer)?;
        let (prompts, provenance) = (file.prompts()?, file.provenance()?);
        prompts.validate(tokenizer.vocab_size())?;
        Ok(Arc::new(Self { file, weights, tokenizer, chat, prompts, provenance }))
    }

    /// The file behind it.
    pub fn file(&self) -> &ModelFile {
        &self.file
    }

    /// Shape and variant.
    pub fn config(&self) -> &Config {
        &self.weights.config
    }

    /// The weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// `text` as tokens, with a beginning-of-sequence token where the model asks for one.
    pub fn tokenize(&self, text: &str, special: Special) -> Vec<u32> {
        let mut tokens: Vec<u32> = self.tokenizer.add_bos().into_iter().collect();
        self.tokenizer.encode_into(text, special, true, &mut tokens);
        tokens
    }

    /// How messages are rendered; a plain one where the file has none.
    pub fn chat(&self) -> &ChatTemplate {
        &self.chat
    }

    /// What the critic is told.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// Where the model comes from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }
}

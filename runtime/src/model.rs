//! A model that is open: shared by all threads, read in place.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::adapter::Adapter;
use crate::error::{Error, Result};
use crate::file::{ChatTemplate, Config, ModelFile, Part, Prompts, Provenance};
use crate::grammar::Vocabulary;
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
    vocabulary: OnceLock<Vocabulary>,
}

/// Makes an adapter that fits the weights.
type Adapting<'a> = dyn Fn(&Weights) -> Result<Adapter> + 'a;

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
        Self::from_files(file, None)
    }

    /// Maps a model file, and an adapter for it from a file of its own.
    pub fn open_with_adapter(path: &Path, adapter: &Path) -> Result<Arc<Self>> {
        let opened = ModelFile::open(adapter)?;
        let load = |weights: &Weights| Adapter::load(&opened, weights).map_err(|error| error.in_file(adapter));
        Self::build(ModelFile::open(path)?, Some(&load))
    }

    /// Opens both from bytes in memory.
    pub fn from_bytes_with_adapter(bytes: Bytes, adapter: Bytes) -> Result<Arc<Self>> {
        Self::from_files(ModelFile::parse(bytes)?, Some(&ModelFile::parse(adapter)?))
    }

    /// Opens a model and, where one is given, an adapter, which takes the place of one in the
    /// model's own file.
    pub fn from_files(file: ModelFile, adapter: Option<&ModelFile>) -> Result<Arc<Self>> {
        let load = adapter.map(|adapter| |weights: &Weights| Adapter::load(adapter, weights));
        Self::build(file, load.as_ref().map(|load| load as _))
    }

    fn build(file: ModelFile, adapter: Option<&Adapting>) -> Result<Arc<Self>> {
        if !file.has_config() && file.adapter()?.is_some() {
            return Err(Error::unsupported("an adapter alone is no model: open its model, and the adapter with it"));
        }
        let mut weights = Weights::load(&file)?;
        if let Some(load) = adapter {
            weights.adapter = Some(load(&weights)?);
        }
        let tokenizer = Tokenizer::open(&file)?;
        let chat = file.chat()?.unwrap_or_else(ChatTemplate::plain);
        chat.validate(&tokenizer)?;
        let (prompts, provenance) = (file.prompts()?, file.provenance()?);
        prompts.validate(tokenizer.vocab_size())?;
        Ok(Arc::new(Self { file, weights, tokenizer, chat, prompts, provenance, vocabulary: OnceLock::new() }))
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

    /// The adapter, if the model has one.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.weights.adapter.as_ref()
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

    /// The token with which the model ends what it says: the one that its chat template puts
    /// there, or the tokenizer's end of sequence.
    pub fn end_of_turn(&self) -> Option<u32> {
        let controls = self.chat.assistant.suffix.iter().filter_map(|part| match part {
            Part::Control(id) => Some(*id),
            Part::Text(_) => None,
        });
        controls.filter(|&id| self.tokenizer.is_end(id)).chain(self.tokenizer.end_ids().iter().copied()).next()
    }

    /// The vocabulary as grammars need it, made when it is first asked for.
    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        self.vocabulary.get_or_init(|| Vocabulary::new(self))
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

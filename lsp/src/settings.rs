//! What a person sets in an editor.

use serde::Deserialize;
use serde_json::Value;

use crate::review::PART_TOKENS;

/// The section `critic` of an editor's settings. What is not set has its default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Settings {
    /// A model's file or name.
    pub model: Option<String>,
    /// Threads; 0 is one for each core.
    pub threads: usize,
    /// Most tokens of a critique of one part of a document.
    pub max_tokens: usize,
    /// Most tokens of a part that is critiqued at once.
    pub part_tokens: usize,
    /// Identifiers of the languages in which actions are offered; empty is all.
    pub languages: Vec<String>,
    /// When documents are critiqued.
    pub run: When,
    /// Longest document, in bytes.
    pub max_length: usize,
    /// Whether text is sent as it is written (`critic/stream`).
    pub stream: bool,
}

/// When documents are critiqued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum When {
    /// When asked to.
    #[default]
    OnDemand,
    /// When saved, too.
    OnSave,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: None,
            threads: 0,
            max_tokens: 256,
            part_tokens: PART_TOKENS,
            languages: Vec::new(),
            run: When::default(),
            max_length: 1 << 20,
            stream: false,
        }
    }
}

impl Settings {
    /// Reads what a client sent; null is the default.
    pub fn read(value: Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Self::default()),
            value => serde_json::from_value(value).map_err(|error| format!("settings: {error}")),
        }
    }

    /// Whether actions are offered in a language.
    pub fn offers(&self, language: &str) -> bool {
        self.languages.is_empty() || self.languages.iter().any(|known| known == language)
    }
}

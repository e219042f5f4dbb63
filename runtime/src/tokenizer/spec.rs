//! What the model file says of its tokenizer beside the tables: the metadata value
//! `critic.tokenizer`.

use serde::{Deserialize, Serialize};

/// Which algorithm, with which rules, turns text into the tables' tokens.
///
/// Unknown fields are ignored, and absent ones mean the plain choice, so that a later
/// version can add to it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenizerSpec {
    /// Number of tokens, those that the tokenizer itself does not know included.
    pub vocab_size: usize,
    /// How a word becomes tokens.
    pub algorithm: Algorithm,
    /// Whether a word begins as single bytes (GPT-2 and its heirs) rather than as characters
    /// with a space spelled `▁` (SentencePiece).
    pub byte_level: bool,
    /// How text is cut into words that are encoded each for itself.
    pub splitter: Splitter,
    /// Whether text is brought to Unicode's composed form first.
    pub nfc: bool,
    /// Whether a space is put before the text.
    pub prefix: Prefix,
    /// Whether decoding drops the first space: the inverse of `prefix`.
    pub strip_first_space: bool,
    /// Whether a word that is a token as a whole is taken as it is (Llama 3).
    pub ignore_merges: bool,
    /// Whether a character without a token becomes its bytes' tokens.
    pub byte_fallback: bool,
    /// Whether neighbouring unknown characters become one unknown token.
    pub fuse_unknown: bool,
    /// Stands for characters that have neither a token nor byte tokens; without it they are
    /// dropped.
    pub unknown: Option<u32>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// Whether every prompt begins with `bos`.
    pub add_bos: bool,
    /// Tokens that end an answer: end of sequence first, then ends of turn.
    pub ends: Vec<u32>,
    /// Entries of the table of added tokens.
    pub added: usize,
}

/// How a word becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Byte-pair encoding by a list of merges in order.
    #[default]
    Bpe,
    /// Byte-pair encoding as SentencePiece does it: whatever two neighbours form a token may
    /// merge, the token of highest score first. The merges are derived from the scores.
    BpeScores,
    /// The segmentation of highest total score (Kudo 2018, arXiv 1804.10959).
    Unigram,
}

/// How text is cut into words. Each is the exact equal of a published regular expression,
/// given in [`super::pretokenize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Splitter {
    /// Not at all.
    #[default]
    None,
    /// Before every space.
    Spaces,
    /// GPT-2.
    Gpt2,
    /// GPT-2 with every digit for itself.
    Smollm,
    /// Llama 3: up to three digits together.
    Llama3,
    /// Qwen 2 and 3: Llama 3 with every digit for itself.
    Qwen2,
}

/// When a space is put before text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefix {
    /// Never.
    #[default]
    None,
    /// At the start of the input, unless it begins with a space.
    First,
    /// At the start and after every added token, unless a space stands there.
    Missing,
    /// At the start and after every added token.
    Always,
}

/// What a token is. The numbers are those of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TokenKind {
    /// Text.
    Normal = 1,
    /// Stands for what has no token.
    Unknown = 2,
    /// Structure of the conversation: never made from text that is data.
    Control = 3,
    /// Text that is always one token, found before anything is split.
    UserDefined = 4,
    /// Never made.
    Unused = 5,
    /// One byte, for characters without a token.
    Byte = 6,
}

impl TokenKind {
    /// The kind with GGUF's number `number`.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => TokenKind::Normal,
            2 => TokenKind::Unknown,
            3 => TokenKind::Control,
            4 => TokenKind::UserDefined,
            5 => TokenKind::Unused,
            6 => TokenKind::Byte,
            _ => return None,
        })
    }

    /// Whether the token's text can be made from text.
    pub(super) fn is_text(self) -> bool {
        matches!(self, TokenKind::Normal | TokenKind::UserDefined)
    }

    /// Whether the token stands outside the text.
    pub(super) fn is_control(self) -> bool {
        matches!(self, TokenKind::Control | TokenKind::Unknown)
    }
}

/// What control tokens' names in the text mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Text like any other: for everything that a user or a document may have written.
    Text,
    /// The control tokens themselves: for templates that are trusted.
    Parse,
}

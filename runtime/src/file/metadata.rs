//! What the model file says beside its tensors: one small JSON value for each metadata key.
//!
//! Unknown keys and fields are ignored, so that a later minor version can add to them;
//! what would change the meaning of known ones raises [`super::FORMAT_VERSION`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Shape and variant of the transformer. The six families differ in these values alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// `llama`, `mistral`, `qwen2`, `qwen3` or `gemma3`: for display and export. The
    /// forward pass does not look at it.
    pub family: String,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; a multiple of 16.
    pub head_dim: usize,
    /// Tokens that the model was made for.
    pub context: usize,
    /// ε of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Gate of the MLP.
    pub activation: Activation,
    /// Factor on the embedding (Gemma: √hidden_size; others 1).
    pub embedding_scale: f32,
    /// Factor on q·k before the softmax (usually 1/√head_dim).
    pub attention_scale: f32,
    /// Rotary embedding of layers that see the whole context.
    pub rope: Rope,
    /// Rotary embedding of layers with a window, where it differs (Gemma 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_local: Option<Rope>,
    /// For each layer, how many tokens back it sees, itself included; 0 is all of them.
    /// Empty means 0 everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<usize>,
}

/// The function inside the gated MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x·σ(x)`: SwiGLU.
    Silu,
    /// The tanh approximation of GELU: GeGLU.
    GeluTanh,
}

/// Rotary position embedding: pairs (i, i + head_dim/2) turn by
/// `position · scale · theta^(−2i/head_dim) / factor_i`.
///
/// The optional `factor_i` (Llama 3's scaling) are the tensor `rope.factors`, and divide
/// the frequencies of [`Config::rope`] only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the geometric series of frequencies.
    pub theta: f64,
    /// Factor on the position (linear scaling by f: 1/f).
    #[serde(default = "one")]
    pub scale: f64,
}

fn one() -> f64 {
    1.0
}

impl Config {
    /// How far back layer `layer` sees, itself included; `usize::MAX` for everything.
    pub fn window(&self, layer: usize) -> usize {
        match self.windows.get(layer) {
            None | Some(0) => usize::MAX,
            Some(&window) => window,
        }
    }

    /// The rotary embedding of layer `layer`: 0 is [`Config::rope`], 1 [`Config::rope_local`].
    pub fn rope_index(&self, layer: usize) -> usize {
        usize::from(self.rope_local.is_some() && self.window(layer) != usize::MAX)
    }
}

/// The chat template, compiled at import: what stands before and after each message.
///
/// A message is rendered as `prefix + content + suffix`. Parts are text or control tokens;
/// content is always text, so that nothing a user writes can become a control token.
/// Text that meets (a prefix's end, the content, the suffix's start) is tokenized as one.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChatTemplate {
    /// Before everything, the beginning-of-sequence token included where the template has one.
    #[serde(default)]
    pub start: Vec<Part>,
    /// The system message. `None`: the model has no such role, and its text is put before
    /// the first user message, followed by `system_separator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<Affixes>,
    /// See `system`.
    #[serde(default)]
    pub system_separator: String,
    /// What the template says as the system when it is given no such message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_system: Option<String>,
    /// What the person says.
    pub user: Affixes,
    /// What the model says. Its prefix is also the prompt to generate, unless `generation`.
    pub assistant: Affixes,
    /// The prompt to generate, where it differs from the assistant's prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Vec<Part>>,
    /// Whether the template trims whitespace around content.
    #[serde(default)]
    pub trim: bool,
}

/// What stands around a message's content.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Affixes {
    /// Before the content.
    pub prefix: Vec<Part>,
    /// After the content.
    pub suffix: Vec<Part>,
}

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Ordinary text.
    Text(String),
    /// A control token by its id.
    Control(u32),
}

/// What the critic is told, by task. Each text is one user message, put after the draft or
/// after the critique; in `critique` and `refine`, `{prompt}` stands for what was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompts {
    /// System message of every conversation; `None` leaves the template's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// How the critic says that nothing needs to change: a critique that begins with it,
    /// letter case and surrounding punctuation aside, has the verdict *keep*.
    pub keep: String,
    /// Instructions by task: `general` and any others.
    pub tasks: BTreeMap<String, TaskPrompts>,
}

/// The instructions of one task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPrompts {
    /// Asks for the critique, after the draft.
    pub critique: String,
    /// Asks for the refinement, after the critique.
    pub refine: String,
    /// Asks which of two answers is better; follows the prompt and both answers. The model
    /// is to say the letter A or B. Empty: refinements are accepted without a judge.
    pub judge: String,
    /// Asks for a structured critique, in place of `critique`; by default
    /// [`TaskPrompts::FINDINGS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<String>,
    /// What stands between the draft and the critique, in place of the end of the
    /// assistant's message, `critique` as a user message, and the assistant's prefix: for
    /// models that were trained on a form of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critique_turn: Option<Vec<Part>>,
    /// The same between the critique and the refinement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refine_turn: Option<Vec<Part>>,
}

/// An activated or whole-text low-rank adapter held in the same file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterSpec {
    /// Rank r of every pair A `[r, in]`, B `[out, r]`.
    pub rank: usize,
    /// Factor on `B·A·x`: alpha / r, or alpha / √r.
    pub scale: f32,
    /// Tokens from whose first one on the adapter acts; empty: it acts everywhere.
    #[serde(default)]
    pub invocation_tokens: Vec<u32>,
    /// β of the objective that trained it; 0 where there is no utility advantage.
    #[serde(default)]
    pub beta: f32,
    /// Utility advantage above which a critique is acted on.
    #[serde(default)]
    pub threshold: f32,
    /// Fingerprint of the model that it was trained for, whatever its quantization; empty
    /// where unknown.
    #[serde(default)]
    pub base: String,
}

/// Where the model comes from, for people.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Provenance {
    /// Name of the model.
    #[serde(default)]
    pub name: String,
    /// SPDX expression or the source's own words; empty where unknown.
    #[serde(default)]
    pub licence: String,
    /// What it was made from: file names and checksums, without folders.
    #[serde(default)]
    pub source: String,
    /// Program and version that wrote the file.
    #[serde(default)]
    pub generator: String,
}

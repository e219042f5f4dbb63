//! Models from nothing: a model file with random weights and a tokenizer of single characters.

use std::collections::BTreeMap;
use std::path::Path;

use critic::file::{
    Activation, Affixes, ChatTemplate, Config, Dtype, Part, PlannedTensor, Prompts, Provenance, Rope, TaskPrompts,
    write_model,
};
use critic::quant::{Format, MatrixBuilder};
use critic::tokenizer::{AddedToken, Algorithm, TokenKind, TokenizerSpec, Vocabulary};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::files;
use crate::random::Random;

/// Shape of a Llama block stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Width of the residual stream, a multiple of 32.
    pub hidden_size: usize,
    /// Width of the gated MLP, a multiple of 32.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Query heads; keys and values have as many.
    pub heads: usize,
    /// Most tokens of a text.
    pub context: usize,
}

/// The control tokens of a character model, which begin a part of the conversation each and, the
/// last one, end what the model says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controls {
    /// Before what is asked.
    pub prompt: u32,
    /// Before the draft.
    pub draft: u32,
    /// Before the critique.
    pub critique: u32,
    /// Before the refinement.
    pub refinement: u32,
    /// After each text that the model writes.
    pub end: u32,
}

/// The control tokens of a model whose text is made of `characters` different ones.
pub fn controls(characters: usize) -> Controls {
    let at = |index: usize| (characters + index) as u32;
    Controls { prompt: at(0), draft: at(1), critique: at(2), refinement: at(3), end: at(4) }
}

/// What a character model is.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint<'a> {
    /// Its shape.
    pub shape: &'a Shape,
    /// The characters that it knows, each one byte; all others are dropped.
    pub characters: &'a str,
    /// The one category that it knows beside `general`.
    pub task: &'a str,
    /// How it says *keep*.
    pub keep: &'a str,
    /// What its weights are drawn from.
    pub seed: u64,
}

impl Blueprint<'_> {
    /// Writes a model file with random weights.
    pub fn write(&self, path: &Path) -> Result<()> {
        let config = self.config()?;
        let tokenizer = self.vocabulary().build()?;
        let json = |value: serde_json::Result<String>| value.expect("plain structs are JSON");
        let provenance = Provenance {
            name: format!("{}-untrained", self.task),
            licence: "Apache-2.0 OR MIT".into(),
            source: format!("random weights, seed {}", self.seed),
            generator: concat!("critic-train ", env!("CARGO_PKG_VERSION")).into(),
        };
        let metadata: BTreeMap<String, String> = [
            ("critic.config", json(serde_json::to_string(&config))),
            ("critic.tokenizer", json(serde_json::to_string(&tokenizer.spec))),
            ("critic.chat", json(serde_json::to_string(&self.chat()))),
            ("critic.prompts", json(serde_json::to_string(&self.prompts()))),
            ("critic.provenance", json(serde_json::to_string(&provenance))),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let weights = self.weights(&config);
        let mut plan = Vec::new();
        for (name, [rows, columns]) in &weights {
            plan.push(match rows {
                0 => PlannedTensor::table(name, Dtype::F32, *columns),
                _ => PlannedTensor::matrix(name, Format::F32, *rows, *columns)?,
            });
        }
        plan.extend(tokenizer.tables.iter().map(|(plan, _)| plan.clone()));
        let mut bytes = Vec::new();
        write_model(&mut bytes, &metadata, &plan, |index, _| {
            let Some((name, [rows, columns])) = weights.get(index) else {
                return Ok(tokenizer.tables[index - weights.len()].1.clone());
            };
            match rows {
                0 => Ok(std::iter::repeat_n(1f32.to_le_bytes(), *columns).flatten().collect()),
                _ => self.matrix(name, *rows, *columns),
            }
        })?;
        files::write_bytes(path, &bytes)
    }

    fn config(&self) -> Result<Config> {
        let Shape { hidden_size, intermediate_size, layers, heads, context } = *self.shape;
        if heads == 0 || !hidden_size.is_multiple_of(16 * heads) {
            return Err(Error::invalid(format!(
                "shape: hidden_size {hidden_size} with {heads} heads, expected heads of a multiple of 16"
            )));
        }
        let head_dim = hidden_size / heads;
        Ok(Config {
            family: "llama".into(),
            vocab_size: self.characters.len() + CONTROLS.len(),
            hidden_size,
            intermediate_size,
            layers,
            heads,
            kv_heads: heads,
            head_dim,
            context,
            rms_norm_eps: 1e-5,
            activation: Activation::Silu,
            embedding_scale: 1.0,
            attention_scale: (head_dim as f32).powf(-0.5),
            rope: Rope { theta: 10_000.0, scale: 1.0 },
            rope_local: None,
            windows: Vec::new(),
        })
    }

    fn vocabulary(&self) -> Vocabulary {
        let characters = self.characters.bytes().map(|byte| vec![byte]);
        let pieces: Vec<Vec<u8>> = characters.chain(CONTROLS.iter().map(|name| name.as_bytes().to_vec())).collect();
        let count = self.characters.len();
        let kinds = (0..pieces.len()).map(|id| if id < count { TokenKind::Normal } else { TokenKind::Control });
        let added = CONTROLS.iter().enumerate().map(|(at, name)| AddedToken {
            text: (*name).to_owned(),
            id: (count + at) as u32,
            lstrip: false,
            rstrip: false,
            normalized: false,
        });
        let spec = TokenizerSpec {
            algorithm: Algorithm::Bpe,
            byte_level: true,
            ends: vec![controls(count).end],
            ..TokenizerSpec::default()
        };
        Vocabulary { spec, kinds: kinds.collect(), pieces, added: added.collect(), ..Vocabulary::default() }
    }

    fn chat(&self) -> ChatTemplate {
        let controls = controls(self.characters.len());
        let affixes = |prefix, suffix: Vec<Part>| Affixes { prefix: vec![Part::Control(prefix)], suffix };
        ChatTemplate {
            user: affixes(controls.prompt, Vec::new()),
            assistant: affixes(controls.draft, vec![Part::Control(controls.end)]),
            ..ChatTemplate::default()
        }
    }

    fn prompts(&self) -> Prompts {
        let controls = controls(self.characters.len());
        let task = TaskPrompts {
            // For hosts that write refinements with another model; this one has turns of its own.
            critique: "What is wrong with this answer?".into(),
            refine: "Write a better one.".into(),
            judge: String::new(),
            findings: None,
            critique_turn: Some(vec![Part::Control(controls.critique)]),
            refine_turn: Some(vec![Part::Control(controls.refinement)]),
        };
        let tasks = ["general", self.task].map(|name| (name.to_owned(), task.clone()));
        Prompts { system: None, keep: self.keep.to_owned(), tasks: tasks.into() }
    }

    /// Names and `[rows, columns]`, in the order of a forward pass; vectors have 0 rows.
    fn weights(&self, config: &Config) -> Vec<(String, [usize; 2])> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let mut weights = vec![("embedding".to_owned(), [config.vocab_size, hidden])];
        for layer in 0..config.layers {
            let parts = [
                ("attention.norm", [0, hidden]),
                ("attention.q", [hidden, hidden]),
                ("attention.k", [hidden, hidden]),
                ("attention.v", [hidden, hidden]),
                ("attention.o", [hidden, hidden]),
                ("mlp.norm", [0, hidden]),
                ("mlp.gate", [inner, hidden]),
                ("mlp.up", [inner, hidden]),
                ("mlp.down", [hidden, inner]),
            ];
            weights.extend(parts.map(|(part, shape)| (format!("layers.{layer}.{part}"), shape)));
        }
        weights.push(("norm".to_owned(), [0, hidden]));
        weights
    }

    /// Normal with the deviation 1/√columns, what a block adds to the residual stream smaller by
    /// √(2·layers) (GPT-2, section 2.3), and the embedding, which is the output too, 0.08.
    fn matrix(&self, name: &str, rows: usize, columns: usize) -> critic::Result<Vec<u8>> {
        let mut deviation = (columns as f64).powf(-0.5);
        if name == "embedding" {
            deviation = 0.08;
        } else if name.ends_with("attention.o") || name.ends_with("mlp.down") {
            deviation /= (2.0 * self.shape.layers as f64).sqrt();
        }
        let mut random = Random::new(self.seed, name, &[]);
        let mut matrix = MatrixBuilder::new(Format::F32, rows, columns)?;
        let mut values = vec![0.0; columns];
        for row in 0..rows {
            values.fill_with(|| (deviation * random.normal()) as f32);
            matrix.set_row(row, &values)?;
        }
        Ok(matrix.finish())
    }
}

/// Names of the control tokens, in the order of [`Controls`].
const CONTROLS: [&str; 5] = ["<prompt>", "<draft>", "<critique>", "<refinement>", "<end>"];

#[cfg(test)]
mod tests {
    use super::*;
    use critic::critique::{Context, Request};

    #[test]
    fn a_random_model_is_a_model() {
        let shape = Shape { hidden_size: 32, intermediate_size: 64, layers: 2, heads: 2, context: 48 };
        let blueprint = Blueprint { shape: &shape, characters: "0123456789+-=!?.", task: "steps", keep: ".", seed: 1 };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.critic");
        blueprint.write(&path).unwrap();
        let model = critic::Model::open(&path).unwrap();
        let request =
            Request { task: "steps".into(), prompt: "7+8 <end>".into(), response: "55".into(), ..Request::default() };
        let context = Context::new(&model, &request).unwrap();
        // Characters that it does not know are dropped, and no text is a control token.
        assert_eq!(context.tokens, [16, 7, 10, 8, 17, 5, 5, 18]);
        assert_eq!(context.invocation, 7);
        assert_eq!(context.target(&model, "5=4!"), [5, 12, 4, 13, 20]);
    }
}

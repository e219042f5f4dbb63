//! Which tensors a model has, in the order of its file, and what others call them.

use critic::file::Config;

/// Shape of a tensor of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A weight matrix, in any format.
    Matrix {
        /// Output width.
        rows: usize,
        /// Input width.
        columns: usize,
    },
    /// A norm or a bias, always f32.
    Vector {
        /// Number of elements.
        len: usize,
    },
}

impl Shape {
    /// Rows and columns, a vector being one row.
    pub fn dimensions(self) -> (usize, usize) {
        match self {
            Shape::Matrix { rows, columns } => (rows, columns),
            Shape::Vector { len } => (1, len),
        }
    }
}

/// A tensor that a model of some configuration has or may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name in our file.
    pub name: String,
    /// Its shape.
    pub shape: Shape,
    /// Whether a model of this family is incomplete without it.
    pub required: bool,
}

/// Name within the whole model: ours, GGUF's, Hugging Face's.
const GLOBAL: [(&str, &str, &str); 4] = [
    ("embedding", "token_embd.weight", "model.embed_tokens.weight"),
    ("norm", "output_norm.weight", "model.norm.weight"),
    ("output", "output.weight", "lm_head.weight"),
    ("rope.factors", "rope_freqs.weight", "rope.factors"),
];

/// Name within a layer: ours, behind `layers.N.`; GGUF's, behind `blk.N.`; Hugging Face's,
/// behind `model.layers.N.`. In order of use.
const LAYER: [(&str, &str, &str); 16] = [
    ("attention.norm", "attn_norm.weight", "input_layernorm.weight"),
    ("attention.q", "attn_q.weight", "self_attn.q_proj.weight"),
    ("attention.k", "attn_k.weight", "self_attn.k_proj.weight"),
    ("attention.v", "attn_v.weight", "self_attn.v_proj.weight"),
    ("attention.q_bias", "attn_q.bias", "self_attn.q_proj.bias"),
    ("attention.k_bias", "attn_k.bias", "self_attn.k_proj.bias"),
    ("attention.v_bias", "attn_v.bias", "self_attn.v_proj.bias"),
    ("attention.q_norm", "attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attention.k_norm", "attn_k_norm.weight", "self_attn.k_norm.weight"),
    ("attention.o", "attn_output.weight", "self_attn.o_proj.weight"),
    ("attention.post_norm", "post_attention_norm.weight", "post_attention_layernorm.weight"),
    ("mlp.norm", "ffn_norm.weight", "pre_feedforward_layernorm.weight"),
    ("mlp.gate", "ffn_gate.weight", "mlp.gate_proj.weight"),
    ("mlp.up", "ffn_up.weight", "mlp.up_proj.weight"),
    ("mlp.down", "ffn_down.weight", "mlp.down_proj.weight"),
    ("mlp.post_norm", "post_ffw_norm.weight", "post_feedforward_layernorm.weight"),
];

/// Every tensor that a model of `config` has or may have, in the order of the file: that in
/// which a forward pass reads them.
pub fn layout(config: &Config) -> Vec<Slot> {
    let mut slots = vec![global("embedding", config)];
    for layer in 0..config.layers {
        slots.extend(LAYER.iter().map(|&(part, ..)| Slot {
            name: format!("layers.{layer}.{part}"),
            shape: layer_shape(part, config),
            required: layer_requires(part, &config.family),
        }));
    }
    slots.extend(["norm", "output", "rope.factors"].map(|name| global(name, config)));
    slots
}

fn global(name: &str, config: &Config) -> Slot {
    let shape = match name {
        "norm" => Shape::Vector { len: config.hidden_size },
        "rope.factors" => Shape::Vector { len: config.head_dim / 2 },
        _ => Shape::Matrix { rows: config.vocab_size, columns: config.hidden_size },
    };
    Slot { name: name.to_owned(), shape, required: matches!(name, "embedding" | "norm") }
}

fn layer_shape(part: &str, config: &Config) -> Shape {
    let hidden = config.hidden_size;
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    match part {
        "attention.q" => Shape::Matrix { rows: q, columns: hidden },
        "attention.k" | "attention.v" => Shape::Matrix { rows: kv, columns: hidden },
        "attention.o" => Shape::Matrix { rows: hidden, columns: q },
        "mlp.gate" | "mlp.up" => Shape::Matrix { rows: config.intermediate_size, columns: hidden },
        "mlp.down" => Shape::Matrix { rows: hidden, columns: config.intermediate_size },
        "attention.q_bias" => Shape::Vector { len: q },
        "attention.k_bias" | "attention.v_bias" => Shape::Vector { len: kv },
        "attention.q_norm" | "attention.k_norm" => Shape::Vector { len: config.head_dim },
        _ => Shape::Vector { len: hidden },
    }
}

fn layer_requires(part: &str, family: &str) -> bool {
    match part {
        "attention.q_bias" | "attention.k_bias" | "attention.v_bias" => family == "qwen2",
        "attention.q_norm" | "attention.k_norm" => matches!(family, "qwen3" | "gemma3"),
        "attention.post_norm" | "mlp.post_norm" => family == "gemma3",
        _ => true,
    }
}

/// GGUF's name of our tensor `name`, if it is one of the model's weights.
pub fn gguf_name(name: &str) -> Option<String> {
    match split(name)? {
        (None, part) => Some(GLOBAL.iter().find(|row| row.0 == part)?.1.to_owned()),
        (Some(layer), part) => Some(format!("blk.{layer}.{}", LAYER.iter().find(|row| row.0 == part)?.1)),
    }
}

/// Hugging Face's name of our tensor `name`, if it is one of the model's weights.
///
/// `post_attention_layernorm` stands before the MLP in most families; in one with sandwich
/// norms (Gemma 3) it stands behind the attention, and the MLP's is called
/// `pre_feedforward_layernorm`.
pub fn hf_name(name: &str, sandwich: bool) -> Option<String> {
    match split(name)? {
        (None, part) => Some(GLOBAL.iter().find(|row| row.0 == part)?.2.to_owned()),
        (Some(_), "attention.post_norm" | "mlp.post_norm") if !sandwich => None,
        (Some(layer), "mlp.norm") if !sandwich => Some(format!("model.layers.{layer}.post_attention_layernorm.weight")),
        (Some(layer), part) => Some(format!("model.layers.{layer}.{}", LAYER.iter().find(|row| row.0 == part)?.2)),
    }
}

/// `layers.N.part` to N and part.
fn split(name: &str) -> Option<(Option<usize>, &str)> {
    match name.strip_prefix("layers.") {
        None => Some((None, name)),
        Some(rest) => {
            let (layer, part) = rest.split_once('.')?;
            Some((Some(layer.parse().ok()?), part))
        }
    }
}

/// Where row `row` of a query or key projection, or element of its bias, stands in a llama GGUF.
///
/// The runtime turns pairs (i, i + head_dim/2), as the checkpoints do; llama.cpp turns pairs
/// (2i, 2i + 1) in this architecture, and its converter reorders the rows of each head to suit.
pub fn interleaved_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + within % half * 2 + within / half
}

/// The inverse of [`interleaved_row`].
pub fn rotated_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    head * head_dim + within % 2 * (head_dim / 2) + within / 2
}

/// Whether rows of our tensor `name` stand in heads that RoPE turns.
pub fn is_rotary(name: &str) -> bool {
    matches!(split(name), Some((Some(_), "attention.q" | "attention.k" | "attention.q_bias" | "attention.k_bias")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn permutations_are_inverse() {
        for head_dim in [2, 16, 64, 128] {
            for row in 0..head_dim * 3 {
                assert_eq!(rotated_row(interleaved_row(row, head_dim), head_dim), row);
                assert_eq!(interleaved_row(row, head_dim) / head_dim, row / head_dim);
            }
        }
        // Head of four: pairs (0, 2) and (1, 3) lie side by side.
        assert_eq!([0, 1, 2, 3].map(|row| interleaved_row(row, 4)), [0, 2, 1, 3]);
    }

    #[test]
    fn names_are_known_to_all_and_unique() {
        let parts = LAYER.iter().map(|row| format!("layers.7.{}", row.0));
        let names: Vec<String> = GLOBAL.iter().map(|row| row.0.to_owned()).chain(parts).collect();
        let gguf: HashSet<_> = names.iter().map(|name| gguf_name(name).unwrap()).collect();
        let hf: HashSet<_> = names.iter().map(|name| hf_name(name, true).unwrap()).collect();
        assert_eq!((gguf.len(), hf.len()), (names.len(), names.len()));
        assert_eq!(gguf_name("layers.7.mlp.post_norm").unwrap(), "blk.7.post_ffw_norm.weight");
        assert_eq!(hf_name("layers.7.mlp.norm", false).unwrap(), "model.layers.7.post_attention_layernorm.weight");
        assert_eq!(hf_name("layers.7.attention.post_norm", false), None);
        assert_eq!(gguf_name("layers.x.attention.q"), None);
        assert_eq!(gguf_name("tokenizer.tokens"), None);
    }
}

//! The transformer's forward pass over the rows of a tree. What differs between families is
//! data, as in the runtime, whose mathematics this is.

use std::cell::RefCell;

use burn::tensor::{DType, Tensor, activation};
use critic::adapter::Target;
use critic::file::{Activation, Config};

use super::adapter::Pair;
use super::base::{Base, Layer};
use super::dropout::Dropout;
use super::policy::Policy;
use super::rope::Turns;
use super::tree::{Tree, indices};

/// Keys and values of the tokens from position 0 on, which rows of a tree attend to.
#[derive(Clone, Default)]
pub struct Cache {
    /// `[layers]` of turned keys `[kv_heads, tokens, head_dim]` and values `[kv_heads, tokens, head_dim]`.
    layers: Vec<(Tensor<3>, Tensor<3>)>,
    /// Tokens that are in it.
    tokens: usize,
}

impl Cache {
    /// Tokens that are in it.
    pub fn tokens(&self) -> usize {
        self.tokens
    }
}

/// Most rows of a prefix that are evaluated together: bounds the scores `[heads, rows, keys]`.
const PREFILL_ROWS: usize = 512;

/// Is shown what each matrix is multiplied with: layer, matrix, `[rows, in]`.
pub type Observer<'a> = dyn FnMut(usize, Target, &Tensor<2>) + 'a;

/// Keys and values of `tokens` from position 0 on, without the adapter.
pub fn prefill(base: &Base, tokens: &[u32]) -> Cache {
    prefill_observed(base, tokens, None)
}

/// The same, with what the matrices are multiplied with shown to `observer`.
pub fn prefill_observed(base: &Base, tokens: &[u32], mut observer: Option<&mut Observer>) -> Cache {
    let policy = Policy { base: base.clone(), adapter: None };
    let mut cache = Cache::default();
    for chunk in tokens.chunks(PREFILL_ROWS) {
        let tree = Tree::trunk(cache.tokens, chunk);
        // A trait object's lifetime cannot be shortened inside an option.
        let seen = observer.as_mut().map(|observer| &mut **observer as &mut Observer);
        cache = evaluate(&policy, &tree, &cache, None, seen, true).1;
    }
    cache
}

/// Hidden states of the tree's rows after the last norm, `[rows, hidden]`. Rows attend to
/// `cache`, to the trunk and to their own branch.
pub fn forward(policy: &Policy, tree: &Tree, cache: &Cache, dropout: Option<&Dropout>) -> Tensor<2> {
    evaluate(policy, tree, cache, dropout, None, false).0
}

/// [`forward`] without dropout, with what the matrices are multiplied with shown to `observer`.
pub fn forward_observed(policy: &Policy, tree: &Tree, cache: &Cache, observer: &mut Observer) -> Tensor<2> {
    evaluate(policy, tree, cache, None, Some(observer), false).0
}

/// The rows of one pass, and what they need in every layer.
struct Pass<'a> {
    config: &'a Config,
    tree: &'a Tree,
    dropout: Option<&'a Dropout>,
    observer: RefCell<Option<&'a mut Observer<'a>>>,
    turns: [Option<Turns>; 2],
    /// Queries' turns: the attention's scale is in them.
    query_turns: [Option<Turns>; 2],
    masks: Vec<(usize, Tensor<4>)>,
    cached: usize,
}

/// Hidden states, and with `fill` the cache that the rows leave (their branches do not matter
/// then: it is for trunks) in place of hidden states.
fn evaluate<'a>(
    policy: &'a Policy,
    tree: &'a Tree,
    cache: &Cache,
    dropout: Option<&'a Dropout>,
    observer: Option<&'a mut Observer<'a>>,
    fill: bool,
) -> (Tensor<2>, Cache) {
    let base = &policy.base;
    let config = &base.config;
    let turns = base.rotary.turns(&tree.positions);
    let query_turns = turns.clone().map(|turns| turns.map(|turns| turns.scaled(config.attention_scale)));
    let observer = RefCell::new(observer);
    let mut pass =
        Pass { config, tree, dropout, observer, turns, query_turns, masks: Vec::new(), cached: cache.tokens };
    let rows = indices(tree.tokens.iter().map(|&token| token as usize), &base.device());
    let mut x = base.embedding.clone().select(0, rows).cast(DType::F32);
    if config.embedding_scale != 1.0 {
        x = x * config.embedding_scale;
    }
    let mut filled = Cache { layers: Vec::new(), tokens: cache.tokens + tree.rows() };
    for (index, layer) in base.layers.iter().enumerate() {
        let block =
            Block { base, layer, index, pairs: policy.adapter.as_ref().map(|a| (&a.layers[index], a.options.scale())) };
        let h = norm(x.clone(), &layer.attention_norm, config.rms_norm_eps);
        let (keys, values) = block.keys_and_values(&pass, &h, cache.layers.get(index));
        if fill {
            filled.layers.push((keys.clone(), values.clone()));
            if index + 1 == base.layers.len() {
                break;
            }
        }
        x = block.attention(&mut pass, x, &h, keys, values);
        x = block.mlp(&pass, x);
    }
    if fill { (x, filled) } else { (norm(x, &base.norm, config.rms_norm_eps), filled) }
}

/// One block of the model, with its pairs.
struct Block<'a> {
    base: &'a Base,
    layer: &'a Layer,
    index: usize,
    pairs: Option<(&'a [Option<Pair>; 7], f64)>,
}

impl Block<'_> {
    /// Turned keys and values of cached tokens and of the rows, `[texts · kv_heads, keys, head_dim]`.
    fn keys_and_values(
        &self,
        pass: &Pass,
        h: &Tensor<2>,
        cached: Option<&(Tensor<3>, Tensor<3>)>,
    ) -> (Tensor<3>, Tensor<3>) {
        let config = pass.config;
        let split = [pass.tree.rows(), config.kv_heads, config.head_dim];
        let k = self.project(pass, Target::K, h, &self.layer.k.matrix, self.layer.k.bias.as_ref());
        let k = self.turn(pass, &pass.turns, k.reshape(split), self.layer.k_norm.as_ref());
        let v = self.project(pass, Target::V, h, &self.layer.v.matrix, self.layer.v.bias.as_ref());
        let apart = |x: Tensor<3>| match pass.tree.texts {
            1 => x.swap_dims(0, 1),
            texts => {
                let [heads, dim, length] = [config.kv_heads, config.head_dim, pass.tree.length()];
                x.reshape([texts, length, heads, dim]).swap_dims(1, 2).reshape([texts * heads, length, dim])
            }
        };
        let (k, v) = (apart(k), apart(v.reshape(split)));
        match cached {
            None => (k, v),
            Some((keys, values)) => (Tensor::cat(vec![keys.clone(), k], 1), Tensor::cat(vec![values.clone(), v], 1)),
        }
    }

    /// `x + o · attend(rope(q · h))`; keys and values are not repeated for the queries that share
    /// them: those are rows of the same product.
    fn attention(&self, pass: &mut Pass, x: Tensor<2>, h: &Tensor<2>, keys: Tensor<3>, values: Tensor<3>) -> Tensor<2> {
        let config = pass.config;
        let (rows, kv_heads, dim) = (pass.tree.rows(), config.kv_heads, config.head_dim);
        let (texts, length) = (pass.tree.texts, pass.tree.length());
        let (group, total) = (config.heads / kv_heads, pass.cached + length);
        let q = self.project(pass, Target::Q, h, &self.layer.q.matrix, self.layer.q.bias.as_ref());
        let q = self.turn(pass, &pass.query_turns, q.reshape([rows, config.heads, dim]), self.layer.q_norm.as_ref());
        let q = q.reshape([texts, length, kv_heads, group * dim]).swap_dims(1, 2);
        let q = q.reshape([texts * kv_heads, length * group, dim]);
        let scores = q.matmul(keys.swap_dims(1, 2)).reshape([texts * kv_heads, length, group, total]);
        let scores = scores + pass.mask(self.index);
        // The softmax's shift takes no gradient: any shift gives the same quotient.
        let most = scores.clone().inner().max_dim(3);
        let weights = (scores - most).exp();
        let sum = weights.clone().sum_dim(3);
        let attended = weights.reshape([texts * kv_heads, length * group, total]).matmul(values);
        let attended = attended.reshape([texts * kv_heads, length, group, dim]) / sum;
        let attended = attended.reshape([texts, kv_heads, length, group * dim]).swap_dims(1, 2);
        let attended = attended.reshape([rows, config.heads * dim]);
        let o = self.project(pass, Target::O, &attended, &self.layer.o, None);
        x + optional_norm(o, self.layer.attention_post_norm.as_ref(), config.rms_norm_eps)
    }

    /// `x + down · (activation(gate · h) ⊙ up · h)`, h = norm(x)
    fn mlp(&self, pass: &Pass, x: Tensor<2>) -> Tensor<2> {
        let config = pass.config;
        let h = norm(x.clone(), &self.layer.mlp_norm, config.rms_norm_eps);
        let gate = self.project(pass, Target::Gate, &h, &self.layer.gate, None);
        let up = self.project(pass, Target::Up, &h, &self.layer.up, None);
        let gate = match config.activation {
            Activation::Silu => activation::silu(gate),
            Activation::GeluTanh => gelu_tanh(gate),
        };
        let down = self.project(pass, Target::Down, &(gate * up), &self.layer.down, None);
        x + optional_norm(down, self.layer.mlp_post_norm.as_ref(), config.rms_norm_eps)
    }

    /// Norm of each head where the family has one, and the rotary embedding.
    fn turn(&self, pass: &Pass, turns: &[Option<Turns>; 2], x: Tensor<3>, weight: Option<&Tensor<2>>) -> Tensor<3> {
        let [rows, heads, dim] = x.dims();
        let x = match weight {
            None => x,
            Some(weight) => {
                norm(x.reshape([rows * heads, dim]), weight, pass.config.rms_norm_eps).reshape([rows, heads, dim])
            }
        };
        let turns = turns[pass.config.rope_index(self.index)].as_ref();
        turns.expect("layers with a window have the local embedding").apply(x)
    }

    /// `x·Wᵀ + bias + scale · (dropout(x)·Aᵀ)·Bᵀ`. `[rows, in]` to `[rows, out]`
    fn project(
        &self,
        pass: &Pass,
        target: Target,
        x: &Tensor<2>,
        weight: &Tensor<2>,
        bias: Option<&Tensor<2>>,
    ) -> Tensor<2> {
        if let Some(observer) = pass.observer.borrow_mut().as_mut() {
            observer(self.index, target, x);
        }
        let dtype = self.base.precision.dtype();
        let product = |x: Tensor<2>, weight: &Tensor<2>| match dtype {
            DType::F32 => x.matmul(weight.clone().transpose()),
            _ => x.cast(dtype).matmul(weight.clone().transpose()).cast(DType::F32),
        };
        let mut y = product(x.clone(), weight);
        if let Some(bias) = bias {
            y = y + bias.clone();
        }
        let Some((pairs, scale)) = self.pairs else { return y };
        let Some(pair) = &pairs[target as usize] else { return y };
        let mut input = x.clone();
        if let Some(dropout) = pass.dropout {
            let width = input.dims()[1];
            input = input * dropout.mask(pass.tree, self.index, target, width, &self.base.device());
        }
        let inner = input.matmul(pair.a.clone().transpose()) * scale;
        y + inner.matmul(pair.b.clone().transpose())
    }
}

impl Pass<'_> {
    fn mask(&mut self, layer: usize) -> Tensor<4> {
        let window = self.config.window(layer);
        if let Some((_, mask)) = self.masks.iter().find(|(of, _)| *of == window) {
            return mask.clone();
        }
        let device = self.turns[0].as_ref().expect("the first embedding is always there").device();
        let mask = self.tree.mask(self.cached, window, &device);
        self.masks.push((window, mask.clone()));
        mask
    }
}

/// `x / √(mean x² + ε) ⊙ weight` (RMSNorm, arXiv 1910.07467, equation 4). `[rows, width]`
fn norm(x: Tensor<2>, weight: &Tensor<2>, eps: f32) -> Tensor<2> {
    let factor = (x.clone().square().mean_dim(1) + eps).sqrt().recip();
    x * factor * weight.clone()
}

fn optional_norm(x: Tensor<2>, weight: Option<&Tensor<2>>, eps: f32) -> Tensor<2> {
    match weight {
        None => x,
        Some(weight) => norm(x, weight, eps),
    }
}

/// `½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))`
fn gelu_tanh(x: Tensor<2>) -> Tensor<2> {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let inner = (x.clone() + x.clone() * x.clone().square() * 0.044_715) * SQRT_2_OVER_PI;
    x * (inner.tanh() + 1.0) * 0.5
}

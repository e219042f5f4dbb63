//! The transformer: one forward pass for every family, whose differences are data.
//!
//! [`Weights`] are views of the model file, [`Engine`] owns threads and scratch memory, a
//! [`Sequence`] what was evaluated. A batch mixes tokens of any sequences; each token's
//! result is the same alone, in a batch, in chunks, and with any number of threads.
//!
//! Not here: tokens' meaning, sampling, chats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::file::{Config, ModelFile};
use crate::kernels::Kernel;
use crate::kernels::activations::{ActivationBlock, Quantize};
use crate::kernels::attention::{
    AttendSegment, Element, MergeSegment, PAGE_TOKENS, PagePart, QUERIES, SEGMENT_PAGES, Softmax,
};
use crate::kernels::matmul::{GatedMatMul, Input, MatMul, Output, Store};
use crate::kernels::rows::{RmsNorm, RmsNormInPlace, Rope};
use crate::kv::{PageStore, Precision, Sequence};
use crate::map::Slice;
use crate::pool::{PerWorker, Pool};
use crate::quant::{BLOCK, Matrix, TILE};

/// Most tokens computed together. Weights are read once for all of them; more would only
/// push their activations out of the second-level cache.
pub const BATCH: usize = 128;
/// Rows of logits computed together.
const LOGIT_ROWS: usize = 16;

/// The weights of one model, read in place.
pub struct Weights {
    /// Shape and variant.
    pub config: Config,
    /// `[vocab, hidden]`
    pub embedding: Matrix,
    /// The blocks in order.
    pub layers: Vec<Layer>,
    /// `[hidden]`
    pub norm: Slice<f32>,
    /// `[vocab, hidden]`; the embedding where the two are tied.
    pub output: Matrix,
    /// Angle of each pair at position 1, `[head_dim / 2]`: of [`Config::rope`], `rope_local`.
    frequencies: [Vec<f64>; 2],
}

/// The weights of one block.
pub struct Layer {
    /// `[hidden]`, before attention.
    pub attention_norm: Slice<f32>,
    /// Queries, keys and values, side by side in the scratch row `[q | k | v]`.
    pub qkv: [Projection; 3],
    /// `[head_dim]`: norm of each query head (Qwen 3, Gemma 3).
    pub q_norm: Option<Slice<f32>>,
    /// `[head_dim]`: norm of each key head.
    pub k_norm: Option<Slice<f32>>,
    /// `[hidden, heads · head_dim]`
    pub o: Matrix,
    /// `[hidden]`, after attention and before the residual addition (Gemma 3).
    pub attention_post_norm: Option<Slice<f32>>,
    /// `[hidden]`, before the MLP.
    pub mlp_norm: Slice<f32>,
    /// `[intermediate, hidden]`
    pub gate: Matrix,
    /// `[intermediate, hidden]`
    pub up: Matrix,
    /// `[hidden, intermediate]`
    pub down: Matrix,
    /// `[hidden]`, after the MLP and before the residual addition (Gemma 3).
    pub mlp_post_norm: Option<Slice<f32>>,
}

/// A matrix and the bias that some families add (Qwen 2).
pub struct Projection {
    /// `[out, hidden]`
    pub matrix: Matrix,
    /// `[out]`
    pub bias: Option<Slice<f32>>,
}

impl Weights {
    /// Views of all tensors, checked against the configuration.
    pub fn load(file: &ModelFile) -> Result<Self> {
        let config = file.config()?;
        for (name, width) in [("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)] {
            if !width.is_multiple_of(TILE) {
                return Err(Error::unsupported(format!("{name} {width} is not a multiple of {TILE}")));
            }
        }
        let hidden = config.hidden_size;
        let embedding = file.matrix("embedding", config.vocab_size, hidden)?;
        let output = match file.contains("output") {
            true => file.matrix("output", config.vocab_size, hidden)?,
            false => embedding.clone(),
        };
        let layers: Vec<_> =
            (0..config.layers).map(|layer| Layer::load(file, &config, layer)).collect::<Result<_>>()?;
        let norm = file.vector("norm", hidden)?;
        for (index, layer) in layers.iter().enumerate() {
            if layer.gate.format().is_quantized() != layer.up.format().is_quantized() {
                return Err(Error::unsupported(format!(
                    "layer {index}: mlp.gate and mlp.up are not both quantized or both floats"
                )));
            }
        }
        let factors = match file.contains("rope.factors") {
            true => Some(file.vector("rope.factors", config.head_dim / 2)?),
            false => None,
        };
        let frequencies = |rope: &crate::file::Rope, factors: Option<&[f32]>| -> Vec<f64> {
            let half = config.head_dim / 2;
            let factor = |i: usize| factors.map_or(1.0, |f| f64::from(f[i]));
            (0..half).map(|i| rope.scale * rope.theta.powf(-(i as f64) / half as f64) / factor(i)).collect()
        };
        let frequencies = [
            frequencies(&config.rope, factors.as_deref()),
            config.rope_local.as_ref().map_or(Vec::new(), |rope| frequencies(rope, None)),
        ];
        if frequencies.iter().flatten().any(|f| !f.is_finite()) {
            return Err(Error::corrupt("rope.factors hold zeros or infinities"));
        }
        Ok(Self { config, embedding, layers, norm, output, frequencies })
    }

    /// Number of weights, without padding.
    pub fn parameters(&self) -> u64 {
        let size = |m: &Matrix| (m.rows() * m.columns()) as u64;
        let layers = self.layers.iter().map(|layer| {
            let qkv: u64 =
                layer.qkv.iter().map(|p| size(&p.matrix) + p.bias.as_ref().map_or(0, |b| b.len() as u64)).sum();
            let norms = [&layer.q_norm, &layer.k_norm, &layer.attention_post_norm, &layer.mlp_post_norm];
            let norms: usize = norms.into_iter().flatten().map(|n| n.len()).sum();
            qkv + size(&layer.o)
                + size(&layer.gate)
                + size(&layer.up)
                + size(&layer.down)
                + (norms + layer.attention_norm.len() + layer.mlp_norm.len()) as u64
        });
        let tied = std::ptr::eq(self.output.bytes(), self.embedding.bytes());
        layers.sum::<u64>() + size(&self.embedding) + self.norm.len() as u64 + if tied { 0 } else { size(&self.output) }
    }
}

impl Layer {
    fn load(file: &ModelFile, config: &Config, layer: usize) -> Result<Self> {
        let name = |part: &str| format!("layers.{layer}.{part}");
        let (hidden, head_dim) = (config.hidden_size, config.head_dim);
        let vector = |part: &str, len| file.vector(&name(part), len);
        let optional = |part: &str, len| file.contains(&name(part)).then(|| vector(part, len)).transpose();
        let projection = |part: &str, heads: usize| {
            Ok(Projection {
                matrix: file.matrix(&name(part), heads * head_dim, hidden)?,
                bias: optional(&format!("{part}_bias"), heads * head_dim)?,
            })
        };
        Ok(Self {
            attention_norm: vector("attention.norm", hidden)?,
            qkv: [
                projection("attention.q", config.heads)?,
                projection("attention.k", config.kv_heads)?,
                projection("attention.v", config.kv_heads)?,
            ],
            q_norm: optional("attention.q_norm", head_dim)?,
            k_norm: optional("attention.k_norm", head_dim)?,
            o: file.matrix(&name("attention.o"), hidden, config.heads * head_dim)?,
            attention_post_norm: optional("attention.post_norm", hidden)?,
            mlp_norm: vector("mlp.norm", hidden)?,
            gate: file.matrix(&name("mlp.gate"), config.intermediate_size, hidden)?,
            up: file.matrix(&name("mlp.up"), config.intermediate_size, hidden)?,
            down: file.matrix(&name("mlp.down"), hidden, config.intermediate_size)?,
            mlp_post_norm: optional("mlp.post_norm", hidden)?,
        })
    }
}

/// Which tokens of a run get logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: the run only extends the cache.
    None,
    /// The last one's, to choose the next token.
    Last,
    /// All of them, to score a text.
    All,
}

/// Tokens that continue one sequence.
pub struct Run<'a> {
    /// What they continue.
    pub sequence: &'a mut Sequence,
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// Which of them get logits.
    pub logits: Logits,
}

/// Receives (run, token of the run, logits `[vocab]`).
pub type OnLogits<'a> = dyn FnMut(usize, usize, &[f32]) + 'a;

/// Threads and scratch memory for forward passes of one model.
pub struct Engine {
    kernel: Kernel,
    precision: Precision,
    pages: Arc<PageStore>,
    pool: Pool,
    scratch: Scratch,
    workers: PerWorker<WorkerScratch>,
}

/// Activations of one batch. Rows are `[BATCH, width]`.
struct Scratch {
    /// Residual stream, `hidden` wide.
    x: Vec<f32>,
    /// Normalised input of the next projection, `hidden` wide.
    h: Vec<f32>,
    /// `[q | k | v]`
    qkv: Vec<f32>,
    /// Attention's output, `heads · head_dim` wide.
    attended: Vec<f32>,
    /// The MLP's inner activations, `intermediate` wide.
    inner: Vec<f32>,
    /// The input of the next projection as codes.
    codes: Vec<ActivationBlock>,
    /// Cosines and sines `[BATCH, head_dim / 2]` of both rotary embeddings.
    turns: [(Vec<f32>, Vec<f32>); 2],
    /// `[LOGIT_ROWS, vocab]`, the vocabulary padded to whole tiles.
    logits: Vec<f32>,
    tokens: Vec<BatchToken>,
    wanted: Vec<usize>,
    jobs: Vec<AttentionJob>,
    partials: Vec<f32>,
    partial_softmax: Vec<Softmax>,
}

/// A token's place in its batch.
#[derive(Clone, Copy)]
struct BatchToken {
    run: usize,
    index: usize,
    token: u32,
    position: usize,
}

/// Some queries of one KV head of one run.
#[derive(Clone, Copy)]
struct AttentionJob {
    run: usize,
    head: usize,
    /// Queries `first..first + count`: query i is token `start + i / group`, head `i % group`.
    start: usize,
    first: usize,
    count: usize,
}

#[derive(Default)]
struct WorkerScratch {
    tiles: [Vec<f32>; 2],
    values: Vec<f32>,
    total: Vec<f32>,
    pages_f16: Vec<PagePart<u16>>,
    pages_f32: Vec<PagePart<f32>>,
}

// SAFETY: the pages are only pointers left over from an earlier call, never read again.
unsafe impl Send for WorkerScratch {}

/// A pointer that jobs write through, each to its own place.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: every use says why places are disjoint.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// `range` is inside the allocation and no other job's.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the contract")]
    unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

impl Engine {
    /// Threads and scratch memory; `threads` 0 is as many as the machine has.
    pub fn new(config: &Config, kernel: Kernel, threads: usize, precision: Precision) -> Self {
        let pool = Pool::new(threads);
        let workers = PerWorker::new(pool.threads());
        let rows = |width: usize| vec![0.0; BATCH * width];
        let heads = config.heads * config.head_dim;
        let widest = config.hidden_size.max(heads).max(config.intermediate_size);
        let turns = || (rows(config.head_dim / 2), rows(config.head_dim / 2));
        let scratch = Scratch {
            x: rows(config.hidden_size),
            h: rows(config.hidden_size),
            qkv: rows(heads + 2 * config.kv_heads * config.head_dim),
            attended: rows(heads),
            inner: rows(config.intermediate_size),
            codes: vec![ActivationBlock::default(); BATCH * widest.div_ceil(BLOCK)],
            turns: [turns(), turns()],
            logits: vec![0.0; LOGIT_ROWS * config.vocab_size.next_multiple_of(TILE)],
            tokens: Vec::with_capacity(BATCH),
            wanted: Vec::with_capacity(BATCH),
            jobs: Vec::new(),
            partials: Vec::new(),
            partial_softmax: Vec::new(),
        };
        Self { kernel, precision, pages: PageStore::new(config, precision), pool, scratch, workers }
    }

    /// The instruction set in use.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Threads in use, the caller's included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// How activations are held.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// An empty sequence for this engine's passes.
    pub fn sequence(&self) -> Sequence {
        Sequence::new(&self.pages)
    }

    /// Bytes of KV cache that `tokens` tokens take.
    pub fn cache_bytes(&self, tokens: usize) -> usize {
        tokens.div_ceil(PAGE_TOKENS) * self.pages.page_bytes()
    }

    /// Evaluates all runs and appends their tokens to their sequences. `on_logits` is called
    /// for the wanted tokens in order. Between any two layers `cancel` is looked at: what
    /// whole batches were done stays, the rest is as if it had never begun.
    ///
    /// Sequences must come from this engine ([`Engine::sequence`]) or a fork of such a one.
    /// Tokens must be below the vocabulary's size (checked), contexts within what the caller
    /// allows (not checked here: positions have no limit of their own).
    pub fn forward(
        &mut self,
        weights: &Weights,
        runs: &mut [Run],
        cancel: &AtomicBool,
        on_logits: &mut OnLogits,
    ) -> Result<()> {
        let vocab = weights.config.vocab_size;
        for run in runs.iter() {
            if let Some(token) = run.tokens.iter().find(|&&token| token as usize >= vocab) {
                return Err(Error::invalid(format!("token {token} is outside the vocabulary of {vocab}")));
            }
        }
        let (mut run, mut index) = (0, 0);
        while run < runs.len() {
            self.scratch.tokens.clear();
            while run < runs.len() && self.scratch.tokens.len() < BATCH {
                match runs[run].tokens.get(index) {
                    Some(&token) => {
                        // `len` grows only when a batch is done: add what this one holds already.
                        let pending = self.scratch.tokens.iter().filter(|t| t.run == run).count();
                        let position = runs[run].sequence.len() + pending;
                        self.scratch.tokens.push(BatchToken { run, index, token, position });
                        index += 1;
                    }
                    None => (run, index) = (run + 1, 0),
                }
            }
            if !self.scratch.tokens.is_empty() {
                self.batch(weights, runs, cancel, on_logits)?;
            }
        }
        Ok(())
    }

    /// One batch, at most [`BATCH`] tokens of any runs.
    fn batch(
        &mut self,
        weights: &Weights,
        runs: &mut [Run],
        cancel: &AtomicBool,
        on_logits: &mut OnLogits,
    ) -> Result<()> {
        let config = &weights.config;
        let tokens = std::mem::take(&mut self.scratch.tokens);
        let count_of = |run: usize| tokens.iter().filter(|t| t.run == run).count();
        for (index, run) in runs.iter_mut().enumerate() {
            run.sequence.reserve(count_of(index));
        }
        self.embed(weights, &tokens);
        self.turn_tables(weights, &tokens);
        for (index, layer) in weights.layers.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                self.scratch.tokens = tokens;
                return Err(Error::Cancelled);
            }
            self.attention(config, layer, index, &tokens, runs);
            self.mlp(config, layer, tokens.len());
        }
        for (index, run) in runs.iter_mut().enumerate() {
            let mut batch = tokens.iter().filter(|t| t.run == index);
            if let Some(first) = batch.next() {
                run.sequence.commit(&run.tokens[first.index..first.index + 1 + batch.count()]);
            }
        }
        self.head(weights, &tokens, runs, on_logits);
        self.scratch.tokens = tokens;
        Ok(())
    }

    /// `x = embedding[token] · scale`
    fn embed(&mut self, weights: &Weights, tokens: &[BatchToken]) {
        let hidden = weights.config.hidden_size;
        let scale = weights.config.embedding_scale;
        for (token, x) in tokens.iter().zip(self.scratch.x.chunks_exact_mut(hidden)) {
            weights.embedding.dequantize_row(token.token as usize, x);
            if scale != 1.0 {
                x.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }

    /// Cosines and sines of every token's position.
    fn turn_tables(&mut self, weights: &Weights, tokens: &[BatchToken]) {
        let half = weights.config.head_dim / 2;
        for (frequencies, (cos, sin)) in weights.frequencies.iter().zip(&mut self.scratch.turns) {
            if frequencies.is_empty() {
                continue;
            }
            let rows = cos.chunks_exact_mut(half).zip(sin.chunks_exact_mut(half));
            for (token, (cos, sin)) in tokens.iter().zip(rows) {
                for ((frequency, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
                    let (s, c) = (token.position as f64 * frequency).sin_cos();
                    (*cos, *sin) = (c as f32, s as f32);
                }
            }
        }
    }

    /// `x += o · attend(rope(qkv · norm(x)))`
    fn attention(&mut self, config: &Config, layer: &Layer, index: usize, tokens: &[BatchToken], runs: &[Run]) {
        let n = tokens.len();
        let width = (config.heads + 2 * config.kv_heads) * config.head_dim;
        self.normalise(&layer.attention_norm, config.rms_norm_eps, n);
        let mut qkv = std::mem::take(&mut self.scratch.qkv);
        let h = std::mem::take(&mut self.scratch.h);
        let hidden = config.hidden_size;
        let matrices = [&layer.qkv[0].matrix, &layer.qkv[1].matrix, &layer.qkv[2].matrix];
        self.project(&matrices, &h[..n * hidden], hidden, &mut qkv[..n * width], width, Store::Set);
        self.scratch.h = h;
        self.place(config, layer, index, tokens, runs, &mut qkv);
        match self.precision {
            Precision::Fast => self.attend::<u16>(config, index, tokens, runs, &qkv),
            Precision::Exact => self.attend::<f32>(config, index, tokens, runs, &qkv),
        }
        self.scratch.qkv = qkv;
        let attended = std::mem::take(&mut self.scratch.attended);
        let heads = config.heads * config.head_dim;
        self.project_to_residual(&layer.o, &attended[..n * heads], heads, layer.attention_post_norm.as_ref(), config);
        self.scratch.attended = attended;
    }

    /// `x += down · (activation(gate · h) ⊙ up · h)`, h = norm(x)
    fn mlp(&mut self, config: &Config, layer: &Layer, n: usize) {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        self.normalise(&layer.mlp_norm, config.rms_norm_eps, n);
        let mut inner = std::mem::take(&mut self.scratch.inner);
        let h = std::mem::take(&mut self.scratch.h);
        self.encode(&h[..n * hidden], hidden, &[&layer.gate, &layer.up]);
        let (kernel, workers) = (self.kernel, &self.workers);
        let output = Output::new(&mut inner[..n * intermediate], intermediate);
        let codes = &self.scratch.codes[..];
        let exact = self.precision == Precision::Exact;
        let inputs =
            (input(&layer.gate, exact, &h[..n * hidden], codes), input(&layer.up, exact, &h[..n * hidden], codes));
        // Gate and up share one pass where they are stored alike, which converters see to.
        let alike =
            matches!((&inputs.0, &inputs.1), (Input::Float(_), Input::Float(_)) | (Input::Codes(_), Input::Codes(_)));
        assert!(alike, "checked when the model was opened");
        let tiles = layer.gate.tiles();
        let step = share(tiles, self.pool.threads());
        self.pool.run(tiles.div_ceil(step), |job, worker| {
            // SAFETY: this job's worker; tiles of jobs are disjoint.
            let scratch = unsafe { &mut workers.get(worker).tiles };
            kernel.run(GatedMatMul {
                gate: &layer.gate,
                up: &layer.up,
                activation: config.activation,
                tiles: job * step..((job + 1) * step).min(tiles),
                input: inputs.0,
                output,
                scratch,
            });
        });
        self.scratch.h = h;
        self.project_to_residual(
            &layer.down,
            &inner[..n * intermediate],
            intermediate,
            layer.mlp_post_norm.as_ref(),
            config,
        );
        self.scratch.inner = inner;
    }

    /// `h = norm(x)` for the first `n` rows.
    fn normalise(&mut self, weight: &Slice<f32>, eps: f32, n: usize) {
        let hidden = weight.len();
        let x = &self.scratch.x[..n * hidden];
        let h = Shared(self.scratch.h.as_mut_ptr());
        let kernel = self.kernel;
        each_row(&mut self.pool, n, |row| {
            // SAFETY: rows are disjoint.
            let out = unsafe { h.slice(row * hidden, hidden) };
            kernel.run(RmsNorm { x: &x[row * hidden..][..hidden], weight, eps, out });
        });
    }

    /// Quantizes rows into `codes`, if one of `matrices` wants them so.
    fn encode(&mut self, rows: &[f32], columns: usize, matrices: &[&Matrix]) {
        let wanted = self.precision == Precision::Fast && matrices.iter().any(|m| m.format().is_quantized());
        if !wanted {
            return;
        }
        let blocks = columns / BLOCK;
        let codes = Shared(self.scratch.codes.as_mut_ptr());
        let kernel = self.kernel;
        each_row(&mut self.pool, rows.len() / columns, |row| {
            // SAFETY: rows are disjoint; scratch holds BATCH rows of the widest input.
            let out = unsafe { codes.slice(row * blocks, blocks) };
            kernel.run(Quantize { row: &rows[row * columns..][..columns], out });
        });
    }

    /// `out = [m · rows for m in matrices]`, side by side in rows of `stride`.
    fn project(
        &mut self,
        matrices: &[&Matrix],
        rows: &[f32],
        columns: usize,
        out: &mut [f32],
        stride: usize,
        store: Store,
    ) {
        self.encode(rows, columns, matrices);
        let tokens = rows.len() / columns;
        let exact = self.precision == Precision::Exact;
        let (kernel, workers, codes) = (self.kernel, &self.workers, &self.scratch.codes[..]);
        let total: usize = matrices.iter().map(|m| m.tiles()).sum();
        let step = share(total, self.pool.threads());
        let base = Output { tokens, ..Output::new(out, stride) };
        self.pool.run(total.div_ceil(step), |job, worker| {
            let (mut from, to) = (job * step, ((job + 1) * step).min(total));
            let mut first = 0;
            for matrix in matrices {
                let end = first + matrix.tiles();
                if from < end && from < to {
                    let tiles = from - first..to.min(end) - first;
                    // SAFETY: this job's worker; tiles of jobs are disjoint. Matrices begin at
                    // whole tiles of the row: head_dim is a multiple of 16.
                    let (scratch, output) =
                        unsafe { (&mut workers.get(worker).tiles[0], base.from_column(first * TILE)) };
                    kernel.run(MatMul {
                        matrix,
                        tiles,
                        input: input(matrix, exact, rows, codes),
                        output,
                        store,
                        scratch,
                    });
                    from = to.min(end);
                }
                first = end;
            }
        });
    }

    /// `x += matrix · rows`, through a norm where the family has one there.
    fn project_to_residual(
        &mut self,
        matrix: &Matrix,
        rows: &[f32],
        columns: usize,
        post_norm: Option<&Slice<f32>>,
        config: &Config,
    ) {
        let hidden = config.hidden_size;
        let n = rows.len() / columns;
        let mut x = std::mem::take(&mut self.scratch.x);
        match post_norm {
            None => self.project(&[matrix], rows, columns, &mut x[..n * hidden], hidden, Store::Add),
            Some(weight) => {
                let mut h = std::mem::take(&mut self.scratch.h);
                self.project(&[matrix], rows, columns, &mut h[..n * hidden], hidden, Store::Set);
                for (x, h) in x.chunks_exact_mut(hidden).zip(h.chunks_exact_mut(hidden)).take(n) {
                    self.kernel.run(RmsNormInPlace { x: h, weight, eps: config.rms_norm_eps });
                    x.iter_mut().zip(h).for_each(|(x, h)| *x += *h);
                }
                self.scratch.h = h;
            }
        }
        self.scratch.x = x;
    }

    /// Adds biases, normalises and turns q and k, and stores k and v in the cache.
    fn place(
        &mut self,
        config: &Config,
        layer: &Layer,
        index: usize,
        tokens: &[BatchToken],
        runs: &[Run],
        qkv: &mut [f32],
    ) {
        let (heads, kv_heads, dim) = (config.heads, config.kv_heads, config.head_dim);
        let width = (heads + 2 * kv_heads) * dim;
        let (cos, sin) = &self.scratch.turns[config.rope_index(index)];
        let kernel = self.kernel;
        let rows = Shared(qkv.as_mut_ptr());
        each_row(&mut self.pool, tokens.len(), |row| {
            // SAFETY: rows are disjoint.
            let qkv = unsafe { rows.slice(row * width, width) };
            let token = tokens[row];
            let turn = row * dim / 2..(row + 1) * dim / 2;
            let (cos, sin) = (&cos[turn.clone()], &sin[turn]);
            let mut start = 0;
            for projection in &layer.qkv {
                if let Some(bias) = &projection.bias {
                    qkv[start..].iter_mut().zip(bias.iter()).for_each(|(x, b)| *x += b);
                }
                start += projection.matrix.rows();
            }
            let (q, kv) = qkv.split_at_mut(heads * dim);
            let (k, v) = kv.split_at_mut(kv_heads * dim);
            for (rows, norm, scale) in [(q, &layer.q_norm, config.attention_scale), (&mut *k, &layer.k_norm, 1.0)] {
                for head in rows.chunks_exact_mut(dim) {
                    if let Some(weight) = norm {
                        kernel.run(RmsNormInPlace { x: head, weight, eps: config.rms_norm_eps });
                    }
                    kernel.run(Rope { x: head, cos, sin, scale });
                }
            }
            for head in 0..kv_heads {
                let part = head * dim..(head + 1) * dim;
                // SAFETY: the position is reserved, and this row's own.
                unsafe { runs[token.run].sequence.write(token.position, index, head, &k[part.clone()], &v[part]) };
            }
        });
    }

    /// Each query over its sequence's keys and values: `attended[token, head · head_dim]`.
    fn attend<E: Element>(&mut self, config: &Config, layer: usize, tokens: &[BatchToken], runs: &[Run], qkv: &[f32])
    where
        WorkerScratch: Pages<E>,
    {
        let (heads, kv_heads, dim) = (config.heads, config.kv_heads, config.head_dim);
        let (group, width, window) = (heads / kv_heads, (heads + 2 * kv_heads) * dim, config.window(layer));
        let mut jobs = std::mem::take(&mut self.scratch.jobs);
        list_jobs(tokens, kv_heads, group, &mut jobs);
        let segment_tokens = PAGE_TOKENS * SEGMENT_PAGES;
        // Segments that queries of a job see.
        let segments = |job: &AttentionJob| {
            let first = tokens[job.start + job.first / group].position;
            let last = tokens[job.start + (job.first + job.count - 1) / group].position;
            (first + 1).saturating_sub(window) / segment_tokens..last / segment_tokens + 1
        };
        let attended = Shared(self.scratch.attended.as_mut_ptr());
        let (kernel, workers) = (self.kernel, &self.workers);
        let attend = |job: &AttentionJob,
                      segment: usize,
                      softmax: &mut [Softmax],
                      values: &mut [f32],
                      pages: &mut Vec<PagePart<E>>| {
            let query = |i: usize| {
                let token = job.start + (job.first + i) / group;
                let head = job.head * group + (job.first + i) % group;
                (qkv[token * width + head * dim..][..dim].as_ptr(), tokens[token].position)
            };
            let queries: [_; QUERIES] = std::array::from_fn(|i| query(i.min(job.count - 1)));
            let newest = queries[job.count - 1].1;
            pages.clear();
            let first = segment * SEGMENT_PAGES;
            let last = (first + SEGMENT_PAGES).min(newest / PAGE_TOKENS + 1);
            pages.extend((first..last).map(|page| runs[job.run].sequence.part::<E>(page, layer, job.head)));
            kernel.run(AttendSegment {
                pages,
                start: segment * segment_tokens,
                head_dim: dim,
                queries: &queries.map(|q| q.0)[..job.count],
                positions: &queries.map(|q| q.1)[..job.count],
                window,
                softmax: &mut softmax[..job.count],
                values: &mut values[..job.count * dim],
            });
        };
        // Divides by the softmax's sum and stores the result of a query.
        let finish = |job: &AttentionJob, i: usize, softmax: Softmax, values: &[f32]| {
            let token = job.start + (job.first + i) / group;
            let head = job.head * group + (job.first + i) % group;
            // SAFETY: a query's output is written by its job alone.
            let out = unsafe { attended.slice((token * heads + head) * dim, dim) };
            let inverse = 1.0 / softmax.sum;
            out.iter_mut().zip(values).for_each(|(out, value)| *out = value * inverse);
        };
        let deepest = jobs.iter().map(|job| segments(job).len()).max().unwrap_or(0);
        let split = deepest > 1 && jobs.len() < 4 * self.pool.threads();
        if split {
            // Few queries, long context: segments are jobs of their own.
            let size = QUERIES * dim;
            let partials = &mut self.scratch.partials;
            partials.resize(jobs.len() * deepest * size, 0.0);
            self.scratch.partial_softmax.resize(jobs.len() * deepest * QUERIES, Softmax::default());
            let values = Shared(partials.as_mut_ptr());
            let softmaxes = Shared(self.scratch.partial_softmax.as_mut_ptr());
            self.pool.run(jobs.len() * deepest, |index, worker| {
                let job = &jobs[index / deepest];
                let seen = segments(job);
                let segment = seen.start + index % deepest;
                if segment >= seen.end {
                    return;
                }
                // SAFETY: places of jobs are disjoint; this job's worker.
                let (values, softmax, pages) = unsafe {
                    (
                        values.slice(index * size, size),
                        softmaxes.slice(index * QUERIES, QUERIES),
                        workers.get(worker).pages(),
                    )
                };
                values.fill(0.0);
                softmax.fill(Softmax::default());
                attend(job, segment, softmax, values, pages);
            });
            let (partials, softmaxes) = (&self.scratch.partials, &self.scratch.partial_softmax);
            // SAFETY: no region is open: this thread is every worker.
            let total = unsafe { &mut workers.get(0).total };
            for (at, job) in jobs.iter().enumerate() {
                for i in 0..job.count {
                    total.clear();
                    total.resize(dim, 0.0);
                    let mut softmax = Softmax::default();
                    for part in 0..segments(job).len() {
                        let place = at * deepest + part;
                        let next = softmaxes[place * QUERIES + i];
                        let next_values = &partials[place * size + i * dim..][..dim];
                        kernel.run(MergeSegment { softmax: &mut softmax, values: total, next, next_values });
                    }
                    finish(job, i, softmax, total);
                }
            }
        } else {
            self.pool.run(jobs.len(), |index, worker| {
                let job = &jobs[index];
                // SAFETY: this job's worker.
                let scratch = unsafe { workers.get(worker) };
                let mut values = std::mem::take(&mut scratch.values);
                let mut total = std::mem::take(&mut scratch.total);
                total.clear();
                total.resize(job.count * dim, 0.0);
                let mut softmax = [Softmax::default(); QUERIES];
                for segment in segments(job) {
                    values.clear();
                    values.resize(job.count * dim, 0.0);
                    let mut next = [Softmax::default(); QUERIES];
                    attend(job, segment, &mut next, &mut values, scratch.pages());
                    for i in 0..job.count {
                        let (values, next_values) = (&mut total[i * dim..][..dim], &values[i * dim..][..dim]);
                        kernel.run(MergeSegment { softmax: &mut softmax[i], values, next: next[i], next_values });
                    }
                }
                for i in 0..job.count {
                    finish(job, i, softmax[i], &total[i * dim..][..dim]);
                }
                (scratch.values, scratch.total) = (values, total);
            });
        }
        self.scratch.jobs = jobs;
    }

    /// Logits of the wanted tokens, some rows at a time.
    fn head(&mut self, weights: &Weights, tokens: &[BatchToken], runs: &[Run], on_logits: &mut OnLogits) {
        let (hidden, vocab) = (weights.config.hidden_size, weights.config.vocab_size);
        let padded = vocab.next_multiple_of(TILE);
        let mut wanted = std::mem::take(&mut self.scratch.wanted);
        wanted.clear();
        wanted.extend((0..tokens.len()).filter(|&row| {
            let token = tokens[row];
            match runs[token.run].logits {
                Logits::None => false,
                Logits::Last => token.index + 1 == runs[token.run].tokens.len(),
                Logits::All => true,
            }
        }));
        for rows in wanted.chunks(LOGIT_ROWS) {
            let mut h = std::mem::take(&mut self.scratch.h);
            for (&row, out) in rows.iter().zip(h.chunks_exact_mut(hidden)) {
                let x = &self.scratch.x[row * hidden..][..hidden];
                self.kernel.run(RmsNorm { x, weight: &weights.norm, eps: weights.config.rms_norm_eps, out });
            }
            let mut logits = std::mem::take(&mut self.scratch.logits);
            let n = rows.len();
            self.project(&[&weights.output], &h[..n * hidden], hidden, &mut logits[..n * padded], padded, Store::Set);
            for (&row, logits) in rows.iter().zip(logits.chunks_exact(padded)) {
                on_logits(tokens[row].run, tokens[row].index, &logits[..vocab]);
            }
            self.scratch.h = h;
            self.scratch.logits = logits;
        }
        self.scratch.wanted = wanted;
    }
}

/// What `matrix` is multiplied with: codes where both allow it.
fn input<'a>(matrix: &Matrix, exact: bool, rows: &'a [f32], codes: &'a [ActivationBlock]) -> Input<'a> {
    if exact || !matrix.format().is_quantized() {
        Input::Float(rows)
    } else {
        Input::Codes(&codes[..rows.len() / BLOCK])
    }
}

/// Tiles in a job: a few jobs for each thread, so that an interrupted one delays little.
fn share(tiles: usize, threads: usize) -> usize {
    const JOBS_PER_THREAD: usize = 6;
    if threads == 1 { tiles.max(1) } else { tiles.div_ceil(threads * JOBS_PER_THREAD).max(1) }
}

/// Calls `job` for each row: on the calling thread where they are few.
fn each_row(pool: &mut Pool, rows: usize, job: impl Fn(usize) + Sync) {
    /// Rows in a job: below two of these, waking others costs more than they help.
    const ROWS: usize = 8;
    if rows < 2 * ROWS {
        (0..rows).for_each(job);
    } else {
        pool.run(rows.div_ceil(ROWS), |index, _| (index * ROWS..((index + 1) * ROWS).min(rows)).for_each(&job));
    }
}

/// Cuts the batch's queries into jobs of up to [`QUERIES`], by run and KV head.
fn list_jobs(tokens: &[BatchToken], kv_heads: usize, group: usize, jobs: &mut Vec<AttentionJob>) {
    jobs.clear();
    let mut start = 0;
    for tokens in tokens.chunk_by(|a, b| a.run == b.run) {
        let queries = tokens.len() * group;
        for head in 0..kv_heads {
            for first in (0..queries).step_by(QUERIES) {
                let count = QUERIES.min(queries - first);
                jobs.push(AttentionJob { run: tokens[0].run, head, start, first, count });
            }
        }
        start += tokens.len();
    }
}

/// A worker's list of pages for one element type.
trait Pages<E> {
    fn pages(&mut self) -> &mut Vec<PagePart<E>>;
}

impl Pages<u16> for WorkerScratch {
    fn pages(&mut self) -> &mut Vec<PagePart<u16>> {
        &mut self.pages_f16
    }
}

impl Pages<f32> for WorkerScratch {
    fn pages(&mut self) -> &mut Vec<PagePart<f32>> {
        &mut self.pages_f32
    }
}

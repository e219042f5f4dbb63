//! The transformer: one forward pass for every family, whose differences are data.
//!
//! [`Weights`] are views of the model file, [`Engine`] owns threads and scratch memory, a
//! [`Sequence`] what was evaluated. A batch mixes tokens of any sequences; each token's
//! result is the same alone, in a batch, in chunks, and with any number of threads. An
//! adapter acts on the runs that ask for it.
//!
//! Not here: tokens' meaning, sampling, chats.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod attention;

use attention::AttentionJob;

use crate::adapter::{AdaptedLayer, Adapter, Pair, Target};
use crate::error::{Error, Result};
use crate::file::Config;
use crate::kernels::Kernel;
use crate::kernels::activations::{ActivationBlock, Quantize};
use crate::kernels::attention::{PAGE_TOKENS, PagePart, Softmax};
use crate::kernels::low_rank::ThinMatMul;
use crate::kernels::matmul::{Gate, GatedMatMul, Input, MatMul, Output, Store};
use crate::kernels::rows::{RmsNorm, RmsNormInPlace};
use crate::kv::{PageStore, Precision, Sequence};
use crate::map::{Slice, try_zeroed};
use crate::pool::{PerWorker, Pool};
use crate::quant::{BLOCK, Matrix, TILE};
pub use crate::weights::{Layer, Projection, Weights};

/// Most tokens computed together. Weights are read once for all of them; more would only
/// push their activations out of the second-level cache.
pub const BATCH: usize = 128;
/// Rows of logits computed together.
const LOGIT_ROWS: usize = 16;

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
    /// Whether the adapter acts on them. Tokens without it cannot follow tokens with it.
    pub adapted: bool,
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
    /// `scale · A·x` of up to three pairs, `[3][BATCH, rank padded to whole tiles]`; empty
    /// until an adapter acts.
    reduced: Vec<f32>,
    /// `up · h` of adapted rows, `intermediate` wide; empty until an adapter acts.
    ups: Vec<f32>,
    /// Rows that lie together and are all adapted, or all not.
    spans: Vec<Span>,
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

/// Rows of a batch.
#[derive(Clone)]
struct Span {
    rows: Range<usize>,
    adapted: bool,
}

/// A matrix, and what an adapter adds to it on the adapted rows.
#[derive(Clone, Copy)]
struct Linear<'a> {
    matrix: &'a Matrix,
    pair: Option<&'a Pair>,
}

impl<'a> Linear<'a> {
    fn new(matrix: &'a Matrix, adapted: Option<&'a AdaptedLayer>, target: Target) -> Self {
        Self { matrix, pair: adapted.and_then(|layer| layer.get(target)) }
    }
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
    pub fn new(config: &Config, kernel: Kernel, threads: usize, precision: Precision) -> Result<Self> {
        let rows = |width: usize| try_zeroed::<f32>(BATCH * width);
        let heads = config.heads * config.head_dim;
        let widest = config.hidden_size.max(heads).max(config.intermediate_size);
        let turns = || Ok::<_, Error>((rows(config.head_dim / 2)?, rows(config.head_dim / 2)?));
        let mut codes = Vec::new();
        let blocks = BATCH * widest.div_ceil(BLOCK);
        codes
            .try_reserve_exact(blocks)
            .map_err(|_| Error::OutOfMemory { bytes: blocks * size_of::<ActivationBlock>() })?;
        codes.resize(blocks, ActivationBlock::default());
        let scratch = Scratch {
            x: rows(config.hidden_size)?,
            h: rows(config.hidden_size)?,
            qkv: rows(heads + 2 * config.kv_heads * config.head_dim)?,
            attended: rows(heads)?,
            inner: rows(config.intermediate_size)?,
            codes,
            turns: [turns()?, turns()?],
            reduced: Vec::new(),
            ups: Vec::new(),
            spans: Vec::new(),
            logits: try_zeroed(LOGIT_ROWS * config.vocab_size.next_multiple_of(TILE))?,
            tokens: Vec::with_capacity(BATCH),
            wanted: Vec::with_capacity(BATCH),
            jobs: Vec::new(),
            partials: Vec::new(),
            partial_softmax: Vec::new(),
        };
        let pool = Pool::new(threads);
        let workers = PerWorker::new(pool.threads());
        Ok(Self { kernel, precision, pages: PageStore::new(config, precision), pool, scratch, workers })
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
            if run.adapted && weights.adapter.is_none() {
                return Err(Error::invalid("adapted tokens, and the model has no adapter"));
            }
            if !run.adapted && run.sequence.adapted_from() < run.sequence.len() {
                return Err(Error::invalid("tokens without the adapter after tokens with it"));
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
            if let Err(error) = run.sequence.reserve(count_of(index)) {
                self.scratch.tokens = tokens;
                return Err(error);
            }
        }
        let adapter = self.adapt(weights, &tokens, runs);
        self.embed(weights, &tokens);
        self.turn_tables(weights, &tokens);
        for (index, layer) in weights.layers.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                self.scratch.tokens = tokens;
                return Err(Error::Cancelled);
            }
            let adapted = adapter.map(|adapter| &adapter.layers[index]);
            self.attention(config, layer, adapted, index, &tokens, runs);
            self.mlp(config, layer, adapted, tokens.len());
        }
        for (index, run) in runs.iter_mut().enumerate() {
            let mut batch = tokens.iter().filter(|t| t.run == index);
            if let Some(first) = batch.next() {
                run.sequence.commit(&run.tokens[first.index..first.index + 1 + batch.count()], run.adapted);
            }
        }
        self.head(weights, &tokens, runs, on_logits);
        self.scratch.tokens = tokens;
        Ok(())
    }

    /// Notes which rows are adapted, and returns the adapter if any is.
    fn adapt<'w>(&mut self, weights: &'w Weights, tokens: &[BatchToken], runs: &[Run]) -> Option<&'w Adapter> {
        self.scratch.spans.clear();
        let mut start = 0;
        for tokens in tokens.chunk_by(|a, b| runs[a.run].adapted == runs[b.run].adapted) {
            let rows = start..start + tokens.len();
            start = rows.end;
            self.scratch.spans.push(Span { rows, adapted: runs[tokens[0].run].adapted });
        }
        let adapter = weights.adapter.as_ref().filter(|_| self.scratch.spans.iter().any(|span| span.adapted))?;
        // Once: then they have the size.
        self.scratch.reduced.resize(3 * BATCH * adapter.spec.rank.next_multiple_of(TILE), 0.0);
        self.scratch.ups.resize(BATCH * weights.config.intermediate_size, 0.0);
        Some(adapter)
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
    fn attention(
        &mut self,
        config: &Config,
        layer: &Layer,
        adapted: Option<&AdaptedLayer>,
        index: usize,
        tokens: &[BatchToken],
        runs: &[Run],
    ) {
        let n = tokens.len();
        let width = (config.heads + 2 * config.kv_heads) * config.head_dim;
        self.normalise(&layer.attention_norm, config.rms_norm_eps, n);
        let mut qkv = std::mem::take(&mut self.scratch.qkv);
        let h = std::mem::take(&mut self.scratch.h);
        let hidden = config.hidden_size;
        let targets = [Target::Q, Target::K, Target::V];
        let linears: [_; 3] = std::array::from_fn(|i| Linear::new(&layer.qkv[i].matrix, adapted, targets[i]));
        self.project(&linears, &h[..n * hidden], hidden, &mut qkv[..n * width], width, Store::Set);
        self.scratch.h = h;
        self.place(config, layer, index, tokens, runs, &mut qkv);
        match self.precision {
            Precision::Fast => self.attend::<u16>(config, index, tokens, runs, &qkv),
            Precision::Exact => self.attend::<f32>(config, index, tokens, runs, &qkv),
        }
        self.scratch.qkv = qkv;
        let attended = std::mem::take(&mut self.scratch.attended);
        let heads = config.heads * config.head_dim;
        let o = Linear::new(&layer.o, adapted, Target::O);
        self.project_to_residual(o, &attended[..n * heads], heads, layer.attention_post_norm.as_ref(), config);
        self.scratch.attended = attended;
    }

    /// `x += down · (activation(gate · h) ⊙ up · h)`, h = norm(x)
    fn mlp(&mut self, config: &Config, layer: &Layer, adapted: Option<&AdaptedLayer>, n: usize) {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        self.normalise(&layer.mlp_norm, config.rms_norm_eps, n);
        let mut inner = std::mem::take(&mut self.scratch.inner);
        let h = std::mem::take(&mut self.scratch.h);
        let gate = Linear::new(&layer.gate, adapted, Target::Gate);
        let up = Linear::new(&layer.up, adapted, Target::Up);
        self.gated(config, gate, up, &h[..n * hidden], &mut inner[..n * intermediate]);
        self.scratch.h = h;
        let down = Linear::new(&layer.down, adapted, Target::Down);
        self.project_to_residual(down, &inner[..n * intermediate], intermediate, layer.mlp_post_norm.as_ref(), config);
        self.scratch.inner = inner;
    }

    /// `inner = activation(gate · rows) ⊙ up · rows`. On adapted rows what the pairs add comes
    /// between the products and the activation; on all others it is one fused pass.
    fn gated(&mut self, config: &Config, gate: Linear, up: Linear, rows: &[f32], inner: &mut [f32]) {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        self.encode(rows, hidden, [gate.matrix, up.matrix]);
        self.reduce([gate.pair, up.pair].into_iter(), rows, hidden);
        let split = gate.pair.is_some() || up.pair.is_some();
        let exact = self.precision == Precision::Exact;
        let codes = &self.scratch.codes[..];
        let inputs = (input(gate.matrix, exact, rows, codes), input(up.matrix, exact, rows, codes));
        // Gate and up share one pass where they are stored alike, which converters see to.
        let alike =
            matches!((&inputs.0, &inputs.1), (Input::Float(_), Input::Float(_)) | (Input::Codes(_), Input::Codes(_)));
        assert!(alike, "checked when the model was opened");
        let output = Output::new(inner, intermediate);
        let n = output.tokens;
        let ups = if split { &mut self.scratch.ups[..n * intermediate] } else { &mut [] };
        let ups = Output::new(ups, intermediate);
        // Without pairs, all rows are alike.
        let whole = [Span { rows: 0..n, adapted: false }];
        let spans = if split { &self.scratch.spans[..] } else { &whole };
        let (kernel, workers, reduced) = (self.kernel, &self.workers, &self.scratch.reduced[..]);
        let tiles = gate.matrix.tiles();
        let cut = Cut::new(tiles, self.pool.threads());
        self.pool.run(cut.jobs(), |job, worker| {
            // SAFETY: this job's worker; tiles of jobs are disjoint.
            let scratch = unsafe { &mut workers.get(worker).tiles };
            let tiles = cut.tiles(job);
            for Span { rows, adapted } in spans {
                let (input, output) = (inputs.0.rows(rows.clone(), hidden), output.rows(rows.clone()));
                if !adapted {
                    kernel.run(GatedMatMul {
                        gate: gate.matrix,
                        up: up.matrix,
                        activation: config.activation,
                        tiles: tiles.clone(),
                        input,
                        output,
                        scratch,
                    });
                    continue;
                }
                let ups = ups.rows(rows.clone());
                for (slot, (linear, output)) in [(gate, output), (up, ups)].into_iter().enumerate() {
                    let (tiles, store, scratch) = (tiles.clone(), Store::Set, &mut scratch[0]);
                    kernel.run(MatMul { matrix: linear.matrix, tiles: tiles.clone(), input, output, store, scratch });
                    if let Some(pair) = linear.pair {
                        expand(kernel, pair, slot, reduced, tiles, rows.clone(), output);
                    }
                }
                let (activation, tiles) = (config.activation, tiles.clone());
                kernel.run(Gate { activation, tiles, gate: output, up: ups });
            }
        });
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
    fn encode<'m>(&mut self, rows: &[f32], columns: usize, matrices: impl IntoIterator<Item = &'m Matrix>) {
        let quantized = matrices.into_iter().any(|matrix| matrix.format().is_quantized());
        let wanted = self.precision == Precision::Fast && quantized;
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

    /// `scale · A·x` of the adapted rows for each of `pairs`, in its slot of `reduced`.
    fn reduce<'p>(
        &mut self,
        pairs: impl Iterator<Item = Option<&'p Pair>> + Clone + Sync,
        rows: &[f32],
        columns: usize,
    ) {
        /// Rows in a job.
        const ROWS: usize = 8;
        if pairs.clone().all(|pair| pair.is_none()) {
            return;
        }
        let reduced = Shared(self.scratch.reduced.as_mut_ptr());
        let kernel = self.kernel;
        for span in self.scratch.spans.iter().filter(|span| span.adapted) {
            let chunk = |index: usize| {
                let start = span.rows.start + index * ROWS;
                let chunk = start..(start + ROWS).min(span.rows.end);
                for (slot, pair) in pairs.clone().enumerate() {
                    let Some(Pair { a, scale, .. }) = pair else { continue };
                    let stride = a.tiles() * TILE;
                    // SAFETY: rows of chunks, and slots, are disjoint; `adapt` made room.
                    let out = unsafe { reduced.slice((slot * BATCH + chunk.start) * stride, chunk.len() * stride) };
                    kernel.run(ThinMatMul {
                        matrix: a,
                        tiles: 0..a.tiles(),
                        x: &rows[chunk.start * columns..chunk.end * columns],
                        x_stride: columns,
                        scale: *scale,
                        output: Output::new(out, stride),
                        store: Store::Set,
                    });
                }
            };
            // Few rows are done before another thread would have begun.
            match span.rows.len().div_ceil(ROWS) {
                1 => chunk(0),
                chunks => self.pool.run(chunks, |index, _| chunk(index)),
            }
        }
    }

    /// `out = [m · rows for m in matrices]`, side by side in rows of `stride`.
    fn project(
        &mut self,
        linears: &[Linear],
        rows: &[f32],
        columns: usize,
        out: &mut [f32],
        stride: usize,
        store: Store,
    ) {
        self.encode(rows, columns, linears.iter().map(|linear| linear.matrix));
        self.reduce(linears.iter().map(|linear| linear.pair), rows, columns);
        let tokens = rows.len() / columns;
        let exact = self.precision == Precision::Exact;
        let (kernel, workers, codes) = (self.kernel, &self.workers, &self.scratch.codes[..]);
        let (reduced, spans) = (&self.scratch.reduced[..], &self.scratch.spans[..]);
        let total: usize = linears.iter().map(|linear| linear.matrix.tiles()).sum();
        let cut = Cut::new(total, self.pool.threads());
        let base = Output { tokens, ..Output::new(out, stride) };
        self.pool.run(cut.jobs(), |job, worker| {
            let Range { start: mut from, end: to } = cut.tiles(job);
            let mut first = 0;
            for (slot, &Linear { matrix, pair }) in linears.iter().enumerate() {
                let end = first + matrix.tiles();
                if from < end && from < to {
                    let tiles = from - first..to.min(end) - first;
                    // SAFETY: this job's worker; tiles of jobs are disjoint. Matrices begin at
                    // whole tiles of the row: head_dim is a multiple of 16.
                    let (scratch, output) =
                        unsafe { (&mut workers.get(worker).tiles[0], base.from_column(first * TILE)) };
                    let input = input(matrix, exact, rows, codes);
                    kernel.run(MatMul { matrix, tiles: tiles.clone(), input, output, store, scratch });
                    for span in spans.iter().filter(|span| span.adapted) {
                        let Some(pair) = pair else { break };
                        let rows = span.rows.clone();
                        expand(kernel, pair, slot, reduced, tiles.clone(), rows.clone(), output.rows(rows));
                    }
                    from = to.min(end);
                }
                first = end;
            }
        });
    }

    /// `x += matrix · rows`, through a norm where the family has one there.
    fn project_to_residual(
        &mut self,
        linear: Linear,
        rows: &[f32],
        columns: usize,
        post_norm: Option<&Slice<f32>>,
        config: &Config,
    ) {
        let hidden = config.hidden_size;
        let n = rows.len() / columns;
        let mut x = std::mem::take(&mut self.scratch.x);
        match post_norm {
            None => self.project(&[linear], rows, columns, &mut x[..n * hidden], hidden, Store::Add),
            Some(weight) => {
                let mut h = std::mem::take(&mut self.scratch.h);
                self.project(&[linear], rows, columns, &mut h[..n * hidden], hidden, Store::Set);
                for (x, h) in x.chunks_exact_mut(hidden).zip(h.chunks_exact_mut(hidden)).take(n) {
                    self.kernel.run(RmsNormInPlace { x: h, weight, eps: config.rms_norm_eps });
                    x.iter_mut().zip(h).for_each(|(x, h)| *x += *h);
                }
                self.scratch.h = h;
            }
        }
        self.scratch.x = x;
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
            let output = Linear { matrix: &weights.output, pair: None };
            self.project(&[output], &h[..n * hidden], hidden, &mut logits[..n * padded], padded, Store::Set);
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

/// `output += B · reduced` for the tiles and rows that `output` begins with.
fn expand(
    kernel: Kernel,
    pair: &Pair,
    slot: usize,
    reduced: &[f32],
    tiles: Range<usize>,
    rows: Range<usize>,
    output: Output,
) {
    let x_stride = pair.a.tiles() * TILE;
    let first = slot * BATCH + rows.start;
    let x = &reduced[first * x_stride..(first + rows.len()) * x_stride];
    kernel.run(ThinMatMul { matrix: &pair.b, tiles, x, x_stride, scale: 1.0, output, store: Store::Add });
}

/// Tiles cut into jobs: half of them in one large job for each thread, half of the rest in the
/// next ones, and so on down to single tiles. Large jobs stream memory well, and with small ones
/// at the end all threads come to it together, also where one of them was interrupted.
#[derive(Clone, Copy)]
struct Cut {
    tiles: usize,
    threads: usize,
    /// Rounds of `threads` jobs each; what is left after them are single tiles.
    rounds: usize,
}

impl Cut {
    fn new(tiles: usize, threads: usize) -> Self {
        Self { tiles, threads, rounds: (tiles / threads).checked_ilog2().unwrap_or(0) as usize }
    }

    fn jobs(&self) -> usize {
        if self.threads == 1 { 1 } else { self.rounds * self.threads + (self.tiles >> self.rounds) }
    }

    fn tiles(&self, job: usize) -> Range<usize> {
        if self.threads == 1 {
            return 0..self.tiles;
        }
        let (round, place) = (job / self.threads, job % self.threads);
        if round >= self.rounds {
            let left = self.rounds * self.threads + (self.tiles >> self.rounds) - job;
            return self.tiles - left..self.tiles - left + 1;
        }
        let (start, end) = (self.tiles - (self.tiles >> round), self.tiles - (self.tiles >> (round + 1)));
        let at = |place: usize| start + (end - start) * place / self.threads;
        at(place)..at(place + 1)
    }
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

#[cfg(test)]
mod tests {
    use super::Cut;

    #[test]
    fn jobs_are_all_tiles_once_and_end_small() {
        for threads in 1..9 {
            for tiles in (0..200).chain([3072]) {
                let cut = Cut::new(tiles, threads);
                let mut end = 0;
                for job in 0..cut.jobs() {
                    let range = cut.tiles(job);
                    assert_eq!(range.start, end, "{tiles} tiles, {threads} threads");
                    end = range.end;
                    assert!(threads == 1 || range.len() <= tiles.div_ceil(2 * threads).max(1));
                }
                assert_eq!(end, tiles);
                if threads > 1 && tiles > 0 {
                    assert_eq!(cut.tiles(cut.jobs() - 1).len(), 1);
                }
            }
        }
    }
}

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
mod codes;
mod cut;
mod head;
mod product;

use attention::{AttentionJob, Heads, list_jobs, stored_late};
use codes::{Codes, Wanted, input};
use cut::Cut;
use head::LOGIT_ROWS;
use product::Products;

use crate::adapter::{AdaptedLayer, Adapter, Pair, Target};
use crate::error::{Error, Result};
use crate::file::Config;
use crate::grammar::TokenSet;
use crate::kernels::Kernel;
use crate::kernels::attention::{PAGE_TOKENS, PagePart, Softmax};
use crate::kernels::low_rank::ThinMatMul;
use crate::kernels::matmul::{FirstRead, Gate, GatedMatMul, Input, MatMul, Output, Store};
use crate::kernels::prefetch::Lines;
use crate::kernels::rows::{RmsNorm, RmsNormInPlace};
use crate::kv::{PageStore, Precision, Sequence};
use crate::map::{Slice, try_zeroed};
use crate::pool::{PerWorker, Pool};
use crate::quant::{BLOCK, Matrix, TILE};
pub use crate::weights::{Layer, Projection, Weights};

/// Most tokens computed together. Weights are read once for all of them; more would only
/// push their activations out of the second-level cache.
pub const BATCH: usize = 128;

/// Tiles of a product that are columns of a block of codes.
const WIDE: usize = BLOCK / TILE;

/// Which tokens of a run get logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits<'a> {
    /// None: the run only extends the cache.
    None,
    /// The last one's, to choose the next token.
    Last,
    /// The last one's, to choose the next token among these: what stands at others' places means
    /// nothing.
    LastOf(&'a TokenSet),
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
    pub logits: Logits<'a>,
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
    /// `h`, or `attended`, as codes.
    codes: Codes,
    /// `inner` as codes.
    inner_codes: Codes,
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
    /// Tiles of the vocabulary that are needed, where not all of them are.
    tiles: Vec<usize>,
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

/// What is multiplied: `[n, columns]`. A form that was not wanted holds what it will.
#[derive(Clone, Copy)]
struct Rows<'a> {
    rows: &'a [f32],
    columns: usize,
    codes: &'a Codes,
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

/// Matrices that meet the same rows, at most three, in jobs of whole units of so many tiles; and the products after that.
#[derive(Clone, Copy)]
struct Step<'a> {
    linears: &'a [Linear<'a>],
    unit: usize,
    next: Products<'a>,
}

/// What a job has computed.
struct Computed {
    /// All of the output.
    output: Output,
    /// The tiles of it that are the job's own.
    tiles: Range<usize>,
    /// Whose first job it was, if it was a worker's first.
    first_of: Option<usize>,
}

#[derive(Default)]
struct WorkerScratch {
    tiles: [Vec<f32>; 2],
    /// Rows that become codes.
    rows: Vec<f32>,
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
        let turns = || Ok::<_, Error>((rows(config.head_dim / 2)?, rows(config.head_dim / 2)?));
        let scratch = Scratch {
            x: rows(config.hidden_size)?,
            h: rows(config.hidden_size)?,
            qkv: rows(Heads::count(config) * config.head_dim)?,
            attended: rows(heads)?,
            inner: rows(config.intermediate_size)?,
            codes: Codes::new(config.hidden_size.max(heads), precision)?,
            inner_codes: Codes::new(config.intermediate_size, precision)?,
            turns: [turns()?, turns()?],
            reduced: Vec::new(),
            ups: Vec::new(),
            spans: Vec::new(),
            logits: try_zeroed(LOGIT_ROWS * config.vocab_size.next_multiple_of(TILE))?,
            tokens: Vec::with_capacity(BATCH),
            wanted: Vec::with_capacity(BATCH),
            tiles: Vec::new(),
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
        list_jobs(&tokens, config.kv_heads, config.heads / config.kv_heads, &mut self.scratch.jobs);
        for (index, layer) in weights.layers.iter().enumerate() {
            if cancel.load(Ordering::Relaxed) {
                self.scratch.tokens = tokens;
                return Err(Error::Cancelled);
            }
            let adapted = adapter.map(|adapter| &adapter.layers[index]);
            self.attention(config, layer, adapted, index, &tokens, runs);
            let next = match weights.layers.get(index + 1) {
                Some(layer) => self.products(layer.qkv_matrices(), config.head_dim / TILE, tokens.len()),
                None => self.products([&weights.output], 1, tokens.len()),
            };
            self.mlp(config, layer, adapted, tokens.len(), next);
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
        let width = Heads::count(config) * config.head_dim;
        let targets = [Target::Q, Target::K, Target::V];
        let linears: [_; 3] = std::array::from_fn(|i| Linear::new(&layer.qkv[i].matrix, adapted, targets[i]));
        self.normalise(&layer.attention_norm, config.rms_norm_eps, n, self.wanted(&linears));
        let mut qkv = std::mem::take(&mut self.scratch.qkv);
        let (h, codes) = (std::mem::take(&mut self.scratch.h), std::mem::take(&mut self.scratch.codes));
        let hidden = config.hidden_size;
        let rows = Rows { rows: &h[..n * hidden], columns: hidden, codes: &codes };
        let (turns, jobs) = (std::mem::take(&mut self.scratch.turns), std::mem::take(&mut self.scratch.jobs));
        let (kernel, turns_of) = (self.kernel, &turns[config.rope_index(index)]);
        let late = stored_late(&jobs);
        let heads = Heads { kernel, config, layer, index, tokens, runs, turns: turns_of, jobs: &jobs, late };
        let output = self.products([&layer.o], 1, n);
        let unit = config.head_dim / TILE;
        let (threads, precision) = (self.pool.threads(), self.precision);
        let place = |Computed { output, tiles, first_of }: Computed| {
            // The exact path is not for speed.
            if let Some(worker) = first_of.filter(|_| precision != Precision::Exact) {
                heads.prefetch::<u16>(worker, threads);
            }
            // SAFETY: this job has just computed these tiles, which are whole heads; `batch` reserved the positions.
            unsafe { heads.place(output, tiles.start / unit..tiles.end / unit) };
        };
        let step = Step { linears: &linears, unit, next: output };
        self.project_in_units(step, rows, &mut qkv[..n * width], Store::Set, place);
        (self.scratch.h, self.scratch.codes) = (h, codes);
        let o = Linear::new(&layer.o, adapted, Target::O);
        let wanted = self.wanted(&[o]);
        match self.precision {
            Precision::Fast | Precision::Fine => self.attend::<u16>(&heads, &qkv, wanted, output),
            Precision::Exact => self.attend::<f32>(&heads, &qkv, wanted, output),
        }
        (self.scratch.qkv, self.scratch.turns, self.scratch.jobs) = (qkv, turns, jobs);
        let (attended, codes) = (std::mem::take(&mut self.scratch.attended), std::mem::take(&mut self.scratch.codes));
        let heads = config.heads * config.head_dim;
        let rows = Rows { rows: &attended[..n * heads], columns: heads, codes: &codes };
        let step = Step { linears: &[o], unit: 1, next: self.gated_products(&layer.gate, n) };
        self.project_to_residual(step, rows, layer.attention_post_norm.as_ref(), config);
        (self.scratch.attended, self.scratch.codes) = (attended, codes);
    }

    /// `x += down · (activation(gate · h) ⊙ up · h)`, h = norm(x), after which comes `next`.
    fn mlp(&mut self, config: &Config, layer: &Layer, adapted: Option<&AdaptedLayer>, n: usize, next: Products) {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let gate = Linear::new(&layer.gate, adapted, Target::Gate);
        let up = Linear::new(&layer.up, adapted, Target::Up);
        let down = Linear::new(&layer.down, adapted, Target::Down);
        self.normalise(&layer.mlp_norm, config.rms_norm_eps, n, self.wanted(&[gate, up]));
        let mut inner = std::mem::take(&mut self.scratch.inner);
        let (h, codes) = (std::mem::take(&mut self.scratch.h), std::mem::take(&mut self.scratch.codes));
        let rows = Rows { rows: &h[..n * hidden], columns: hidden, codes: &codes };
        let wanted = self.wanted(&[down]);
        self.gated(
            config,
            [gate, up],
            rows,
            &mut inner[..n * intermediate],
            wanted,
            self.products([&layer.down], 1, n),
        );
        (self.scratch.h, self.scratch.codes) = (h, codes);
        let codes = std::mem::take(&mut self.scratch.inner_codes);
        let rows = Rows { rows: &inner[..n * intermediate], columns: intermediate, codes: &codes };
        let step = Step { linears: &[down], unit: 1, next };
        self.project_to_residual(step, rows, layer.mlp_post_norm.as_ref(), config);
        (self.scratch.inner, self.scratch.inner_codes) = (inner, codes);
    }

    /// `inner = activation(gate · rows) ⊙ up · rows`. On adapted rows what the pairs add comes
    /// between the products and the activation; on all others it follows at once. Where only codes are wanted, some
    /// columns at a time are computed aside and become codes while they are in the thread's own cache.
    fn gated(
        &mut self,
        config: &Config,
        [gate, up]: [Linear; 2],
        Rows { rows, columns, codes }: Rows,
        inner: &mut [f32],
        wanted: Wanted,
        next: Products,
    ) {
        /// Blocks that are computed aside: 64 KiB of floats.
        const ASIDE: usize = (64 << 10) / (BLOCK * size_of::<f32>());
        let intermediate = config.intermediate_size;
        self.reduce([gate.pair, up.pair].into_iter(), rows, columns);
        let exact = self.precision == Precision::Exact;
        let inputs = (input(gate.matrix, exact, rows, codes), input(up.matrix, exact, rows, codes));
        let split = gate.pair.is_some() || up.pair.is_some();
        // Gate and up share an input where they are stored alike, which converters see to.
        let float = |input| matches!(input, Input::Float(_));
        assert!(float(inputs.0) == float(inputs.1), "checked when the model was opened");
        assert!(gate.matrix.tiles().max(up.matrix.tiles()) * TILE <= intermediate);
        let output = Output::new(inner, intermediate);
        let n = output.tokens;
        let ups = if split { &mut self.scratch.ups[..n * intermediate] } else { &mut [] };
        let ups = Output::new(ups, intermediate);
        // Without pairs, all rows are alike.
        let whole = [Span { rows: 0..n, adapted: false }];
        let spans = if split { &self.scratch.spans[..] } else { &whole };
        let (kernel, workers, reduced) = (self.kernel, &self.workers, &self.scratch.reduced[..]);
        let encoder = self.scratch.inner_codes.encoder(kernel, n, intermediate);
        let tiles = gate.matrix.tiles();
        let (products, activation) = (self.gated_products(gate.matrix, n), config.activation);
        let cut = products.cut();
        // Columns of `blocks`, from a job's own floats.
        let encode = |floats: &[f32], row: usize, blocks: &Range<usize>| {
            // SAFETY: blocks of jobs are disjoint.
            unsafe { encoder.encode(floats, row, blocks.start) };
        };
        let job = |job: usize, worker: usize| {
            let next = products.after(job, worker, &next);
            // SAFETY: this job's worker; tiles of jobs are disjoint.
            let WorkerScratch { tiles: scratch, rows: aside, .. } = unsafe { workers.get(worker) };
            let blocks = cut.parts_of(job);
            if !wanted.floats && !split {
                let end = blocks.end;
                for start in blocks.clone().step_by((ASIDE / n).max(1)) {
                    let blocks = start..(start + (ASIDE / n).max(1)).min(blocks.end);
                    let width = blocks.len() * BLOCK;
                    let next = if blocks.end < end { products.first_read(blocks.end * WIDE..end * WIDE) } else { next };
                    let aside = room(aside, n * width);
                    GatedMatMul {
                        gate: gate.matrix,
                        up: up.matrix,
                        activation,
                        tiles: blocks.start * WIDE..blocks.end * WIDE,
                        input: inputs.0,
                        output: Output::new(aside, width),
                        scratch,
                        next,
                    }
                    .run(kernel);
                    aside.chunks_exact(width).enumerate().for_each(|(row, floats)| encode(floats, row, &blocks));
                }
                return;
            }
            let tiles = blocks.start * WIDE..(blocks.end * WIDE).min(tiles);
            for (number, Span { rows, adapted }) in spans.iter().enumerate() {
                // The next span meets the same tiles again, which are in the cache.
                let next = if number + 1 == spans.len() { next } else { Lines::default() };
                let input = inputs.0.rows(rows.clone(), columns);
                let tiles = tiles.clone();
                // SAFETY: the tiles begin and end within the stride.
                let output = unsafe { output.rows(rows.clone()).from_column(tiles.start * TILE) };
                if !adapted {
                    let (gate, up) = (gate.matrix, up.matrix);
                    GatedMatMul { gate, up, activation, tiles, input, output, scratch, next }.run(kernel);
                    continue;
                }
                // SAFETY: as above.
                let ups = unsafe { ups.rows(rows.clone()).from_column(tiles.start * TILE) };
                let first = FirstRead { matrix: up.matrix, tiles: tiles.clone(), input, tokens: rows.len() };
                let both = [(gate, output, kernel.run(first)), (up, ups, next)];
                for (slot, (linear, output, next)) in both.into_iter().enumerate() {
                    let (matrix, tiles, scratch) = (linear.matrix, tiles.clone(), &mut scratch[0]);
                    MatMul { matrix, tiles: tiles.clone(), input, output, store: Store::Set, scratch, next }
                        .run(kernel);
                    if let Some(pair) = linear.pair {
                        expand(kernel, pair, slot, reduced, tiles, rows.clone(), output);
                    }
                }
                kernel.run(Gate { activation, columns: tiles.len() * TILE, gate: output, up: ups });
            }
            for row in (0..n).filter(|_| wanted.codes) {
                // SAFETY: this job has just written these columns.
                let floats = unsafe {
                    let start = output.data.add(row * intermediate + blocks.start * BLOCK);
                    std::slice::from_raw_parts(start, blocks.len() * BLOCK)
                };
                encode(floats, row, &blocks);
            }
        };
        self.pool.run_then(cut.jobs(), job, |worker| next.first_read_by(worker));
    }

    /// Products with `n` tokens, in jobs of whole units of so many tiles.
    fn products<'m, const N: usize>(&self, matrices: [&'m Matrix; N], unit: usize, n: usize) -> Products<'m> {
        Products {
            matrices: std::array::from_fn(|i| matrices.get(i).copied()),
            unit,
            together: usize::MAX,
            tokens: n,
            kernel: self.kernel,
            precision: self.precision,
            threads: self.pool.threads(),
        }
    }

    /// Those of [`Engine::gated`], in blocks of codes, of which each job begins with the gate's.
    fn gated_products<'m>(&self, gate: &'m Matrix, n: usize) -> Products<'m> {
        Products { together: GatedMatMul::together(n), ..self.products([gate], WIDE, n) }
    }

    /// What products with `linears` take.
    fn wanted(&self, linears: &[Linear]) -> Wanted {
        let codes = |linear: &Linear| self.precision != Precision::Exact && linear.matrix.format().is_quantized();
        Wanted {
            codes: linears.iter().any(codes),
            floats: linears.iter().any(|linear| linear.pair.is_some() || !codes(linear)),
        }
    }

    /// `norm(x)` for the first `n` rows: in `codes` if wanted so, in `h` if wanted as floats.
    fn normalise(&mut self, weight: &Slice<f32>, eps: f32, n: usize, wanted: Wanted) {
        let hidden = weight.len();
        let x = &self.scratch.x[..n * hidden];
        let (kernel, workers) = (self.kernel, &self.workers);
        let h = Shared(self.scratch.h[..n * hidden].as_mut_ptr());
        let encoder = self.scratch.codes.encoder(kernel, n, hidden);
        each_row(&mut self.pool, n, |row, worker| {
            // SAFETY: rows are disjoint; this job's worker.
            let out = unsafe {
                match wanted.floats {
                    true => h.slice(row * hidden, hidden),
                    false => room(&mut workers.get(worker).rows, hidden),
                }
            };
            kernel.run(RmsNorm { x: &x[row * hidden..][..hidden], weight, eps, out });
            if wanted.codes {
                // SAFETY: rows are disjoint.
                unsafe { encoder.encode(out, row, 0) };
            }
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

    /// `out = [m · rows for m in matrices]`, side by side; `codes` are the rows' own, where a matrix takes them.
    fn project(&mut self, step: Step, rows: Rows, out: &mut [f32], store: Store) {
        self.project_in_units(step, rows, out, store, |_| ());
    }

    /// The same; each job then calls `then`.
    fn project_in_units(
        &mut self,
        Step { linears, unit, next }: Step,
        Rows { rows, columns, codes }: Rows,
        out: &mut [f32],
        store: Store,
        then: impl Fn(Computed) + Sync,
    ) {
        self.reduce(linears.iter().map(|linear| linear.pair), rows, columns);
        let tokens = rows.len() / columns;
        let exact = self.precision == Precision::Exact;
        let (kernel, workers) = (self.kernel, &self.workers);
        let (reduced, spans) = (&self.scratch.reduced[..], &self.scratch.spans[..]);
        let total: usize = linears.iter().map(|linear| linear.matrix.tiles()).sum();
        let stride = out.len() / tokens;
        assert!(total * TILE <= stride && total.is_multiple_of(unit));
        let matrices = std::array::from_fn(|i| linears.get(i).map(|linear| linear.matrix));
        let products = Products { matrices, ..self.products([], unit, tokens) };
        let (cut, base) = (products.cut(), Output::new(out, stride));
        let job = |job: usize, worker: usize| {
            let units = cut.parts_of(job);
            let (start, to) = (units.start * unit, units.end * unit);
            let after = products.after(job, worker, &next);
            let (mut first, mut from) = (0, start);
            for (slot, &Linear { matrix, pair }) in linears.iter().enumerate() {
                let end = first + matrix.tiles();
                if from < end && from < to {
                    let tiles = from - first..to.min(end) - first;
                    // SAFETY: this job's worker; tiles of jobs are disjoint. Matrices begin at
                    // whole tiles of the row: head_dim is a multiple of 16.
                    let (scratch, output) =
                        unsafe { (&mut workers.get(worker).tiles[0], base.from_column(from * TILE)) };
                    let input = input(matrix, exact, rows, codes);
                    let next = if to <= end { after } else { products.first_read(end..to) };
                    MatMul { matrix, tiles: tiles.clone(), input, output, store, scratch, next }.run(kernel);
                    for span in spans.iter().filter(|span| span.adapted) {
                        let Some(pair) = pair else { break };
                        let rows = span.rows.clone();
                        expand(kernel, pair, slot, reduced, tiles.clone(), rows.clone(), output.rows(rows));
                    }
                    from = to.min(end);
                }
                first = end;
            }
            let first_of = (job == cut.first_of(worker)).then_some(worker);
            then(Computed { output: base, tiles: start..to, first_of });
        };
        self.pool.run_then(cut.jobs(), job, |worker| next.first_read_by(worker));
    }

    /// `x += matrix · rows`, of the one matrix in `step`, through a norm where the family has one there.
    fn project_to_residual(&mut self, step: Step, rows: Rows, post_norm: Option<&Slice<f32>>, config: &Config) {
        let hidden = config.hidden_size;
        let n = rows.rows.len() / rows.columns;
        let mut x = std::mem::take(&mut self.scratch.x);
        match post_norm {
            None => self.project(step, rows, &mut x[..n * hidden], Store::Add),
            Some(weight) => {
                let mut h = std::mem::take(&mut self.scratch.h);
                self.project(step, rows, &mut h[..n * hidden], Store::Set);
                for (x, h) in x.chunks_exact_mut(hidden).zip(h.chunks_exact_mut(hidden)).take(n) {
                    self.kernel.run(RmsNormInPlace { x: h, weight, eps: config.rms_norm_eps });
                    x.iter_mut().zip(h).for_each(|(x, h)| *x += *h);
                }
                self.scratch.h = h;
            }
        }
        self.scratch.x = x;
    }
}

/// `output += B · reduced` for `tiles`, with which `output` begins, and its rows.
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

/// `len` floats to write to.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// Calls `job(row, worker)` for each row.
fn each_row(pool: &mut Pool, rows: usize, job: impl Fn(usize, usize) + Sync) {
    /// Jobs for each thread: so many that a thread which comes late finds some left.
    const JOBS: usize = 4;
    let size = rows.div_ceil(JOBS * pool.threads());
    pool.run(rows.div_ceil(size.max(1)), |index, worker| {
        (index * size..((index + 1) * size).min(rows)).for_each(|row| job(row, worker));
    });
}

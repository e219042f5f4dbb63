//! Attention in a forward pass: keys and values into the cache, queries over it.
//!
//! Not here: the arithmetic of one segment (see [`crate::kernels::attention`]).

use std::ops::Range;

use super::{BatchToken, Engine, Products, Run, Shared, Wanted, WorkerScratch, each_row};
use crate::file::Config;
use crate::kernels::Kernel;
use crate::kernels::attention::{
    AttendSegment, Element, Kept, MergeSegment, PAGE_TOKENS, PagePart, QUERIES, SEGMENT_PAGES, Softmax,
};
use crate::kernels::matmul::Output;
use crate::kernels::rows::{RmsNormInPlace, Rope};
use crate::pool::share;
use crate::quant::BLOCK;
use crate::weights::Layer;

/// Some queries of one KV head of one run.
#[derive(Clone, Copy)]
pub(super) struct AttentionJob {
    run: usize,
    head: usize,
    /// Queries `first..first + count`: query i is token `start + i / group`, head `i % group`.
    start: usize,
    first: usize,
    count: usize,
}

/// What becomes of heads once a layer's `[q | k | v]` has them: they are turned, and keys and values go to the cache.
pub(super) struct Heads<'a> {
    pub(super) kernel: Kernel,
    pub(super) config: &'a Config,
    pub(super) layer: &'a Layer,
    /// The layer's number.
    pub(super) index: usize,
    pub(super) tokens: &'a [BatchToken],
    pub(super) runs: &'a [Run<'a>],
    /// Cosines and sines `[tokens, head_dim / 2]`.
    pub(super) turns: &'a (Vec<f32>, Vec<f32>),
    /// Who attends with what.
    pub(super) jobs: &'a [AttentionJob],
    /// See [`stored_late`].
    pub(super) late: bool,
}

/// Whether attention stores keys and values: where few queries make one job of each head. What a job has to get of them from the
/// thread that computed them are a few lines of memory; once they are stored it would be as many as a key has numbers, or
/// half of that, since these lie apart.
pub(super) fn stored_late(jobs: &[AttentionJob]) -> bool {
    jobs.iter().all(|job| job.first == 0)
}

impl Heads<'_> {
    /// Asks memory for what a worker's share of attention has to do with: the page that it stores to.
    pub(super) fn prefetch<E: Element>(&self, worker: usize, threads: usize) {
        /// More pages at once would push out what the product reads.
        const PAGES: usize = 4;
        let own = &self.jobs[share(self.jobs.len(), threads, worker)];
        for job in own.iter().take(PAGES).filter(|_| self.late) {
            let newest = self.tokens[job.start + (job.count - 1) / (self.config.heads / self.config.kv_heads)].position;
            let part = self.runs[job.run].sequence.part::<E>(newest / PAGE_TOKENS, self.index, job.head);
            part.prefetch(newest % PAGE_TOKENS, self.config.head_dim);
        }
    }

    /// Heads of q, k and v, in the order of their products.
    pub(super) fn count(config: &Config) -> usize {
        config.heads + 2 * config.kv_heads
    }

    /// Adds biases to `heads` of `qkv`, which are of all tokens, normalises and turns those of q and k, and stores those of k
    /// and v in the cache, if attention does not.
    ///
    /// # Safety
    /// `qkv` has rows of all heads for the tokens, whose positions are reserved and not yet committed; the heads named are
    /// there, and this job's alone.
    pub(super) unsafe fn place(&self, qkv: Output, heads: Range<usize>) {
        let &Self { kernel, config, layer, index, tokens, runs, turns: (cos, sin), late, .. } = self;
        assert!(qkv.tokens == tokens.len() && heads.end <= Self::count(config));
        let (dim, [q, k, v]) = (config.head_dim, &layer.qkv);
        for head in heads {
            // Its projection, which head of that it is, how it is turned, and what is kept of it.
            let (projection, number, turned, kept) = match head.checked_sub(config.heads) {
                None => (q, head, Some((&layer.q_norm, config.attention_scale)), None),
                Some(number) if number < config.kv_heads => {
                    (k, number, Some((&layer.k_norm, 1.0)), Some((number, Kept::Key)))
                }
                Some(number) => {
                    let number = number - config.kv_heads;
                    (v, number, None, Some((number, Kept::Value)))
                }
            };
            for (row, token) in tokens.iter().enumerate() {
                // SAFETY: as the caller promises.
                let x = unsafe { std::slice::from_raw_parts_mut(qkv.data.add(row * qkv.stride + head * dim), dim) };
                if let Some(bias) = &projection.bias {
                    x.iter_mut().zip(&bias[number * dim..][..dim]).for_each(|(x, b)| *x += b);
                }
                if let Some((norm, scale)) = turned {
                    if let Some(weight) = norm {
                        kernel.run(RmsNormInPlace { x, weight, eps: config.rms_norm_eps });
                    }
                    let turn = row * dim / 2..(row + 1) * dim / 2;
                    kernel.run(Rope { x, cos: &cos[turn.clone()], sin: &sin[turn], scale });
                }
                if let (Some((number, kept)), false) = (kept, late) {
                    // SAFETY: the position is reserved, and this head's part of it this job's.
                    unsafe { runs[token.run].sequence.write(kernel, token.position, (index, number), kept, x) };
                }
            }
        }
    }
}

impl Engine {
    /// Each query over its sequence's keys and values: `[token, head · head_dim]`, in `attended` if wanted as floats, in
    /// `codes` if wanted so. Then comes `next`.
    pub(super) fn attend<E: Element>(
        &mut self,
        &Heads { config, index: layer, tokens, runs, jobs, late, .. }: &Heads,
        qkv: &[f32],
        wanted: Wanted,
        next: Products,
    ) where
        WorkerScratch: Pages<E>,
    {
        let (heads, kv_heads, dim) = (config.heads, config.kv_heads, config.head_dim);
        let (group, width, window) = (heads / kv_heads, (heads + 2 * kv_heads) * dim, config.window(layer));
        let segment_tokens = PAGE_TOKENS * SEGMENT_PAGES;
        // Segments that queries of a job see.
        let segments = |job: &AttentionJob| {
            let first = tokens[job.start + job.first / group].position;
            let last = tokens[job.start + (job.first + job.count - 1) / group].position;
            (first + 1).saturating_sub(window) / segment_tokens..last / segment_tokens + 1
        };
        let n = tokens.len();
        let attended = Shared(self.scratch.attended[..n * heads * dim].as_mut_ptr());
        let encoder = self.scratch.codes.encoder(self.kernel, n, heads * dim);
        // Else a block of codes has values of two heads.
        let by_head = wanted.codes && dim.is_multiple_of(BLOCK);
        let floats = wanted.floats || !by_head;
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
            // The job's tokens whose positions are in the segment, which no other job sees.
            let own = |token: &usize| late && tokens[*token].position / segment_tokens == segment;
            for token in (job.start..job.start + job.count / group).filter(own) {
                for (kept, first) in [(Kept::Key, heads), (Kept::Value, heads + kv_heads)] {
                    let x = &qkv[token * width + (first + job.head) * dim..][..dim];
                    let (sequence, position) = (&runs[job.run].sequence, tokens[token].position);
                    // SAFETY: the position is reserved, and this head's part of it this job's.
                    unsafe { sequence.write(kernel, position, (layer, job.head), kept, x) };
                }
            }
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
        let finish = |job: &AttentionJob, i: usize, softmax: Softmax, values: &mut [f32]| {
            let token = job.start + (job.first + i) / group;
            let head = job.head * group + (job.first + i) % group;
            let at = (token * heads + head) * dim;
            let inverse = 1.0 / softmax.sum;
            values.iter_mut().for_each(|value| *value *= inverse);
            // SAFETY: a query's output is written by its job alone.
            unsafe {
                if floats {
                    attended.slice(at, dim).copy_from_slice(values);
                }
                if by_head {
                    encoder.encode(values, token, head * dim / BLOCK);
                }
            }
        };
        let ahead = |worker: usize| next.first_read_by(worker);
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
            let job = |index: usize, worker: usize| {
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
            };
            self.pool.run_then(jobs.len() * deepest, job, ahead);
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
            let job = |index: usize, worker: usize| {
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
                    finish(job, i, softmax[i], &mut total[i * dim..][..dim]);
                }
                (scratch.values, scratch.total) = (values, total);
            };
            self.pool.run_then(jobs.len(), job, ahead);
        }
        if wanted.codes && !by_head {
            each_row(&mut self.pool, tokens.len(), |row, _| {
                // SAFETY: all jobs of the region above are done; rows are disjoint.
                unsafe { encoder.encode(attended.slice(row * heads * dim, heads * dim), row, 0) };
            });
        }
    }
}

/// Cuts the batch's queries into jobs of up to [`QUERIES`], by run and KV head.
pub(super) fn list_jobs(tokens: &[BatchToken], kv_heads: usize, group: usize, jobs: &mut Vec<AttentionJob>) {
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
pub(super) trait Pages<E> {
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

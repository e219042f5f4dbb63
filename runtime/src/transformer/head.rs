//! The product with the vocabulary: for the tokens whose logits are wanted, and the rows in which they are.
//!
//! Not here: what is chosen by them (see [`crate::sampler`]).

use super::{BatchToken, Cut, Engine, Linear, Logits, OnLogits, Products, Rows, Run, Step, input};
use crate::grammar::TokenSet;
use crate::kernels::matmul::{FirstRead, MatMul, Output, Store};
use crate::kernels::rows::RmsNorm;
use crate::kv::Precision;
use crate::quant::TILE;
use crate::weights::Weights;

/// Rows of logits computed together.
pub(super) const LOGIT_ROWS: usize = 16;

impl Engine {
    /// Logits of the wanted tokens, some rows at a time.
    pub(super) fn head(&mut self, weights: &Weights, tokens: &[BatchToken], runs: &[Run], on_logits: &mut OnLogits) {
        let (hidden, vocab) = (weights.config.hidden_size, weights.config.vocab_size);
        let padded = vocab.next_multiple_of(TILE);
        let mut wanted = std::mem::take(&mut self.scratch.wanted);
        wanted.clear();
        wanted.extend((0..tokens.len()).filter(|&row| {
            let token = tokens[row];
            match runs[token.run].logits {
                Logits::None => false,
                Logits::Last | Logits::LastOf(_) => token.index + 1 == runs[token.run].tokens.len(),
                Logits::All => true,
            }
        }));
        for rows in wanted.chunks(LOGIT_ROWS) {
            let (mut h, mut codes) = (std::mem::take(&mut self.scratch.h), std::mem::take(&mut self.scratch.codes));
            let output = Linear { matrix: &weights.output, pair: None };
            let wanted = self.wanted(&[output]);
            for (index, &row) in rows.iter().enumerate() {
                let (x, out) = (&self.scratch.x[row * hidden..][..hidden], &mut h[index * hidden..][..hidden]);
                self.kernel.run(RmsNorm { x, weight: &weights.norm, eps: weights.config.rms_norm_eps, out });
                if wanted.codes {
                    // SAFETY: there are as many rows, and no other job.
                    unsafe { codes.encoder(self.kernel, rows.len(), hidden).encode(out, index, 0) };
                }
            }
            let mut logits = std::mem::take(&mut self.scratch.logits);
            let n = rows.len();
            let rows_of = Rows { rows: &h[..n * hidden], columns: hidden, codes: &codes };
            let out = &mut logits[..n * padded];
            // What the next token begins with.
            let first = weights.layers[0].qkv_matrices();
            let next = self.products(first, weights.config.head_dim / TILE, n);
            let tiles = &mut self.scratch.tiles;
            match few_tiles(rows.iter().map(|&row| runs[tokens[row].run].logits), weights.output.tiles(), tiles) {
                true => self.project_tiles(output, rows_of, out, padded, next),
                false => self.project(Step { linears: &[output], unit: 1, next }, rows_of, out, Store::Set),
            }
            // All buffers are back before the caller's code runs, which may panic.
            (self.scratch.h, self.scratch.codes, self.scratch.logits) = (h, codes, logits);
            for (&row, logits) in rows.iter().zip(self.scratch.logits.chunks_exact(padded)) {
                on_logits(tokens[row].run, tokens[row].index, &logits[..vocab]);
            }
        }
        self.scratch.wanted = wanted;
    }

    /// `out = m · rows` in the tiles that are listed in `scratch`, and in no others.
    fn project_tiles(
        &mut self,
        Linear { matrix, .. }: Linear,
        Rows { rows, codes, .. }: Rows,
        out: &mut [f32],
        stride: usize,
        next: Products,
    ) {
        let input = input(matrix, self.precision == Precision::Exact, rows, codes);
        let (kernel, workers, tiles) = (self.kernel, &self.workers, &self.scratch.tiles);
        assert!(matrix.tiles() * TILE <= stride);
        let cut = Cut::new(tiles.len(), self.pool.threads());
        let output = Output::new(out, stride);
        let tokens = rows.len() / matrix.columns();
        let job = |job: usize, worker: usize| {
            // SAFETY: this job's worker. Tiles are listed once, so that those of jobs are disjoint.
            let scratch = unsafe { &mut workers.get(worker).tiles[0] };
            let parts = tiles[cut.parts_of(job)].chunk_by(|a, b| a + 1 == *b);
            let mut parts = parts.map(|part| part[0]..part[0] + part.len()).peekable();
            while let Some(tiles) = parts.next() {
                let next = match parts.peek() {
                    Some(tiles) => kernel.run(FirstRead { matrix, tiles: tiles.clone(), input, tokens }),
                    None => next.first_read_by(worker),
                };
                // SAFETY: tiles end within the stride.
                let output = unsafe { output.from_column(tiles.start * TILE) };
                MatMul { matrix, tiles, input, output, store: Store::Set, scratch, next }.run(kernel);
            }
        };
        self.pool.run_then(cut.jobs(), job, |worker| next.first_read_by(worker));
    }
}

/// Whether rows with these `logits` need but few of `count` tiles: if so, they are listed in order in `tiles`. More of them,
/// here and there, would save little: memory is read best in a row.
fn few_tiles<'a>(logits: impl Iterator<Item = Logits<'a>>, count: usize, tiles: &mut Vec<usize>) -> bool {
    tiles.clear();
    for logits in logits {
        match logits {
            // More tokens are not worth the looking: they hardly ever share tiles.
            Logits::LastOf(set) if set.len() < count / 2 => tiles.extend(tiles_of(set, count)),
            _ => return false,
        }
    }
    tiles.sort_unstable();
    tiles.dedup();
    tiles.len() < count / 2
}

/// In which tiles the tokens of `set` are.
fn tiles_of(set: &TokenSet, count: usize) -> impl Iterator<Item = usize> {
    set.iter().map(|id| id as usize / TILE).filter(move |&tile| tile < count)
}

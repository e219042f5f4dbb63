//! The two thin products of a low-rank adapter, `A·x` and `B·(A·x)`, for one token or many.
//!
//! Output (row, token) is summed in [`CHAINS`] accumulators of one lane, column by column, and
//! those as one tree: the same bits for every instruction set and every number of tokens.

use std::ops::Range;

use super::Op;
use super::matmul::{Output, Store};
use super::simd::Simd;
use crate::quant::{Format, Matrix, TILE};

/// Accumulators of one output. A thin matrix has too few rows for other work to hide the four
/// cycles that a fused multiply-add takes, so the columns have to.
const CHAINS: usize = 4;

/// `out[t, rows of tiles] (+)= scale · matrix · x[t]`, the matrix being of floats.
pub struct ThinMatMul<'a> {
    /// Weights `[rows, columns]`: A `[rank, in]` or B `[out, rank]`.
    pub matrix: &'a Matrix,
    /// Tiles to compute.
    pub tiles: Range<usize>,
    /// `[tokens, x_stride]`, of which `columns` count.
    pub x: &'a [f32],
    /// Elements from one token's row of `x` to the next.
    pub x_stride: usize,
    /// Factor on the product.
    pub scale: f32,
    /// Begins with the first of `tiles`, which are written whole.
    pub output: Output,
    /// Set or add.
    pub store: Store,
}

impl Op for ThinMatMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Output { stride, tokens, .. } = self.output;
        assert!(self.tiles.end <= self.matrix.tiles() && self.tiles.len() * TILE <= stride);
        assert!(self.matrix.columns() <= self.x_stride && self.x.len() == tokens * self.x_stride);
        match self.matrix.format() {
            Format::F32 => by_tokens::<S, F32>(s, &self),
            Format::F16 => by_tokens::<S, F16>(s, &self),
            Format::BF16 => by_tokens::<S, BF16>(s, &self),
            other => unreachable!("adapters are floats, checked when they are opened, not {}", other.name()),
        }
    }
}

/// All tokens, as many at once as their accumulators fit into the registers.
#[inline(always)]
fn by_tokens<S: Simd, E: Element>(s: S, op: &ThinMatMul) {
    for tile in op.tiles.clone() {
        for half in 0..TILE / S::LANES {
            let mut token = 0;
            while token < op.output.tokens {
                let group = op.output.tokens - token;
                // SAFETY: `run` bounds tiles by the stride and tokens by both rows; the group is
                // at most what is left.
                unsafe {
                    if group >= 4 && S::REGISTERS >= 32 {
                        dot::<S, E, 4>(s, op, tile, half, token);
                        token += 4;
                    } else if group >= 2 {
                        dot::<S, E, 2>(s, op, tile, half, token);
                        token += 2;
                    } else {
                        dot::<S, E, 1>(s, op, tile, half, token);
                        token += 1;
                    }
                }
            }
        }
    }
}

/// One tile's half with `T` tokens from `token` on.
///
/// # Safety
/// The tile is one of the matrix's, its rows are inside the output's stride, and there are `T`
/// tokens in `x` and in the output, whose tile is this thread's own.
#[inline(always)]
unsafe fn dot<S: Simd, E: Element, const T: usize>(s: S, op: &ThinMatMul, tile: usize, half: usize, token: usize) {
    let columns = op.matrix.columns();
    let mut sums = [[s.splat(0.0); CHAINS]; T];
    // SAFETY: every column is inside the tile `[columns, 16]` and inside a row of x; the store is
    // as the caller promises.
    unsafe {
        let weights = op.matrix.bytes().as_ptr().add(tile * op.matrix.tile_bytes());
        let weights = weights.cast::<E::Bits>().add(half * S::LANES);
        let x = op.x.as_ptr().add(token * op.x_stride);
        let whole = columns / CHAINS * CHAINS;
        let mut column = 0;
        while column < whole {
            for chain in 0..CHAINS {
                let w = E::load(s, weights.add((column + chain) * TILE));
                for (t, sums) in sums.iter_mut().enumerate() {
                    sums[chain] = s.fma(w, s.splat(*x.add(t * op.x_stride + column + chain)), sums[chain]);
                }
            }
            column += CHAINS;
        }
        for chain in 0..columns - whole {
            let w = E::load(s, weights.add((whole + chain) * TILE));
            for (t, sums) in sums.iter_mut().enumerate() {
                sums[chain] = s.fma(w, s.splat(*x.add(t * op.x_stride + whole + chain)), sums[chain]);
            }
        }
        for (t, &[a, b, c, d]) in sums.iter().enumerate() {
            let sum = s.mul(s.add(s.add(a, b), s.add(c, d)), s.splat(op.scale));
            let out =
                op.output.data.add((token + t) * op.output.stride + (tile - op.tiles.start) * TILE + half * S::LANES);
            s.store(out, if op.store == Store::Add { s.add(s.load(out), sum) } else { sum });
        }
    }
}

/// A float format.
trait Element {
    type Bits;
    /// # Safety
    /// `p` is valid for `LANES` reads.
    unsafe fn load<S: Simd>(s: S, p: *const Self::Bits) -> S::F;
}

macro_rules! element {
    ($name:ident, $bits:ty, $load:ident) => {
        struct $name;

        impl Element for $name {
            type Bits = $bits;

            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: *const $bits) -> S::F {
                // SAFETY: as the caller promises.
                unsafe { s.$load(p) }
            }
        }
    };
}

element!(F32, f32, load);
element!(F16, u16, load_f16);
element!(BF16, u16, load_bf16);

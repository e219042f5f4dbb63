//! Weights times activations: some tiles of a matrix with all tokens of a batch.
//!
//! One formula for every batch size: output (row, token) is accumulated over the columns
//! from left to right in one lane. Several tokens share each load of weights, which is all
//! that a larger batch changes.

use std::ops::Range;

use super::Op;
use super::activations::ActivationBlock;
use super::simd::{Simd, exp};
use crate::file::Activation;
use crate::quant::{BLOCK, Format, Matrix, TILE};

/// Most tokens that share a load of weights.
const GROUP: usize = 8;

/// Bytes by which weights are asked for before the first tokens of a batch need them: the processor's own prefetching
/// starts late and stops at the end of a page of memory. Later tokens find them in the cache.
const AHEAD: usize = 4096;
/// Bytes in a line of the cache.
const LINE: usize = 64;

/// The right-hand side: `[tokens, columns]`.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// f32 rows: for float weights, and for the exact path of all weights.
    Float(&'a [f32]),
    /// Quantized rows `[tokens, columns / 32]`: for quantized weights.
    Codes(&'a [ActivationBlock]),
    /// The same with two rows for each token, `[tokens, 2, columns / 32]`: codes, and codes of what they leave. Their
    /// products are added.
    Fine(&'a [ActivationBlock]),
}

/// What happens to a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// `out = W·x`
    Set,
    /// `out += W·x`: the residual stream.
    Add,
}

/// Rows of f32 that several threads write, each its own columns: `[tokens, stride]`.
#[derive(Clone, Copy)]
pub struct Output {
    /// First element.
    pub data: *mut f32,
    /// Elements from one token's row to the next; a multiple of 16.
    pub stride: usize,
    /// Tokens.
    pub tokens: usize,
}

// SAFETY: the pointer is used only through operations whose callers give each thread tiles
// of its own.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

impl Output {
    /// All of `rows`, `[tokens, stride]`.
    pub fn new(rows: &mut [f32], stride: usize) -> Self {
        assert!(stride.is_multiple_of(TILE) && rows.len().is_multiple_of(stride));
        Self { data: rows.as_mut_ptr(), stride, tokens: rows.len() / stride }
    }

    /// The same rows from `column` on.
    ///
    /// # Safety
    /// Tiles written through the result end within the stride of the whole.
    pub unsafe fn from_column(&self, column: usize) -> Self {
        // SAFETY: as the caller promises.
        Self { data: unsafe { self.data.add(column) }, ..*self }
    }

    /// The tokens of `rows` alone.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.tokens);
        // SAFETY: there are as many rows.
        Self { data: unsafe { self.data.add(rows.start * self.stride) }, tokens: rows.len(), ..*self }
    }
}

impl<'a> Input<'a> {
    /// The tokens of `rows` alone, each of `columns`.
    pub fn rows(&self, rows: Range<usize>, columns: usize) -> Input<'a> {
        match self {
            Input::Float(x) => Input::Float(&x[rows.start * columns..rows.end * columns]),
            Input::Codes(x) => Input::Codes(&x[rows.start * columns / BLOCK..rows.end * columns / BLOCK]),
            Input::Fine(x) => Input::Fine(&x[2 * rows.start * columns / BLOCK..2 * rows.end * columns / BLOCK]),
        }
    }

    /// Rows for each token.
    fn rows_each(&self) -> usize {
        if matches!(self, Input::Fine(_)) { 2 } else { 1 }
    }
}

/// How many parts of a tile, each as wide as a register, are multiplied in one pass with so many rows: all, where their
/// accumulators fit into the registers. A pass asks memory for whole cache lines: were each part to go alone, the first
/// would wait for all of them, and the others would ask for nothing.
#[inline(always)]
fn parts_of<S: Simd>(rows: usize) -> usize {
    // All parts go together with one row or two: `by_group` has no instances for more.
    const { assert!(S::ACCUMULATORS <= GROUP && (S::LANES == TILE || S::ACCUMULATORS * S::LANES < 3 * TILE)) };
    let parts = TILE / S::LANES;
    if parts * rows <= S::ACCUMULATORS { parts } else { 1 }
}

/// The product of a part and token, the `i`th of all: the sum of the token's rows' products.
#[inline(always)]
fn of_token<S: Simd>(s: S, sums: &[S::F; GROUP], rows: usize, i: usize) -> S::F {
    if rows == 2 { s.add(sums[2 * i], sums[2 * i + 1]) } else { sums[i] }
}

/// `out[t, rows of tiles] (+)= matrix · x[t]`.
pub struct MatMul<'a> {
    /// Weights `[rows, columns]`.
    pub matrix: &'a Matrix,
    /// Tiles to compute.
    pub tiles: Range<usize>,
    /// Activations; `Codes` only for quantized weights.
    pub input: Input<'a>,
    /// Row stride at least `16 · matrix.tiles()`. Tiles are written whole.
    pub output: Output,
    /// Set or add.
    pub store: Store,
    /// Room for one tile in f32, `[columns, 16]`, used by the exact path of quantized weights.
    pub scratch: &'a mut Vec<f32>,
}

impl Op for MatMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Output { data, stride, tokens } = self.output;
        check(self.matrix, &self.tiles, self.input, self.output);
        assert!(self.matrix.tiles() * TILE <= stride);
        ask_for_first(s, self.matrix, &self.tiles);
        let rows = self.input.rows_each();
        for tile in self.tiles.clone() {
            let weights = TileWeights::new(self.matrix, tile, &self.tiles, self.input, self.scratch);
            let mut token = 0;
            while token < tokens {
                let group = (tokens - token).min(S::ACCUMULATORS.min(GROUP) / rows);
                let parts = parts_of::<S>(group * rows);
                for first in (0..TILE / S::LANES).step_by(parts) {
                    let mut sums = [s.splat(0.0); GROUP];
                    product(s, &weights, first..first + parts, token * rows, group * rows, &mut sums);
                    for part in 0..parts {
                        for i in 0..group {
                            let sum = of_token(s, &sums, rows, part * group + i);
                            // SAFETY: `check` bounds tiles by the stride and tokens by the rows; a
                            // thread owns its tiles.
                            unsafe {
                                let out = data.add((token + i) * stride + tile * TILE + (first + part) * S::LANES);
                                let sum = if self.store == Store::Add { s.add(s.load(out), sum) } else { sum };
                                s.store(out, sum);
                            }
                        }
                    }
                }
                token += group;
            }
        }
    }
}

/// `out[t] = activation(gate · x[t]) ⊙ (up · x[t])`: the gated half of the MLP, fused.
pub struct GatedMatMul<'a> {
    /// `[intermediate, hidden]`
    pub gate: &'a Matrix,
    /// `[intermediate, hidden]`
    pub up: &'a Matrix,
    /// What is applied to the gate.
    pub activation: Activation,
    /// Tiles to compute, of both.
    pub tiles: Range<usize>,
    /// Activations.
    pub input: Input<'a>,
    /// Begins with the first of `tiles`, which are written whole.
    pub output: Output,
    /// As in [`MatMul`].
    pub scratch: &'a mut [Vec<f32>; 2],
}

impl Op for GatedMatMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Output { data, stride, tokens } = self.output;
        check(self.gate, &self.tiles, self.input, self.output);
        check(self.up, &self.tiles, self.input, self.output);
        let [gate_scratch, up_scratch] = self.scratch;
        ask_for_first(s, self.gate, &self.tiles);
        ask_for_first(s, self.up, &self.tiles);
        let rows = self.input.rows_each();
        for tile in self.tiles.clone() {
            let gate = TileWeights::new(self.gate, tile, &self.tiles, self.input, gate_scratch);
            let up = TileWeights::new(self.up, tile, &self.tiles, self.input, up_scratch);
            let column = (tile - self.tiles.start) * TILE;
            let mut token = 0;
            while token < tokens {
                let group = (tokens - token).min(S::ACCUMULATORS.min(GROUP) / rows);
                let parts = parts_of::<S>(group * rows);
                for first in (0..TILE / S::LANES).step_by(parts) {
                    // One call for both: `product` is a lot of code, and all of it inlined.
                    let mut sums = [[s.splat(0.0); GROUP]; 2];
                    for (weights, sums) in [&gate, &up].into_iter().zip(&mut sums) {
                        product(s, weights, first..first + parts, token * rows, group * rows, sums);
                    }
                    let [gates, ups] = sums;
                    for part in 0..parts {
                        for i in 0..group {
                            let at = part * group + i;
                            let (gate, up) = (of_token(s, &gates, rows, at), of_token(s, &ups, rows, at));
                            let gated = s.mul(activate(s, self.activation, gate), up);
                            let column = column + (first + part) * S::LANES;
                            // SAFETY: as in `MatMul`.
                            unsafe { s.store(data.add((token + i) * stride + column), gated) };
                        }
                    }
                }
                token += group;
            }
        }
    }
}

/// `gate = activation(gate) ⊙ up`, where both products are there already: what
/// [`GatedMatMul`] does to tokens that an adapter adds to in between.
pub struct Gate {
    /// What is applied to the gate.
    pub activation: Activation,
    /// Tiles to compute.
    pub tiles: Range<usize>,
    /// The gate's product, which the result replaces.
    pub gate: Output,
    /// The other one, of the same shape.
    pub up: Output,
}

impl Op for Gate {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gate, up) = (self.gate, self.up);
        assert!(self.tiles.end * TILE <= gate.stride && (up.stride, up.tokens) == (gate.stride, gate.tokens));
        for token in 0..gate.tokens {
            for at in (self.tiles.start * TILE..self.tiles.end * TILE).step_by(S::LANES) {
                // SAFETY: just checked; a thread owns its tiles.
                unsafe {
                    let (out, up) = (gate.data.add(token * gate.stride + at), up.data.add(token * up.stride + at));
                    s.store(out, s.mul(activate(s, self.activation, s.load(out)), s.load(up)));
                }
            }
        }
    }
}

/// SiLU, x·σ(x) (arXiv 1702.03118), or the tanh form of GELU (arXiv 1606.08415, section 2),
/// which by tanh z = 2σ(2z) − 1 is x·σ(2z) with z = √(2/π)·(x + 0.044715 x³).
#[inline(always)]
fn activate<S: Simd>(s: S, activation: Activation, x: S::F) -> S::F {
    let z = match activation {
        Activation::Silu => x,
        Activation::GeluTanh => {
            use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
            const TWICE_SQRT_2_OVER_PI: f32 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
            let cube = s.mul(s.mul(x, x), x);
            s.mul(s.fma(cube, s.splat(0.044715), x), s.splat(TWICE_SQRT_2_OVER_PI))
        }
    };
    let e = exp(s, s.sub(s.splat(0.0), z));
    s.div(x, s.add(s.splat(1.0), e))
}

/// Panics unless every access of the product stays inside its operands, the first tile's column being the output's first.
#[inline(always)]
fn check(matrix: &Matrix, tiles: &Range<usize>, input: Input, output: Output) {
    assert!(tiles.end <= matrix.tiles() && tiles.len() * TILE <= output.stride);
    match input {
        Input::Float(x) => assert_eq!(x.len(), output.tokens * matrix.columns()),
        Input::Codes(x) | Input::Fine(x) => {
            assert!(matrix.format().is_quantized());
            assert_eq!(x.len() * BLOCK, output.tokens * input.rows_each() * matrix.columns());
        }
    }
}

/// Asks for the first [`AHEAD`] bytes of `tiles`; [`Codec::dot`] asks for the rest, where weights are codes.
#[inline(always)]
fn ask_for_first<S: Simd>(s: S, matrix: &Matrix, tiles: &Range<usize>) {
    let start = matrix.bytes().as_ptr().wrapping_add(tiles.start * matrix.tile_bytes());
    for at in (0..AHEAD.min(tiles.len() * matrix.tile_bytes())).step_by(LINE) {
        s.prefetch(start.wrapping_add(at));
    }
}

/// One tile and the activations that it meets.
struct TileWeights<'a> {
    format: Format,
    bytes: &'a [u8],
    columns: usize,
    /// Bytes from this tile to the end of the tiles that are multiplied: what may be asked for.
    left: usize,
    input: Input<'a>,
}

impl<'a> TileWeights<'a> {
    /// The tile as stored; or, where the input is f32 and the weights are codes, as f32.
    #[inline(always)]
    fn new(matrix: &'a Matrix, tile: usize, tiles: &Range<usize>, input: Input<'a>, scratch: &'a mut Vec<f32>) -> Self {
        let columns = matrix.columns();
        let left = (tiles.end - tile) * matrix.tile_bytes();
        let (format, bytes) = match input {
            Input::Float(_) if matrix.format().is_quantized() => {
                dequantize_tile(matrix, tile, scratch);
                // SAFETY: f32 has no padding, and u8 no alignment or invalid value.
                (Format::F32, unsafe {
                    std::slice::from_raw_parts(scratch.as_ptr().cast::<u8>(), columns * TILE * size_of::<f32>())
                })
            }
            _ => (matrix.format(), &matrix.bytes()[tile * matrix.tile_bytes()..][..matrix.tile_bytes()]),
        };
        Self { format, bytes, columns, left, input }
    }
}

/// A tile as `[columns, 16]` f32, exactly.
#[inline(never)]
fn dequantize_tile(matrix: &Matrix, tile: usize, out: &mut Vec<f32>) {
    out.clear();
    out.resize(matrix.columns() * TILE, 0.0);
    for row in 0..TILE.min(matrix.rows() - tile * TILE) {
        for block in 0..matrix.columns() / BLOCK {
            let values = matrix.block(tile * TILE + row, block).dequantize(matrix.format());
            for (column, value) in values.into_iter().enumerate() {
                out[(block * BLOCK + column) * TILE + row] = value;
            }
        }
    }
}

/// `sums[p · group + i] = part p of parts · x[token + i]` for i < group, where two rows of one token count as two.
#[inline(always)]
fn product<S: Simd>(
    s: S,
    tile: &TileWeights,
    parts: Range<usize>,
    token: usize,
    group: usize,
    sums: &mut [S::F; GROUP],
) {
    // The first tokens, and of a tile's parts the first, bring the weights into the cache.
    let ask = if token == 0 && parts.start == 0 { tile.left } else { 0 };
    match tile.input {
        Input::Codes(x) | Input::Fine(x) => {
            let blocks = tile.columns / BLOCK;
            let x = &x[token * blocks..(token + group) * blocks];
            match tile.format {
                Format::Q8_0 => by_group::<S, Q8_0>(s, tile, parts, x, ask, group, sums),
                Format::Q4_0 => by_group::<S, Q4_0>(s, tile, parts, x, ask, group, sums),
                Format::Q4_1 => by_group::<S, Q4_1>(s, tile, parts, x, ask, group, sums),
                Format::Q5_0 => by_group::<S, Q5_0>(s, tile, parts, x, ask, group, sums),
                Format::Q5_1 => by_group::<S, Q5_1>(s, tile, parts, x, ask, group, sums),
                _ => unreachable!("checked: codes meet quantized weights only"),
            }
        }
        Input::Float(x) => {
            let x = &x[token * tile.columns..(token + group) * tile.columns];
            match tile.format {
                Format::F16 => by_group::<S, F16>(s, tile, parts, x, ask, group, sums),
                Format::BF16 => by_group::<S, BF16>(s, tile, parts, x, ask, group, sums),
                _ => by_group::<S, F32>(s, tile, parts, x, ask, group, sums),
            }
        }
    }
}

/// How one format multiplies: `P` parts of a tile, from part `first` on, with `T` rows.
trait Codec {
    type X;
    /// Of the bytes from `tile` on, those from [`AHEAD`] to `ask` may be asked for.
    ///
    /// # Safety
    /// `tile` holds a whole tile of `columns`, `x` as many rows; `first + P` is at most `TILE / S::LANES`.
    unsafe fn dot<S: Simd, const T: usize, const P: usize>(
        s: S,
        tile: *const u8,
        first: usize,
        columns: usize,
        x: *const Self::X,
        ask: usize,
    ) -> [[S::F; T]; P];
}

/// Calls the instance of `C::dot` for the numbers of parts and rows.
#[inline(always)]
fn by_group<S: Simd, C: Codec>(
    s: S,
    tile: &TileWeights,
    parts: Range<usize>,
    x: &[C::X],
    ask: usize,
    group: usize,
    sums: &mut [S::F; GROUP],
) {
    let (bytes, columns, x) = (tile.bytes.as_ptr(), tile.columns, x.as_ptr());
    macro_rules! tokens {
        ($n:literal) => {
            tokens!($n, 1)
        };
        ($n:literal, $parts:literal) => {{
            // SAFETY: `product` cut x to the group's rows, TileWeights holds a whole tile, and the parts are in it.
            let products = unsafe { C::dot::<S, $n, $parts>(s, bytes, parts.start, columns, x, ask) };
            sums[..$n * $parts].copy_from_slice(products.as_flattened());
        }};
    }
    // Of several parts, the instances for other widths of a register are left out: widths are constants.
    match (parts.len(), group) {
        (2, 1) if TILE / S::LANES == 2 => tokens!(1, 2),
        (2, 2) if TILE / S::LANES == 2 => tokens!(2, 2),
        (4, 1) if TILE / S::LANES == 4 => tokens!(1, 4),
        (4, 2) if TILE / S::LANES == 4 => tokens!(2, 4),
        (1, 1) => tokens!(1),
        (1, 2) => tokens!(2),
        (1, 3) => tokens!(3),
        (1, 4) => tokens!(4),
        (1, 5) if S::ACCUMULATORS > 4 => tokens!(5),
        (1, 6) if S::ACCUMULATORS > 4 => tokens!(6),
        (1, 7) if S::ACCUMULATORS > 4 => tokens!(7),
        (1, 8) if S::ACCUMULATORS > 4 => tokens!(8),
        _ => unreachable!("as `parts_of` has it, and groups are at most ACCUMULATORS rows"),
    }
}

/// How codes of one format are unpacked.
trait Quantized {
    const FORMAT: Format;
    const SIGNED: bool = false;

    /// Codes of columns `16 · half + 4 · group` and the three after it, of a block whose codes begin at `codes`, for the rows
    /// of a register. Both numbers are constants where this is called.
    ///
    /// # Safety
    /// `codes` points into a record of the format, to the first codes of these rows.
    unsafe fn four_columns<S: Simd>(s: S, codes: *const u8, half: usize, group: usize) -> S::W;
}

/// Rows of [`ActivationBlock`]s, of which one block at a time is multiplied.
#[derive(Clone, Copy)]
struct Column<const T: usize> {
    /// The first row's block.
    first: *const ActivationBlock,
    /// Blocks in a row.
    stride: usize,
}

impl<const T: usize> Column<T> {
    /// # Safety
    /// `t < T`, and there are as many rows.
    #[inline(always)]
    unsafe fn block<'a>(self, t: usize) -> &'a ActivationBlock {
        // SAFETY: as the caller promises.
        unsafe { &*self.first.add(t * self.stride) }
    }
}

/// Adds products of four columns to the sums of `P` parts and `T` rows, which grow side by side: each is a chain of
/// instructions that wait for one another.
#[inline(always)]
unsafe fn add_four<S: Simd, Q: Quantized, const T: usize, const P: usize>(
    s: S,
    sums: &mut [[S::I; T]; P],
    codes: *const u8,
    x: Column<T>,
    half: usize,
    group: usize,
) {
    // SAFETY: the caller points to the codes of `P` parts, and has `T` rows.
    unsafe {
        let mut weights = [Q::four_columns(s, codes, half, group); P];
        for (part, weights) in weights.iter_mut().enumerate().skip(1) {
            *weights = Q::four_columns(s, codes.add(part * S::LANES * 4), half, group);
        }
        for t in 0..T {
            let x = s.splat4(x.block(t).codes.as_ptr().add(16 * half + 4 * group));
            for (sums, &w) in sums.iter_mut().zip(&weights) {
                sums[t] = if Q::SIGNED { s.add_signed_products(sums[t], w, x) } else { s.add_products(sums[t], w, x) };
            }
        }
    }
}

/// Exact dot products of sixteen columns of a block, times the scale of their activations: added to `products` or, of the
/// first half, put there.
#[inline(always)]
unsafe fn add_half<S: Simd, Q: Quantized, const T: usize, const P: usize>(
    s: S,
    products: &mut [[S::F; T]; P],
    codes: *const u8,
    x: Column<T>,
    half: usize,
) {
    let offset = if Q::SIGNED { S::SIGNED_OFFSET } else { Q::FORMAT.code_offset() };
    // SAFETY: as in `add_four`.
    unsafe {
        let mut sums = [[s.whole(0); T]; P];
        for t in 0..T {
            let init = -offset * x.block(t).code_sums[half];
            for sums in &mut sums {
                sums[t] = if Q::SIGNED { s.whole(init) } else { s.begin(init) };
            }
        }
        // No loop: the group decides on instructions.
        add_four::<S, Q, T, P>(s, &mut sums, codes, x, half, 0);
        add_four::<S, Q, T, P>(s, &mut sums, codes, x, half, 1);
        add_four::<S, Q, T, P>(s, &mut sums, codes, x, half, 2);
        add_four::<S, Q, T, P>(s, &mut sums, codes, x, half, 3);
        for t in 0..T {
            let x = x.block(t);
            let (init, scale) = (-offset * x.code_sums[half], s.splat(x.scales[half]));
            for (products, sums) in products.iter_mut().zip(&sums) {
                let sum = s.to_float(if Q::SIGNED { sums[t] } else { s.finish(sums[t], init) });
                products[t] = if half == 0 { s.mul(sum, scale) } else { s.fma(sum, scale, products[t]) };
            }
        }
    }
}

impl<Q: Quantized> Codec for Q {
    type X = ActivationBlock;

    /// For each block: two exact integer dot products of 16 columns, then
    /// `acc = fma(i₁·x₁ + i₀·x₀, d, acc)` and, with minima, `acc = fma(m, Σx, acc)`.
    #[inline(always)]
    unsafe fn dot<S: Simd, const T: usize, const P: usize>(
        s: S,
        tile: *const u8,
        first: usize,
        columns: usize,
        x: *const ActivationBlock,
        ask: usize,
    ) -> [[S::F; T]; P] {
        let record_bytes = Q::FORMAT.record_bytes();
        let stride = columns / BLOCK;
        let mut sums = [[s.splat(0.0); T]; P];
        for block in 0..stride {
            // SAFETY: block < columns / 32, so the record lies in the tile and x's blocks in
            // their rows; offsets inside the record follow its layout.
            unsafe {
                let record = tile.add(block * record_bytes);
                if block * record_bytes + AHEAD < ask {
                    for line in 0..record_bytes.div_ceil(LINE) {
                        s.prefetch(record.wrapping_add(AHEAD + line * LINE));
                    }
                }
                let x = Column { first: x.add(block), stride };
                let codes = record.add(Q::FORMAT.codes_at() + first * S::LANES * 4);
                let mut products = [[s.splat(0.0); T]; P];
                add_half::<S, Q, T, P>(s, &mut products, codes, x, 0);
                add_half::<S, Q, T, P>(s, &mut products, codes, x, 1);
                for (part, (sums, products)) in sums.iter_mut().zip(&products).enumerate() {
                    let scales = record.cast::<u16>().add((first + part) * S::LANES);
                    let d = s.load_f16(scales);
                    let m = if Q::FORMAT.has_min() { s.load_f16(scales.add(TILE)) } else { d };
                    for (t, (sum, &product)) in sums.iter_mut().zip(products).enumerate() {
                        *sum = s.fma(product, d, *sum);
                        if Q::FORMAT.has_min() {
                            *sum = s.fma(m, s.splat(x.block(t).sum), *sum);
                        }
                    }
                }
            }
        }
        sums
    }
}

/// Nibbles: low ones of columns 0–15, high ones of 16–31.
#[inline(always)]
unsafe fn nibbles<S: Simd>(s: S, codes: *const u8, half: usize, group: usize) -> S::W {
    // SAFETY: the caller points to four groups of 64 bytes, less the part's offset.
    let codes = unsafe { s.load_codes(codes.add(64 * group)) };
    if half == 0 { s.low_nibbles(codes) } else { s.high_nibbles(codes) }
}

/// The same with the fifth bits that follow the nibbles.
#[inline(always)]
unsafe fn five_bits<S: Simd>(s: S, codes: *const u8, half: usize, group: usize) -> S::W {
    // SAFETY: as in `nibbles`; one more group of 64 bytes follows.
    let (w, bits) = unsafe { (nibbles(s, codes, half, group), s.load_codes(codes.add(TILE * BLOCK / 2))) };
    match 4 * half + group {
        0 => s.with_high_bit::<0>(w, bits),
        1 => s.with_high_bit::<1>(w, bits),
        2 => s.with_high_bit::<2>(w, bits),
        3 => s.with_high_bit::<3>(w, bits),
        4 => s.with_high_bit::<4>(w, bits),
        5 => s.with_high_bit::<5>(w, bits),
        6 => s.with_high_bit::<6>(w, bits),
        _ => s.with_high_bit::<7>(w, bits),
    }
}

macro_rules! quantized {
    ($name:ident, $unpack:ident) => {
        struct $name;

        impl Quantized for $name {
            const FORMAT: Format = Format::$name;

            #[inline(always)]
            unsafe fn four_columns<S: Simd>(s: S, codes: *const u8, half: usize, group: usize) -> S::W {
                // SAFETY: as the caller promises.
                unsafe { $unpack(s, codes, half, group) }
            }
        }
    };
}

quantized!(Q4_0, nibbles);
quantized!(Q4_1, nibbles);
quantized!(Q5_0, five_bits);
quantized!(Q5_1, five_bits);

struct Q8_0;

impl Quantized for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
    const SIGNED: bool = true;

    #[inline(always)]
    unsafe fn four_columns<S: Simd>(s: S, codes: *const u8, half: usize, group: usize) -> S::W {
        // SAFETY: as the caller promises.
        unsafe { s.load_codes(codes.add(half * TILE * BLOCK / 2 + 64 * group)) }
    }
}

macro_rules! float {
    ($name:ident, $element:ty, $load:ident) => {
        struct $name;

        impl Codec for $name {
            type X = f32;

            /// `acc = fma(w, x, acc)`, column by column.
            #[inline(always)]
            unsafe fn dot<S: Simd, const T: usize, const P: usize>(
                s: S,
                tile: *const u8,
                first: usize,
                columns: usize,
                x: *const f32,
                _ask: usize,
            ) -> [[S::F; T]; P] {
                let mut sums = [[s.splat(0.0); T]; P];
                let weights = tile.cast::<$element>();
                for column in 0..columns {
                    // SAFETY: column < columns; the tile is [columns, 16].
                    unsafe {
                        for (part, sums) in sums.iter_mut().enumerate() {
                            let w = s.$load(weights.add(column * TILE + (first + part) * S::LANES));
                            for (t, sum) in sums.iter_mut().enumerate() {
                                *sum = s.fma(w, s.splat(*x.add(t * columns + column)), *sum);
                            }
                        }
                    }
                }
                sums
            }
        }
    };
}

float!(F32, f32, load);
float!(F16, u16, load_f16);
float!(BF16, u16, load_bf16);

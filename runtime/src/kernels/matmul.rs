//! Weights times activations: some tiles of a matrix with all tokens of a batch.
//!
//! One formula for every batch size: output (row, token) is accumulated over the columns
//! from left to right in one lane. Several tokens share each load of weights, and one or two
//! may meet several tiles at a time, which is all that the size of a batch changes.

use std::marker::PhantomData;
use std::ops::Range;

use super::activations::ActivationBlock;
use super::codecs::{BF16, Codec, F16, F32, FEW, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Tiles};
use super::prefetch::Lines;
use super::simd::{Simd, exp};
use super::{Kernel, Op};
use crate::file::Activation;
use crate::quant::{BLOCK, Format, Matrix, TILE};

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

/// What is multiplied in one pass: parts of a tile, each as wide as a register, with rows of activations.
struct Pass<S, C>(PhantomData<(S, C)>);

impl<S: Simd, C: Codec> Pass<S, C> {
    /// Parts of a tile.
    const PARTS: usize = TILE / S::LANES;
    /// Most rows times parts: each has an accumulator. With sixteen registers some are in memory at times, which costs less than
    /// to load weights and activations more often.
    const ACCUMULATORS: usize = if S::REGISTERS >= 16 { 8 } else { 2 };
    /// Most rows: as many as fit with all parts, if that is three or more, since an activation is then loaded once for
    /// all parts; else as many as fit with one.
    const ROWS: usize =
        if Self::ACCUMULATORS / Self::PARTS >= 3 { Self::ACCUMULATORS / Self::PARTS } else { Self::ACCUMULATORS };

    /// Parts that go together with so many rows: all, where they fit. A pass asks memory for whole cache lines: were each
    /// part to go alone, the first would wait for all of them, and the others would ask for nothing.
    #[inline(always)]
    fn parts(rows: usize) -> usize {
        if Self::PARTS * rows <= Self::ACCUMULATORS { Self::PARTS } else { 1 }
    }

    /// How many of the `left` tokens, each of so many rows, come next: where more than one can, not so many that one is left
    /// over alone.
    #[inline(always)]
    fn tokens(left: usize, rows: usize) -> usize {
        let most = Self::ROWS / rows;
        if left == most + 1 { left.div_ceil(2) } else { left.min(most) }
    }
}

/// `out[t, rows of tiles] (+)= matrix · x[t]`.
pub struct MatMul<'a> {
    /// Weights `[rows, columns]`.
    pub matrix: &'a Matrix,
    /// Tiles to compute.
    pub tiles: Range<usize>,
    /// Activations; `Codes` only for quantized weights.
    pub input: Input<'a>,
    /// Begins with the first of `tiles`, which are written whole.
    pub output: Output,
    /// Set or add.
    pub store: Store,
    /// Room for one tile in f32, `[columns, 16]`, used by the exact path of quantized weights.
    pub scratch: &'a mut Vec<f32>,
    /// What the thread likely reads next: where activations are codes, it is asked for when all of these tiles have been.
    pub next: Lines,
}

impl MatMul<'_> {
    /// Computes it on the instruction set of `kernel`, for which each format is a function of its own: all of them in one
    /// are more than a compiler can bear.
    pub fn run(self, kernel: Kernel) {
        check(self.matrix, &self.tiles, self.input, self.output);
        match (self.input, self.matrix.format()) {
            (Input::Float(_), Format::F16) => kernel.run(InFormat::<F16>::new(self)),
            (Input::Float(_), Format::BF16) => kernel.run(InFormat::<BF16>::new(self)),
            (Input::Float(_), _) => kernel.run(InFormat::<F32>::new(self)),
            (_, Format::Q4_0) => kernel.run(InFormat::<Q4_0>::new(self)),
            (_, Format::Q4_1) => kernel.run(InFormat::<Q4_1>::new(self)),
            (_, Format::Q5_0) => kernel.run(InFormat::<Q5_0>::new(self)),
            (_, Format::Q5_1) => kernel.run(InFormat::<Q5_1>::new(self)),
            (_, Format::Q8_0) => kernel.run(InFormat::<Q8_0>::new(self)),
            _ => unreachable!("checked: codes meet quantized weights only"),
        }
    }
}

/// A [`MatMul`] of one format.
struct InFormat<'a, C>(MatMul<'a>, PhantomData<C>);

impl<'a, C> InFormat<'a, C> {
    fn new(op: MatMul<'a>) -> Self {
        Self(op, PhantomData)
    }
}

impl<C: Codec> Op for InFormat<'_, C> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let MatMul { matrix, tiles, input, output, store, scratch, next } = self.0;
        let (x, rows) = (C::rows(input), input.rows_each());
        let dequantized = is_dequantized(matrix, input);
        let place = Place { output, first: tiles.start, store, rows };
        let tokens = output.tokens;
        let mut rest = tiles.clone();
        loop {
            let count = streams_of::<S>(matrix, rest.len(), input, tokens);
            if count == 1 {
                break;
            }
            let each = rest.len() / count;
            let left = rest.start + each * count..rest.end;
            let next = if left.is_empty() { next } else { first_lines::<S>(matrix, left.clone(), input, tokens) };
            let ahead = (S::FEW_AHEAD / count).min(each * matrix.tile_bytes());
            for index in 0..each {
                let ask = (each - index) * matrix.tile_bytes();
                let streams = Streams { matrix, tile: rest.start + index, each, ask, ahead, next };
                match (count, tokens * rows) {
                    (4, 1) => streams.multiply::<S, C, 1, 4>(s, x, place),
                    (2, 1) => streams.multiply::<S, C, 1, 2>(s, x, place),
                    (2, 2) => streams.multiply::<S, C, 2, 2>(s, x, place),
                    _ => unreachable!("as `streams_of` has it"),
                }
            }
            rest = left;
        }
        let ahead = if tokens * rows <= FEW { S::FEW_AHEAD } else { S::AHEAD }.min(rest.len() * matrix.tile_bytes());
        for tile in rest.clone() {
            let first = if dequantized { dequantize_tile(matrix, tile, scratch) } else { matrix.tile(tile).as_ptr() };
            let (columns, ask) = (matrix.columns(), (rest.end - tile) * matrix.tile_bytes());
            let weights = Tiles { first, apart: 0, columns, ask, ahead, next };
            let mut token = 0;
            while token < tokens {
                let group = Pass::<S, C>::tokens(tokens - token, rows);
                let parts = Pass::<S, C>::parts(group * rows);
                for part in (0..TILE / S::LANES).step_by(parts) {
                    pass::<S, C>(s, weights, part..part + parts, x, token..token + group, place, tile);
                }
                token += group;
            }
        }
    }
}

/// Where sums go.
#[derive(Clone, Copy)]
struct Place {
    output: Output,
    /// The tile that the output begins with.
    first: usize,
    store: Store,
    /// Rows of activations for each token.
    rows: usize,
}

impl Place {
    /// # Safety
    /// The tile is one of those that the output has room for, and this thread's own; the token is one of the output's.
    #[inline(always)]
    unsafe fn put<S: Simd>(self, s: S, tile: usize, part: usize, token: usize, sum: S::F) {
        let column = (tile - self.first) * TILE + part * S::LANES;
        // SAFETY: as the caller promises.
        unsafe {
            let out = self.output.data.add(token * self.output.stride + column);
            s.store(out, if self.store == Store::Add { s.add(s.load(out), sum) } else { sum });
        }
    }

    /// Products `of` all rows of the tokens from `token` on, of which each has one or two: a token's is the sum of its rows'.
    ///
    /// # Safety
    /// As of [`Place::put`], for each of these tokens.
    #[inline(always)]
    unsafe fn put_rows<S: Simd, const T: usize>(self, s: S, tile: usize, part: usize, token: usize, of: &[S::F; T]) {
        // SAFETY: as the caller promises.
        unsafe {
            for i in 0..T / self.rows {
                let sum = if self.rows == 1 { of[i] } else { s.add(of[2 * i], of[2 * i + 1]) };
                self.put(s, tile, part, token + i, sum);
            }
        }
    }
}

/// Tiles that are multiplied in step, each `each` after the one before, from `tile` on.
struct Streams<'a> {
    matrix: &'a Matrix,
    tile: usize,
    each: usize,
    /// See [`Tiles`], also for the next two.
    ask: usize,
    ahead: usize,
    next: Lines,
}

impl Streams<'_> {
    /// `T` rows of activations with `N` tiles.
    #[inline(always)]
    fn multiply<S: Simd, C: Codec, const T: usize, const N: usize>(self, s: S, x: &[C::X], place: Place) {
        let Self { matrix, tile, each, ask, ahead, next } = self;
        assert!(tile + (N - 1) * each < matrix.tiles() && x.len() * C::COLUMNS == T * matrix.columns());
        let first = matrix.bytes()[tile * matrix.tile_bytes()..].as_ptr();
        let apart = each * matrix.tile_bytes();
        let tiles = Tiles { first, apart, columns: matrix.columns(), ask, ahead, next };
        macro_rules! parts {
            ($parts:literal) => {
                // SAFETY: just checked: `x` has `T` rows, which are those of all tokens of the output. `check` bounds tiles by
                // the stride; a thread owns its tiles.
                unsafe {
                    let products = C::dot::<S, T, $parts, N>(s, tiles, 0, x.as_ptr());
                    for (stream, parts) in products.iter().enumerate() {
                        for (part, products) in parts.iter().enumerate() {
                            place.put_rows(s, tile + stream * each, part, 0, products);
                        }
                    }
                }
            };
        }
        match TILE / S::LANES {
            1 => parts!(1),
            2 => parts!(2),
            _ => parts!(4),
        }
    }
}

/// `out[t] = activation(gate · x[t]) ⊙ (up · x[t])`: the gated half of the MLP.
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
    /// The first as in [`MatMul`], the other has room for products with `up`.
    pub scratch: &'a mut [Vec<f32>; 2],
    /// As in [`MatMul`].
    pub next: Lines,
}

impl GatedMatMul<'_> {
    /// Tiles of each matrix that are multiplied before those of the other: their products stay in the first-level cache.
    pub(crate) fn together(tokens: usize) -> usize {
        /// Floats of one product, in 8 KiB.
        const ASIDE: usize = 2048;
        (ASIDE / TILE / tokens.max(1)).max(1)
    }

    /// Computes it on the instruction set of `kernel`.
    pub fn run(self, kernel: Kernel) {
        let Self { gate, up, activation, tiles, input, output, scratch: [scratch, ups], next } = self;
        let tokens = output.tokens;
        let together = Self::together(tokens);
        check(gate, &tiles, input, output);
        let part = |start: usize| start..(start + together).min(tiles.end);
        let first = |matrix, tiles| kernel.run(FirstRead { matrix, tiles, input, tokens });
        for start in tiles.clone().step_by(together) {
            let part_after = part(start + together);
            let part = part(start);
            let columns = part.len() * TILE;
            if ups.len() < tokens * columns {
                ups.resize(tokens * columns, 0.0);
            }
            // SAFETY: the tiles are inside the stride, as just checked.
            let gated = unsafe { output.from_column((start - tiles.start) * TILE) };
            let ups = Output::new(&mut ups[..tokens * columns], columns);
            let after = if part_after.is_empty() { next } else { first(gate, part_after) };
            for (matrix, output, next) in [(gate, gated, first(up, part.clone())), (up, ups, after)] {
                MatMul { matrix, tiles: part.clone(), input, output, store: Store::Set, scratch, next }.run(kernel);
            }
            kernel.run(Gate { activation, columns, gate: gated, up: ups });
        }
    }
}

/// `gate = activation(gate) ⊙ up`, where both products are there already.
pub struct Gate {
    /// What is applied to the gate.
    pub activation: Activation,
    /// Columns to compute, from the first of both on; a multiple of 16.
    pub columns: usize,
    /// The gate's product, which the result replaces.
    pub gate: Output,
    /// The other one, of as many tokens.
    pub up: Output,
}

impl Op for Gate {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { activation, columns, gate, up } = self;
        assert!(columns <= gate.stride.min(up.stride) && columns.is_multiple_of(TILE) && up.tokens == gate.tokens);
        for token in 0..gate.tokens {
            for at in (0..columns).step_by(S::LANES) {
                // SAFETY: just checked; a thread owns its columns.
                unsafe {
                    let (out, up) = (gate.data.add(token * gate.stride + at), up.data.add(token * up.stride + at));
                    s.store(out, s.mul(activate(s, activation, s.load(out)), s.load(up)));
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

/// Whether codes meet floats, for which each tile becomes floats too.
#[inline(always)]
fn is_dequantized(matrix: &Matrix, input: Input) -> bool {
    matches!(input, Input::Float(_)) && matrix.format().is_quantized()
}

/// From how many places a product of so many tiles with so many tokens of such an input reads weights at the same time: an
/// activation is loaded once for all, and some processors bring more cache lines at once for several streams than for one. Two
/// rows have registers for two.
#[inline(always)]
fn streams_of<S: Simd>(matrix: &Matrix, tiles: usize, input: Input, tokens: usize) -> usize {
    match (tokens * input.rows_each(), tiles.min(S::STREAMS)) {
        _ if is_dequantized(matrix, input) => 1,
        (1, 4..) => 4,
        (1..=FEW, 2..) => 2,
        _ => 1,
    }
}

/// What a product reads first, in that order.
pub struct FirstRead<'a> {
    /// Weights.
    pub matrix: &'a Matrix,
    /// Tiles to compute.
    pub tiles: Range<usize>,
    /// Of which kind activations are: how many there are does not matter.
    pub input: Input<'a>,
    /// Tokens.
    pub tokens: usize,
}

impl Op for FirstRead<'_> {
    type Output = Lines;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Lines {
        let Self { matrix, tiles, input, tokens } = self;
        first_lines::<S>(matrix, tiles, input, tokens)
    }
}

/// See [`FirstRead`].
#[inline(always)]
fn first_lines<S: Simd>(matrix: &Matrix, tiles: Range<usize>, input: Input, tokens: usize) -> Lines {
    let streams = streams_of::<S>(matrix, tiles.len(), input, tokens);
    let start = matrix.bytes().as_ptr().wrapping_add(tiles.start * matrix.tile_bytes());
    Lines::new(start, streams, tiles.len() / streams * matrix.tile_bytes())
}

/// A tile as `[columns, 16]` f32, exactly, in `out`: where it begins.
#[inline(never)]
fn dequantize_tile(matrix: &Matrix, tile: usize, out: &mut Vec<f32>) -> *const u8 {
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
    out.as_ptr().cast()
}

/// The products of parts of a tile with `tokens` go to their place.
#[inline(always)]
fn pass<S: Simd, C: Codec>(
    s: S,
    weights: Tiles,
    parts: Range<usize>,
    x: &[C::X],
    tokens: Range<usize>,
    place: Place,
    tile: usize,
) {
    let rows = place.rows;
    // The first rows, and of a tile's parts the first, bring the weights into the cache.
    let weights = if tokens.start == 0 && parts.start == 0 { weights } else { Tiles { ask: 0, ..weights } };
    let width = weights.columns / C::COLUMNS;
    let x = x[tokens.start * rows * width..tokens.end * rows * width].as_ptr();
    macro_rules! rows {
        ($n:literal) => {
            rows!($n, 1)
        };
        ($n:literal, $parts:literal) => {{
            // SAFETY: x has just been cut to these tokens' rows, and the caller has a whole tile with these parts. `check`
            // bounds tiles by the stride and tokens by the output's; a thread owns its tiles.
            unsafe {
                let [products] = C::dot::<S, $n, $parts, 1>(s, weights, parts.start, x);
                for (part, products) in products.into_iter().enumerate() {
                    place.put_rows(s, tile, parts.start + part, tokens.start, &products);
                }
            }
        }};
    }
    // Of several parts, the instances for other widths of a register are left out: widths are constants.
    match (parts.len(), tokens.len() * rows) {
        (2, 1) if Pass::<S, C>::PARTS == 2 => rows!(1, 2),
        (2, 2) if Pass::<S, C>::PARTS == 2 => rows!(2, 2),
        (2, 3) if Pass::<S, C>::PARTS == 2 => rows!(3, 2),
        (2, 4) if Pass::<S, C>::PARTS == 2 => rows!(4, 2),
        (4, 1) if Pass::<S, C>::PARTS == 4 => rows!(1, 4),
        (4, 2) if Pass::<S, C>::PARTS == 4 => rows!(2, 4),
        (1, 1) if Pass::<S, C>::PARTS == 1 => rows!(1),
        (1, 2) if Pass::<S, C>::PARTS == 1 => rows!(2),
        (1, 3) if Pass::<S, C>::ROWS == 8 => rows!(3),
        (1, 4) if Pass::<S, C>::ROWS == 8 => rows!(4),
        (1, 5) if Pass::<S, C>::ROWS == 8 => rows!(5),
        (1, 6) if Pass::<S, C>::ROWS == 8 => rows!(6),
        (1, 7) if Pass::<S, C>::ROWS == 8 => rows!(7),
        (1, 8) if Pass::<S, C>::ROWS == 8 => rows!(8),
        _ => unreachable!("as `Pass` has it"),
    }
}

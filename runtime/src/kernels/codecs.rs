//! How each format multiplies: rows of weights, sixteen to a tile, with rows of activations.
//!
//! Not here: which tiles meet which tokens (see [`super::matmul`]).

use super::activations::ActivationBlock;
use super::matmul::Input;
use super::prefetch::{LINE, Lines, prefetch};
use super::simd::Simd;
use crate::quant::{BLOCK, Format, TILE};

/// So many rows of activations are multiplied faster than memory brings weights.
pub(super) const FEW: usize = 2;

/// Tiles that are multiplied together.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// The first one's bytes.
    pub(super) first: *const u8,
    /// Bytes from one to the next.
    pub(super) apart: usize,
    pub(super) columns: usize,
    /// Bytes from each tile on that may be asked for, as they will be multiplied.
    pub(super) ask: usize,
    /// How far ahead it is asked for: no farther than each stream is long, so that what comes next is asked for from its
    /// beginning on.
    pub(super) ahead: usize,
    /// What is asked for after that, as much.
    pub(super) next: Lines,
}

/// How one format multiplies: `P` parts of `N` tiles with `T` rows.
pub(super) trait Codec {
    /// Activations of [`Codec::COLUMNS`] columns.
    type X;
    const COLUMNS: usize;

    /// Rows of them, where `input` is of this kind.
    fn rows(input: Input<'_>) -> &[Self::X];

    /// The products of parts `part..part + P`.
    ///
    /// # Safety
    /// There are `N` whole tiles, and `T` rows of `x` as long; the parts are at most `TILE / S::LANES`.
    unsafe fn dot<S: Simd, const T: usize, const P: usize, const N: usize>(
        s: S,
        tiles: Tiles,
        part: usize,
        x: *const Self::X,
    ) -> [[[S::F; T]; P]; N];
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

/// A block of weights of each of `N` tiles, from one part on, and the blocks of activations that they meet.
#[derive(Clone, Copy)]
struct Block<const N: usize> {
    records: [*const u8; N],
    part: usize,
    /// The first row's.
    x: *const ActivationBlock,
    /// Blocks from one row's to the next.
    stride: usize,
    /// Where memory is asked for as many records, if for any.
    ahead: Option<[*const u8; N]>,
}

impl<const N: usize> Block<N> {
    /// The `step`th of so many steps in which memory is asked for lines of the records ahead.
    #[inline(always)]
    fn ask(self, record_bytes: usize, step: usize, steps: usize) {
        if let Some(ahead) = self.ahead {
            let lines = N * record_bytes.div_ceil(LINE);
            for line in step * lines / steps..(step + 1) * lines / steps {
                prefetch(ahead[line % N].wrapping_add(line / N * LINE));
            }
        }
    }

    /// # Safety
    /// There are more than `row` rows.
    #[inline(always)]
    unsafe fn x<'a>(self, row: usize) -> &'a ActivationBlock {
        // SAFETY: as the caller promises.
        unsafe { &*self.x.add(row * self.stride) }
    }
}

/// Adds products of four columns to the sums of `P` parts of `N` tiles with `T` rows, which grow side by side: each is a chain
/// of instructions that wait for one another. With few rows, a part of what lies ahead is asked for.
#[inline(always)]
unsafe fn add_four<S: Simd, Q: Quantized, const T: usize, const P: usize, const N: usize>(
    s: S,
    sums: &mut [[[S::I; T]; P]; N],
    block: Block<N>,
    half: usize,
    group: usize,
) {
    // Of hints in one burst some would be dropped, for which few rows then wait.
    if T <= FEW {
        block.ask(Q::FORMAT.record_bytes(), 4 * half + group, BLOCK / 4);
    }
    // SAFETY: the caller has records of the format with `P` parts from the block's on, and `T` rows.
    unsafe {
        for (record, sums) in block.records.iter().zip(sums) {
            let codes = record.add(Q::FORMAT.codes_at() + block.part * S::LANES * 4);
            let mut weights = [Q::four_columns(s, codes, half, group); P];
            for (part, weights) in weights.iter_mut().enumerate().skip(1) {
                *weights = Q::four_columns(s, codes.add(part * S::LANES * 4), half, group);
            }
            for t in 0..T {
                let x = s.splat4(block.x(t).codes.as_ptr().add(16 * half + 4 * group));
                for (sums, &w) in sums.iter_mut().zip(&weights) {
                    sums[t] =
                        if Q::SIGNED { s.add_signed_products(sums[t], w, x) } else { s.add_products(sums[t], w, x) };
                }
            }
        }
    }
}

/// Exact dot products of sixteen columns of a block, times the scale of their activations: added to `products` or, of the
/// first half, put there.
#[inline(always)]
unsafe fn add_half<S: Simd, Q: Quantized, const T: usize, const P: usize, const N: usize>(
    s: S,
    products: &mut [[[S::F; T]; P]; N],
    block: Block<N>,
    half: usize,
) {
    let offset = if Q::SIGNED { S::SIGNED_OFFSET } else { Q::FORMAT.code_offset() };
    // SAFETY: as in `add_four`.
    unsafe {
        let mut sums = [[[s.whole(0); T]; P]; N];
        for t in 0..T {
            let init = -offset * block.x(t).code_sums[half];
            for sums in sums.as_flattened_mut() {
                sums[t] = if Q::SIGNED { s.whole(init) } else { s.begin(init) };
            }
        }
        // No loop: the group decides on instructions.
        add_four::<S, Q, T, P, N>(s, &mut sums, block, half, 0);
        add_four::<S, Q, T, P, N>(s, &mut sums, block, half, 1);
        add_four::<S, Q, T, P, N>(s, &mut sums, block, half, 2);
        add_four::<S, Q, T, P, N>(s, &mut sums, block, half, 3);
        for t in 0..T {
            let x = block.x(t);
            let (init, scale) = (-offset * x.code_sums[half], s.splat(x.scales[half]));
            for (products, sums) in products.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
                let sum = s.to_float(if Q::SIGNED { sums[t] } else { s.finish(sums[t], init) });
                products[t] = if half == 0 { s.mul(sum, scale) } else { s.fma(sum, scale, products[t]) };
            }
        }
    }
}

/// Products of a block, added to `sums`.
#[inline(always)]
unsafe fn add_block<S: Simd, Q: Quantized, const T: usize, const P: usize, const N: usize>(
    s: S,
    sums: &mut [[[S::F; T]; P]; N],
    block: Block<N>,
) {
    // SAFETY: as in `add_four`; offsets inside the record follow its layout.
    unsafe {
        let mut products = [[[s.splat(0.0); T]; P]; N];
        add_half::<S, Q, T, P, N>(s, &mut products, block, 0);
        add_half::<S, Q, T, P, N>(s, &mut products, block, 1);
        for (record, (sums, products)) in block.records.iter().zip(sums.iter_mut().zip(&products)) {
            for (part, (sums, products)) in sums.iter_mut().zip(products).enumerate() {
                let scales = record.cast::<u16>().add((block.part + part) * S::LANES);
                let d = s.load_f16(scales);
                let m = if Q::FORMAT.has_min() { s.load_f16(scales.add(TILE)) } else { d };
                for (t, (sum, &product)) in sums.iter_mut().zip(products).enumerate() {
                    *sum = s.fma(product, d, *sum);
                    if Q::FORMAT.has_min() {
                        *sum = s.fma(m, s.splat(block.x(t).sum), *sum);
                    }
                }
            }
        }
    }
}

impl<Q: Quantized> Codec for Q {
    type X = ActivationBlock;
    const COLUMNS: usize = BLOCK;

    fn rows(input: Input<'_>) -> &[ActivationBlock] {
        match input {
            Input::Codes(x) | Input::Fine(x) => x,
            Input::Float(_) => unreachable!("as `MatMul::run` has it"),
        }
    }

    /// For each block: two exact integer dot products of 16 columns, then
    /// `acc = fma(i₁·x₁ + i₀·x₀, d, acc)` and, with minima, `acc = fma(m, Σx, acc)`.
    #[inline(always)]
    unsafe fn dot<S: Simd, const T: usize, const P: usize, const N: usize>(
        s: S,
        tiles: Tiles,
        part: usize,
        x: *const ActivationBlock,
    ) -> [[[S::F; T]; P]; N] {
        let record_bytes = Q::FORMAT.record_bytes();
        let stride = tiles.columns / BLOCK;
        let mut sums = [[[s.splat(0.0); T]; P]; N];
        for block in 0..stride {
            let at = block * record_bytes;
            // SAFETY: block < columns / 32, so the records lie in the tiles and x's blocks in their rows.
            unsafe {
                let records: [_; N] = std::array::from_fn(|n| tiles.first.add(n * tiles.apart + at));
                let ahead = match (at + tiles.ahead).checked_sub(tiles.ask) {
                    None => Some(records.map(|record| record.wrapping_add(tiles.ahead))),
                    Some(after) if after < tiles.ahead => tiles.next.of_streams(after / record_bytes, record_bytes),
                    Some(_) => None,
                };
                let block = Block { records, part, x: x.add(block), stride, ahead };
                if T > FEW {
                    block.ask(record_bytes, 0, 1);
                }
                add_block::<S, Q, T, P, N>(s, &mut sums, block);
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
        pub(super) struct $name;

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

pub(super) struct Q8_0;

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
        pub(super) struct $name;

        impl Codec for $name {
            type X = f32;
            const COLUMNS: usize = 1;

            fn rows(input: Input<'_>) -> &[f32] {
                match input {
                    Input::Float(x) => x,
                    _ => unreachable!("as `MatMul::run` has it"),
                }
            }

            /// `acc = fma(w, x, acc)`, column by column.
            #[inline(always)]
            unsafe fn dot<S: Simd, const T: usize, const P: usize, const N: usize>(
                s: S,
                Tiles { first, apart, columns, .. }: Tiles,
                part: usize,
                x: *const f32,
            ) -> [[[S::F; T]; P]; N] {
                let mut sums = [[[s.splat(0.0); T]; P]; N];
                for column in 0..columns {
                    for (n, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: column < columns; tiles are [columns, 16].
                        unsafe {
                            let weights = first.add(n * apart).cast::<$element>().add(column * TILE + part * S::LANES);
                            for (part, sums) in sums.iter_mut().enumerate() {
                                let w = s.$load(weights.add(part * S::LANES));
                                for (t, sum) in sums.iter_mut().enumerate() {
                                    *sum = s.fma(w, s.splat(*x.add(t * columns + column)), *sum);
                                }
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

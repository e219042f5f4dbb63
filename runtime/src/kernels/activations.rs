//! Activations as eight-bit codes, so that products with weights are integer dot products.
//!
//! Sixteen columns share a scale: half the block of a weight, so that one large value spoils
//! the precision of fewer others (docs/performance.md has the divergence from f32).

use super::simd::Simd;
use super::{Kernel, Op};
use crate::quant::BLOCK;

/// Thirty-two quantized activations, beside the weights' block: one cache line.
#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
pub struct ActivationBlock {
    /// Codes in −127..=127, where the row is finite.
    pub codes: [i8; BLOCK],
    /// Scale of columns 0–15 and of 16–31.
    pub scales: [f32; 2],
    /// Σ scale·code: what a weight's minimum is multiplied with. The sum of the *codes*,
    /// not of the exact activations, so that the rounding error common to a block cancels.
    pub sum: f32,
    /// Σ code of each half, for weights whose stored codes are shifted.
    pub code_sums: [i32; 2],
}

const _: () = assert!(size_of::<ActivationBlock>() == 64);

/// Quantizes one row `[columns]` to `[columns / 32]` blocks.
pub struct Quantize<'a> {
    /// The row; a multiple of 32 columns.
    pub row: &'a [f32],
    /// `row.len() / 32` blocks.
    pub out: &'a mut [ActivationBlock],
}

/// Quantizes what codes leave of their row: `row − scale·code`, which has codes of its own. Both together have
/// fifteen bits or more.
pub struct QuantizeRest<'a> {
    /// The row, as it was quantized.
    pub row: &'a [f32],
    /// Its codes.
    pub codes: &'a [ActivationBlock],
    /// As many blocks.
    pub out: &'a mut [ActivationBlock],
}

impl Op for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert_eq!(self.row.len(), self.out.len() * BLOCK);
        // Indices and no iterators: of these, some were left as calls, which end a kernel's registers.
        for index in 0..self.out.len() {
            // SAFETY: the row has as many values.
            self.out[index] = unsafe { quantize(s, self.row.as_ptr().add(index * BLOCK)) };
        }
    }
}

impl Op for QuantizeRest<'_> {
    type Output = ();

    #[allow(clippy::needless_range_loop, reason = "as in `Quantize`")]
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.row.len() == self.out.len() * BLOCK && self.codes.len() == self.out.len());
        for index in 0..self.out.len() {
            let codes = &self.codes[index];
            let mut rest = [0.0f32; BLOCK];
            for i in 0..BLOCK {
                rest[i] = f32::from(codes.codes[i]).mul_add(-codes.scales[i / 16], self.row[index * BLOCK + i]);
            }
            // SAFETY: a block of values.
            self.out[index] = unsafe { quantize(s, rest.as_ptr()) };
        }
    }
}

/// One block.
///
/// # Safety
/// `x` is valid for 32 reads.
#[inline(always)]
unsafe fn quantize<S: Simd>(s: S, x: *const f32) -> ActivationBlock {
    /// Where 127 divided by the largest nears infinity, nothing is left of a row.
    const LEAST: f32 = 1e-36;
    let mut block = ActivationBlock::default();
    for half in 0..2 {
        // SAFETY: two halves of sixteen values.
        unsafe {
            let x = x.add(half * 16);
            let largest = s.max_abs16(x);
            // 127/largest may round up, but not so far that its product with the largest would round to 128.
            let inverse = if largest > LEAST { 127.0 / largest } else { 0.0 };
            block.code_sums[half] = s.encode16(x, inverse, block.codes.as_mut_ptr().add(half * 16));
            block.scales[half] = largest / 127.0;
        }
    }
    let sums = block.code_sums.map(|sum| sum as f32);
    block.sum = block.scales[1].mul_add(sums[1], block.scales[0] * sums[0]);
    block
}

/// Quantizes `rows` rows of `columns` each.
pub fn quantize_rows(kernel: Kernel, rows: &[f32], columns: usize, out: &mut [ActivationBlock]) {
    for (row, out) in rows.chunks_exact(columns).zip(out.chunks_exact_mut(columns / BLOCK)) {
        kernel.run(Quantize { row, out });
    }
}

//! The specification: one lane at a time in plain Rust, on every machine.

use half::{bf16, f16};

use super::simd::Simd;

/// No instruction set at all.
#[derive(Clone, Copy)]
pub struct Scalar;

const N: usize = 16;

// SAFETY: no features are assumed; pointers are read and written as the trait says.
unsafe impl Simd for Scalar {
    const LANES: usize = N;
    const ACCUMULATORS: usize = 4;
    type F = [f32; N];
    type I = [i32; N];
    type W = [[u8; 4]; N];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; N]
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> Self::F {
        // SAFETY: the caller vouches for N elements.
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: Self::F) {
        // SAFETY: the caller vouches for N elements.
        unsafe { p.cast::<Self::F>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> Self::F {
        // SAFETY: the caller vouches for N elements.
        let bits = unsafe { p.cast::<[u16; N]>().read_unaligned() };
        bits.map(|b| f16::from_bits(b).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> Self::F {
        // SAFETY: the caller vouches for N elements.
        let bits = unsafe { p.cast::<[u16; N]>().read_unaligned() };
        bits.map(|b| bf16::from_bits(b).to_f32())
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        a.map(f32::abs)
    }

    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        a.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn exp2_whole(self, n: Self::F) -> Self::F {
        n.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }

    #[inline(always)]
    fn to_float(self, i: Self::I) -> Self::F {
        i.map(|i| i as f32)
    }

    #[inline(always)]
    unsafe fn store_i8(self, p: *mut i8, x: Self::F) {
        // SAFETY: the caller vouches for N elements.
        unsafe { p.cast::<[i8; N]>().write_unaligned(x.map(|x| x as i8)) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: Self::F) {
        // SAFETY: the caller vouches for N elements.
        unsafe { p.cast::<[u16; N]>().write_unaligned(x.map(|x| f16::from_f32(x).to_bits())) }
    }

    #[inline(always)]
    unsafe fn load_codes(self, p: *const u8) -> Self::W {
        // SAFETY: the caller vouches for 4 N elements.
        unsafe { p.cast::<Self::W>().read_unaligned() }
    }

    #[inline(always)]
    fn low_nibbles(self, w: Self::W) -> Self::W {
        w.map(|row| row.map(|b| b & 15))
    }

    #[inline(always)]
    fn high_nibbles(self, w: Self::W) -> Self::W {
        w.map(|row| row.map(|b| b >> 4))
    }

    #[inline(always)]
    fn with_high_bit<const BIT: i32>(self, w: Self::W, bits: Self::W) -> Self::W {
        std::array::from_fn(|i| std::array::from_fn(|j| w[i][j] | (bits[i][j] >> BIT & 1) << 4))
    }

    #[inline(always)]
    unsafe fn dot16(self, w: &[Self::W; 4], x: *const i8, init: i32) -> Self::I {
        // SAFETY: the caller vouches for 16 elements.
        let x = unsafe { x.cast::<[[i8; 4]; 4]>().read_unaligned() };
        std::array::from_fn(|row| {
            let products =
                w.iter().zip(x).flat_map(|(w, x)| (0..4).map(move |j| i32::from(w[row][j]) * i32::from(x[j])));
            init + products.sum::<i32>()
        })
    }

    #[inline(always)]
    unsafe fn dot16_signed(self, w: &[Self::W; 4], x: *const i8, _sum: i32) -> Self::I {
        // SAFETY: the caller vouches for 16 elements.
        let x = unsafe { x.cast::<[[i8; 4]; 4]>().read_unaligned() };
        std::array::from_fn(|row| {
            w.iter().zip(x).flat_map(|(w, x)| (0..4).map(move |j| i32::from(w[row][j] as i8) * i32::from(x[j]))).sum()
        })
    }
}

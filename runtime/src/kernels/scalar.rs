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
    // So that kernels take the fewest rows: each number of them is compiled by itself.
    const REGISTERS: usize = 0;
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
    unsafe fn encode16(self, x: *const f32, factor: f32, codes: *mut i8) -> i32 {
        // SAFETY: the caller vouches for sixteen elements of both.
        unsafe {
            let encoded = x.cast::<[f32; 16]>().read_unaligned().map(|x| (x * factor).round_ties_even() as i8);
            codes.cast::<[i8; 16]>().write_unaligned(encoded);
            encoded.into_iter().map(i32::from).sum()
        }
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
    unsafe fn splat4(self, x: *const i8) -> Self::W {
        // SAFETY: the caller vouches for four elements.
        [unsafe { x.cast::<[u8; 4]>().read_unaligned() }; N]
    }

    #[inline(always)]
    fn whole(self, i: i32) -> Self::I {
        [i; N]
    }

    #[inline(always)]
    fn add_products(self, sums: Self::I, w: Self::W, x: Self::W) -> Self::I {
        products(sums, &w, &x, i32::from)
    }

    #[inline(always)]
    fn add_signed_products(self, sums: Self::I, w: Self::W, x: Self::W) -> Self::I {
        products(sums, &w, &x, |code| i32::from(code as i8))
    }
}

/// `sums + Σ value(w)·x` over four columns. A call, so that what is compiled for all shapes of a product stays small.
#[inline(never)]
fn products(sums: [i32; N], w: &[[u8; 4]; N], x: &[[u8; 4]; N], value: impl Fn(u8) -> i32) -> [i32; N] {
    std::array::from_fn(|i| sums[i] + (0..4).map(|j| value(w[i][j]) * i32::from(x[i][j] as i8)).sum::<i32>())
}

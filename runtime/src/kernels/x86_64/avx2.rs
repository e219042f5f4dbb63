//! AVX2 with FMA and F16C: half a tile, eight rows, in a register.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one argument for the whole file: an Avx2 value exists only where `new` found every feature \
              that these intrinsics need, and pointers are valid by the contract of the trait's methods"
)]

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::simd::Simd;

/// Proof that this processor has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// The instruction set, where the processor has it.
    pub fn new() -> Option<Self> {
        let found =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

unsafe impl Simd for Avx2 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type F = __m256;
    type I = __m256i;
    type W = __m256i;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: __m256) {
        unsafe { _mm256_storeu_ps(p, x) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> __m256 {
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }

    #[inline(always)]
    unsafe fn max_abs16(self, p: *const f32) -> f32 {
        unsafe {
            let eight = self.max(self.abs(self.load(p)), self.abs(self.load(p.add(8))));
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }

    #[inline(always)]
    fn exp2_whole(self, n: __m256) -> __m256 {
        unsafe {
            let n = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(n))
        }
    }

    #[inline(always)]
    fn to_float(self, i: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(i) }
    }

    #[inline(always)]
    unsafe fn encode16(self, x: *const f32, factor: f32, codes: *mut i8) -> i32 {
        unsafe {
            let factor = self.splat(factor);
            let low = _mm256_cvtps_epi32(self.mul(self.load(x), factor));
            let high = _mm256_cvtps_epi32(self.mul(self.load(x.add(8)), factor));
            // Packing keeps to halves of a register: 0–3 and 8–11, then 4–7 and 12–15.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let (first, last) = (_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(codes.cast(), _mm_packs_epi16(first, last));
            let four = _mm_madd_epi16(_mm_add_epi16(first, last), _mm_set1_epi16(1));
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
            _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: __m256) {
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)) }
    }

    #[inline(always)]
    unsafe fn load_codes(self, p: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(p.cast()) }
    }

    #[inline(always)]
    fn low_nibbles(self, w: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(w, _mm256_set1_epi8(15)) }
    }

    #[inline(always)]
    fn high_nibbles(self, w: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(w), _mm256_set1_epi8(15)) }
    }

    #[inline(always)]
    fn with_high_bit<const BIT: i32>(self, w: __m256i, bits: __m256i) -> __m256i {
        unsafe {
            let bit = _mm256_set1_epi8((1u8 << BIT) as i8);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(bits, bit), bit);
            _mm256_or_si256(w, _mm256_and_si256(set, _mm256_set1_epi8(16)))
        }
    }

    #[inline(always)]
    unsafe fn splat4(self, x: *const i8) -> __m256i {
        unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    fn whole(self, i: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(i) }
    }

    #[inline(always)]
    fn begin(self, _: i32) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn add_products(self, sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // Pairs of products stay in 16 bits: at most 8 · 31 · 127 = 31,496 after four steps.
        unsafe { in_order(_mm256_add_epi16(sums, _mm256_maddubs_epi16(w, x))) }
    }

    #[inline(always)]
    fn finish(self, sums: __m256i, init: i32) -> __m256i {
        unsafe { _mm256_add_epi32(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)), _mm256_set1_epi32(init)) }
    }

    #[inline(always)]
    fn add_signed_products(self, sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
        // |w| · (x with w's sign): a pair is at most 2 · 128 · 127 = 32,512, so that it fits
        // in 16 bits; two pairs would not, hence the widening at each step.
        unsafe {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            in_order(_mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))))
        }
    }
}

/// `x`, after all that went through this before. Left to itself, LLVM (of Rust 1.95) adds in another order, for which it keeps
/// most of a block's weights and activations in memory: sixteen registers are few. The feature is that of the register.
#[inline]
#[target_feature(enable = "avx")]
fn in_order(mut x: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) x, options(nomem, nostack, preserves_flags)) };
    x
}

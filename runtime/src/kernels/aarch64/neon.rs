//! NEON with the dot-product extension: a quarter of a tile, four rows, in a register.
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "one argument for the whole file: a Neon value exists only where `new` found every feature \
              that these intrinsics need, and pointers are valid by the contract of the trait's methods"
)]

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::simd::Simd;

/// Proof that this processor has NEON and the dot-product extension.
#[derive(Clone, Copy)]
pub struct Neon(());

impl Neon {
    /// The instruction set, where the processor has it.
    pub fn new() -> Option<Self> {
        let found = std::arch::is_aarch64_feature_detected!("neon")
            && std::arch::is_aarch64_feature_detected!("dotprod")
            && std::arch::is_aarch64_feature_detected!("fp16");
        found.then_some(Self(()))
    }
}

/// `sum + w·x` for four rows of four signed columns; x repeats its four columns.
#[inline(always)]
unsafe fn sdot(mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // The intrinsic is not stable; the instruction is.
    unsafe {
        asm!(".arch_extension dotprod", "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sum, in(vreg) w, in(vreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

unsafe impl Simd for Neon {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    type F = float32x4_t;
    type I = int32x4_t;
    type W = uint8x16_t;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: float32x4_t) {
        unsafe { vst1q_f32(p, x) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> float32x4_t {
        // f16 vectors are not stable as types; the conversion is an instruction of base NEON.
        unsafe {
            let bits = vld1_u16(p);
            let wide: float32x4_t;
            asm!("fcvtl {0:v}.4s, {1:v}.4h", lateout(vreg) wide, in(vreg) bits,
                options(pure, nomem, nostack, preserves_flags));
            wide
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p))) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn div(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }

    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmaxq_f32(a, b) }
    }

    #[inline(always)]
    fn min(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vminq_f32(a, b) }
    }

    #[inline(always)]
    fn abs(self, a: float32x4_t) -> float32x4_t {
        unsafe { vabsq_f32(a) }
    }

    #[inline(always)]
    fn round(self, a: float32x4_t) -> float32x4_t {
        unsafe { vrndnq_f32(a) }
    }

    #[inline(always)]
    fn exp2_whole(self, n: float32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)))) }
    }

    #[inline(always)]
    fn to_float(self, i: int32x4_t) -> float32x4_t {
        unsafe { vcvtq_f32_s32(i) }
    }

    #[inline(always)]
    unsafe fn encode16(self, x: *const f32, factor: f32, codes: *mut i8) -> i32 {
        unsafe {
            let factor = self.splat(factor);
            let a = vmovn_s32(vcvtnq_s32_f32(self.mul(self.load(x), factor)));
            let b = vmovn_s32(vcvtnq_s32_f32(self.mul(self.load(x.add(4)), factor)));
            let c = vmovn_s32(vcvtnq_s32_f32(self.mul(self.load(x.add(8)), factor)));
            let d = vmovn_s32(vcvtnq_s32_f32(self.mul(self.load(x.add(12)), factor)));
            let (low, high) = (vcombine_s16(a, b), vcombine_s16(c, d));
            vst1q_s8(codes, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
            i32::from(vaddvq_s16(vaddq_s16(low, high)))
        }
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, x: float32x4_t) {
        // As in `load_f16`.
        unsafe {
            let bits: uint16x4_t;
            asm!("fcvtn {0:v}.4h, {1:v}.4s", lateout(vreg) bits, in(vreg) x,
                options(pure, nomem, nostack, preserves_flags));
            vst1_u16(p, bits);
        }
    }

    #[inline(always)]
    unsafe fn load_codes(self, p: *const u8) -> uint8x16_t {
        unsafe { vld1q_u8(p) }
    }

    #[inline(always)]
    fn low_nibbles(self, w: uint8x16_t) -> uint8x16_t {
        unsafe { vandq_u8(w, vdupq_n_u8(15)) }
    }

    #[inline(always)]
    fn high_nibbles(self, w: uint8x16_t) -> uint8x16_t {
        unsafe { vshrq_n_u8::<4>(w) }
    }

    #[inline(always)]
    fn with_high_bit<const BIT: i32>(self, w: uint8x16_t, bits: uint8x16_t) -> uint8x16_t {
        unsafe { vorrq_u8(w, vandq_u8(vtstq_u8(bits, vdupq_n_u8(1 << BIT)), vdupq_n_u8(16))) }
    }

    #[inline(always)]
    unsafe fn splat4(self, x: *const i8) -> uint8x16_t {
        unsafe { vreinterpretq_u8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    fn whole(self, i: i32) -> int32x4_t {
        unsafe { vdupq_n_s32(i) }
    }

    #[inline(always)]
    fn add_products(self, sums: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        // Codes below 32 are the same signed and unsigned.
        self.add_signed_products(sums, w, x)
    }

    #[inline(always)]
    fn add_signed_products(self, sums: int32x4_t, w: uint8x16_t, x: uint8x16_t) -> int32x4_t {
        unsafe { sdot(sums, vreinterpretq_s8_u8(w), vreinterpretq_s8_u8(x)) }
    }
}

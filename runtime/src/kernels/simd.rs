//! What a kernel needs of an instruction set: lanes of f32, and exact dot products of
//! codes with eight-bit activations.
//!
//! Kernels are written once, generic over [`Simd`]; each instruction set implements the
//! trait and nothing else. Every operation is either exact (integers, conversions from
//! f16) or correctly rounded IEEE arithmetic on each lane by itself, and sums across lanes
//! follow one fixed tree. So all instruction sets give the **same bits**: the scalar
//! implementation is the specification in the strictest sense.

/// An instruction set. A value exists only where detection found its features.
///
/// # Safety
/// Implementations may assume the features that their constructor checked. Methods that
/// take pointers read or write as many elements as their names and comments say.
pub unsafe trait Simd: Copy + Send + Sync + 'static {
    /// f32 lanes in one register. Divides [`crate::quant::TILE`].
    const LANES: usize;
    /// What [`Simd::add_signed_products`] takes each code to be larger by.
    const SIGNED_OFFSET: i32 = 0;
    /// Vector registers.
    const REGISTERS: usize;
    /// From how many places a product with a single row of activations reads weights in step: 1, 2 or 4; with two rows at most
    /// 2. This and the next two are what processors with these instructions are best served with (docs/performance.md).
    const STREAMS: usize = 4;
    /// Bytes by which products ask for weights before their first tokens need them: the processor's own prefetching starts
    /// late and stops at the end of a page of memory. Later tokens find them in the cache, and while these are multiplied, much
    /// of the next tile arrives.
    const AHEAD: usize = 4096;
    /// The same with one or two rows of activations, of all places together: each tile is over before the next one arrives.
    /// By default these are 24 lines: as many as Zen 3 waits for at once, which drops hints beyond that.
    const FEW_AHEAD: usize = 1536;
    /// `LANES` × f32.
    type F: Copy;
    /// `LANES` × i32.
    type I: Copy;
    /// `LANES` × 4 codes: four columns of `LANES` rows.
    type W: Copy;

    /// All lanes equal.
    fn splat(self, x: f32) -> Self::F;
    /// Reads `LANES` values, of any alignment.
    /// # Safety
    /// `p` is valid for `LANES` reads.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Writes `LANES` values, of any alignment.
    /// # Safety
    /// `p` is valid for `LANES` writes.
    unsafe fn store(self, p: *mut f32, x: Self::F);
    /// Widens `LANES` f16 values.
    /// # Safety
    /// `p` is valid for `LANES` reads.
    unsafe fn load_f16(self, p: *const u16) -> Self::F;
    /// Widens `LANES` bf16 values.
    /// # Safety
    /// `p` is valid for `LANES` reads.
    unsafe fn load_bf16(self, p: *const u16) -> Self::F;
    /// `a + b`
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a − b`
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a·b`
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a·b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The larger; where one is NaN, either.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; where one is NaN, either.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `|a|`
    fn abs(self, a: Self::F) -> Self::F;
    /// The largest of sixteen |x|; where one is NaN, anything.
    /// # Safety
    /// `p` is valid for 16 reads.
    #[inline(always)]
    unsafe fn max_abs16(self, p: *const f32) -> f32 {
        let mut lanes = [0.0; 16];
        for lane in (0..16).step_by(Self::LANES) {
            // SAFETY: lane + LANES ≤ 16, the length of both.
            unsafe { self.store(lanes.as_mut_ptr().add(lane), self.abs(self.load(p.add(lane)))) };
        }
        max16(&lanes)
    }
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    /// `2ⁿ` for whole n in −127..=127, where 2⁻¹²⁷ stands for 0.
    fn exp2_whole(self, n: Self::F) -> Self::F;
    /// Exact for |i| < 2²⁴.
    fn to_float(self, i: Self::I) -> Self::F;
    /// Sixteen values times `factor`, to the nearest integers, ties to even, as bytes; returns their sum. A product that is
    /// not between −127.5 and 127.5 gives any byte, and a sum of anything below 2²⁰ in size.
    /// # Safety
    /// `x` is valid for 16 reads, `codes` for 16 writes.
    unsafe fn encode16(self, x: *const f32, factor: f32, codes: *mut i8) -> i32;
    /// Rounds to the nearest f16, ties to even. Finite for |x| up to 65504.
    /// # Safety
    /// `p` is valid for `LANES` writes.
    unsafe fn store_f16(self, p: *mut u16, x: Self::F);

    /// `LANES · 4` codes as they stand.
    /// # Safety
    /// `p` is valid for `LANES · 4` reads.
    unsafe fn load_codes(self, p: *const u8) -> Self::W;
    /// The low nibble of each byte.
    fn low_nibbles(self, w: Self::W) -> Self::W;
    /// The high nibble of each byte.
    fn high_nibbles(self, w: Self::W) -> Self::W;
    /// Sets bit 4 of each byte of `w` to bit `BIT` of the same byte of `bits`.
    fn with_high_bit<const BIT: i32>(self, w: Self::W, bits: Self::W) -> Self::W;

    /// Four activations for every row.
    /// # Safety
    /// `x` is valid for four reads.
    unsafe fn splat4(self, x: *const i8) -> Self::W;
    /// All lanes equal.
    fn whole(self, i: i32) -> Self::I;
    /// Each row's sum of products, to which [`Simd::add_products`] adds four times, and which [`Simd::finish`] then makes
    /// Σ w·x + `init`, exactly. What it is in between is the instruction set's own affair.
    #[inline(always)]
    fn begin(self, init: i32) -> Self::I {
        self.whole(init)
    }
    /// Adds products of four columns, for codes in 0..32.
    fn add_products(self, sums: Self::I, w: Self::W, x: Self::W) -> Self::I;
    /// See [`Simd::begin`], which was given the same `init`.
    #[inline(always)]
    fn finish(self, sums: Self::I, init: i32) -> Self::I {
        let _ = init;
        sums
    }
    /// `sums + Σ (w + SIGNED_OFFSET)·x` over four columns, exactly, for codes in −128..=127.
    fn add_signed_products(self, sums: Self::I, w: Self::W, x: Self::W) -> Self::I;
}

/// Σ of sixteen lanes, always as the same tree, whatever the width of a register.
#[inline(always)]
pub fn sum16(lanes: &[f32; 16]) -> f32 {
    let mut width = 8;
    let mut tree = *lanes;
    while width > 0 {
        for i in 0..width {
            tree[i] += tree[i + width];
        }
        width /= 2;
    }
    tree[0]
}

/// The largest of sixteen lanes, as the same tree: a chain would wait for each comparison.
#[inline(always)]
pub fn max16(lanes: &[f32; 16]) -> f32 {
    let mut width = 8;
    let mut tree = *lanes;
    while width > 0 {
        for i in 0..width {
            tree[i] = if tree[i] > tree[i + width] { tree[i] } else { tree[i + width] };
        }
        width /= 2;
    }
    tree[0]
}

/// `eˣ` on each lane; x below −87.7 gives exactly 0, above 88 saturates.
///
/// Range reduction x = n·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts (Cody and Waite,
/// 1980), and the degree-6 Taylor polynomial with coefficients 1/k!, whose remainder
/// r⁷/7! < 1.2e-7 is below one unit in the last place.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    const LN2_HIGH: f32 = 0.693_359_4; // 11 significant bits: n · LN2_HIGH is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = s.min(s.max(x, s.splat(-88.0)), s.splat(88.0));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-LN2_HIGH), x);
    let r = s.fma(n, s.splat(-LN2_LOW), r);
    let mut p = s.splat(1.0 / 720.0);
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.mul(p, s.exp2_whole(n))
}

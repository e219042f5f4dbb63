//! Operations on single rows: norms, rotary embedding, log-sum-exp.

use super::Op;
use super::simd::{Simd, exp, sum16};

/// `out = x / √(mean x² + ε) ⊙ weight` (RMSNorm, arXiv 1910.07467, equation 4).
pub struct RmsNorm<'a> {
    /// `[n]`, n a multiple of 16.
    pub x: &'a [f32],
    /// `[n]`
    pub weight: &'a [f32],
    /// ε
    pub eps: f32,
    /// `[n]`
    pub out: &'a mut [f32],
}

impl Op for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let n = self.x.len();
        assert!(n.is_multiple_of(16) && self.weight.len() == n && self.out.len() == n);
        let factor = rms_factor(s, self.x, self.eps);
        scale_into(s, self.x.as_ptr(), self.weight, factor, self.out.as_mut_ptr());
    }
}

/// [`RmsNorm`] of a row onto itself: the norm of one head of q or k.
pub struct RmsNormInPlace<'a> {
    /// `[n]`, n a multiple of 16.
    pub x: &'a mut [f32],
    /// `[n]`
    pub weight: &'a [f32],
    /// ε
    pub eps: f32,
}

impl Op for RmsNormInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.x.len().is_multiple_of(16) && self.weight.len() == self.x.len());
        let factor = rms_factor(s, self.x, self.eps);
        let x = self.x.as_mut_ptr();
        scale_into(s, x, self.weight, factor, x);
    }
}

/// 1 / √(mean x² + ε), the squares summed in sixteen lanes.
#[inline(always)]
fn rms_factor<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0; 16];
    for lane in (0..16).step_by(S::LANES) {
        let mut sum = s.splat(0.0);
        for at in (lane..x.len()).step_by(16) {
            // SAFETY: the length is a multiple of 16, and at + LANES ≤ the end of its sixteen.
            let x = unsafe { s.load(x.as_ptr().add(at)) };
            sum = s.fma(x, x, sum);
        }
        // SAFETY: lane + LANES ≤ 16.
        unsafe { s.store(lanes.as_mut_ptr().add(lane), sum) };
    }
    1.0 / (sum16(&lanes) / x.len() as f32 + eps).sqrt()
}

/// `out = x · factor ⊙ weight`; `x` and `out` have the weight's length and may be the same.
#[inline(always)]
fn scale_into<S: Simd>(s: S, x: *const f32, weight: &[f32], factor: f32, out: *mut f32) {
    for at in (0..weight.len()).step_by(S::LANES) {
        // SAFETY: the callers checked that all three have this length, a multiple of 16.
        unsafe {
            let scaled = s.mul(s.load(x.add(at)), s.splat(factor));
            s.store(out.add(at), s.mul(scaled, s.load(weight.as_ptr().add(at))));
        }
    }
}

/// Rotary embedding (arXiv 2104.09864) of one head: pairs (i, i + n/2) turn by the angle
/// whose cosine and sine are given; the result is multiplied by `scale`.
pub struct Rope<'a> {
    /// `[n]`, n a multiple of 16.
    pub x: &'a mut [f32],
    /// `[n / 2]`
    pub cos: &'a [f32],
    /// `[n / 2]`
    pub sin: &'a [f32],
    /// Factor on the result.
    pub scale: f32,
}

impl Op for Rope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let half = self.x.len() / 2;
        assert!(self.x.len().is_multiple_of(16) && self.cos.len() == half && self.sin.len() == half);
        // n/2 is a multiple of 8; wider registers take the last eight one by one.
        let whole = half / S::LANES * S::LANES;
        let x = self.x.as_mut_ptr();
        for i in (0..whole).step_by(S::LANES) {
            // SAFETY: i + LANES ≤ half.
            unsafe {
                let (a, b) = (s.load(x.add(i)), s.load(x.add(half + i)));
                let (cos, sin) = (s.load(self.cos.as_ptr().add(i)), s.load(self.sin.as_ptr().add(i)));
                let scale = s.splat(self.scale);
                s.store(x.add(i), s.mul(s.sub(s.mul(a, cos), s.mul(b, sin)), scale));
                s.store(x.add(half + i), s.mul(s.add(s.mul(b, cos), s.mul(a, sin)), scale));
            }
        }
        for i in whole..half {
            let (a, b) = (self.x[i], self.x[half + i]);
            let (cos, sin) = (self.cos[i], self.sin[i]);
            self.x[i] = (a * cos - b * sin) * self.scale;
            self.x[half + i] = (b * cos + a * sin) * self.scale;
        }
    }
}

/// The largest value; of none, −∞. NaN counts for nothing.
pub fn largest(x: &[f32]) -> f32 {
    // Lanes that do not wait for each other, which compilers turn into vectors by themselves.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (whole, rest) = x.as_chunks::<16>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(f32::NEG_INFINITY, |largest, &x| if x > largest { x } else { largest })
}

/// `ln Σ eˣ` of a row of logits of any length.
pub struct LogSumExp<'a> {
    /// The logits.
    pub x: &'a [f32],
}

impl Op for LogSumExp<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        /// Lanes are summed in f32 over this many elements, then in f64.
        const CHUNK: usize = 1024;
        let largest = largest(self.x);
        if !largest.is_finite() {
            return f64::from(largest);
        }
        let mut total = 0.0f64;
        for chunk in self.x.chunks(CHUNK) {
            let whole = chunk.len() / 16 * 16;
            let mut lanes = [0.0; 16];
            for lane in (0..16).step_by(S::LANES) {
                let mut sum = s.splat(0.0);
                for at in (lane..whole).step_by(16) {
                    // SAFETY: at + LANES ≤ whole ≤ the length.
                    let x = unsafe { s.load(chunk.as_ptr().add(at)) };
                    sum = s.add(sum, exp(s, s.sub(x, s.splat(largest))));
                }
                // SAFETY: lane + LANES ≤ 16.
                unsafe { s.store(lanes.as_mut_ptr().add(lane), sum) };
            }
            total += f64::from(sum16(&lanes));
            total += chunk[whole..].iter().map(|&x| f64::from(x - largest).exp()).sum::<f64>();
        }
        f64::from(largest) + total.ln()
    }
}

//! Quantizers: f32 to codes with the least squared error that a short search finds.

use half::f16;

use super::{BLOCK, BlockCodes, Format};

/// Eight-bit codes: `d = max|x| / 127`, to nearest. At eight bits the search for a better
/// scale gains less than the rounding of `d` to f16, so there is none.
pub fn quantize_q8_0(values: &[f32; BLOCK]) -> BlockCodes {
    let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let d = scale.to_f32();
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    let codes = values.map(|v| nearest((v * inverse).clamp(-127.0, 127.0)) as i8 as u8);
    BlockCodes { scale: scale.to_bits(), min: 0, codes }
}

/// Four-bit codes with a minimum. Starting from several ranges inside \[min, max\], codes
/// and (d, m) are fitted in turn: for fixed codes, least squares gives d and m in closed
/// form; for fixed d and m, rounding is optimal. The best of all, in the f16 values that
/// are stored, wins.
pub fn quantize_q4_1(values: &[f32; BLOCK]) -> BlockCodes {
    /// Shares of the range tried for its two ends; the extremes alone waste codes on outliers.
    const SHRINK: [f32; 5] = [0.0, 0.02, 0.05, 0.09, 0.14];
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = high - low;
    let mut best = (f32::INFINITY, encode_with(values, range / 15.0, low));
    for left in SHRINK {
        for right in SHRINK {
            let mut m = low + left * range;
            let mut d = (range - (left + right) * range) / 15.0;
            for _ in 0..3 {
                let block = encode_with(values, d, m);
                let error = squared_error(values, &block);
                if error < best.0 {
                    best = (error, block);
                }
                let Some(fit) = least_squares(values, &block.codes) else { break };
                (d, m) = fit;
            }
        }
    }
    best.1
}

/// What an error of each column costs: E\[x²\] of the activation that the column is multiplied
/// with, since the output's squared error is Σ (error · x)². Finite and not negative; all alike
/// where nothing is known.
pub type Importance = [f32; BLOCK];

/// [`quantize_q4_1`] with the error weighted by `importance`, and a wider search: more starting
/// ranges, and for each fit the pair of f16 values that is best together, where rounding d and m
/// apart is not. Never worse, in the weighted error, than the plain one.
pub fn quantize_q4_1_weighted(values: &[f32; BLOCK], importance: &Importance) -> BlockCodes {
    /// As far as important columns may lie inside the range of all.
    const SHRINK: [f32; 7] = [0.0, 0.03, 0.07, 0.12, 0.18, 0.26, 0.36];
    let weights = normalized(importance);
    let sums = Sums::new(values, &weights);
    let low = values.iter().copied().fold(f32::INFINITY, f32::min);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = high - low;
    let mut best = (f32::INFINITY, 0.0, 0.0);
    for left in SHRINK {
        for right in SHRINK {
            let (mut d, mut m) = (range * (1.0 - left - right) / 15.0, low + left * range);
            for _ in 0..2 {
                let Some(fit) = sums.best_pair(values, d, m) else { break };
                if fit.0 < best.0 {
                    best = fit;
                }
                (d, m) = (fit.1, fit.2);
            }
        }
    }
    let plain = quantize_q4_1(values);
    let found = encode_with(values, best.1, best.2);
    let error = |block| weighted_error(values, &weights, block, Format::Q4_1);
    if error(&found) < error(&plain) { found } else { plain }
}

/// [`quantize_q8_0`] with the error weighted by `importance`, and a search for the scale. Never
/// worse, in the weighted error, than the plain one, from which it starts.
pub fn quantize_q8_0_weighted(values: &[f32; BLOCK], importance: &Importance) -> BlockCodes {
    /// Codes that the largest value would have: beyond 127 it is clipped.
    const REACH: [f32; 6] = [126.0, 127.0, 128.0, 129.5, 132.0, 136.0];
    let weights = normalized(importance);
    let plain = quantize_q8_0(values);
    let mut best = (weighted_error(values, &weights, &plain, Format::Q8_0), plain);
    let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for reach in REACH {
        let mut scale = f16::from_f32(largest / reach);
        for _ in 0..3 {
            let d = scale.to_f32();
            let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
            let codes = values.map(|v| nearest((v * inverse).clamp(-127.0, 127.0)) as i8 as u8);
            let block = BlockCodes { scale: scale.to_bits(), min: 0, codes };
            let error = weighted_error(values, &weights, &block, Format::Q8_0);
            if error < best.0 {
                best = (error, block);
            }
            let (mut qq, mut qx) = (0.0f64, 0.0f64);
            for ((&value, &code), &weight) in values.iter().zip(&codes).zip(&weights) {
                let code = f64::from(code as i8);
                qq += f64::from(weight) * code * code;
                qx += f64::from(weight) * code * f64::from(value);
            }
            let next = f16::from_f64(qx / qq);
            if qq == 0.0 || next == scale {
                break;
            }
            scale = next;
        }
    }
    best.1
}

/// Weights with a mean of 1; all 1 where they say nothing.
fn normalized(importance: &Importance) -> Importance {
    let sum: f32 = importance.iter().sum();
    let mean = sum / BLOCK as f32;
    if mean.is_normal() && mean > 0.0 { importance.map(|weight| weight / mean) } else { [1.0; BLOCK] }
}

fn weighted_error(values: &[f32; BLOCK], weights: &Importance, block: &BlockCodes, format: Format) -> f32 {
    let stored = block.dequantize(format);
    (0..BLOCK).map(|at| weights[at] * (values[at] - stored[at]) * (values[at] - stored[at])).sum()
}

/// Weighted sums over a block, from which the error of any d and m follows.
struct Sums {
    /// w of each column.
    weights: Importance,
    /// w·x of each column.
    weighted: [f32; BLOCK],
    w: f32,
    x: f32,
    xx: f32,
}

impl Sums {
    fn new(values: &[f32; BLOCK], weights: &Importance) -> Self {
        let weighted: [f32; BLOCK] = std::array::from_fn(|at| weights[at] * values[at]);
        let xx = weighted.iter().zip(values).map(|(wx, x)| wx * x).sum();
        Self { weights: *weights, weighted, w: weights.iter().sum(), x: weighted.iter().sum(), xx }
    }

    /// For the codes that `d` and `m` give, the f16 pair of least error, behind that error: the
    /// least-squares d and its two neighbours are tried, each with the m that is best for it.
    /// None where all codes are equal.
    fn best_pair(&self, values: &[f32; BLOCK], d: f32, m: f32) -> Option<(f32, f32, f32)> {
        /// Sums in parallel: one after the other, each addition would wait for the last.
        const LANES: usize = 8;
        let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
        let (mut q, mut qq, mut qx) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        for start in (0..BLOCK).step_by(LANES) {
            for lane in 0..LANES {
                let at = start + lane;
                let code = nearest(((values[at] - m) * inverse).clamp(0.0, 15.0));
                let weighted = self.weights[at] * code;
                q[lane] += weighted;
                qq[lane] += weighted * code;
                qx[lane] += self.weighted[at] * code;
            }
        }
        let (q, qq, qx): (f32, f32, f32) = (q.iter().sum(), qq.iter().sum(), qx.iter().sum());
        let determinant = self.w * qq - q * q;
        if determinant <= 0.0 {
            return None;
        }
        let bits = f16::from_f32((self.w * qx - q * self.x) / determinant).to_bits();
        let pairs = [bits.saturating_sub(1), bits, bits.saturating_add(1)].map(|bits| {
            let d = f16::from_bits(bits).to_f32();
            let m = f16::from_f32((self.x - d * q) / self.w).to_f32();
            (self.xx + d * d * qq + 2.0 * d * m * q + m * m * self.w - 2.0 * (d * qx + m * self.x), d, m)
        });
        pairs.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).filter(|pair| pair.0.is_finite())
    }
}

/// The nearest whole number, ties to even, of a number below 2²²: in 1.5·2²³ the last bit of the
/// mantissa is worth 1. Unlike `round_ties_even`, two instructions on every processor.
fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

fn encode_with(values: &[f32; BLOCK], d: f32, m: f32) -> BlockCodes {
    let scale = f16::from_f32(d);
    let min = f16::from_f32(m);
    let (d, m) = (scale.to_f32(), min.to_f32());
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let codes = values.map(|v| nearest(((v - m) * inverse).clamp(0.0, 15.0)) as u8);
    BlockCodes { scale: scale.to_bits(), min: min.to_bits(), codes }
}

fn squared_error(values: &[f32; BLOCK], block: &BlockCodes) -> f32 {
    let weights = block.dequantize(Format::Q4_1);
    values.iter().zip(weights).map(|(v, w)| (v - w) * (v - w)).sum()
}

/// The d and m that minimise Σ (x − d·q − m)²; none where all codes are equal.
fn least_squares(values: &[f32; BLOCK], codes: &[u8; BLOCK]) -> Option<(f32, f32)> {
    let n = BLOCK as f32;
    let (mut q, mut qq, mut x, mut qx) = (0.0, 0.0, 0.0, 0.0);
    for (&value, &code) in values.iter().zip(codes) {
        let code = f32::from(code);
        q += code;
        qq += code * code;
        x += value;
        qx += code * value;
    }
    let determinant = n * qq - q * q;
    (determinant > 0.0).then(|| {
        let d = (n * qx - q * x) / determinant;
        (d, (x - d * q) / n)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Blocks of weights as they occur: near normal, some with outliers, some constant.
    fn blocks() -> impl Strategy<Value = [f32; BLOCK]> {
        let normal = prop::array::uniform32(-1.0f32..1.0);
        (normal, prop::sample::select(vec![0.0f32, 1e-6, 0.02, 1.0, 300.0]), 0..BLOCK, -6.0f32..6.0).prop_map(
            |(mut values, scale, at, outlier)| {
                values[at] += outlier;
                values.map(|value| value * value.abs() * scale)
            },
        )
    }

    proptest! {
        #[test]
        fn weighted_is_never_worse(values in blocks(), importance in prop::array::uniform32(0.0f32..4.0), power in 0i32..4) {
            let importance = importance.map(|value| value.powi(power));
            let weights = normalized(&importance);
            let error = |block, format| weighted_error(&values, &weights, &block, format);
            let four = |quantize: BlockCodes| error(quantize, Format::Q4_1);
            prop_assert!(four(quantize_q4_1_weighted(&values, &importance)) <= four(quantize_q4_1(&values)));
            let eight = |quantize: BlockCodes| error(quantize, Format::Q8_0);
            prop_assert!(eight(quantize_q8_0_weighted(&values, &importance)) <= eight(quantize_q8_0(&values)));
        }

        /// No worse than plain min/max rounding, whose error is at most half a step.
        #[test]
        fn q4_1_is_within_half_a_step(values in prop::array::uniform32(-8.0f32..8.0)) {
            let block = quantize_q4_1(&values);
            let low = values.iter().copied().fold(f32::INFINITY, f32::min);
            let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let plain = encode_with(&values, (high - low) / 15.0, low);
            prop_assert!(squared_error(&values, &block) <= squared_error(&values, &plain));
        }

        #[test]
        fn q8_0_is_within_half_a_step(values in prop::array::uniform32(-8.0f32..8.0)) {
            let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            // Half a step, and what f16 may take from the scale: 127 · 2⁻¹¹ of a step at the end.
            let bound = largest / 127.0 * (0.5 + 127.0 / 2048.0) + 1e-6;
            for (v, w) in values.iter().zip(quantize_q8_0(&values).dequantize(Format::Q8_0)) {
                prop_assert!((v - w).abs() <= bound, "{v} {w}");
            }
        }
    }

    #[test]
    fn nearest_is_ties_to_even() {
        for at in -40_000..=40_000 {
            let x = at as f32 / 256.0;
            assert_eq!(nearest(x), x.round_ties_even(), "{x}");
        }
        assert!(nearest(f32::NAN).is_nan());
    }

    #[test]
    fn importance_without_meaning_weighs_all_alike() {
        let values: [f32; BLOCK] = std::array::from_fn(|at| ((at * 37) % 32) as f32 / 7.0 - 2.0);
        let alike = quantize_q4_1_weighted(&values, &[1.0; BLOCK]);
        for importance in [[0.0; BLOCK], [3.0; BLOCK], [f32::NAN; BLOCK], [f32::MAX; BLOCK]] {
            assert_eq!(quantize_q4_1_weighted(&values, &importance), alike);
        }
        // A column that counts for nothing may lie anywhere.
        let mut outlier = values;
        outlier[5] = 1000.0;
        let mut importance = [1.0; BLOCK];
        importance[5] = 0.0;
        let block = quantize_q4_1_weighted(&outlier, &importance);
        let weights = normalized(&importance);
        let plain = weighted_error(&outlier, &weights, &quantize_q4_1(&outlier), Format::Q4_1);
        assert!(weighted_error(&outlier, &weights, &block, Format::Q4_1) <= plain);
    }
}

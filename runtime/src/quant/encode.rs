//! Quantizers: f32 to codes with the least squared error that a short search finds.

use half::f16;

use super::{BLOCK, BlockCodes};

/// Eight-bit codes: `d = max|x| / 127`, to nearest. At eight bits the search for a better
/// scale gains less than the rounding of `d` to f16, so there is none.
pub fn quantize_q8_0(values: &[f32; BLOCK]) -> BlockCodes {
    let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let d = scale.to_f32();
    let inverse = if d > 0.0 { 1.0 / d } else { 0.0 };
    let codes = values.map(|v| (v * inverse).round_ties_even().clamp(-127.0, 127.0) as i8 as u8);
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

fn encode_with(values: &[f32; BLOCK], d: f32, m: f32) -> BlockCodes {
    let scale = f16::from_f32(d);
    let min = f16::from_f32(m);
    let (d, m) = (scale.to_f32(), min.to_f32());
    let inverse = if d != 0.0 { 1.0 / d } else { 0.0 };
    let codes = values.map(|v| ((v - m) * inverse).round_ties_even().clamp(0.0, 15.0) as u8);
    BlockCodes { scale: scale.to_bits(), min: min.to_bits(), codes }
}

fn squared_error(values: &[f32; BLOCK], block: &BlockCodes) -> f32 {
    let weights = block.dequantize(super::Format::Q4_1);
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
    use super::super::Format;
    use super::*;
    use proptest::prelude::*;

    proptest! {
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
}

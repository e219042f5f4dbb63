//! Inputs for the micro-benchmarks in `benches/`.

use critic::map::Slice;
use critic::quant::{BLOCK, BlockCodes, Format, Matrix, MatrixBuilder};

/// A matrix with plausible scales and all codes.
pub fn matrix(format: Format, rows: usize, columns: usize) -> Matrix {
    let mut builder = MatrixBuilder::new(format, rows, columns).expect("a shape that the format has");
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as u8
    };
    for row in 0..rows {
        if format.is_quantized() {
            let mask = match format {
                Format::Q8_0 => 255,
                Format::Q5_0 | Format::Q5_1 => 31,
                _ => 15,
            };
            let min = if format.has_min() { half::f16::from_f32(-0.07).to_bits() } else { 0 };
            for block in 0..columns / BLOCK {
                let codes = std::array::from_fn(|_| next() & mask);
                builder.set_block(row, block, &BlockCodes { scale: half::f16::from_f32(0.01).to_bits(), min, codes });
            }
        } else {
            let values: Vec<f32> = (0..columns).map(|_| f32::from(next()) / 128.0 - 1.0).collect();
            builder.set_row(row, &values).expect("floats are stored as they are");
        }
    }
    Matrix::new(format, rows, columns, Slice::from_bytes(&builder.finish())).expect("just built")
}

/// `n` values in −1..1.
pub fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 2003) as f32 / 1001.5 - 1.0).collect()
}

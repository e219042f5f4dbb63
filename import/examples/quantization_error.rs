//! How much error the weighted search of the quantizer saves:
//! `cargo run --release -p critic-import --example quantization_error [MODEL.gguf]`.
//!
//! For normal and heavy-tailed random weights, and for the matrices of a GGUF file that hold
//! more than four bits: the mean squared error of the plain encoder and of the search, for equal
//! importance of all columns and for one that varies, and the time that each takes.

use std::time::Instant;

use critic::quant::{
    BLOCK, BlockCodes, Format, Importance, quantize_q4_1, quantize_q4_1_weighted, quantize_q8_0, quantize_q8_0_weighted,
};
use critic_import::gguf::Gguf;
use critic_import::gguf::blocks::dequantize_row;

type Plain = fn(&[f32; BLOCK]) -> BlockCodes;
type Weighted = fn(&[f32; BLOCK], &Importance) -> BlockCodes;

const FORMATS: [(Format, Plain, Weighted); 2] =
    [(Format::Q4_1, quantize_q4_1, quantize_q4_1_weighted), (Format::Q8_0, quantize_q8_0, quantize_q8_0_weighted)];
/// Weights that are measured of each kind.
const MOST: usize = 1 << 20;

fn main() {
    let mut random = Random(1);
    let normal: Vec<f32> = (0..MOST).map(|_| random.normal() * 0.02).collect();
    let heavy: Vec<f32> = (0..MOST).map(|_| random.normal() * (0.7 * random.normal()).exp() * 0.02).collect();
    println!("| weights | format | importance | plain | search | saved | M weights/s, plain | search |");
    println!("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |");
    measure("random, normal", &normal, &mut random);
    measure("random, heavy tails", &heavy, &mut random);
    if let Some(path) = std::env::args().nth(1) {
        let bytes = std::fs::read(&path).expect("the model file");
        let gguf = Gguf::parse(&bytes).expect("a GGUF file");
        for (name, tensor) in &gguf.tensors {
            let columns = tensor.dimensions[0];
            let kept = ["F32", "F16", "BF16", "Q8_0", "Q6_K"].contains(&tensor.kind.name());
            if tensor.dimensions.len() < 2 || !columns.is_multiple_of(BLOCK) || !kept {
                continue;
            }
            let mut values = vec![0.0; columns * tensor.dimensions[1]];
            let row = tensor.range.len() / tensor.dimensions[1];
            for (values, bytes) in values.chunks_mut(columns).zip(bytes[tensor.range.clone()].chunks(row)) {
                dequantize_row(tensor.kind, bytes, values);
            }
            values.truncate(MOST);
            measure(&format!("{name} ({})", tensor.kind.name()), &values, &mut random);
        }
    }
}

fn measure(name: &str, values: &[f32], random: &mut Random) {
    let blocks: Vec<&[f32; BLOCK]> = values.chunks_exact(BLOCK).map(|b| b.try_into().expect("a block")).collect();
    // Mean squares of activations vary by a factor of some tens over the columns of a layer.
    let varied: Vec<Importance> = blocks.iter().map(|_| std::array::from_fn(|_| random.normal().exp())).collect();
    let equal = vec![[1.0; BLOCK]; blocks.len()];
    for (format, plain, weighted) in FORMATS {
        for (kind, importance) in [("equal", &equal), ("varied", &varied)] {
            let run = |quantize: &dyn Fn(usize) -> BlockCodes| {
                let begun = Instant::now();
                let codes: Vec<BlockCodes> = (0..blocks.len()).map(quantize).collect();
                let seconds = begun.elapsed().as_secs_f64();
                let error: f64 = codes
                    .iter()
                    .enumerate()
                    .map(|(at, code)| {
                        let stored = code.dequantize(format);
                        let cost =
                            |i: usize| f64::from(importance[at][i]) * f64::from(blocks[at][i] - stored[i]).powi(2);
                        (0..BLOCK).map(cost).sum::<f64>()
                    })
                    .sum();
                (error / values.len() as f64, values.len() as f64 / 1e6 / seconds)
            };
            let before = run(&|at| plain(blocks[at]));
            let after = run(&|at| weighted(blocks[at], &importance[at]));
            println!(
                "| {name} | {} | {kind} | {:.3e} | {:.3e} | {:.1} % | {:.1} | {:.1} |",
                format.name(),
                before.0,
                after.0,
                (1.0 - after.0 / before.0) * 100.0,
                before.1,
                after.1
            );
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ bits >> 31) >> 40) as f32 / (1 << 24) as f32
    }

    /// Near a normal distribution: the sum of twelve.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

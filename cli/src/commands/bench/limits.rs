//! What the memory of this machine allows.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use critic::Model;
use serde::Serialize;

use super::median;

#[derive(Serialize)]
pub struct Limits {
    /// How fast all threads together read the model's weights, one after the other.
    pub read_bytes_per_second: f64,
    /// Tokens a second, if one reads all weights once and costs nothing else.
    pub decode_tokens_per_second: f64,
}

/// Reads the bytes that decoding reads, with as many threads.
pub fn measure(model: &Arc<Model>, threads: usize, repeat: u32) -> Limits {
    let matrices = model.weights().matrices();
    let bytes: usize = matrices.iter().map(|matrix| matrix.bytes().len()).sum();
    let mut seconds: Vec<f64> = (0..=2 * repeat)
        .map(|_| {
            let started = Instant::now();
            thread::scope(|scope| {
                for part in 0..threads {
                    let matrices = &matrices;
                    scope.spawn(move || {
                        let mut sum = [0u64; 8];
                        for matrix in matrices {
                            let bytes = matrix.bytes();
                            let (from, to) = (bytes.len() / threads * part, bytes.len() / threads * (part + 1));
                            read(&bytes[from..to], &mut sum);
                        }
                        black_box(sum)
                    });
                }
            });
            started.elapsed().as_secs_f64()
        })
        .collect();
    // The first time brings pages in.
    seconds.remove(0);
    let seconds = median(&mut seconds);
    Limits { read_bytes_per_second: bytes as f64 / seconds, decode_tokens_per_second: 1.0 / seconds }
}

/// Looks at every byte, in lanes that compilers turn into vectors.
fn read(bytes: &[u8], sum: &mut [u64; 8]) {
    for line in bytes.as_chunks::<64>().0 {
        for (sum, word) in sum.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum ^= u64::from_le_bytes(*word);
        }
    }
}

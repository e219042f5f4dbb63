//! What the memory of this machine allows.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use critic::Model;
use serde::Serialize;

const STREAMS: usize = 4;

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
    let mut seconds: Vec<f64> = (0..=8 * repeat)
        .map(|_| {
            let started = Instant::now();
            thread::scope(|scope| {
                for part in 0..threads {
                    let matrices = &matrices;
                    scope.spawn(move || {
                        for matrix in matrices {
                            let bytes = matrix.bytes();
                            let (from, to) = (bytes.len() / threads * part, bytes.len() / threads * (part + 1));
                            black_box(read(&bytes[from..to]));
                        }
                    });
                }
            });
            started.elapsed().as_secs_f64()
        })
        .collect();
    // A limit: the best of all times, not the usual one. The first brings pages in.
    let seconds = seconds.drain(1..).fold(f64::INFINITY, f64::min);
    Limits { read_bytes_per_second: bytes as f64 / seconds, decode_tokens_per_second: 1.0 / seconds }
}

/// Looks at every byte, in streams side by side: more cache lines are on their way than with one.
fn read(bytes: &[u8]) -> [[u64; 2]; STREAMS] {
    let lines = bytes.len() / STREAMS / 64;
    let streams: [&[[u8; 64]]; STREAMS] =
        std::array::from_fn(|at| &bytes[at * lines * 64..(at + 1) * lines * 64].as_chunks::<64>().0[..lines]);
    let mut sums = [[0; 2]; STREAMS];
    for line in 0..lines {
        for (sum, stream) in sums.iter_mut().zip(streams) {
            for pair in stream[line].as_chunks::<16>().0 {
                for (sum, word) in sum.iter_mut().zip(pair.as_chunks::<8>().0) {
                    *sum ^= u64::from_le_bytes(*word);
                }
            }
        }
    }
    sums
}

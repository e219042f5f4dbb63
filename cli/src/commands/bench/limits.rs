//! What the memory of this machine allows.

use std::hint::black_box;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use critic::kernels::{Op, Simd};
use critic::{Kernel, Model};
use serde::Serialize;

const STREAMS: usize = 4;
const LINE: usize = 64;

#[derive(Serialize)]
pub struct Limits {
    /// How fast all threads together read the model's weights, one after the other.
    pub read_bytes_per_second: f64,
    /// Tokens a second, if one reads all weights once and costs nothing else.
    pub decode_tokens_per_second: f64,
}

/// Reads the bytes that decoding reads, with as many threads.
pub fn measure(model: &Arc<Model>, kernel: Kernel, threads: usize, repeat: u32) -> Limits {
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
                            black_box(kernel.run(Read(&bytes[from..to])));
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
struct Read<'a>(&'a [u8]);

impl Op for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let stream = self.0.len() / STREAMS / LINE * LINE;
        let mut largest = [s.splat(0.0); STREAMS];
        for at in (0..stream).step_by(S::LANES * size_of::<f32>()) {
            for (index, largest) in largest.iter_mut().enumerate() {
                // SAFETY: a stream is a multiple of a cache line, and that of a register; any bits are an f32.
                let x = unsafe { s.load(self.0.as_ptr().add(index * stream + at).cast()) };
                *largest = s.max(*largest, x);
            }
        }
        let mut lanes = [0.0; 16];
        for sums in largest {
            // SAFETY: LANES ≤ 16.
            unsafe { s.store(lanes.as_mut_ptr(), s.max(s.load(lanes.as_ptr()), sums)) };
        }
        lanes[0]
    }
}

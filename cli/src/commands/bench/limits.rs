//! What the memory of this machine allows, and how much of it decoding reaches.

use std::hint::{self, black_box};
use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use critic::kernels::activations::ActivationBlock;
use critic::kernels::matmul::{FirstRead, Input, MatMul, Output, Store};
use critic::kernels::prefetch::Lines;
use critic::kernels::{Op, Simd};
use critic::kv::Precision;
use critic::pool::Pool;
use critic::quant::{BLOCK, Matrix, TILE};
use critic::transformer::Logits;
use critic::{Kernel, Session};
use serde::Serialize;

use super::{arbitrary_tokens, evaluate, median, ms};
use crate::failure::Failure;

const STREAMS: usize = 4;
const LINE: usize = 64;

#[derive(Serialize)]
pub struct Limits {
    /// How fast all threads together read the model's weights, one after the other.
    pub read_bytes_per_second: f64,
    /// Tokens a second, if one reads all weights once and costs nothing else.
    pub decode_tokens_per_second: f64,
    /// What part of it decoding reached, between the readings.
    pub decode_share: f64,
    /// What part of it products with the weights reach by themselves, cut in equal parts, with no norm, no attention, and no
    /// waiting for other threads between two of them.
    pub products_share: f64,
    /// Nanoseconds in which one thread answers another, where there are two, any two: what one writes and another reads takes
    /// half of it. It is several times as long where two cores have no cache in common, and a virtual machine does not choose.
    pub answer_ns: Option<f64>,
    /// Nanoseconds that a region (see [`critic::pool`]) of three short jobs for each thread takes longer than one thread's three.
    /// Decoding a token takes five regions a layer and one.
    pub region_ns: Option<f64>,
}

/// Reads the bytes that decoding reads, with as many threads, in turn with decoding: memory is shared with other
/// programs, so that only what is measured at the same time compares.
pub fn measure(session: &mut Session, repeat: u32) -> Result<Limits, Failure> {
    /// Readings, then tokens, in a round. Of each the first ones do not count: they bring pages in, and wake threads.
    const READINGS: usize = 4;
    const TOKENS: usize = 12;
    const UNCOUNTED: usize = 4;
    let needed = 1 + TOKENS;
    if session.context_tokens() < needed {
        return Err(critic::Error::ContextFull { needed, available: session.context_tokens() }.into());
    }
    let model = session.model().clone();
    let tokens = arbitrary_tokens(&model, needed);
    let matrices = model.weights().matrices();
    let parts: Vec<&[u8]> = matrices.iter().map(|matrix| matrix.bytes()).collect();
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let (kernel, threads) = (session.kernel(), session.threads());
    let mut products = Products::new(&matrices, threads, session.precision());
    let [mut readings, mut multiplied, mut written, mut answers, mut regions] = [const { Vec::new() }; 5];
    for _ in 0..8 * repeat {
        readings.extend((0..READINGS).map(|_| read(&parts, kernel, threads)).skip(1));
        multiplied.extend((0..READINGS).map(|_| products.measure(kernel)).skip(1));
        if threads > 1 {
            answers.push(answer_ns());
            regions.push(region_ns(threads));
        }
        session.reset();
        evaluate(session, &tokens[..1], Logits::None)?;
        for count in 2..=needed {
            let started = Instant::now();
            evaluate(session, &tokens[..count], Logits::Last)?;
            if count > 1 + UNCOUNTED {
                written.push(ms(started));
            }
        }
    }
    let [reading, products, token] = [readings, multiplied, written].map(|mut times| median(&mut times));
    Ok(Limits {
        read_bytes_per_second: bytes as f64 * 1e3 / reading,
        decode_tokens_per_second: 1e3 / reading,
        decode_share: reading / token,
        products_share: reading / products,
        answer_ns: (threads > 1).then(|| median(&mut answers)),
        region_ns: (threads > 1).then(|| median(&mut regions)),
    })
}

/// Nanoseconds that sharing out jobs takes: see [`Limits::region_ns`].
fn region_ns(threads: usize) -> f64 {
    const TIMES: u32 = 1000;
    const JOBS: usize = 3;
    let job = || {
        let started = Instant::now();
        while started.elapsed() < Duration::from_nanos(500) {
            hint::spin_loop();
        }
    };
    let mut pool = Pool::new(threads);
    let mut region = || pool.run(JOBS * threads, |_, _| job());
    // Threads begin to run, and those of the session fall asleep.
    let started = Instant::now();
    while ms(started) < 5.0 {
        region();
    }
    let time = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        (0..TIMES).for_each(|_| work());
        ms(started) * 1e6 / f64::from(TIMES)
    };
    time(&mut region) - time(&mut || (0..JOBS).for_each(|_| job()))
}

/// Nanoseconds from when one thread writes a number to when it reads that another one has read it.
fn answer_ns() -> f64 {
    const TIMES: usize = 1000;
    /// A cache line, or the two that some processors fetch together.
    #[repr(align(128))]
    struct Number(AtomicUsize);
    let [question, answer] = [const { Number(AtomicUsize::new(0)) }; 2];
    let wait = |number: &Number, value: usize| {
        let mut looks = 0u32;
        while number.0.load(Acquire) != value {
            looks += 1;
            // Where the other thread waits for this one's core.
            if looks.is_multiple_of(10_000) { thread::yield_now() } else { hint::spin_loop() }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for time in 0..=TIMES {
                wait(&question, time + 1);
                answer.0.store(time + 1, Release);
            }
        });
        let ask = |time: usize| {
            question.0.store(time + 1, Release);
            wait(&answer, time + 1);
        };
        // The first one also waits for the thread to begin.
        ask(0);
        let started = Instant::now();
        (1..=TIMES).for_each(ask);
        ms(started) * 1e6 / TIMES as f64
    })
}

/// Milliseconds that `threads` take to read all of `parts`, each its share of every one.
fn read(parts: &[&[u8]], kernel: Kernel, threads: usize) -> f64 {
    together(threads, |index| {
        for bytes in parts {
            let (from, to) = (bytes.len() / threads * index, bytes.len() / threads * (index + 1));
            black_box(kernel.run(Read(&bytes[from..to])));
        }
    })
}

/// Products of one token with all of a model's matrices, and room for what they take and give.
struct Products<'a> {
    matrices: &'a [&'a Matrix],
    precision: Precision,
    floats: Vec<f32>,
    codes: Vec<ActivationBlock>,
    /// Most rows of a matrix, in whole tiles, and room for so many of each thread.
    rows: usize,
    outputs: Vec<f32>,
}

impl<'a> Products<'a> {
    fn new(matrices: &'a [&'a Matrix], threads: usize, precision: Precision) -> Self {
        let columns = matrices.iter().map(|matrix| matrix.columns()).max().unwrap_or(0);
        let rows = matrices.iter().map(|matrix| matrix.tiles() * TILE).max().unwrap_or(TILE);
        // The time does not depend on the values.
        let (floats, codes) = (vec![0.0; columns], vec![ActivationBlock::default(); 2 * columns / BLOCK]);
        Self { matrices, precision, floats, codes, rows, outputs: vec![0.0; threads * rows] }
    }

    fn input(&self, matrix: &Matrix) -> Input<'_> {
        let blocks = matrix.columns() / BLOCK;
        match self.precision {
            Precision::Fast if matrix.format().is_quantized() => Input::Codes(&self.codes[..blocks]),
            Precision::Fine if matrix.format().is_quantized() => Input::Fine(&self.codes[..2 * blocks]),
            _ => Input::Float(&self.floats[..matrix.columns()]),
        }
    }

    /// Milliseconds that all threads take, each for its share of every matrix.
    fn measure(&mut self, kernel: Kernel) -> f64 {
        let mut floats = std::mem::take(&mut self.outputs);
        let outputs: Vec<_> = floats.chunks_exact_mut(self.rows).map(|row| Output::new(row, self.rows)).collect();
        let threads = outputs.len();
        let time = together(threads, |index| {
            let mut scratch = Vec::new();
            let share = |matrix: &Matrix| matrix.tiles() * index / threads..matrix.tiles() * (index + 1) / threads;
            for (number, &matrix) in self.matrices.iter().enumerate() {
                let (tiles, input, output, scratch) = (share(matrix), self.input(matrix), outputs[index], &mut scratch);
                let next = self.matrices.get(number + 1).map_or_else(Lines::default, |matrix| {
                    kernel.run(FirstRead { matrix, tiles: share(matrix), input: self.input(matrix), tokens: 1 })
                });
                MatMul { matrix, tiles, input, output, store: Store::Set, scratch, next }.run(kernel);
            }
        });
        self.outputs = floats;
        time
    }
}

/// Milliseconds until the last of `threads` has done its part, from when all are there.
fn together(threads: usize, part: impl Fn(usize) + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let each = |index: usize| {
        barrier.wait();
        let started = Instant::now();
        part(index);
        ms(started)
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|index| scope.spawn(move || each(index))).collect();
        let own = each(0);
        others.into_iter().map(|other| other.join().unwrap_or(f64::INFINITY)).fold(own, f64::max)
    })
}

/// Looks at every byte, in streams side by side, without hints: more cache lines are on their way than with one.
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

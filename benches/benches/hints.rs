//! How many lines of memory a core waits for at once. Lines of pages whose addresses are known already are asked for in one
//! burst, and read some microseconds later, one after the other: a line that has come takes a few nanoseconds, one whose hint
//! the processor has dropped as long as memory does. How far ahead products ask for weights follows from it
//! (docs/performance.md).
//!
//! `cargo bench -p critic-benches --bench hints`

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use critic::kernels::prefetch::{LINE, prefetch};

/// More than caches hold.
const BYTES: usize = 256 << 20;
/// No two lines of a burst share one, so that the processor cannot guess them. There are fewer than a TLB holds.
const PAGE: usize = 4096;
/// Enough for all that were not dropped to arrive.
const PAUSE: Duration = Duration::from_micros(8);

fn bursts(c: &mut Criterion) {
    // Ones, so that the system gives pages of their own.
    let memory = vec![1u8; BYTES];
    let mut state = 1u64;
    let mut random = move |below: usize| {
        // Knuth's MMIX generator; its high bits are the good ones.
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % below
    };
    let mut group = c.benchmark_group("hints");
    for lines in [4, 8, 12, 16, 20, 24, 32, 48, 64, 128, 256] {
        group.throughput(Throughput::Elements(lines as u64));
        for hints in [true, false] {
            let name = if hints { "read after hints" } else { "read without" };
            group.bench_function(BenchmarkId::new(name, lines), |b| {
                b.iter_custom(|times| {
                    let mut total = Duration::ZERO;
                    for _ in 0..times {
                        let first = random(BYTES / PAGE - lines) * PAGE;
                        let places: Vec<usize> =
                            (0..lines).map(|page| first + page * PAGE + random(PAGE / LINE) * LINE).collect();
                        // Another line of each page: a hint that first has to find its page comes too late to be dropped.
                        black_box(places.iter().map(|place| u32::from(memory[place ^ (PAGE / 2)])).sum::<u32>());
                        for &place in places.iter().filter(|_| hints) {
                            prefetch(&raw const memory[place]);
                        }
                        let asked = Instant::now();
                        while asked.elapsed() < PAUSE {}
                        let started = Instant::now();
                        // Each read waits for the one before: its value, always one, is part of the next address.
                        black_box(places.iter().fold(1, |one, place| usize::from(memory[place + one - 1])));
                        total += started.elapsed();
                    }
                    total
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, bursts);
criterion_main!(benches);

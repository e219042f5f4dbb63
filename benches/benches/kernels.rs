//! Each kernel by itself, on one thread, on every instruction set of this machine, and what the
//! instruction set can do at most: `peak` has the multiply-adds a second of nothing but exact dot
//! products, and of nothing but fused multiply-adds, with all operands in the first-level cache.
//!
//! `cargo bench -p critic-benches --bench kernels`

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use critic::Kernel;
use critic::file::Activation;
use critic::kernels::activations::{ActivationBlock, quantize_rows};
use critic::kernels::attention::{
    AttendSegment, Kept, PAGE_TOKENS, PagePart, QUERIES, SEGMENT_PAGES, Softmax, StorePosition,
};
use critic::kernels::low_rank::ThinMatMul;
use critic::kernels::matmul::{GatedMatMul, Input, MatMul, Output, Store};
use critic::kernels::prefetch::Lines;
use critic::kernels::rows::{LogSumExp, RmsNorm, Rope, largest};
use critic::kernels::{Op, Simd};
use critic::quant::{BLOCK, Format};
use critic_benches::{matrix, values};

/// Exact dot products of codes and activations, and nothing else.
struct DotPeak<'a> {
    weights: &'a [u8; 256],
    /// Each pass reads 256 of them from another place on: what does not change would be computed once.
    x: &'a [i8; 4096],
    passes: usize,
}

impl DotPeak<'_> {
    /// Of the scalar reading of it: 16 rows × 16 columns × 16 groups a pass.
    const MULTIPLY_ADDS: usize = 16 * 16 * 16;
}

impl Op for DotPeak<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut total = s.splat(0.0);
        // SAFETY: 4 · LANES codes are 64 bytes at most; sixteen activations are read at each place.
        unsafe {
            let w = [0, 64, 128, 192].map(|at| s.load_codes(self.weights.as_ptr().add(at)));
            for pass in 0..self.passes {
                let x = self.x.as_ptr().add(pass % 240 * 16);
                for part in 0..16 / S::LANES {
                    let x = x.add(part);
                    // Four sums at a time, so that neither their number nor their latency is the limit.
                    for group in (0..16).step_by(4) {
                        let a = s.to_float(dot16(s, &w, x.add(group * 16)));
                        let b = s.to_float(dot16(s, &w, x.add(group * 16 + 16)));
                        let c = s.to_float(dot16(s, &w, x.add(group * 16 + 32)));
                        let d = s.to_float(dot16(s, &w, x.add(group * 16 + 48)));
                        total = s.add(total, s.add(s.add(a, b), s.add(c, d)));
                    }
                }
            }
        }
        let mut lanes = [0.0; 16];
        // SAFETY: LANES ≤ 16.
        unsafe { s.store(lanes.as_mut_ptr(), total) };
        lanes[0]
    }
}

/// Each row's Σ w·x over 16 columns.
///
/// # Safety
/// `x` is valid for 16 reads.
#[inline(always)]
unsafe fn dot16<S: Simd>(s: S, w: &[S::W; 4], x: *const i8) -> S::I {
    let mut sums = s.begin(0);
    for (group, &w) in w.iter().enumerate() {
        // SAFETY: as the caller promises.
        sums = s.add_products(sums, w, unsafe { s.splat4(x.add(4 * group)) });
    }
    s.finish(sums, 0)
}

/// Fused multiply-adds, and nothing else.
struct FmaPeak<'a> {
    x: &'a [f32; 16],
    passes: usize,
}

impl Op for FmaPeak<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        let mut sums = [s.splat(0.0); 12];
        let (factor, x) = (s.splat(0.5), s.splat(self.x[0]));
        for _ in 0..self.passes {
            for sum in &mut sums {
                *sum = s.fma(*sum, factor, x);
            }
        }
        let mut lanes = [0.0; 16];
        // SAFETY: LANES ≤ 16.
        unsafe { s.store(lanes.as_mut_ptr(), sums.into_iter().fold(s.splat(0.0), |a, b| s.add(a, b))) };
        lanes[0]
    }
}

/// Multiply-adds a second at most.
fn peak(criterion: &mut Criterion) {
    const PASSES: usize = 1000;
    let mut group = criterion.benchmark_group("peak");
    let (weights, codes, x) = ([7; 256], [3; 4096], [1.0; 16]);
    for kernel in fast_kernels() {
        group.throughput(Throughput::Elements((DotPeak::MULTIPLY_ADDS * PASSES) as u64));
        group.bench_function(BenchmarkId::new("dot products", kernel.name()), |bencher| {
            bencher.iter(|| kernel.run(DotPeak { weights: &weights, x: black_box(&codes), passes: PASSES }));
        });
        let lanes = kernel.run(Lanes);
        group.throughput(Throughput::Elements((12 * lanes * PASSES) as u64));
        group.bench_function(BenchmarkId::new("fused multiply-adds", kernel.name()), |bencher| {
            bencher.iter(|| kernel.run(FmaPeak { x: black_box(&x), passes: PASSES }));
        });
    }
}

/// Lanes of a register.
struct Lanes;

impl Op for Lanes {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::LANES
    }
}

/// Multiply-adds a second: a layer of SmolLM2-135M's MLP, for one token and for many.
fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matmul 1536x576");
    let (rows, columns) = (1536, 576);
    for format in [Format::Q4_1, Format::Q4_0, Format::Q5_1, Format::Q8_0, Format::F16] {
        let matrix = matrix(format, rows, columns);
        for kernel in fast_kernels() {
            for tokens in [1usize, 8, 128] {
                let x = values(tokens * columns);
                let mut codes = vec![ActivationBlock::default(); x.len() / BLOCK];
                quantize_rows(kernel, &x, columns, &mut codes);
                let mut out = vec![0.0; tokens * rows];
                let mut scratch = Vec::new();
                group.throughput(Throughput::Elements((rows * columns * tokens) as u64));
                let id = BenchmarkId::new(format!("{}-{}", kernel.name(), format.name()), tokens);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        let input = if format.is_quantized() { Input::Codes(&codes) } else { Input::Float(&x) };
                        let output = Output::new(&mut out, rows);
                        let (tiles, store, scratch) = (0..matrix.tiles(), Store::Set, &mut scratch);
                        let next = Lines::default();
                        MatMul { matrix: &matrix, tiles, input, output, store, scratch, next }.run(kernel);
                    });
                });
            }
        }
    }
}

/// Bytes of keys and values a second: query heads of one KV head over one segment.
fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention of a segment");
    let head_dim = 64;
    let part: Vec<u16> = values(2 * PAGE_TOKENS * head_dim).iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
    let parts: Vec<_> = (0..SEGMENT_PAGES).map(|_| part.clone()).collect();
    let pages: [_; SEGMENT_PAGES] = std::array::from_fn(|page| PagePart(parts[page].as_ptr()));
    let queries = values(QUERIES * head_dim);
    let last = SEGMENT_PAGES * PAGE_TOKENS - 1;
    group.throughput(Throughput::Bytes((part.len() * 2 * SEGMENT_PAGES) as u64));
    for kernel in fast_kernels() {
        for count in [1usize, 3, 4, QUERIES] {
            let pointers: Vec<_> = (0..count).map(|q| queries[q * head_dim..].as_ptr()).collect();
            let mut values = vec![0.0; count * head_dim];
            group.bench_function(BenchmarkId::new(kernel.name(), count), |bencher| {
                bencher.iter(|| {
                    let mut softmax = [Softmax::default(); QUERIES];
                    kernel.run(AttendSegment {
                        pages: &pages,
                        start: 0,
                        head_dim,
                        queries: &pointers,
                        positions: &[last; QUERIES][..count],
                        window: usize::MAX,
                        softmax: &mut softmax[..count],
                        values: &mut values,
                    });
                });
            });
        }
    }
}

/// What happens once for each token and layer, or once for each row of logits.
fn rows(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rows");
    let (x, weight) = (values(576), values(576));
    let logits = values(49_152);
    for kernel in fast_kernels() {
        let mut out = vec![0.0; 576];
        group.bench_function(BenchmarkId::new("rmsnorm 576", kernel.name()), |bencher| {
            bencher.iter(|| kernel.run(RmsNorm { x: &x, weight: &weight, eps: 1e-5, out: &mut out }));
        });
        let mut codes = vec![ActivationBlock::default(); 576 / BLOCK];
        group.bench_function(BenchmarkId::new("quantize 576", kernel.name()), |bencher| {
            bencher.iter(|| quantize_rows(kernel, &x, 576, &mut codes));
        });
        group.bench_function(BenchmarkId::new("logsumexp 49152", kernel.name()), |bencher| {
            bencher.iter(|| kernel.run(LogSumExp { x: &logits }));
        });
        let (mut head, turn) = (values(64), values(32));
        group.bench_function(BenchmarkId::new("rope 64", kernel.name()), |bencher| {
            bencher.iter(|| kernel.run(Rope { x: &mut head, cos: &turn, sin: &turn, scale: 1.0 }));
        });
        let mut part = vec![0u16; 2 * PAGE_TOKENS * 64];
        group.bench_function(BenchmarkId::new("store a position 64", kernel.name()), |bencher| {
            let part = part.as_mut_ptr();
            bencher.iter(|| {
                for (kept, x) in [(Kept::Key, &x[..64]), (Kept::Value, &x[64..128])] {
                    kernel.run(StorePosition { part, slot: 5, kept, x });
                }
            });
        });
        let mut gated = vec![0.0; 8 * 1536];
        let (gate, up) = (matrix(Format::Q4_1, 1536, 576), matrix(Format::Q4_1, 1536, 576));
        let mut batch = vec![ActivationBlock::default(); 8 * 576 / BLOCK];
        quantize_rows(kernel, &values(8 * 576), 576, &mut batch);
        group.bench_function(BenchmarkId::new("gate and up 2x1536x576 of 8", kernel.name()), |bencher| {
            bencher.iter(|| {
                GatedMatMul {
                    gate: &gate,
                    up: &up,
                    activation: Activation::Silu,
                    tiles: 0..gate.tiles(),
                    input: Input::Codes(&batch),
                    output: Output::new(&mut gated, 1536),
                    scratch: &mut Default::default(),
                    next: Lines::default(),
                }
                .run(kernel);
            });
        });
        let (a, rows) = (matrix(Format::F16, 16, 576), values(8 * 576));
        let mut reduced = vec![0.0; 8 * 16];
        group.bench_function(BenchmarkId::new("adapter 16x576 of 8", kernel.name()), |bencher| {
            bencher.iter(|| {
                kernel.run(ThinMatMul {
                    matrix: &a,
                    tiles: 0..a.tiles(),
                    x: &rows,
                    x_stride: 576,
                    scale: 1.0,
                    output: Output::new(&mut reduced, 16),
                    store: Store::Set,
                });
            });
        });
    }
    group.bench_function("largest of 49152", |bencher| bencher.iter(|| largest(&logits)));
}

/// All but the specification, which is not meant to be fast.
fn fast_kernels() -> Vec<Kernel> {
    Kernel::available().into_iter().filter(|kernel| kernel.name() != "scalar").collect()
}

criterion_group!(kernels, peak, products, attention, rows);
criterion_main!(kernels);

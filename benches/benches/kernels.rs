//! Each kernel by itself, on one thread, on every instruction set of this machine.
//!
//! `cargo bench -p critic-benches --bench kernels`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use critic::Kernel;
use critic::kernels::activations::{ActivationBlock, quantize_rows};
use critic::kernels::attention::{AttendSegment, PAGE_TOKENS, PagePart, SEGMENT_PAGES, Softmax};
use critic::kernels::matmul::{Input, MatMul, Output, Store};
use critic::kernels::rows::{LogSumExp, RmsNorm};
use critic::quant::{BLOCK, Format};
use critic_benches::{matrix, values};

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
                        kernel.run(MatMul { matrix: &matrix, tiles, input, output, store, scratch });
                    });
                });
            }
        }
    }
}

/// Bytes of keys and values a second: three query heads of one KV head over one segment.
fn attention(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("attention of a segment");
    let head_dim = 64;
    let part: Vec<u16> = values(2 * PAGE_TOKENS * head_dim).iter().map(|&x| half::f16::from_f32(x).to_bits()).collect();
    let pages = [PagePart(part.as_ptr()); SEGMENT_PAGES];
    let queries = values(4 * head_dim);
    let last = SEGMENT_PAGES * PAGE_TOKENS - 1;
    group.throughput(Throughput::Bytes((part.len() * 2 * SEGMENT_PAGES) as u64));
    for kernel in fast_kernels() {
        for count in [1usize, 3, 4] {
            let pointers: Vec<_> = (0..count).map(|q| queries[q * head_dim..].as_ptr()).collect();
            let mut values = vec![0.0; count * head_dim];
            group.bench_function(BenchmarkId::new(kernel.name(), count), |bencher| {
                bencher.iter(|| {
                    let mut softmax = [Softmax::default(); 4];
                    kernel.run(AttendSegment {
                        pages: &pages,
                        start: 0,
                        head_dim,
                        queries: &pointers,
                        positions: &[last; 4][..count],
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
    }
}

/// All but the specification, which is not meant to be fast.
fn fast_kernels() -> Vec<Kernel> {
    Kernel::available().into_iter().filter(|kernel| kernel.name() != "scalar").collect()
}

criterion_group!(kernels, products, attention, rows);
criterion_main!(kernels);

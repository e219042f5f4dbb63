//! Every kernel against the scalar one on every instruction set of this machine: the same
//! bits, for ragged sizes, odd alignments and extreme values.

use std::ops::Range;

use proptest::prelude::*;

use super::activations::{ActivationBlock, Quantize};
use super::attention::{AttendSegment, Element, Kept, PAGE_TOKENS, PagePart, QUERIES, Softmax, StorePosition};
use super::low_rank::ThinMatMul;
use super::matmul::{FirstRead, Gate, GatedMatMul, Input, MatMul, Output, Store};
use super::prefetch::{LINE, Lines};
use super::rows::{LogSumExp, RmsNorm, Rope};
use super::{Kernel, Op, Simd};
use crate::file::Activation;
use crate::map::Slice;
use crate::quant::{BLOCK, BlockCodes, Format, Matrix, MatrixBuilder, TILE};

/// A small generator, so that sizes do not blow up proptest's shrinking.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }

    /// In −1..1.
    fn float(&mut self) -> f32 {
        (self.next() & 0xffff) as f32 / 32768.0 - 1.0
    }

    fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.float() * scale).collect()
    }
}

/// Weights with every code, and scales up to the largest that stays finite in a sum.
fn matrix(format: Format, rows: usize, columns: usize, random: &mut Random) -> Matrix {
    let mut builder = MatrixBuilder::new(format, rows, columns).unwrap();
    for row in 0..rows {
        if !format.is_quantized() {
            builder.set_row(row, &random.floats(columns, 2.0)).unwrap();
            continue;
        }
        for block in 0..columns / BLOCK {
            let mask = match format {
                Format::Q8_0 => 255,
                Format::Q5_0 | Format::Q5_1 => 31,
                _ => 15,
            };
            let codes = std::array::from_fn(|i| match (row + block) % 5 {
                0 => [0, mask][i % 2], // the extremes, side by side
                1 if format == Format::Q8_0 => 128,
                2 => {
                    if format == Format::Q8_0 {
                        127
                    } else {
                        mask
                    }
                } // the largest sums
                _ => random.next() as u8 & mask,
            });
            let scale = half::f16::from_f32(random.float() * if row % 7 == 0 { 1000.0 } else { 0.01 }).to_bits();
            let min = if format.has_min() { half::f16::from_f32(random.float()).to_bits() } else { 0 };
            builder.set_block(row, block, &BlockCodes { scale, min, codes });
        }
    }
    Matrix::new(format, rows, columns, Slice::from_bytes(&builder.finish())).unwrap()
}

fn codes(kernel: Kernel, rows: &[f32], columns: usize) -> Vec<ActivationBlock> {
    let mut out = vec![ActivationBlock::default(); rows.len() / BLOCK];
    super::activations::quantize_rows(kernel, rows, columns, &mut out);
    out
}

fn multiply(kernel: Kernel, matrix: &Matrix, x: &[f32], exact: bool, store: Store) -> Vec<u32> {
    let columns = matrix.columns();
    let stride = matrix.tiles() * TILE;
    let mut out = vec![1.5; x.len() / columns * stride];
    let quantized = if exact || !matrix.format().is_quantized() { Vec::new() } else { codes(kernel, x, columns) };
    let input = if quantized.is_empty() { Input::Float(x) } else { Input::Codes(&quantized) };
    let output = Output::new(&mut out, stride);
    let (scratch, next) = (&mut Vec::new(), Lines::default());
    MatMul { matrix, tiles: 0..matrix.tiles(), input, output, store, scratch, next }.run(kernel);
    out.into_iter().map(f32::to_bits).collect()
}

fn kernels() -> (Kernel, Vec<Kernel>) {
    let all = Kernel::available();
    (all[0], all[1..].to_vec())
}

/// What comes of them is nothing, but it comes, and nothing else changes.
#[test]
fn rows_without_numbers_leave_others_alone() {
    const COLUMNS: usize = 64;
    let mut random = Random(7);
    for format in Format::ALL.into_iter().filter(|format| format.is_quantized()) {
        let matrix = matrix(format, 70, COLUMNS, &mut random);
        for kernel in Kernel::available() {
            for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE / 8.0] {
                for tokens in [1, 5] {
                    let mut x = random.floats(tokens * COLUMNS, 1.0);
                    let expected = multiply(kernel, &matrix, &x, false, Store::Set);
                    x[..COLUMNS].iter_mut().step_by(3).for_each(|x| *x = odd);
                    let got = multiply(kernel, &matrix, &x, false, Store::Set);
                    let row = matrix.tiles() * TILE;
                    assert_ne!(got[..row], expected[..row], "{format:?} {} {odd}", kernel.name());
                    assert_eq!(got[row..], expected[row..], "{format:?} {} {odd}", kernel.name());
                }
            }
        }
    }
}

#[test]
fn products_have_the_same_bits() {
    let (scalar, others) = kernels();
    let mut random = Random(1);
    for format in Format::ALL {
        // With one row, four tiles go together, then two: here 1, 2 + 1, 4, 1, 4 + 4 + 2 and 4 + 1. With two rows, two do.
        for (rows, columns) in [(16, 32), (33, 96), (64, 160), (5, 576), (150, 96), (75, 64)] {
            let matrix = matrix(format, rows, columns, &mut random);
            for tokens in [1, 2, 3, 4, 5, 7, 8, 9, 17] {
                let mut x = random.floats(tokens * columns, 3.0);
                x[0] = 1e30; // one overflowing scale must not disturb other rows
                x[columns / 2] = f32::MIN_POSITIVE / 8.0;
                // The largest sums, of either sign.
                for (token, value) in [(1, 2.0), (2, -2.0)] {
                    x.chunks_exact_mut(columns).skip(token).take(1).for_each(|row| row.fill(value));
                }
                for (exact, store) in [(false, Store::Set), (false, Store::Add), (true, Store::Set)] {
                    let expected = multiply(scalar, &matrix, &x, exact, store);
                    for &kernel in &others {
                        let got = multiply(kernel, &matrix, &x, exact, store);
                        assert!(got == expected, "{} {format:?} {rows}×{columns} × {tokens}", kernel.name());
                    }
                    // A row alone gives what it gives in the batch.
                    let stride = matrix.tiles() * TILE;
                    for token in 0..tokens {
                        let alone = multiply(scalar, &matrix, &x[token * columns..][..columns], exact, store);
                        assert!(alone == expected[token * stride..][..stride], "token {token} of {tokens}");
                    }
                }
            }
        }
    }
}

/// What is asked for before a product is what the product reads, each line once.
#[test]
fn first_lines_are_those_of_the_tiles() {
    struct Streams;
    impl Op for Streams {
        type Output = usize;
        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> usize {
            S::STREAMS
        }
    }
    let matrix = &matrix(Format::Q4_1, 150, 64, &mut Random(7));
    let (start, tile) = (matrix.bytes().as_ptr().addr(), matrix.tile_bytes());
    for kernel in Kernel::available() {
        for tiles in [0..4, 1..10, 3..6, 2..3, 9..9] {
            // Only one or two rows of activations meet several places at once.
            for (input, tokens, places) in [
                (Input::Codes(&[]), 1, 4),
                (Input::Codes(&[]), 2, 2),
                (Input::Codes(&[]), 3, 1),
                (Input::Fine(&[]), 1, 2),
                (Input::Fine(&[]), 2, 1),
                (Input::Float(&[]), 1, 1),
                (Input::Float(&[]), 2, 1),
            ] {
                let read = FirstRead { matrix, tiles: tiles.clone(), input, tokens };
                let lines: Vec<_> = kernel.run(read).map(|p| p.addr()).collect();
                let places = match tiles.len() {
                    4.. => places,
                    2.. => places.min(2),
                    _ => 1,
                };
                let places = places.min(kernel.run(Streams));
                // A tile that is left over from equal parts is not among the first.
                let len = tiles.len() / places * tile;
                let expected = (0..len / LINE).flat_map(|line| (0..places).map(move |place| (place, line * LINE)));
                let expected: Vec<_> =
                    expected.map(|(place, at)| start + tiles.start * tile + place * len + at).collect();
                assert_eq!(lines, expected, "{kernel:?} {tiles:?} {tokens}");
            }
        }
    }
}

/// Some tiles of a matrix, in rows that are wider than they, are what they are in the whole; nothing else is written.
#[test]
fn tiles_of_a_part() {
    let mut random = Random(12);
    for format in [Format::Q4_1, Format::Q8_0, Format::F16] {
        let columns = 64;
        let matrix = &matrix(format, 150, columns, &mut random);
        let whole = matrix.tiles() * TILE;
        for tokens in [1, 2, 3] {
            let x = random.floats(tokens * columns, 1.0);
            for kernel in Kernel::available() {
                let codes = codes(kernel, &x, columns);
                let input = if format.is_quantized() { Input::Codes(&codes) } else { Input::Float(&x) };
                for store in [Store::Set, Store::Add] {
                    let expected = multiply(kernel, matrix, &x, false, store);
                    for tiles in [0..4, 3..10, 1..4, 2..3] {
                        let stride = 11 * TILE;
                        let mut out = vec![1.5f32; tokens * stride];
                        let output = Output::new(&mut out, stride);
                        // What is asked for at the end, which here are other tiles, changes nothing.
                        let next = FirstRead { matrix, tiles: 0..tiles.start, input, tokens };
                        let (scratch, next) = (&mut Vec::new(), kernel.run(next));
                        MatMul { matrix, tiles: tiles.clone(), input, output, store, scratch, next }.run(kernel);
                        for (token, row) in out.chunks(stride).enumerate() {
                            let (written, rest) = row.split_at(tiles.len() * TILE);
                            let expected = &expected[token * whole + tiles.start * TILE..][..written.len()];
                            assert!(
                                written.iter().map(|x| x.to_bits()).eq(expected.iter().copied()),
                                "{kernel:?} {tiles:?}"
                            );
                            assert!(rest.iter().all(|&x| x == 1.5), "{kernel:?} {tiles:?}");
                        }
                    }
                }
            }
        }
    }
}

/// Two rows of codes for a token give, on every instruction set, the very sum of their products.
#[test]
fn fine_products_are_sums_of_two() {
    let (scalar, others) = kernels();
    let mut random = Random(11);
    for format in Format::ALL.into_iter().filter(|format| format.is_quantized()) {
        // Of an odd number of tiles, one is left over where a token's two rows meet two.
        for (tokens, rows) in [(1, 150), (1, 33), (1, 75), (2, 150), (11, 150)] {
            let columns = 96;
            let matrix = &matrix(format, rows, columns, &mut random);
            let stride = matrix.tiles() * TILE;
            // Rows of a token and of its rest, one after the other: any rows will do.
            let rows = random.floats(2 * tokens * columns, 1.0);
            let apart = multiply(scalar, matrix, &rows, false, Store::Set);
            let sum = |token: usize, at: usize| {
                let part = |row: usize| f32::from_bits(apart[row * stride + at]);
                (part(2 * token) + part(2 * token + 1)).to_bits()
            };
            for kernel in others.iter().copied().chain([scalar]) {
                let codes = codes(kernel, &rows, columns);
                let mut out = vec![0.0; tokens * stride];
                let (output, scratch) = (Output::new(&mut out, stride), &mut Vec::new());
                let (tiles, input, store) = (0..matrix.tiles(), Input::Fine(&codes), Store::Set);
                MatMul { matrix, tiles, input, output, store, scratch, next: Lines::default() }.run(kernel);
                for (index, value) in out.iter().enumerate() {
                    assert_eq!(value.to_bits(), sum(index / stride, index % stride), "{kernel:?} {format:?} {index}");
                }
            }
        }
    }
}

/// The scalar kernel against sums in f64: the error of quantized activations is bounded by
/// half a step of each activation times the weight, that of f32 sums by its own rounding.
#[test]
fn products_are_right() {
    let (scalar, _) = kernels();
    let mut random = Random(2);
    for format in Format::ALL {
        let (rows, columns, tokens) = (20, 128, 3);
        let matrix = matrix(format, rows, columns, &mut random);
        let x = random.floats(tokens * columns, 3.0);
        let stride = matrix.tiles() * TILE;
        for exact in [true, false] {
            let out = multiply(scalar, &matrix, &x, exact, Store::Set);
            let mut weights = vec![0.0; columns];
            for row in 0..rows {
                matrix.dequantize_row(row, &mut weights);
                for token in 0..tokens {
                    let x = &x[token * columns..][..columns];
                    let sum: f64 = weights.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
                    let mut bound: f64 = weights.iter().zip(x).map(|(w, x)| f64::from((w * x).abs())).sum::<f64>()
                        * f64::from(f32::EPSILON)
                        * columns as f64
                        + 1e-6;
                    if !exact && format.is_quantized() {
                        for (w, x) in weights.chunks(16).zip(x.chunks(16)) {
                            let step = x.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
                            bound += w.iter().map(|w| f64::from(w.abs() * step * 0.501)).sum::<f64>();
                            // d·q and m round apart: where they cancel, the weight is small and
                            // the sum of the two products is not.
                            bound += f64::from(step) * 16.0 * 1e-3;
                        }
                        bound *= 1.01;
                    }
                    let got = f64::from(f32::from_bits(out[token * stride + row]));
                    assert!((got - sum).abs() <= bound, "{format:?} exact {exact} row {row}: {got} {sum} ± {bound}");
                }
            }
        }
    }
}

#[test]
fn gated_products_have_the_same_bits() {
    let (scalar, others) = kernels();
    let mut random = Random(3);
    for format in [Format::Q4_1, Format::Q8_0, Format::F16] {
        // With nine tokens more tiles than are done at once.
        let (rows, columns, tiles) = (320, 64, 1..20);
        let (gate, up) = (matrix(format, rows, columns, &mut random), matrix(format, rows, columns, &mut random));
        for activation in [Activation::Silu, Activation::GeluTanh] {
            for (tokens, fine) in [(1, false), (2, false), (3, false), (9, false), (1, true), (2, true), (5, true)] {
                // With two rows for a token, any rows will do.
                let fine = fine && format.is_quantized();
                let x = random.floats(tokens * (1 + usize::from(fine)) * columns, 1.0);
                let gated = |kernel: Kernel| {
                    let quantized = codes(kernel, &x, columns);
                    let input = match format.is_quantized() {
                        true if fine => Input::Fine(&quantized),
                        true => Input::Codes(&quantized),
                        false => Input::Float(&x),
                    };
                    let mut out = vec![0.0; tokens * rows];
                    let output = Output::new(&mut out, rows);
                    let (scratch, next) = (&mut Default::default(), Lines::default());
                    let (gate, up, tiles) = (&gate, &up, tiles.clone());
                    GatedMatMul { gate, up, activation, tiles: tiles.clone(), input, output, scratch, next }
                        .run(kernel);
                    // The same in three steps.
                    let columns = tiles.len() * TILE;
                    let mut products = [gate, up].map(|matrix| {
                        let mut out = vec![0.0; tokens * columns];
                        let (tiles, output, scratch) = (tiles.clone(), Output::new(&mut out, columns), &mut Vec::new());
                        MatMul { matrix, tiles, input, output, store: Store::Set, scratch, next }.run(kernel);
                        out
                    });
                    let [gate, up] = products.each_mut().map(|product| Output::new(product, columns));
                    kernel.run(Gate { activation, columns, gate, up });
                    for (row, expected) in out.chunks(rows).zip(products[0].chunks(columns)) {
                        assert_eq!(&row[..columns], expected, "{kernel:?} {format:?} {tokens}");
                    }
                    out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let expected = gated(scalar);
                for &kernel in &others {
                    assert!(gated(kernel) == expected, "{} {format:?}", kernel.name());
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_have_the_same_bits(n in 1usize..20, seed: u64, exponent in -30i32..30) {
        let (scalar, others) = kernels();
        let mut random = Random(seed);
        let x = random.floats(n * 16, 2f32.powi(exponent));
        let weight = random.floats(n * 16, 1.0);
        let angles = random.floats(n * 8, 3.0);
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
        let run = |kernel: Kernel| {
            let mut normed = vec![0.0; x.len()];
            kernel.run(RmsNorm { x: &x, weight: &weight, eps: 1e-6, out: &mut normed });
            let mut turned = x.clone();
            kernel.run(Rope { x: &mut turned, cos: &cos, sin: &sin, scale: 0.125 });
            let sum = kernel.run(LogSumExp { x: &x[..n * 16 - seed as usize % 16] });
            let mut bits: Vec<u64> = normed.iter().chain(&turned).map(|x| u64::from(x.to_bits())).collect();
            bits.push(sum.to_bits());
            bits
        };
        let expected = run(scalar);
        for kernel in others {
            prop_assert_eq!(&run(kernel), &expected);
        }
        // RMSNorm against its formula in f64.
        let mean = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / x.len() as f64;
        for ((x, w), bits) in x.iter().zip(&weight).zip(&expected) {
            let right = f64::from(*x) / (mean + 1e-6).sqrt() * f64::from(*w);
            let got = f64::from(f32::from_bits(*bits as u32));
            prop_assert!((got - right).abs() <= 1e-5 * right.abs() + 1e-30, "{got} {right}");
        }
    }

    #[test]
    fn quantized_rows_have_the_same_bits(seed: u64, exponent in -149i32..128) {
        let (scalar, others) = kernels();
        let x = Random(seed).floats(96, (exponent as f32).exp2());
        let run = |kernel: Kernel| {
            let mut out = vec![ActivationBlock::default(); 3];
            kernel.run(Quantize { row: &x, out: &mut out });
            out.iter().map(|b| (b.codes, b.scales.map(f32::to_bits), b.sum.to_bits(), b.code_sums)).collect::<Vec<_>>()
        };
        let expected = run(scalar);
        for kernel in others {
            prop_assert_eq!(&run(kernel), &expected);
        }
        for (block, x) in expected.iter().zip(x.chunks(32)) {
            for (i, (&code, &x)) in block.0.iter().zip(x).enumerate() {
                let step = f32::from_bits(block.1[i / 16]);
                // Half a step and its roundings; of a row next to nothing, nothing is left.
                prop_assert!((f32::from(code) * step - x).abs() <= step * 0.501 + 1e-36);
                prop_assert!((-127..=127).contains(&code));
            }
        }
    }
}

/// A page part, and its keys and values.
type Page<E> = (Vec<E>, Vec<f32>, Vec<f32>);

/// A page part with known keys and values.
fn page<E: Element>(head_dim: usize, tokens: usize, random: &mut Random) -> Page<E> {
    let mut part = vec![E::default(); 2 * PAGE_TOKENS * head_dim];
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for slot in 0..tokens {
        for d in 0..head_dim {
            // Sixteenths: exact in f16 too.
            let (k, v) = ((random.float() * 16.0).round() / 16.0, (random.float() * 16.0).round() / 16.0);
            part[slot / 16 * 16 * head_dim + d * 16 + slot % 16] = E::from_f32(k);
            part[PAGE_TOKENS * head_dim + slot * head_dim + d] = E::from_f32(v);
            keys.push(k);
            values.push(v);
        }
    }
    (part, keys, values)
}

fn attention<E: Element>() {
    let (scalar, others) = kernels();
    let mut random = Random(4);
    for head_dim in [16, 32, 48, 64, 128] {
        // With 67 and 133 tokens, the last page is that of some queries alone.
        let wide = usize::MAX;
        for (tokens, window) in
            [(1usize, wide), (17, wide), (40, wide), (64, 9), (67, wide), (133, 66), (150, wide), (150, 70)]
        {
            let pages: Vec<_> = (0..tokens.div_ceil(PAGE_TOKENS))
                .map(|i| page::<E>(head_dim, (tokens - i * PAGE_TOKENS).min(PAGE_TOKENS), &mut random))
                .collect();
            let queries = random.floats(QUERIES * head_dim, 0.4);
            for n in 1..=QUERIES.min(tokens) {
                let positions: Vec<usize> = (0..n).map(|q| tokens - n + q).collect();
                let run = |kernel: Kernel, some: Range<usize>| {
                    let mut softmax = vec![Softmax::default(); some.len()];
                    let mut values = vec![0.0; some.len() * head_dim];
                    let parts: Vec<_> = pages.iter().map(|p| PagePart(p.0.as_ptr())).collect();
                    let pointers: Vec<_> = some.clone().map(|q| queries[q * head_dim..].as_ptr()).collect();
                    kernel.run(AttendSegment {
                        pages: &parts,
                        start: 0,
                        head_dim,
                        queries: &pointers,
                        positions: &positions[some],
                        window,
                        softmax: &mut softmax,
                        values: &mut values,
                    });
                    (softmax.iter().map(|s| (s.max.to_bits(), s.sum.to_bits())).collect::<Vec<_>>(), values)
                };
                let (softmax, values) = run(scalar, 0..n);
                for &kernel in &others {
                    let got = run(kernel, 0..n);
                    assert_eq!(got.0, softmax, "{} {head_dim} {tokens}", kernel.name());
                    assert!(got.1.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()), "{}", kernel.name());
                }
                // Each query alone: the same bits as beside later ones, which see more groups of keys.
                for q in 0..n {
                    let alone = run(scalar, q..q + 1);
                    assert_eq!(alone.0[0], softmax[q]);
                    assert_eq!(alone.1, values[q * head_dim..][..head_dim]);
                }
                check_formula(&pages, &queries, &positions, window, head_dim, &softmax, &values);
            }
        }
    }
}

/// A key or value goes to its place as `page` has it, and nowhere else.
fn storing<E: Element + PartialEq + std::fmt::Debug>() {
    let mut random = Random(17);
    for head_dim in [16, 48, 64] {
        let x: Vec<f32> = (0..head_dim).map(|_| (random.float() * 16.0).round() / 16.0).collect();
        let untouched = vec![E::from_f32(7.0); 2 * PAGE_TOKENS * head_dim];
        for slot in [0, 15, 16, 63] {
            for kept in [Kept::Key, Kept::Value] {
                let mut expected = untouched.clone();
                for (d, &x) in x.iter().enumerate() {
                    let at = match kept {
                        Kept::Key => slot / 16 * 16 * head_dim + d * 16 + slot % 16,
                        Kept::Value => PAGE_TOKENS * head_dim + slot * head_dim + d,
                    };
                    expected[at] = E::from_f32(x);
                }
                for kernel in Kernel::available() {
                    let mut part = untouched.clone();
                    kernel.run(StorePosition { part: part.as_mut_ptr(), slot, kept, x: &x });
                    assert_eq!(part, expected, "{} {kept:?} {slot}", kernel.name());
                }
            }
        }
    }
}

#[test]
fn keys_and_values_go_to_their_places() {
    storing::<f32>();
    storing::<u16>();
}

/// Softmax attention by its definition, in f64.
fn check_formula<E>(
    pages: &[Page<E>],
    queries: &[f32],
    positions: &[usize],
    window: usize,
    head_dim: usize,
    softmax: &[(u32, u32)],
    values: &[f32],
) {
    let rows =
        |part: fn(&Page<E>) -> &Vec<f32>| -> Vec<f32> { pages.iter().flat_map(|p| part(p).iter().copied()).collect() };
    let (keys, all_values) = (rows(|p| &p.1), rows(|p| &p.2));
    for (q, &position) in positions.iter().enumerate() {
        let query = &queries[q * head_dim..][..head_dim];
        let seen = (position + 1).saturating_sub(window)..=position;
        let scores: Vec<f64> = seen
            .clone()
            .map(|key| query.iter().zip(&keys[key * head_dim..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum())
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        for d in 0..head_dim {
            let right: f64 = seen
                .clone()
                .zip(&scores)
                .map(|(key, s)| (s - max).exp() / total * f64::from(all_values[key * head_dim + d]))
                .sum();
            let got = f64::from(values[q * head_dim + d]) / f64::from(f32::from_bits(softmax[q].1));
            // f32 sums of up to 150 terms below 1, and an exponential of a few ulp.
            assert!((got - right).abs() < 2e-5, "{got} {right}");
        }
    }
}

#[test]
fn attention_has_the_same_bits_and_is_right() {
    attention::<f32>();
    attention::<u16>();
}

#[test]
fn exponentials_are_right() {
    struct Exp(f32);
    impl Op for Exp {
        type Output = f32;
        #[inline(always)]
        fn run<S: super::Simd>(self, s: S) -> f32 {
            let mut lanes = [0.0; 16];
            // SAFETY: LANES ≤ 16.
            unsafe { s.store(lanes.as_mut_ptr(), super::simd::exp(s, s.splat(self.0))) };
            lanes[0]
        }
    }
    for kernel in Kernel::available() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let (got, right) = (f64::from(kernel.run(Exp(x))), f64::from(x).exp());
            // The polynomial's 1.2e-7, and two roundings.
            assert!((got / right - 1.0).abs() < 4e-7, "{} e^{x}: {got} {right}", kernel.name());
        }
        assert_eq!(kernel.run(Exp(f32::NEG_INFINITY)), 0.0);
        assert_eq!(kernel.run(Exp(0.0)), 1.0);
    }
}

/// `[tokens, 16·tiles]` of `1.5 + scale · matrix · x`, bits.
fn multiply_thin(kernel: Kernel, matrix: &Matrix, x: &[f32], x_stride: usize, scale: f32) -> Vec<u32> {
    let stride = matrix.tiles() * TILE;
    let mut out = vec![1.5; x.len() / x_stride * stride];
    let output = Output::new(&mut out, stride);
    kernel.run(ThinMatMul { matrix, tiles: 0..matrix.tiles(), x, x_stride, scale, output, store: Store::Add });
    out.into_iter().map(f32::to_bits).collect()
}

proptest! {
    /// Thin products: the same bits for every instruction set and number of tokens, and right.
    #[test]
    fn thin_products(
        format in prop::sample::select(vec![Format::F32, Format::F16, Format::BF16]),
        rows in 1usize..40,
        columns in 1usize..70,
        tokens in 1usize..11,
        extra in 0usize..3,
        seed: u64,
    ) {
        let random = &mut Random(seed);
        let matrix = matrix(format, rows, columns, random);
        let x_stride = columns + extra;
        let x = random.floats(tokens * x_stride, 3.0);
        let (scalar, others) = kernels();
        let expected = multiply_thin(scalar, &matrix, &x, x_stride, 0.75);
        let stride = matrix.tiles() * TILE;
        let mut row = vec![0.0; columns];
        for token in 0..tokens {
            let x = &x[token * x_stride..][..x_stride];
            for output in 0..rows {
                matrix.dequantize_row(output, &mut row);
                let products = row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
                let exact = 1.5 + 0.75 * products.clone().sum::<f64>();
                let size: f64 = 1.5 + products.map(f64::abs).sum::<f64>();
                let found = f64::from(f32::from_bits(expected[token * stride + output]));
                prop_assert!((found - exact).abs() <= size * columns as f64 * 1.2e-7, "{found} {exact}");
            }
        }
        for kernel in others {
            prop_assert!(multiply_thin(kernel, &matrix, &x, x_stride, 0.75) == expected, "{kernel:?}");
            for token in 0..tokens {
                let alone = multiply_thin(kernel, &matrix, &x[token * x_stride..][..x_stride], x_stride, 0.75);
                prop_assert!(alone[..] == expected[token * stride..][..stride], "{kernel:?} token {token}");
            }
        }
    }
}

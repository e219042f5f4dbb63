//! ggml's block formats to and from the runtime's block codes.
//!
//! The formats that the runtime has, convert bit by bit in both directions. The K-quants
//! that it lacks become the next larger format that it has:
//!
//! | from | to | what changes |
//! | --- | --- | --- |
//! | Q4_K | Q4_1 | codes exact; `d' = f16(d·sc)` and `m' = f16(−dmin·m)`, each within 2⁻¹¹ of itself (or 2⁻²⁵, where subnormal) |
//! | Q5_K | Q5_1 | the same |
//! | Q6_K | Q8_0 | each weight within half a step of the new block, plus what f16 takes from its scale: `d'·(½ + 128·2⁻¹¹)` |

use critic::quant::{BLOCK, BlockCodes, Format, quantize_q8_0};
use half::{bf16, f16};

/// A storage type of ggml that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names that the field uses")]
pub enum GgmlType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// As [`Format::Q4_0`].
    Q4_0,
    /// As [`Format::Q4_1`].
    Q4_1,
    /// As [`Format::Q5_0`].
    Q5_0,
    /// As [`Format::Q5_1`].
    Q5_1,
    /// As [`Format::Q8_0`].
    Q8_0,
    /// Super-blocks of eight blocks, whose four-bit scales and minima are six bits wide.
    Q4_K,
    /// The same with five-bit codes.
    Q5_K,
    /// Super-blocks of sixteen half blocks with eight-bit scales, six-bit codes.
    Q6_K,
}

/// Columns of a K-quant's super-block.
const SUPER_BLOCK: usize = 256;

impl GgmlType {
    /// Every type that can be read.
    pub const ALL: [GgmlType; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];

    /// ggml's number of the type.
    pub const fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4_K => 12,
            Self::Q5_K => 13,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// The type of ggml's number `code`, if it can be read.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The name of ggml's type `code`, for messages about those that cannot be read.
    pub fn code_name(code: u32) -> String {
        let name = match code {
            9 => "Q8_1",
            10 => "Q2_K",
            11 => "Q3_K",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            _ => return Self::from_code(code).map_or(format!("{code}"), |kind| kind.name().to_owned()),
        };
        name.to_owned()
    }

    /// ggml's name of the type.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
        }
    }

    /// Columns in one block.
    pub const fn block_columns(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_K | Self::Q5_K | Self::Q6_K => SUPER_BLOCK,
            _ => BLOCK,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 4 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 4 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4_K => 4 + 12 + 128,
            Self::Q5_K => 4 + 12 + 32 + 128,
            Self::Q6_K => 128 + 64 + 16 + 2,
        }
    }

    /// The runtime's format that holds this type: itself, or the next larger one.
    pub const fn format(self) -> Format {
        match self {
            Self::F32 => Format::F32,
            Self::F16 => Format::F16,
            Self::BF16 => Format::BF16,
            Self::Q4_0 => Format::Q4_0,
            Self::Q4_1 | Self::Q4_K => Format::Q4_1,
            Self::Q5_0 => Format::Q5_0,
            Self::Q5_1 | Self::Q5_K => Format::Q5_1,
            Self::Q8_0 | Self::Q6_K => Format::Q8_0,
        }
    }

    /// Whether [`GgmlType::format`] holds it without loss.
    pub const fn is_exact(self) -> bool {
        !matches!(self, Self::Q4_K | Self::Q5_K | Self::Q6_K)
    }
}

impl From<Format> for GgmlType {
    fn from(format: Format) -> Self {
        match format {
            Format::F32 => Self::F32,
            Format::F16 => Self::F16,
            Format::BF16 => Self::BF16,
            Format::Q8_0 => Self::Q8_0,
            Format::Q4_0 => Self::Q4_0,
            Format::Q4_1 => Self::Q4_1,
            Format::Q5_0 => Self::Q5_0,
            Format::Q5_1 => Self::Q5_1,
        }
    }
}

/// Calls `sink` with each block of 32 columns of a quantized row, in the codes of
/// [`GgmlType::format`]. `row` is whole blocks.
pub fn decode_row(kind: GgmlType, row: &[u8], mut sink: impl FnMut(usize, BlockCodes)) {
    let blocks = row.chunks_exact(kind.block_bytes());
    match kind {
        GgmlType::Q4_K | GgmlType::Q5_K => {
            for (index, block) in blocks.enumerate() {
                for part in 0..SUPER_BLOCK / BLOCK {
                    sink(index * 8 + part, decode_k4_k5(kind, block, part));
                }
            }
        }
        GgmlType::Q6_K => {
            for (index, block) in blocks.enumerate() {
                for (part, values) in dequantize_q6_k(block).chunks_exact(BLOCK).enumerate() {
                    sink(index * 8 + part, quantize_q8_0(values.try_into().expect("chunks are blocks")));
                }
            }
        }
        _ => blocks.enumerate().for_each(|(index, block)| sink(index, decode_block(kind.format(), block))),
    }
}

/// The weights of a row, in full precision. `out` is `[columns]`.
pub fn dequantize_row(kind: GgmlType, row: &[u8], out: &mut [f32]) {
    let bytes = kind.block_bytes();
    match kind {
        GgmlType::F32 => {
            for (out, b) in out.iter_mut().zip(row.chunks_exact(bytes)) {
                *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        GgmlType::F16 => {
            for (out, b) in out.iter_mut().zip(row.chunks_exact(bytes)) {
                *out = half_at(b, 0).to_f32();
            }
        }
        GgmlType::BF16 => {
            for (out, b) in out.iter_mut().zip(row.chunks_exact(bytes)) {
                *out = bf16::from_le_bytes([b[0], b[1]]).to_f32();
            }
        }
        GgmlType::Q4_K | GgmlType::Q5_K => {
            for (out, block) in out.chunks_exact_mut(SUPER_BLOCK).zip(row.chunks_exact(bytes)) {
                for (part, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                    let (d, m) = k_scale(block, part);
                    let codes = k_codes(kind, block, part);
                    out.iter_mut().zip(codes).for_each(|(out, code)| *out = d * f32::from(code) + m);
                }
            }
        }
        GgmlType::Q6_K => {
            for (out, block) in out.chunks_exact_mut(SUPER_BLOCK).zip(row.chunks_exact(bytes)) {
                out.copy_from_slice(&dequantize_q6_k(block));
            }
        }
        _ => {
            for (out, block) in out.chunks_exact_mut(BLOCK).zip(row.chunks_exact(bytes)) {
                out.copy_from_slice(&decode_block(kind.format(), block).dequantize(kind.format()));
            }
        }
    }
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Where ggml puts a block's high bits and low codes: behind `d` and, if there is one, `m`.
const fn high_bits_at(format: Format) -> usize {
    2 + 2 * format.has_min() as usize
}

const fn codes_at(format: Format) -> usize {
    high_bits_at(format) + if matches!(format, Format::Q5_0 | Format::Q5_1) { 4 } else { 0 }
}

/// One block of a format that both sides have: columns 0–15 in the low nibbles, 16–31 in the high
/// ones, and the fifth bits in order of columns.
fn decode_block(format: Format, block: &[u8]) -> BlockCodes {
    let quants = &block[codes_at(format)..];
    let high = match format {
        Format::Q5_0 | Format::Q5_1 => {
            let at = high_bits_at(format);
            u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
        }
        _ => 0,
    };
    let codes = std::array::from_fn(|column| match format {
        Format::Q8_0 => quants[column],
        _ => quants[column % 16] >> (column / 16 * 4) & 15 | ((high >> column & 1) as u8) << 4,
    });
    let min = if format.has_min() { half_at(block, 2).to_bits() } else { 0 };
    BlockCodes { scale: half_at(block, 0).to_bits(), min, codes }
}

/// Appends one block as ggml stores it: the inverse of [`decode_row`] for exact types.
pub fn encode_block(format: Format, block: &BlockCodes, out: &mut Vec<u8>) {
    out.extend(block.scale.to_le_bytes());
    if format.has_min() {
        out.extend(block.min.to_le_bytes());
    }
    if format == Format::Q8_0 {
        out.extend(block.codes);
        return;
    }
    if matches!(format, Format::Q5_0 | Format::Q5_1) {
        let high =
            block.codes.iter().enumerate().fold(0u32, |bits, (column, code)| bits | u32::from(code >> 4 & 1) << column);
        out.extend(high.to_le_bytes());
    }
    out.extend((0..16).map(|column| block.codes[column] & 15 | (block.codes[column + 16] & 15) << 4));
}

/// Scale and minimum of block `part` of a Q4_K or Q5_K super-block: `d·sc` and `−dmin·m`, exact
/// in f32 (eleven bits times six).
fn k_scale(block: &[u8], part: usize) -> (f32, f32) {
    let packed = &block[4..16];
    let (scale, min) = if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        let (low, top_scale, top_min) = (packed[part + 4], packed[part - 4] >> 6, packed[part] >> 6);
        (low & 15 | top_scale << 4, low >> 4 | top_min << 4)
    };
    (half_at(block, 0).to_f32() * f32::from(scale), -(half_at(block, 2).to_f32() * f32::from(min)))
}

/// Codes of block `part`: pairs of blocks share 32 bytes, the first in the low nibbles; the fifth
/// bit of block `part` is bit `part` of the byte of its column.
fn k_codes(kind: GgmlType, block: &[u8], part: usize) -> [u8; BLOCK] {
    let (high, quants) = match kind {
        GgmlType::Q5_K => (Some(&block[16..48]), &block[48..]),
        _ => (None, &block[16..]),
    };
    let quants = &quants[part / 2 * BLOCK..][..BLOCK];
    std::array::from_fn(|column| {
        let top = high.map_or(0, |high| high[column] >> part & 1);
        quants[column] >> (part % 2 * 4) & 15 | top << 4
    })
}

fn decode_k4_k5(kind: GgmlType, block: &[u8], part: usize) -> BlockCodes {
    let (d, m) = k_scale(block, part);
    BlockCodes { scale: f16::from_f32(d).to_bits(), min: f16::from_f32(m).to_bits(), codes: k_codes(kind, block, part) }
}

fn dequantize_q6_k(block: &[u8]) -> [f32; SUPER_BLOCK] {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208).to_f32();
    std::array::from_fn(|column| {
        // Each half of 128 columns is four runs of 32; runs 0 and 2 share low bytes, as do 1
        // and 3, and all four share the bytes of two high bits.
        let (half, run, at) = (column / 128, column % 128 / 32, column % 32);
        let nibble = low[half * 64 + run % 2 * 32 + at] >> (run / 2 * 4) & 15;
        let top = high[half * 32 + at] >> (run * 2) & 3;
        let code = i32::from(nibble | top << 4) - 32;
        let scale = scales[column / 16] as i8;
        d * f32::from(scale) * code as f32
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXACT: [Format; 5] = [Format::Q8_0, Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1];

    /// The K-quants, written out from their definition, one weight at a time.
    fn reference(kind: GgmlType, block: &[u8], column: usize) -> f64 {
        let half = |at: usize| f64::from(half_at(block, at).to_f32());
        if kind == GgmlType::Q6_K {
            let l = column % 32;
            let (ql, qh) = (&block[column / 128 * 64..], &block[128 + column / 128 * 32..]);
            let q = match column % 128 / 32 {
                0 => (ql[l] & 0xf) | ((qh[l] & 3) << 4),
                1 => (ql[l + 32] & 0xf) | (((qh[l] >> 2) & 3) << 4),
                2 => (ql[l] >> 4) | (((qh[l] >> 4) & 3) << 4),
                _ => (ql[l + 32] >> 4) | (((qh[l] >> 6) & 3) << 4),
            };
            return half(208) * f64::from(block[192 + column / 16] as i8) * (f64::from(q) - 32.0);
        }
        let (j, s) = (column / 32, &block[4..16]);
        let (sc, m) = match j {
            0..4 => (s[j] & 63, s[j + 4] & 63),
            _ => ((s[j + 4] & 0xf) | ((s[j - 4] >> 6) << 4), (s[j + 4] >> 4) | ((s[j] >> 6) << 4)),
        };
        let codes = if kind == GgmlType::Q5_K { &block[48..] } else { &block[16..] };
        let byte = codes[column / 64 * 32 + column % 32];
        let mut q = if column % 64 < 32 { byte & 0xf } else { byte >> 4 };
        if kind == GgmlType::Q5_K && block[16 + column % 32] & (1 << j) != 0 {
            q += 16;
        }
        half(0) * f64::from(sc) * f64::from(q) - half(2) * f64::from(m)
    }

    /// A super-block of noise with scales that a model could have.
    fn super_block(kind: GgmlType) -> impl Strategy<Value = Vec<u8>> {
        let noise = prop::collection::vec(any::<u8>(), kind.block_bytes());
        (noise, 0.0001f32..0.1, 0.0001f32..0.1).prop_map(move |(mut block, d, dmin)| {
            let at = if kind == GgmlType::Q6_K { 208 } else { 0 };
            block[at..at + 2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            if kind != GgmlType::Q6_K {
                block[2..4].copy_from_slice(&f16::from_f32(dmin).to_le_bytes());
            }
            block
        })
    }

    fn k_block() -> impl Strategy<Value = (GgmlType, Vec<u8>)> {
        prop::sample::select(vec![GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K])
            .prop_flat_map(|kind| super_block(kind).prop_map(move |block| (kind, block)))
    }

    /// 2⁻¹¹: half a unit in the last place of f16; 2⁻²⁵ where it is subnormal.
    fn f16_bound(value: f64) -> f64 {
        (value.abs() / 2048.0).max(1.0 / f64::from(1u32 << 25))
    }

    proptest! {
        #[test]
        fn exact_types_round_trip_bit_by_bit(format in prop::sample::select(EXACT.to_vec()), noise in prop::collection::vec(any::<u8>(), 3 * 34)) {
            let kind = GgmlType::from(format);
            let row = &noise[..3 * kind.block_bytes()];
            let mut back = Vec::new();
            decode_row(kind, row, |_, block| encode_block(format, &block, &mut back));
            prop_assert_eq!(back, row);
        }

        #[test]
        fn k_quants_dequantize_as_defined((kind, block) in k_block()) {
            let mut weights = [0.0; SUPER_BLOCK];
            dequantize_row(kind, &block, &mut weights);
            for (column, &weight) in weights.iter().enumerate() {
                let expected = reference(kind, &block, column);
                // Three f32 roundings of terms no larger than 0.1 · 127 · 32.
                prop_assert!((f64::from(weight) - expected).abs() <= 1e-6 * expected.abs().max(10.0), "{column}: {weight} {expected}");
            }
        }

        #[test]
        fn k_quants_convert_within_their_bound((kind, block) in k_block()) {
            decode_row(kind, &block, |index, codes| {
                let weights = codes.dequantize(kind.format());
                let d = f64::from(f16::from_bits(codes.scale).to_f32());
                for (column, weight) in weights.into_iter().enumerate() {
                    let expected = reference(kind, &block, index * BLOCK + column);
                    let bound = if kind == GgmlType::Q6_K {
                        d * (0.5 + 128.0 / 2048.0) + f16_bound(0.0) * 128.0
                    } else {
                        let (scale, min) = k_scale(&block, index);
                        let code = f64::from(codes.codes[column]);
                        f16_bound(scale.into()) * code + f16_bound(min.into()) + 1e-6
                    };
                    assert!((f64::from(weight) - expected).abs() <= bound, "{kind:?} {index} {column}: {weight} {expected}");
                }
            });
        }
    }

    #[test]
    fn fifth_bits_and_nibbles_stand_where_ggml_has_them() {
        // Q5_1 with d = 1, m = 2; column 17 alone has code 0b10011.
        let mut block = Vec::new();
        block.extend(f16::from_f32(1.0).to_le_bytes());
        block.extend(f16::from_f32(2.0).to_le_bytes());
        block.extend((1u32 << 17).to_le_bytes());
        block.extend((0..16).map(|i| if i == 1 { 0x30u8 } else { 0 }));
        let mut weights = [0.0; BLOCK];
        dequantize_row(GgmlType::Q5_1, &block, &mut weights);
        assert_eq!(weights[17], 19.0 + 2.0);
        assert!(weights.iter().enumerate().all(|(column, &weight)| column == 17 || weight == 2.0));
    }
}

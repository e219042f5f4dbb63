//! Weight formats: how a matrix lies in the model file, and the codecs of one block.
//!
//! A matrix `[rows, columns]` is cut into **tiles** of [`TILE`] rows and each row into
//! **blocks** of [`BLOCK`] columns. The *record* of a tile and a block holds the block of
//! all sixteen rows, so that one SIMD lane belongs to one row and a kernel reads the file
//! strictly forwards. Rows beyond the matrix are zero.
//!
//! Not here: arithmetic on activations (see [`crate::kernels`]), foreign layouts (GGUF and
//! others are translated through [`BlockCodes`] by the import crate, without loss).

mod encode;

pub use encode::{Importance, quantize_q4_1, quantize_q4_1_weighted, quantize_q8_0, quantize_q8_0_weighted};

use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::map::Slice;

/// Rows in a tile: the 32-bit lanes of a 512-bit register.
pub const TILE: usize = 16;
/// Columns in a quantized block, as in GGUF, so that its blocks convert without loss.
pub const BLOCK: usize = 32;

/// How the weights of one matrix are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the names that the field uses")]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// `d·q`, q in −128..=127.
    Q8_0,
    /// `d·(q − 8)`, q in 0..16.
    Q4_0,
    /// `d·q + m`, q in 0..16.
    Q4_1,
    /// `d·(q − 16)`, q in 0..32.
    Q5_0,
    /// `d·q + m`, q in 0..32.
    Q5_1,
}

impl Format {
    /// Every format, floats first.
    pub const ALL: [Format; 8] =
        [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1];

    /// The name in lower case, as the command line prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::BF16 => "bf16",
            Format::Q8_0 => "q8_0",
            Format::Q4_0 => "q4_0",
            Format::Q4_1 => "q4_1",
            Format::Q5_0 => "q5_0",
            Format::Q5_1 => "q5_1",
        }
    }

    /// Whether weights are codes with a scale for each block, rather than floats.
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Format::F32 | Format::F16 | Format::BF16)
    }

    /// Whether each block has a minimum `m` beside its scale `d`.
    pub const fn has_min(self) -> bool {
        matches!(self, Format::Q4_1 | Format::Q5_1)
    }

    /// What is subtracted from a stored code to get the signed one that `d` multiplies.
    pub const fn code_offset(self) -> i32 {
        match self {
            Format::Q4_0 => 8,
            Format::Q5_0 => 16,
            _ => 0,
        }
    }

    /// Columns in one record: [`BLOCK`] where quantized, else 1.
    pub const fn record_columns(self) -> usize {
        if self.is_quantized() { BLOCK } else { 1 }
    }

    /// Bytes in one record, that is, of [`TILE`] rows and [`Format::record_columns`] columns.
    pub const fn record_bytes(self) -> usize {
        let scales = TILE * 2 * (1 + self.has_min() as usize);
        match self {
            Format::F32 => TILE * 4,
            Format::F16 | Format::BF16 => TILE * 2,
            Format::Q8_0 => scales + TILE * BLOCK,
            Format::Q4_0 | Format::Q4_1 => scales + TILE * BLOCK / 2,
            Format::Q5_0 | Format::Q5_1 => scales + TILE * BLOCK / 2 + TILE * BLOCK / 8,
        }
    }

    /// Where the codes begin in a record, behind the scales and minima.
    pub const fn codes_at(self) -> usize {
        if !self.is_quantized() { 0 } else { TILE * 2 * (1 + self.has_min() as usize) }
    }

    /// Bytes of a matrix `[rows, columns]`, or why it has no such format.
    pub fn matrix_bytes(self, rows: usize, columns: usize) -> Result<usize> {
        if columns == 0 || !columns.is_multiple_of(self.record_columns()) {
            return Err(Error::invalid(format!(
                "{} needs columns in multiples of {}, found {columns}",
                self.name(),
                self.record_columns()
            )));
        }
        rows.div_ceil(TILE)
            .checked_mul(columns / self.record_columns())
            .and_then(|records| records.checked_mul(self.record_bytes()))
            .ok_or_else(|| Error::invalid(format!("a matrix of {rows} × {columns} overflows memory")))
    }
}

// Record sizes are what identifies a format in the file: they must differ.
const _: () = {
    assert!(Format::Q8_0.record_bytes() == 544);
    assert!(Format::Q4_0.record_bytes() == 288);
    assert!(Format::Q4_1.record_bytes() == 320);
    assert!(Format::Q5_0.record_bytes() == 352);
    assert!(Format::Q5_1.record_bytes() == 384);
};

/// One block of one row: scale, minimum and codes, exactly as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCodes {
    /// Bits of the scale `d`, f16.
    pub scale: u16,
    /// Bits of the minimum `m`, f16; zero in formats without one.
    pub min: u16,
    /// Codes in column order: 0..16 or 0..32, or the bits of an `i8` in Q8_0.
    pub codes: [u8; BLOCK],
}

impl BlockCodes {
    /// The weights that the block stands for: what every kernel computes with.
    pub fn dequantize(&self, format: Format) -> [f32; BLOCK] {
        let d = f16::from_bits(self.scale).to_f32();
        let m = f16::from_bits(self.min).to_f32();
        self.codes.map(|code| match format {
            Format::Q8_0 => d * f32::from(code as i8),
            // One rounding: in f32, d·q of an f16 and five bits is exact.
            _ => d * (i32::from(code) - format.code_offset()) as f32 + m,
        })
    }
}

/// Byte of a record that holds code (`row`, `column`) and, for formats below eight bits,
/// the shift of its low four bits.
///
/// Codes stand in groups of four columns: byte `group·64 + row·4 + column mod 4`. Four-bit
/// groups 0–3 share their bytes with groups 4–7: columns 0–15 in the low nibble, 16–31 in
/// the high one.
#[inline]
fn code_place(format: Format, row: usize, column: usize) -> (usize, u32) {
    let (column, shift) = match format {
        Format::Q8_0 => (column, 0),
        _ => (column % 16, if column < 16 { 0 } else { 4 }),
    };
    (format.codes_at() + column / 4 * 64 + row * 4 + column % 4, shift)
}

/// Byte and bit of a five-bit code's high bit: bit `group` of byte `row·4 + column mod 4`,
/// behind the nibbles, where `group` is `column / 4`.
#[inline]
fn high_bit_place(format: Format, row: usize, column: usize) -> (usize, u32) {
    (format.codes_at() + TILE * BLOCK / 2 + row * 4 + column % 4, (column / 4) as u32)
}

/// Writes one row's block into a record that is still zero in that row.
pub fn pack_block(format: Format, record: &mut [u8], row: usize, block: &BlockCodes) {
    debug_assert!(format.is_quantized() && row < TILE && record.len() == format.record_bytes());
    record[row * 2..][..2].copy_from_slice(&block.scale.to_le_bytes());
    if format.has_min() {
        record[TILE * 2 + row * 2..][..2].copy_from_slice(&block.min.to_le_bytes());
    }
    for (column, &code) in block.codes.iter().enumerate() {
        let (byte, shift) = code_place(format, row, column);
        match format {
            Format::Q8_0 => record[byte] = code,
            _ => record[byte] |= (code & 15) << shift,
        }
        if matches!(format, Format::Q5_0 | Format::Q5_1) {
            let (byte, bit) = high_bit_place(format, row, column);
            record[byte] |= (code >> 4 & 1) << bit;
        }
    }
}

/// Reads one row's block out of a record: the inverse of [`pack_block`].
pub fn unpack_block(format: Format, record: &[u8], row: usize) -> BlockCodes {
    debug_assert!(format.is_quantized() && row < TILE && record.len() == format.record_bytes());
    let half = |at: usize| u16::from_le_bytes([record[at], record[at + 1]]);
    let mut codes = [0; BLOCK];
    for (column, code) in codes.iter_mut().enumerate() {
        let (byte, shift) = code_place(format, row, column);
        *code = match format {
            Format::Q8_0 => record[byte],
            _ => record[byte] >> shift & 15,
        };
        if matches!(format, Format::Q5_0 | Format::Q5_1) {
            let (byte, bit) = high_bit_place(format, row, column);
            *code |= (record[byte] >> bit & 1) << 4;
        }
    }
    BlockCodes { scale: half(row * 2), min: if format.has_min() { half(TILE * 2 + row * 2) } else { 0 }, codes }
}

/// A matrix of the model, read in place: `[rows, columns]`, row times vector.
#[derive(Clone)]
pub struct Matrix {
    format: Format,
    rows: usize,
    columns: usize,
    bytes: Slice<u8>,
}

impl Matrix {
    /// A view of `bytes`, whose length must be that of the format and shape.
    pub fn new(format: Format, rows: usize, columns: usize, bytes: Slice<u8>) -> Result<Self> {
        let expected = format.matrix_bytes(rows, columns)?;
        if bytes.len() != expected {
            return Err(Error::corrupt(format!(
                "a {} matrix of {rows} × {columns} takes {expected} bytes, found {}",
                format.name(),
                bytes.len()
            )));
        }
        Ok(Self { format, rows, columns, bytes })
    }

    /// The storage format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Output width.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input width.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Tiles of sixteen rows, the last one padded.
    pub fn tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// All records: `[tiles, columns / record_columns, record_bytes]`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One tile, as stored.
    pub fn tile(&self, tile: usize) -> &[u8] {
        &self.bytes[tile * self.tile_bytes()..][..self.tile_bytes()]
    }

    /// Bytes of one tile.
    pub fn tile_bytes(&self) -> usize {
        self.columns / self.format.record_columns() * self.format.record_bytes()
    }

    /// The codes of one block of one row. Panics where the format is a float.
    pub fn block(&self, row: usize, block: usize) -> BlockCodes {
        let bytes = self.format.record_bytes();
        let at = row / TILE * self.tile_bytes() + block * bytes;
        unpack_block(self.format, &self.bytes[at..at + bytes], row % TILE)
    }

    /// Row `row` as f32, exactly. Panics where `out` is not `[columns]`.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.columns);
        if self.format.is_quantized() {
            for (block, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                out.copy_from_slice(&self.block(row, block).dequantize(self.format));
            }
            return;
        }
        let record = self.format.record_bytes();
        let width = record / TILE;
        let at = row / TILE * self.tile_bytes() + row % TILE * width;
        for (column, out) in out.iter_mut().enumerate() {
            let bytes = &self.bytes[at + column * record..][..width];
            *out = match self.format {
                Format::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                Format::F16 => f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
                _ => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
            };
        }
    }
}

/// Builds the bytes of a matrix row by row.
pub struct MatrixBuilder {
    format: Format,
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
}

impl MatrixBuilder {
    /// An all-zero matrix `[rows, columns]`.
    pub fn new(format: Format, rows: usize, columns: usize) -> Result<Self> {
        let bytes = vec![0; format.matrix_bytes(rows, columns)?];
        Ok(Self { format, rows, columns, bytes })
    }

    /// Stores one block of codes, exactly, in a place that was not written before.
    pub fn set_block(&mut self, row: usize, block: usize, codes: &BlockCodes) {
        assert!(row < self.rows && block < self.columns / BLOCK && self.format.is_quantized());
        let bytes = self.format.record_bytes();
        let at = (row / TILE * (self.columns / BLOCK) + block) * bytes;
        pack_block(self.format, &mut self.bytes[at..at + bytes], row % TILE, codes);
    }

    /// Stores a row of float bits as they are: `[columns]` little-endian values of the format.
    pub fn set_float_row(&mut self, row: usize, values: &[u8]) {
        let record = self.format.record_bytes();
        let width = record / TILE;
        assert!(row < self.rows && !self.format.is_quantized() && values.len() == self.columns * width);
        let at = row / TILE * self.columns * record + row % TILE * width;
        for (column, value) in values.chunks_exact(width).enumerate() {
            self.bytes[at + column * record..][..width].copy_from_slice(value);
        }
    }

    /// Stores a row given in f32, rounded to the format: to nearest for floats, by the
    /// error-minimising search of [`quantize_q4_1`] and [`quantize_q8_0`] for those two.
    /// Other formats are only ever imported as codes.
    pub fn set_row(&mut self, row: usize, values: &[f32]) -> Result<()> {
        assert_eq!(values.len(), self.columns);
        let quantize = match self.format {
            Format::Q4_1 => quantize_q4_1,
            Format::Q8_0 => quantize_q8_0,
            Format::F32 => {
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                self.set_float_row(row, &bytes);
                return Ok(());
            }
            Format::F16 => {
                let bytes: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
                self.set_float_row(row, &bytes);
                return Ok(());
            }
            Format::BF16 => {
                let bytes: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
                self.set_float_row(row, &bytes);
                return Ok(());
            }
            other => return Err(Error::invalid(format!("floats are not quantized to {}", other.name()))),
        };
        for (block, values) in values.chunks_exact(BLOCK).enumerate() {
            let values: &[f32; BLOCK] = values.try_into().expect("chunks are blocks");
            self.set_block(row, block, &quantize(values));
        }
        Ok(())
    }

    /// [`MatrixBuilder::set_row`] with the errors of each column weighted by `importance`,
    /// `[columns]`, where the format is one that floats are quantized to. Takes longer.
    pub fn set_row_weighted(&mut self, row: usize, values: &[f32], importance: &[f32]) -> Result<()> {
        assert!(values.len() == self.columns && importance.len() == self.columns);
        let quantize = match self.format {
            Format::Q4_1 => quantize_q4_1_weighted,
            Format::Q8_0 => quantize_q8_0_weighted,
            _ => return self.set_row(row, values),
        };
        for (block, (values, importance)) in values.chunks_exact(BLOCK).zip(importance.chunks_exact(BLOCK)).enumerate()
        {
            let values: &[f32; BLOCK] = values.try_into().expect("chunks are blocks");
            let importance: &Importance = importance.try_into().expect("chunks are blocks");
            self.set_block(row, block, &quantize(values, importance));
        }
        Ok(())
    }

    /// The bytes: `[tiles, columns / record_columns, record_bytes]`.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quantized() -> impl Strategy<Value = Format> {
        prop::sample::select(Format::ALL.into_iter().filter(|f| f.is_quantized()).collect::<Vec<_>>())
    }

    proptest! {
        /// Codes survive packing bit by bit, whatever they and their neighbours are.
        #[test]
        fn packing_is_exact(format in quantized(), seed in prop::array::uniform32(any::<u8>()), scale: u16, min: u16) {
            let mask = match format { Format::Q8_0 => 255, Format::Q4_0 | Format::Q4_1 => 15, _ => 31 };
            let mut record = vec![0; format.record_bytes()];
            let block = |row: usize| BlockCodes {
                scale: scale.wrapping_add(row as u16),
                min: if format.has_min() { min.wrapping_mul(row as u16 + 1) } else { 0 },
                codes: seed.map(|s| s.wrapping_mul(row as u8 * 2 + 1) & mask),
            };
            for row in 0..TILE {
                pack_block(format, &mut record, row, &block(row));
            }
            for row in 0..TILE {
                prop_assert_eq!(unpack_block(format, &record, row), block(row));
            }
        }
    }

    #[test]
    fn ragged_matrices_round_trip() {
        for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_1] {
            let (rows, columns) = (19, 64);
            // Multiples of 1/4 up to 3.75: representable in every format, so that only
            // misplacement can change them.
            let value = |row: usize, column: usize| {
                if column.is_multiple_of(BLOCK) {
                    0.0
                } else if column % BLOCK == 1 {
                    3.75
                } else {
                    ((row * 7 + column * 3) % 16) as f32 * 0.25
                }
            };
            let mut builder = MatrixBuilder::new(format, rows, columns).unwrap();
            for row in 0..rows {
                let values: Vec<f32> = (0..columns).map(|column| value(row, column)).collect();
                builder.set_row(row, &values).unwrap();
            }
            let bytes = builder.finish();
            let matrix = Matrix::new(format, rows, columns, Slice::from_bytes(&bytes)).unwrap();
            let mut out = vec![0.0; columns];
            for row in 0..rows {
                matrix.dequantize_row(row, &mut out);
                for (column, &out) in out.iter().enumerate() {
                    // Q8's step is 3.75/127; the others are exact.
                    let bound = if format == Format::Q8_0 { 3.75 / 127.0 * 0.51 } else { 2e-3 * value(row, column) };
                    assert!(
                        (out - value(row, column)).abs() <= bound,
                        "{format:?} {row} {column}: {out} {}",
                        value(row, column)
                    );
                }
            }
        }
    }
}

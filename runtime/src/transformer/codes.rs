//! Rows of activations as codes: where they lie, and who writes them.
//!
//! Not here: the arithmetic of a code (see [`crate::kernels::activations`]).

use super::{BATCH, Shared};
use crate::error::{Error, Result};
use crate::kernels::Kernel;
use crate::kernels::activations::{ActivationBlock, Quantize, QuantizeRest};
use crate::kernels::matmul::Input;
use crate::kv::Precision;
use crate::quant::{BLOCK, Matrix};

/// In which forms the input of some products is wanted. What one thread writes for another to read has its price, so
/// that forms which nobody reads are not written.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) codes: bool,
    /// For an adapter, for weights that are floats, and on the exact path.
    pub(super) floats: bool,
}

/// Rows as codes, `[BATCH, width / 32]`; on the fine path `[BATCH, 2, width / 32]`, with codes of what codes leave.
#[derive(Default)]
pub(super) struct Codes {
    blocks: Vec<ActivationBlock>,
    fine: bool,
}

impl Codes {
    pub(super) fn new(width: usize, precision: Precision) -> Result<Self> {
        let fine = precision == Precision::Fine;
        let count = BATCH * width.div_ceil(BLOCK) * (1 + usize::from(fine));
        let (mut blocks, bytes) = (Vec::new(), count * size_of::<ActivationBlock>());
        blocks.try_reserve_exact(count).map_err(|_| Error::OutOfMemory { bytes })?;
        blocks.resize(count, ActivationBlock::default());
        Ok(Self { blocks, fine })
    }

    /// No rows: [`Codes::input`] of none is of the kind that rows would be of.
    pub(super) fn none(precision: Precision) -> Self {
        Self { blocks: Vec::new(), fine: precision == Precision::Fine }
    }

    /// Where jobs write codes of `rows` rows of `width`.
    pub(super) fn encoder(&mut self, kernel: Kernel, rows: usize, width: usize) -> Encoder {
        // Not so where a job panicked, the host went on, and the buffer was lost.
        assert!(rows * (width / BLOCK) * (1 + usize::from(self.fine)) <= self.blocks.len());
        Encoder { kernel, blocks: Shared(self.blocks.as_mut_ptr()), width: width / BLOCK, fine: self.fine }
    }

    /// The first `len / width` rows.
    pub(super) fn input(&self, len: usize) -> Input<'_> {
        let blocks = &self.blocks[..len / BLOCK * (1 + usize::from(self.fine))];
        if self.fine { Input::Fine(blocks) } else { Input::Codes(blocks) }
    }
}

/// See [`Codes::encoder`].
#[derive(Clone, Copy)]
pub(super) struct Encoder {
    kernel: Kernel,
    blocks: Shared<ActivationBlock>,
    width: usize,
    fine: bool,
}

impl Encoder {
    /// Codes of `floats`, which are the row's from block `start` on.
    ///
    /// # Safety
    /// These blocks of the row are no other job's.
    pub(super) unsafe fn encode(&self, floats: &[f32], row: usize, start: usize) {
        let (count, start) = (floats.len() / BLOCK, row * self.width * (1 + usize::from(self.fine)) + start);
        // SAFETY: rows and their rests are disjoint; else as the caller promises.
        let codes = unsafe { self.blocks.slice(start, count) };
        self.kernel.run(Quantize { row: floats, out: codes });
        if self.fine {
            // SAFETY: as above.
            let out = unsafe { self.blocks.slice(start + self.width, count) };
            self.kernel.run(QuantizeRest { row: floats, codes, out });
        }
    }
}

/// What `matrix` is multiplied with: codes where both allow it.
pub(super) fn input<'a>(matrix: &Matrix, exact: bool, rows: &'a [f32], codes: &'a Codes) -> Input<'a> {
    if exact || !matrix.format().is_quantized() { Input::Float(rows) } else { codes.input(rows.len()) }
}

//! How threads share the products of one region, and what each thread reads first: known before the region begins, so that
//! memory can be asked for it in time.
//!
//! Not here: the products themselves (see [`crate::kernels::matmul`]).

use std::ops::Range;

use super::codes::{Codes, input};
use super::cut::Cut;
use crate::kernels::Kernel;
use crate::kernels::matmul::FirstRead;
use crate::kernels::prefetch::Lines;
use crate::kv::Precision;
use crate::quant::Matrix;

/// Products with matrices side by side.
#[derive(Clone, Copy)]
pub(super) struct Products<'a> {
    pub(super) matrices: [Option<&'a Matrix>; 3],
    /// Jobs are whole units of so many tiles.
    pub(super) unit: usize,
    /// Most tiles of a matrix that are multiplied before those of another.
    pub(super) together: usize,
    pub(super) tokens: usize,
    pub(super) kernel: Kernel,
    pub(super) precision: Precision,
    pub(super) threads: usize,
}

impl<'a> Products<'a> {
    /// The jobs, in units.
    pub(super) fn cut(&self) -> Cut {
        let tiles: usize = self.matrices.iter().flatten().map(|matrix| matrix.tiles()).sum();
        Cut::new(tiles.div_ceil(self.unit), self.threads)
    }

    /// What is read first of `tiles`, which are counted over all matrices.
    pub(super) fn first_read(&self, mut tiles: Range<usize>) -> Lines {
        let Self { kernel, tokens, precision, .. } = *self;
        for &matrix in self.matrices.iter().flatten() {
            let count = matrix.tiles();
            if tiles.start < count {
                let tiles = tiles.start..tiles.end.min(count).min(tiles.start.saturating_add(self.together));
                let none = Codes::none(precision);
                let input = input(matrix, precision == Precision::Exact, &[], &none);
                return kernel.run(FirstRead { matrix, tiles, input, tokens });
            }
            tiles = tiles.start - count..tiles.end - count;
        }
        Lines::default()
    }

    /// What a job reads first; nothing, if there is no such job.
    pub(super) fn first_read_of(&self, job: usize) -> Lines {
        let cut = self.cut();
        if job >= cut.jobs() {
            return Lines::default();
        }
        let units = cut.parts_of(job);
        self.first_read(units.start * self.unit..units.end * self.unit)
    }

    /// What a thread reads first of all.
    pub(super) fn first_read_by(&self, worker: usize) -> Lines {
        self.first_read_of(self.cut().first_of(worker))
    }

    /// What a thread likely reads after a job: the weights of its next one or, where that was the last one, those that it reads
    /// first of `next`.
    pub(super) fn after(&self, job: usize, worker: usize, next: &Products) -> Lines {
        match self.cut().after(job, worker) {
            Some(job) => self.first_read_of(job),
            None => next.first_read_by(worker),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Slice;
    use crate::quant::{Format, MatrixBuilder, TILE};

    #[test]
    fn what_comes_next_is_where_jobs_begin() {
        // As many tiles as q, k, v, and as the matrix that follows them.
        let matrix = |tiles: usize| {
            let zeros = MatrixBuilder::new(Format::Q8_0, tiles * TILE, 64).expect("memory").finish();
            Matrix::new(Format::Q8_0, tiles * TILE, 64, Slice::from_bytes(&zeros)).expect("as built")
        };
        let (qkv, output) = ([matrix(36), matrix(12), matrix(12)], matrix(36));
        let of = |matrices, unit, together| Products {
            matrices,
            unit,
            together,
            tokens: 1,
            kernel: Kernel::best(),
            precision: Precision::Fast,
            threads: 2,
        };
        let (qkv, next) = (of(qkv.each_ref().map(Some), 4, usize::MAX), of([Some(&output), None, None], 1, 2));
        let tile = |index: usize| {
            let (matrix, first) = match index {
                0..36 => (qkv.matrices[0], 0),
                36..48 => (qkv.matrices[1], 36),
                _ => (qkv.matrices[2], 48),
            };
            let matrix = matrix.expect("three of them");
            matrix.bytes().as_ptr().addr() + (index - first) * matrix.tile_bytes()
        };
        let first = |mut lines: Lines| lines.next().map(|line| line.addr());
        let cut = qkv.cut();
        let share = cut.jobs() / 2;
        assert!(share > 1);
        for job in 0..cut.jobs() {
            let start = |job: usize| Some(tile(cut.parts_of(job).start * 4));
            assert_eq!(first(qkv.first_read_of(job)), start(job));
            let worker = job / share;
            let after = first(qkv.after(job, worker, &next));
            if job % share + 1 < share {
                assert_eq!(after, start(job + 1));
            } else {
                let half = worker * output.tiles() / 2 * output.tile_bytes();
                assert_eq!(after, Some(output.bytes().as_ptr().addr() + half));
            }
        }
        assert_eq!(first(qkv.first_read_of(cut.jobs())), None);
        // No more of a matrix than is multiplied before another one.
        assert_eq!(next.first_read_of(0).count() * crate::kernels::prefetch::LINE, 2 * output.tile_bytes());
    }
}

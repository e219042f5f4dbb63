//! Asking for memory before it is needed.

/// Bytes in a line of the cache.
pub const LINE: usize = 64;

/// Says that the cache line at `p` is wanted soon. `p` may point anywhere: such a hint cannot fault.
#[inline(always)]
pub fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every such processor has the instruction.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(p.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) p, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}

/// Cache lines of stretches of memory that are equally long and lie one after the other: a line of each in turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines {
    /// Where the first stretch begins. An address and no pointer: nothing is read.
    start: usize,
    stretches: usize,
    /// Bytes of each.
    len: usize,
    /// The next line: in which stretch, and where there.
    stretch: usize,
    at: usize,
}

impl Lines {
    /// Of so many stretches, `len` bytes each.
    #[inline(always)]
    pub fn new(start: *const u8, stretches: usize, len: usize) -> Self {
        debug_assert!(stretches > 0);
        Self { start: start.addr(), stretches, len, ..Self::default() }
    }

    /// Where `N` streams that ask for these lines, `each` bytes a stream, go on after `at` bytes, if they do.
    #[inline(always)]
    pub(super) fn of_streams<const N: usize>(&self, at: usize, each: usize) -> Option<[*const u8; N]> {
        if self.stretches == 0 || at >= each {
            return None;
        }
        // That of a stretch in what all streams ask for.
        let share = N * each / self.stretches;
        Some(std::array::from_fn(|stream| {
            let at = stream * each + at;
            std::ptr::without_provenance(self.start + at / share * self.len + at % share)
        }))
    }
}

impl Iterator for Lines {
    type Item = *const u8;

    #[inline(always)]
    fn next(&mut self) -> Option<*const u8> {
        if self.at >= self.len {
            return None;
        }
        let line = self.start + self.stretch * self.len + self.at;
        self.stretch += 1;
        if self.stretch == self.stretches {
            (self.stretch, self.at) = (0, self.at + LINE);
        }
        Some(std::ptr::without_provenance(line))
    }
}

#[cfg(test)]
mod tests {
    use super::{LINE, Lines};

    #[test]
    fn lines_of_each_stretch_in_turn() {
        let lines: Vec<usize> = Lines::new(std::ptr::without_provenance(640), 3, 128).map(|p| p.addr()).collect();
        assert_eq!(lines, [640, 768, 896, 704, 832, 960]);
        assert_eq!(Lines::default().count(), 0);
    }

    /// However many streams ask, and however many stretches there are: each line once, of all stretches as much.
    #[test]
    fn streams_ask_for_each_line_once() {
        fn asked<const N: usize>(lines: &Lines, each: usize) -> Vec<usize> {
            let mut asked: Vec<usize> = (0..2 * each)
                .step_by(LINE)
                .flat_map(|at| lines.of_streams::<N>(at, each).into_iter().flatten())
                .map(|p| p.addr())
                .collect();
            asked.sort_unstable();
            asked
        }
        const ALL: usize = 16 * LINE;
        for stretches in [1, 2, 4] {
            let len = 100 * LINE;
            let lines = Lines::new(std::ptr::without_provenance(640), stretches, len);
            let mut first: Vec<usize> = lines.take(ALL / LINE).map(|p| p.addr()).collect();
            first.sort_unstable();
            assert_eq!(asked::<1>(&lines, ALL), first);
            assert_eq!(asked::<2>(&lines, ALL / 2), first);
            assert_eq!(asked::<4>(&lines, ALL / 4), first);
        }
        assert_eq!(Lines::default().of_streams::<2>(0, LINE), None);
    }
}

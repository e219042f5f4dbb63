//! Asking for memory before it is needed.

/// Bytes in a line of the cache.
pub const LINE: usize = 64;

/// Says that the cache line at `p` is wanted soon. `p` may point anywhere: such a hint cannot fault. On x86 it goes to the
/// first-level cache, which made tokens quicker on Zen 5 than the second does, and no difference on Zen 3; on ARM, where
/// neither was measured, to the second.
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

/// Says that the cache line at `p` is written soon: for that it comes alone, with no copy left elsewhere. `p` may point
/// anywhere.
#[inline(always)]
pub fn prefetch_to_write<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: processors that do not know the instruction pass over it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(p.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: every such processor has the instruction.
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{0}]", in(reg) p, options(nostack, preserves_flags, readonly));
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

    /// Where the `number`th pieces of `N` streams are, which ask for these lines in pieces of so many bytes: a piece of each
    /// stretch in turn. `None` where there are not so many.
    #[inline(always)]
    pub(super) fn of_streams<const N: usize>(&self, number: usize, bytes: usize) -> Option<[*const u8; N]> {
        let last = (number + 1) * N - 1;
        if self.stretches == 0 || (last / self.stretches + 1) * bytes > self.len {
            return None;
        }
        Some(std::array::from_fn(|stream| {
            let piece = number * N + stream;
            let (stretch, at) = (piece % self.stretches, piece / self.stretches * bytes);
            std::ptr::without_provenance(self.start + stretch * self.len + at)
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

    /// However many streams ask, and however many stretches there are: each piece once, the same of every stretch, and
    /// nothing beyond.
    #[test]
    fn streams_ask_for_each_piece_once() {
        fn asked<const N: usize>(lines: &Lines, bytes: usize) -> Vec<usize> {
            let pieces = (0..).map_while(|number| lines.of_streams::<N>(number, bytes));
            let mut asked: Vec<usize> = pieces.flatten().map(|p| p.addr()).collect();
            asked.sort_unstable();
            asked
        }
        // A record of Q4_1, and one of Q8_0, which is no whole number of lines.
        for (bytes, stretches) in [320, 544].into_iter().flat_map(|bytes| [1, 2, 4].map(|stretches| (bytes, stretches)))
        {
            for pieces in [0, 4, 20] {
                let len = pieces * bytes;
                let lines = Lines::new(std::ptr::without_provenance(640), stretches, len);
                let all: Vec<usize> = (0..stretches * pieces).map(|piece| 640 + piece * bytes).collect();
                assert_eq!(asked::<1>(&lines, bytes), all);
                assert_eq!(asked::<2>(&lines, bytes), all);
                assert_eq!(asked::<4>(&lines, bytes), all);
            }
            // Not even a piece of what is shorter.
            let lines = Lines::new(std::ptr::without_provenance(640), stretches, bytes - 1);
            assert_eq!(lines.of_streams::<1>(0, bytes), None);
        }
        assert_eq!(Lines::default().of_streams::<2>(0, LINE), None);
    }
}

//! Asking for memory before it is needed.

/// Bytes in a line of the cache.
pub const LINE: usize = 64;

/// Says that the cache line at `p` is wanted soon, in the second-level cache: it waits for more lines at once than
/// the first. `p` may point anywhere: such a hint cannot fault.
#[inline(always)]
pub fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every such processor has the instruction.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        std::arch::asm!("prfm pldl2keep, [{0}]", in(reg) p, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = p;
}

/// Cache lines of stretches of memory that are equally long, one of each in turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines {
    /// Where the first stretch begins. An address and no pointer: nothing is read.
    start: usize,
    stretches: usize,
    /// Bytes from one to the next.
    apart: usize,
    /// Bytes of each.
    len: usize,
    /// The next line: in which stretch, and where there.
    stretch: usize,
    at: usize,
}

impl Lines {
    /// Of `stretches`, each `apart` bytes after the one before, the first `len` bytes.
    #[inline(always)]
    pub fn new(start: *const u8, stretches: usize, apart: usize, len: usize) -> Self {
        debug_assert!(stretches > 0);
        Self { start: start.addr(), stretches, apart, len, ..Self::default() }
    }
}

impl Iterator for Lines {
    type Item = *const u8;

    #[inline(always)]
    fn next(&mut self) -> Option<*const u8> {
        if self.at >= self.len {
            return None;
        }
        let line = self.start + self.stretch * self.apart + self.at;
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
        let lines: Vec<usize> = Lines::new(std::ptr::without_provenance(640), 3, 1000, 65).map(|p| p.addr()).collect();
        assert_eq!(lines, [640, 1640, 2640, 640 + LINE, 1640 + LINE, 2640 + LINE]);
        assert_eq!(Lines::default().count(), 0);
    }
}

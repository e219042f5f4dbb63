//! How a product's parts, tiles or several of them, become jobs of threads.

use std::ops::Range;

/// Parts cut into jobs: three quarters of them in one large job for each thread, three quarters of the rest in the next
/// ones, and so on down to single parts. Large jobs stream memory well, as each begins with a wait for its first bytes,
/// and with small ones at the end all threads come to it together, also where one of them was interrupted.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    parts: usize,
    threads: usize,
    /// Rounds of `threads` jobs each; what is left after them are single parts.
    rounds: usize,
}

impl Cut {
    /// Of what there is before a round, one part in four is left after it: so many bits fewer.
    const LEFT: usize = 2;

    pub(super) fn new(parts: usize, threads: usize) -> Self {
        let rounds = (parts / threads).checked_ilog2().unwrap_or(0) as usize / Self::LEFT;
        Self { parts, threads, rounds }
    }

    /// Parts that are left after `rounds`.
    fn left(&self, rounds: usize) -> usize {
        self.parts >> (Self::LEFT * rounds)
    }

    pub(super) fn jobs(&self) -> usize {
        if self.threads == 1 { 1 } else { self.rounds * self.threads + self.left(self.rounds) }
    }

    pub(super) fn parts_of(&self, job: usize) -> Range<usize> {
        if self.threads == 1 {
            return 0..self.parts;
        }
        let (round, place) = (job / self.threads, job % self.threads);
        if round >= self.rounds {
            let start = self.parts - (self.jobs() - job);
            return start..start + 1;
        }
        let (start, end) = (self.parts - self.left(round), self.parts - self.left(round + 1));
        let at = |place: usize| start + (end - start) * place / self.threads;
        at(place)..at(place + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Cut;

    #[test]
    fn jobs_are_all_parts_once_and_end_small() {
        for threads in 1..9 {
            for parts in (0..200).chain([3072]) {
                let cut = Cut::new(parts, threads);
                let mut end = 0;
                for job in 0..cut.jobs() {
                    let range = cut.parts_of(job);
                    assert_eq!(range.start, end, "{parts} parts, {threads} threads");
                    end = range.end;
                    assert!(threads == 1 || range.len() <= (3 * parts).div_ceil(4 * threads).max(1));
                }
                assert_eq!(end, parts);
                if threads > 1 && parts > 0 {
                    assert_eq!(cut.parts_of(cut.jobs() - 1).len(), 1);
                }
            }
        }
    }
}

//! How a product's parts, tiles or several of them, become jobs of threads.

use std::ops::Range;

/// Parts cut into jobs, the same number for each thread (see [`crate::pool`]): three quarters of a thread's parts in the first,
/// three quarters of the rest in the next one, and so on down to a few. Large jobs stream memory well, as each begins with a
/// wait for its first bytes, and small ones at the end are left for threads that have done theirs, also where one of them
/// was interrupted.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    parts: usize,
    /// At most as many as there are parts.
    threads: usize,
    /// Jobs of each thread.
    each: usize,
}

impl Cut {
    /// Of what there is before a job, one part in four is left after it: so many bits fewer.
    const LEFT: usize = 2;

    pub(super) fn new(parts: usize, threads: usize) -> Self {
        let threads = threads.min(parts).max(1);
        let halvings = if threads == 1 { 0 } else { (parts / threads).ilog2() as usize };
        Self { parts, threads, each: halvings / Self::LEFT + 1 }
    }

    pub(super) fn jobs(&self) -> usize {
        self.each * self.threads
    }

    /// The first of a thread's jobs.
    pub(super) fn first_of(&self, thread: usize) -> usize {
        self.each * thread
    }

    /// The job that `thread` likely does after this one: the next of its own share, or of another's, which it helps with from the
    /// end, the one before. `None` at the end of a share.
    pub(super) fn after(&self, job: usize, thread: usize) -> Option<usize> {
        let share = self.first_of(job / self.each)..self.first_of(job / self.each + 1);
        let next = if share.start == self.first_of(thread) { Some(job + 1) } else { job.checked_sub(1) };
        next.filter(|next| share.contains(next))
    }

    pub(super) fn parts_of(&self, job: usize) -> Range<usize> {
        let (thread, number) = (job / self.each, job % self.each);
        let at = |thread: usize| self.parts * thread / self.threads;
        let (start, end) = (at(thread), at(thread + 1));
        // What is left before a job of this number.
        let left = |number: usize| if number == self.each { 0 } else { (end - start) >> (Self::LEFT * number) };
        end - left(number)..end - left(number + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Cut;
    use crate::pool::share;

    #[test]
    fn jobs_are_all_parts_once_and_end_small() {
        for threads in 1..9 {
            for parts in (0..300).chain([3072]) {
                let cut = Cut::new(parts, threads);
                let mut end = 0;
                // As the pool has it.
                for thread in 0..threads {
                    let own = share(cut.jobs(), threads, thread);
                    assert!(own.is_empty() || own.start == cut.first_of(thread), "{parts} parts, {threads} threads");
                }
                for job in 0..cut.jobs() {
                    let range = cut.parts_of(job);
                    assert_eq!(range.start, end, "{parts} parts, {threads} threads");
                    assert!(parts == 0 || !range.is_empty(), "{parts} parts, {threads} threads");
                    end = range.end;
                    let thread = job / cut.each;
                    let (own, last) = (cut.first_of(thread), cut.first_of(thread + 1) - 1);
                    match cut.after(job, thread) {
                        // A quarter is left for what comes after it.
                        Some(next) => {
                            let rest = cut.parts_of(next).start..cut.parts_of(last).end;
                            assert_eq!(rest.len(), (range.len() + rest.len()) / 4);
                        }
                        // Four of a thread's parts are two jobs, and a thread has one more than another at most.
                        None => assert!(threads == 1 || range.len() <= 4, "{parts} parts, {threads} threads"),
                    }
                    assert_eq!(cut.after(job, thread + 1), (job > own).then(|| job - 1));
                    let all = cut.parts_of(own).start..cut.parts_of(last).end;
                    assert!((parts / cut.threads..=parts.div_ceil(cut.threads)).contains(&all.len()));
                }
                assert_eq!(end, parts);
            }
        }
    }
}

//! Worker threads for one session: persistent, awake while there is work, never waited for
//! when they are not.
//!
//! A region is a count of jobs. Each thread, the caller's among them, has a share of them,
//! one after the other, and takes the first of what is left of it; who has none left takes
//! the last of the others'. When nobody has any, the caller waits for workers that are at a
//! job. So a worker that the system has put aside delays nothing but a job that it has begun,
//! and a region is correct even if no worker comes. Between regions workers spin, then yield,
//! and sleep only when there was nothing for them for [`AWAKE`]; decoding never lets that
//! happen. Before they spin, they ask memory for what they will read next.
//!
//! What threads tell one another has its price, a hundred nanoseconds near, six hundred where
//! two of them have no cache in common, and a token takes a hundred and fifty regions. So a
//! thread's share is in a cache line of its own, together with all that it has to know: to
//! begin, a worker waits for one line to come, and takes jobs from it alone until the end.
//!
//! Not here: what the jobs do, and any splitting that would change results.

use std::any::Any;
use std::cell::UnsafeCell;
use std::iter::Take;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, fence};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::kernels::prefetch::{LINE, Lines, prefetch, prefetch_to_write};

/// How long a worker spins without giving up its core: longer than the serial work between
/// two regions of a forward pass (tens of microseconds).
const SPIN: Duration = Duration::from_micros(50);
/// How long a worker stays awake without work: longer than sampling one token takes.
const AWAKE: Duration = Duration::from_millis(2);

/// Most lines that a waiting thread asks for: 48 KiB, more than it gets meanwhile.
const FORESEEN: usize = (48 << 10) / LINE;

/// Stack of a worker, in bytes. Given because std would otherwise look for a size in the
/// environment.
const STACK: usize = 2 << 20;
/// What the names of workers begin with.
pub const WORKER_NAME: &str = "critic-";

/// The threads. Dropping joins them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
    /// Jobs that workers have done, of all regions.
    done: usize,
}

struct Shared {
    /// Of each thread, the caller first.
    shares: Box<[Share]>,
    /// Jobs that each of them has done, of all regions, its own and others'; the caller's are counted elsewhere.
    done: Box<[Done]>,
    /// Workers that sleep and must be woken.
    asleep: AtomicUsize,
    stop: AtomicBool,
    /// The first panic on a worker.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// What one thread has to do. Cache lines are fetched in twos by some processors.
#[repr(align(128))]
struct Share {
    /// Jobs that nobody has taken, from the first to the end: `first << 32 | end`. None, if the first is not before it.
    left: AtomicU64,
    /// What they do. Who has taken one of them may read it; the caller writes it when all have been done.
    region: UnsafeCell<Region>,
}

#[repr(align(128))]
struct Done(AtomicUsize);

// SAFETY: a region is read by those who have taken one of its jobs, and written when there is none left and all that were
// taken have been done: `Share::left` and `Done` order the two.
unsafe impl Sync for Share {}

impl Share {
    fn new() -> Self {
        let nothing = Region { run: |_, _, _| {}, ahead: |_, _| Lines::default(), data: std::ptr::null() };
        Self { left: AtomicU64::new(0), region: UnsafeCell::new(nothing) }
    }

    /// Puts jobs there, for all to take.
    ///
    /// # Safety
    /// Only the owner of the [`Pool`] does so, when all jobs of the region before have been done.
    unsafe fn put(&self, region: Region, jobs: Range<usize>) {
        // SAFETY: as the caller promises, nobody reads it.
        unsafe { *self.region.get() = region };
        self.left.store((jobs.start as u64) << 32 | jobs.end as u64, Release);
    }

    /// Takes back what nobody has taken: how many.
    fn clear(&self) -> usize {
        Self::jobs(self.left.swap(0, AcqRel)).len()
    }

    fn jobs(left: u64) -> Range<usize> {
        (left >> 32) as usize..left as u32 as usize
    }

    /// Whether there is something for its owner to do.
    fn is_any(&self) -> bool {
        // It will be taken: now one transfer of the line will do for both.
        prefetch_to_write(&self.left);
        !Self::jobs(self.left.load(Acquire)).is_empty()
    }

    /// The first job, for the owner.
    fn first(&self) -> Option<Job> {
        // Where nothing is left it stays so: the first is then farther behind the end.
        let jobs = Self::jobs(self.left.fetch_add(1 << 32, AcqRel));
        (!jobs.is_empty()).then(|| self.taken(jobs.start))
    }

    /// The last job, for others.
    fn last(&self) -> Option<Job> {
        let one_less = |left| (!Self::jobs(left).is_empty()).then(|| left - 1);
        let left = self.left.fetch_update(AcqRel, Acquire, one_less).ok()?;
        Some(self.taken(Self::jobs(left).end - 1))
    }

    fn taken(&self, index: usize) -> Job {
        // SAFETY: the job is ours: until we have done it, the region stays as it is.
        Job { region: unsafe { *self.region.get() }, index }
    }
}

/// A job that a thread has taken, and has to do.
#[derive(Clone, Copy)]
struct Job {
    region: Region,
    index: usize,
}

impl Shared {
    /// Keeps a worker's panic, if it is the first one, for the caller.
    fn caught<T>(&self, result: thread::Result<T>) -> Option<T> {
        let panic = match result {
            Ok(value) => return Some(value),
            Err(panic) => panic,
        };
        self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(panic);
        None
    }

    fn take_panic(&self) -> Option<Box<dyn Any + Send>> {
        self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take()
    }
}

/// What the jobs of a region are: `run(data, index, worker)`; and what `ahead(data, worker)` says that a thread may ask memory
/// for when it has done its own.
#[derive(Clone, Copy)]
struct Region {
    run: unsafe fn(*const (), usize, usize),
    ahead: unsafe fn(*const (), usize) -> Lines,
    data: *const (),
}

// SAFETY: `data` points to closures that are Sync, which stay as they are until all jobs have been done.
unsafe impl Send for Region {}

impl Pool {
    /// `threads` in all, the caller's included; at most what the machine has.
    pub fn new(threads: usize) -> Self {
        let available = thread::available_parallelism().map_or(1, |n| n.get());
        Self::with(if threads == 0 { available } else { threads.min(available) })
    }

    fn with(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            shares: (0..threads).map(|_| Share::new()).collect(),
            done: (0..threads).map(|_| Done(AtomicUsize::new(0))).collect(),
            asleep: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        // A machine that is out of threads gets the fewer that it has.
        let workers: Vec<_> = (1..threads)
            .map_while(|worker| {
                let shared = Arc::clone(&shared);
                let thread = thread::Builder::new().name(format!("{WORKER_NAME}{worker}")).stack_size(STACK);
                thread.spawn(move || work(&shared, worker)).ok()
            })
            .collect();
        let handles = workers.iter().map(|worker| worker.thread().clone()).collect();
        Self { shared, workers, handles, done: 0 }
    }

    /// Threads that take part, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `job(index, worker)` once for each index below `count`, on any threads, and
    /// returns when all are done. `worker` is below [`Pool::threads`] and belongs to one
    /// thread at a time. A job's panic goes on in the caller.
    pub fn run<F: Fn(usize, usize) + Sync>(&mut self, count: usize, job: F) {
        self.run_then(count, job, |_| Lines::default());
    }

    /// The same. Then a thread that waits asks for the first of the lines `ahead(worker)`, so that memory is busy meanwhile:
    /// those that it likely reads next.
    pub(crate) fn run_then<F, A>(&mut self, count: usize, job: F, ahead: A)
    where
        F: Fn(usize, usize) + Sync,
        A: Fn(usize) -> Lines + Sync,
    {
        if count <= 1 || self.workers.is_empty() {
            (0..count).for_each(|index| job(index, 0));
            return;
        }
        // Less than half a word holds: whoever finds nothing left has counted once more.
        assert!(count < u32::MAX as usize, "{count} jobs");
        unsafe fn call<F: Fn(usize, usize), A>(data: *const (), index: usize, worker: usize) {
            // SAFETY: `data` are the closures of a region that has jobs, which outlive it.
            unsafe { ((*data.cast::<(F, A)>()).0)(index, worker) }
        }
        unsafe fn ahead_of<F, A: Fn(usize) -> Lines>(data: *const (), worker: usize) -> Lines {
            // SAFETY: as above.
            unsafe { ((*data.cast::<(F, A)>()).1)(worker) }
        }
        let threads = self.threads();
        let closures = (job, ahead);
        let (job, ahead) = &closures;
        let region = Region { run: call::<F, A>, ahead: ahead_of::<F, A>, data: (&raw const closures).cast() };
        let (shared, handles) = (&*self.shared, &self.handles);
        let share = |thread: usize| share(count, threads, thread);
        // What belongs to the caller is known: there is no need to take the first of it.
        let mut close = Close { shared, done: &mut self.done, count, own: 1, ahead: Lines::default().take(0) };
        // SAFETY: `&mut self`, and `Close` has seen to it that all jobs of the last region were done.
        unsafe {
            for worker in 1..threads {
                shared.shares[worker].put(region, share(worker));
            }
            shared.shares[0].put(region, 1..share(0).end);
        }
        let wake = || {
            if shared.asleep.load(Relaxed) > 0 {
                handles.iter().for_each(Thread::unpark);
            }
        };
        wake();
        job(0, 0);
        // Again, for a worker that fell asleep just then: it has seen its share, or is seen here. Before the first job, the fence
        // would wait for the cache lines of all shares.
        fence(SeqCst);
        wake();
        while let Some(Job { index, .. }) = shared.shares[0].first() {
            close.own += 1;
            job(index, 0);
        }
        close.ahead = ahead(0).take(FORESEEN);
        for share in &shared.shares[1..threads] {
            while let Some(Job { index, .. }) = share.last() {
                close.own += 1;
                job(index, 0);
            }
        }
        drop(close);
        if let Some(panic) = shared.take_panic() {
            resume_unwind(panic);
        }
    }
}

/// The jobs of `thread` among `threads`: as many for each, or one more for the first ones.
pub(crate) fn share(count: usize, threads: usize, thread: usize) -> Range<usize> {
    let at = |thread: usize| thread * (count / threads) + thread.min(count % threads);
    at(thread)..at(thread + 1)
}

/// Waits for the jobs that workers have taken; when a job panics, others are taken back.
struct Close<'a> {
    shared: &'a Shared,
    done: &'a mut usize,
    count: usize,
    /// Jobs that the caller has taken.
    own: usize,
    ahead: Take<Lines>,
}

impl Drop for Close<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.count -= self.shared.shares.iter().map(Share::clear).sum::<usize>();
        }
        *self.done = self.done.wrapping_add(self.count - self.own);
        let done = || self.shared.done.iter().map(|done| done.0.load(Acquire)).fold(0, usize::wrapping_add);
        let mut spins = 0u32;
        while done() != *self.done {
            if let Some(line) = self.ahead.next() {
                prefetch(line);
                continue;
            }
            spins += 1;
            // A worker that was put aside in the middle of a job needs our core to finish it.
            if spins > 2000 { thread::yield_now() } else { std::hint::spin_loop() }
        }
        // The caller's own panic is the one that goes on: a worker's must not wait for the next region.
        if thread::panicking() {
            self.shared.take_panic();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.handles.iter().for_each(Thread::unpark);
        for worker in self.workers.drain(..) {
            // Workers catch panics of jobs; nothing else in them can.
            let _ = worker.join();
        }
    }
}

/// The life of a worker.
fn work(shared: &Shared, worker: usize) {
    let (own, done) = (&shared.shares[worker], &shared.done[worker].0);
    let run = |Job { region, index }: Job| {
        // SAFETY: as `call` in `Pool::run_then` demands: the job is not done yet.
        let job = AssertUnwindSafe(|| unsafe { (region.run)(region.data, index, worker) });
        shared.caught(catch_unwind(job));
    };
    let mut ahead = Lines::default().take(0);
    while wait(shared, own, &mut ahead) {
        let Some(first) = own.first() else { continue };
        run(first);
        let mut count = 1;
        while let Some(job) = own.first() {
            run(job);
            count += 1;
        }
        // SAFETY: as above: nobody knows yet that the last one is done.
        let next = AssertUnwindSafe(|| unsafe { (first.region.ahead)(first.region.data, worker) });
        ahead = shared.caught(catch_unwind(next)).unwrap_or_default().take(FORESEEN);
        done.fetch_add(count, AcqRel);
        for other in shared.shares.iter().filter(|share| !std::ptr::eq(*share, own)) {
            while let Some(job) = other.last() {
                run(job);
                done.fetch_add(1, AcqRel);
            }
        }
    }
}

/// Waits until there is something in `own`, asking for the lines `ahead` meanwhile: `false` to stop.
fn wait(shared: &Shared, own: &Share, ahead: &mut Take<Lines>) -> bool {
    let mut since: Option<Instant> = None;
    let mut spins = 0u32;
    loop {
        if own.is_any() {
            return true;
        }
        if shared.stop.load(Acquire) {
            return false;
        }
        if let Some(line) = ahead.next() {
            prefetch(line);
            continue;
        }
        std::hint::spin_loop();
        spins = spins.wrapping_add(1);
        if !spins.is_multiple_of(64) {
            continue;
        }
        let idle = since.get_or_insert_with(Instant::now).elapsed();
        if idle > AWAKE {
            shared.asleep.fetch_add(1, AcqRel);
            fence(SeqCst);
            // Whoever put something there before this line may not have seen us asleep: look again.
            if !own.is_any() && !shared.stop.load(Acquire) {
                thread::park();
            }
            shared.asleep.fetch_sub(1, AcqRel);
            since = None;
        } else if idle > SPIN {
            thread::yield_now();
        }
    }
}

/// A value for each worker of a pool, so that jobs have scratch memory of their own.
pub struct PerWorker<T>(Vec<UnsafeCell<T>>);

// SAFETY: `get` hands each value to one thread at a time.
unsafe impl<T: Send> Sync for PerWorker<T> {}

impl<T: Default> PerWorker<T> {
    /// One value for each of `threads`.
    pub fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| UnsafeCell::default()).collect())
    }

    /// The value of `worker`.
    ///
    /// # Safety
    /// `worker` is the number that [`Pool::run`] gave the calling job, and the job holds no
    /// other reference to the value.
    #[allow(clippy::mut_from_ref, reason = "each worker has its own value: the contract above")]
    pub unsafe fn get(&self, worker: usize) -> &mut T {
        // SAFETY: a worker's number belongs to one thread at a time.
        unsafe { &mut *self.0[worker].get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_all_jobs_once_and_alike() {
        for threads in 1..10 {
            for count in 0..100 {
                let shares: Vec<_> = (0..threads).map(|thread| share(count, threads, thread)).collect();
                assert_eq!(shares.iter().map(Range::len).sum::<usize>(), count);
                assert!(shares.windows(2).all(|two| two[0].end == two[1].start && two[0].len() - two[1].len() < 2));
            }
        }
    }

    #[test]
    fn every_job_runs_once() {
        for threads in [1, 2, 3, 8] {
            let mut pool = Pool::with(threads);
            let weights = [0u8; 4096];
            // Waiting with something to do is waiting.
            let asked = [const { AtomicUsize::new(0) }; 8];
            let ahead = |worker: usize| {
                asked[worker].fetch_add(1, SeqCst);
                Lines::new(weights.as_ptr().wrapping_add(worker * LINE), 4, 1024)
            };
            for count in [0, 1, 2, 3, 100, 1000] {
                let hits: Vec<_> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                let job = |index: usize, worker: usize| {
                    assert!(worker < 8);
                    hits[index].fetch_add(1, SeqCst);
                };
                pool.run_then(count, job, ahead);
                assert!(hits.iter().all(|hit| hit.load(SeqCst) == 1));
            }
            // The caller waits after each region; who is alone does not.
            let [caller, others @ ..] = asked.map(AtomicUsize::into_inner);
            assert_eq!(caller, if threads > 1 { 4 } else { 0 });
            assert!(others.iter().skip(threads - 1).all(|&times| times == 0));
        }
    }

    /// Whoever is held up in the first job of a share has the rest of it done by another.
    #[test]
    fn others_are_helped() {
        const COUNT: usize = 10;
        let mut pool = Pool::with(2);
        for held_up in [0, 1] {
            let first = share(COUNT, 2, held_up).start;
            let (begun, since) = (AtomicUsize::new(0), Instant::now());
            let by: [AtomicUsize; COUNT] = std::array::from_fn(|_| AtomicUsize::new(usize::MAX));
            let others = || (0..COUNT).filter(|&index| index != first);
            let done = |index: usize| by[index].load(SeqCst) != usize::MAX;
            let wait = |until: &dyn Fn() -> bool| {
                while !until() {
                    // Long enough for a busy machine.
                    assert!(since.elapsed() < Duration::from_secs(300), "nobody helps");
                    thread::yield_now();
                }
            };
            pool.run(COUNT, |index, worker| {
                begun.fetch_add(1, SeqCst);
                match index {
                    _ if index == first => wait(&|| others().all(done)),
                    // The caller could do everything before the worker comes.
                    0 => wait(&|| begun.load(SeqCst) > 1),
                    _ => {}
                }
                by[index].store(worker, SeqCst);
            });
            assert_eq!(by[first].load(SeqCst), held_up);
            assert!(others().all(|index| by[index].load(SeqCst) == 1 - held_up));
        }
    }

    /// Short regions one after the other: what a job writes, without any order of its own, is there when the next one begins.
    #[test]
    fn regions_are_in_order() {
        struct Cells(*mut usize);
        // SAFETY: each job has a place of its own.
        unsafe impl Sync for Cells {}
        // More threads than cores, too: one may be put aside anywhere.
        let mut pool = Pool::with(4);
        let (mut values, mut expected) = ([0usize; 7], [0; 7]);
        for round in 0..5_000 {
            let count = 1 + round % values.len();
            let cells = Cells(values.as_mut_ptr());
            let cells = &cells;
            // SAFETY: inside, and this job's alone.
            pool.run(count, |index, _| unsafe { *cells.0.add(index) += 1 });
            expected[..count].iter_mut().for_each(|count| *count += 1);
            assert_eq!(values, expected);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let mut pool = Pool::with(2);
        for round in 0..20 {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(8, |index, _| assert!(index != round % 8, "job {index}"));
            }));
            assert!(caught.is_err());
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run_then(8, |_, _| (), |worker| panic!("of thread {worker}"));
            }));
            assert!(caught.is_err());
            let done = AtomicUsize::new(0);
            pool.run(8, |_, _| {
                done.fetch_add(1, SeqCst);
            });
            assert_eq!(done.load(SeqCst), 8);
        }
    }

    #[test]
    fn sleeping_workers_wake_or_are_not_needed() {
        let mut pool = Pool::with(2);
        for _ in 0..3 {
            thread::sleep(AWAKE * 2);
            let done = AtomicUsize::new(0);
            pool.run(64, |_, _| {
                done.fetch_add(1, SeqCst);
            });
            assert_eq!(done.load(SeqCst), 64);
        }
    }
}

//! Worker threads for one session: persistent, awake while there is work, never waited for
//! when they are not.
//!
//! A region is a count of jobs that whoever is there takes one by one. The calling thread
//! takes jobs too, and when none is left it waits only for workers that hold one. So a
//! worker that the system has put aside delays nothing, and a region is correct even if no
//! worker comes. Between regions workers spin, then yield, and sleep only when no region
//! has come for [`AWAKE`]; decoding never lets that happen. Before they spin, they ask memory
//! for what they will read next.
//!
//! Not here: what the jobs do, and any splitting that would change results.

use std::any::Any;
use std::iter::Take;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::kernels::prefetch::{LINE, Lines, prefetch};

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
}

struct Shared {
    /// Odd while a region is open; grows by one at each opening and closing.
    generation: AtomicUsize,
    /// The next job to take.
    next: AtomicUsize,
    /// Workers that are inside the open region.
    active: AtomicUsize,
    /// Workers that sleep and must be woken.
    asleep: AtomicUsize,
    stop: AtomicBool,
    /// The open region's jobs. Written while no region is open and `active` is 0.
    region: RegionCell,
    /// The first panic on a worker.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
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

/// The jobs of a region: `run(data, index, worker)` for each index below `count`; and what `ahead(data, worker)` says that a
/// thread may ask memory for when there are none left.
#[derive(Clone, Copy)]
struct Region {
    run: unsafe fn(*const (), usize, usize),
    ahead: unsafe fn(*const (), usize) -> Lines,
    data: *const (),
    count: usize,
}

struct RegionCell(std::cell::UnsafeCell<Region>);

// SAFETY: written by the owner of the Pool while no worker is inside a region, read by
// workers only inside one; `generation` and `active` (SeqCst) order the two.
unsafe impl Sync for RegionCell {}
// SAFETY: `data` points to closures that are Sync, which stay as they are until the region is closed.
unsafe impl Send for RegionCell {}

impl Pool {
    /// `threads` in all, the caller's included; at most what the machine has.
    pub fn new(threads: usize) -> Self {
        let available = thread::available_parallelism().map_or(1, |n| n.get());
        let threads = if threads == 0 { available } else { threads.min(available) };
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            region: RegionCell(std::cell::UnsafeCell::new(Region {
                run: |_, _, _| {},
                ahead: |_, _| Lines::default(),
                data: std::ptr::null(),
                count: 0,
            })),
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
        Self { shared, workers, handles }
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
        unsafe fn call<F: Fn(usize, usize), A>(data: *const (), index: usize, worker: usize) {
            // SAFETY: `data` are the closures of the region that is open, which outlive it.
            unsafe { ((*data.cast::<(F, A)>()).0)(index, worker) }
        }
        unsafe fn ahead_of<F, A: Fn(usize) -> Lines>(data: *const (), worker: usize) -> Lines {
            // SAFETY: as above.
            unsafe { ((*data.cast::<(F, A)>()).1)(worker) }
        }
        let closures = (job, ahead);
        let (job, ahead) = &closures;
        let shared = &*self.shared;
        // SAFETY: `&mut self` and `Close` below: no region is open, no worker inside one.
        unsafe {
            *shared.region.0.get() =
                Region { run: call::<F, A>, ahead: ahead_of::<F, A>, data: (&raw const closures).cast(), count };
        }
        shared.next.store(0, SeqCst);
        shared.generation.fetch_add(1, SeqCst);
        let mut close = Close { shared, ahead: Lines::default().take(0) };
        if shared.asleep.load(SeqCst) > 0 {
            self.handles.iter().for_each(Thread::unpark);
        }
        loop {
            let index = shared.next.fetch_add(1, SeqCst);
            if index >= count {
                break;
            }
            job(index, 0);
        }
        close.ahead = ahead(0).take(FORESEEN);
        drop(close);
        if let Some(panic) = shared.take_panic() {
            resume_unwind(panic);
        }
    }
}

/// Closes the region and waits for the workers inside it, also when a job panics.
struct Close<'a> {
    shared: &'a Shared,
    ahead: Take<Lines>,
}

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.shared.next.store(usize::MAX / 2, SeqCst);
        self.shared.generation.fetch_add(1, SeqCst);
        let mut spins = 0u32;
        while self.shared.active.load(SeqCst) > 0 {
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
    let (mut seen, mut ahead) = (0, Lines::default().take(0));
    loop {
        let Some(generation) = wait(shared, seen, &mut ahead) else { return };
        seen = generation;
        shared.active.fetch_add(1, SeqCst);
        // Only a region that is still open after we are counted may be entered: its caller
        // then sees the count and waits.
        if shared.generation.load(SeqCst) == generation {
            // SAFETY: the region is open and we are counted: it stays as it is.
            let region = unsafe { *shared.region.0.get() };
            loop {
                let index = shared.next.fetch_add(1, SeqCst);
                if index >= region.count {
                    break;
                }
                // SAFETY: as `call` in `Pool::run_then` demands.
                let job = AssertUnwindSafe(|| unsafe { (region.run)(region.data, index, worker) });
                shared.caught(catch_unwind(job));
            }
            // SAFETY: as above.
            let next = AssertUnwindSafe(|| unsafe { (region.ahead)(region.data, worker) });
            ahead = shared.caught(catch_unwind(next)).unwrap_or_default().take(FORESEEN);
        }
        shared.active.fetch_sub(1, SeqCst);
    }
}

/// Waits for a region newer than `seen`, asking for the lines `ahead` meanwhile: its generation, or `None` to stop.
fn wait(shared: &Shared, seen: usize, ahead: &mut Take<Lines>) -> Option<usize> {
    let open = || {
        let generation = shared.generation.load(SeqCst);
        (generation % 2 == 1 && generation != seen).then_some(generation)
    };
    let mut since: Option<Instant> = None;
    let mut spins = 0u32;
    loop {
        if shared.stop.load(SeqCst) {
            return None;
        }
        if let Some(generation) = open() {
            return Some(generation);
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
            shared.asleep.fetch_add(1, SeqCst);
            // Whoever opened a region before this line did not see us asleep: look again.
            if open().is_none() && !shared.stop.load(SeqCst) {
                thread::park();
            }
            shared.asleep.fetch_sub(1, SeqCst);
            since = None;
        } else if idle > SPIN {
            thread::yield_now();
        }
    }
}

/// A value for each worker of a pool, so that jobs have scratch memory of their own.
pub struct PerWorker<T>(Vec<std::cell::UnsafeCell<T>>);

// SAFETY: `get` hands each value to one thread at a time.
unsafe impl<T: Send> Sync for PerWorker<T> {}

impl<T: Default> PerWorker<T> {
    /// One value for each of `threads`.
    pub fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| std::cell::UnsafeCell::default()).collect())
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
    fn every_job_runs_once() {
        for threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(threads);
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
            assert_eq!(caller, if pool.threads() > 1 { 4 } else { 0 });
            assert!(others.iter().skip(pool.threads() - 1).all(|&times| times == 0));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let mut pool = Pool::new(2);
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
        let mut pool = Pool::new(2);
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

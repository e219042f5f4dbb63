//! Work on both halves of a pass at the same time: flex computes much of one, all but products and softmax,
//! on one thread.

use std::panic::resume_unwind;
use std::sync::OnceLock;

use burn::tensor::Device;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::device::is_cpu;
use crate::model::Policy;

/// Most that [`on`] and [`lanes`] give.
const LANES: usize = 2;

/// Parts of a pass that it pays to compute at the same time on `device`.
pub fn on(device: &Device) -> usize {
    if is_cpu(device) { LANES } else { 1 }
}

/// The same for the critiques of a group, each part with the instruction's rows of its own. A prefix that is not
/// cached would have to be computed twice.
pub fn lanes(policy: &Policy) -> usize {
    if policy.is_activated() { on(&policy.device()) } else { 1 }
}

/// `work` for each item, at the same time, in the order of the items, each with its share of the machine's
/// threads: products ask how many there are, and those of two lanes would wait for one another.
pub fn beside<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    if items.len() < 2 {
        return items.into_iter().map(work).collect();
    }
    static POOLS: OnceLock<Vec<ThreadPool>> = OnceLock::new();
    let pools = POOLS.get_or_init(|| {
        let threads = (std::thread::available_parallelism().map_or(1, usize::from) / LANES).max(1);
        let pool = || ThreadPoolBuilder::new().num_threads(threads).build().expect("the system starts threads");
        (0..LANES).map(|_| pool()).collect()
    });
    assert!(items.len() <= pools.len(), "a pool for each lane");
    let work = &work;
    std::thread::scope(|scope| {
        let lanes: Vec<_> =
            items.into_iter().zip(pools).map(|(item, pool)| scope.spawn(move || pool.install(|| work(item)))).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

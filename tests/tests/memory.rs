//! What opening costs, and that a token costs no allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use critic::transformer::{Engine, Logits, Run};
use critic::{Kernel, Model, Precision, Session, SessionOptions};
use critic_tests::adapters::RandomAdapter;
use critic_tests::smollm2_path;

/// Counts allocations, and the bytes that are in use.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        IN_USE.fetch_add(layout.size(), SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// One test: the counters belong to the process.
#[test]
fn memory() {
    let path = smollm2_path();

    let before = IN_USE.load(SeqCst);
    let model = Model::open(&path).expect("the model opens");
    let opened = IN_USE.load(SeqCst) - before;
    println!("opening takes {opened} bytes");
    // 211 entries of weights, the tensors' names and places: far from 98 MB of weights.
    assert!(opened < 2 << 20, "{opened} bytes");
    let session = Session::new(&model, &SessionOptions::default()).expect("a session");
    let with_session = IN_USE.load(SeqCst) - before;
    println!("with a session {with_session} bytes");
    assert!(with_session < 20 << 20, "{with_session} bytes");
    drop(session);

    allocations_of_tokens(&model, false);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("adapter.critic");
    std::fs::write(&file, RandomAdapter::gate(model.config())).expect("an adapter file");
    drop(model);
    let before = IN_USE.load(SeqCst);
    let model = Model::open_with_adapter(&path, &file).expect("they fit");
    let opened = IN_USE.load(SeqCst) - before;
    println!("opening with an adapter takes {opened} bytes");
    // 420 tensors more, and their 10 MB.
    assert!(opened < 3 << 20, "{opened} bytes");
    allocations_of_tokens(&model, true);
}

/// Tokens one by one, up to the end of the first page.
fn allocations_of_tokens(model: &Model, adapted: bool) {
    // One thread: with several, each takes its buffers when it first comes to work, and when
    // that is depends on the system.
    let mut engine = Engine::new(model.config(), Kernel::best(), 1, Precision::Fast).expect("memory");
    let mut sequence = engine.sequence();
    let mut step = |token: u32| {
        let tokens = [token];
        let mut runs = [Run { sequence: &mut sequence, tokens: &tokens, logits: Logits::Last, adapted }];
        engine.forward(model.weights(), &mut runs, &AtomicBool::new(false), &mut |_, _, _| {}).expect("a pass");
    };
    step(504);
    let before = ALLOCATIONS.load(SeqCst);
    // Up to the end of the first page; the next position would take a page.
    (1..64).for_each(|token| step(500 + token));
    let allocations = ALLOCATIONS.load(SeqCst) - before;
    // The list of tokens doubles from 4 to 64 as it grows.
    assert!(allocations <= 5, "{allocations} allocations in 63 tokens");
}

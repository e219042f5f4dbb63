//! What the C ABI adds to each token: an event for the host's callback, made and delivered.
//!
//! The library has no form that Rust could link: its modules are compiled into this program.

use std::ffi::c_void;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use critic::{Event, Phase, Progress};

extern crate critic as runtime;

#[allow(non_camel_case_types, dead_code, reason = "the header's names, of which few are used here")]
#[path = "../../ffi/src/event.rs"]
mod event;
#[allow(non_camel_case_types, dead_code, reason = "the header's names, of which few are used here")]
#[path = "../../ffi/src/text.rs"]
mod text;

/// Does what the least callback does: looks at the text.
unsafe extern "C" fn count(userdata: *mut c_void, event: *const event::critic_event) -> i32 {
    // SAFETY: the benchmark's own counter and an event that lives until this returns.
    unsafe { *userdata.cast::<usize>() += (*event).text.len };
    0
}

fn token_callback(criterion: &mut Criterion) {
    let mut bytes = 0usize;
    let callback: event::critic_event_fn = Some(black_box(count));
    criterion.bench_function("abi/token callback", |bencher| {
        bencher.iter(|| {
            let event = Event { phase: Phase::Critique, round: 0, progress: Progress::Text(black_box(" token")) };
            // SAFETY: the callback gets the counter that it expects.
            unsafe { event::deliver(callback, (&raw mut bytes).cast(), event) }
        });
    });
    black_box(bytes);
}

criterion_group!(benches, token_callback);
criterion_main!(benches);

//! Zeroes all memory that the library frees.
//!
//! Texts, tokens, activations, keys and values are a person's words, and pass through many
//! buffers. So that none is forgotten the allocator itself zeroes them: what lies in freed
//! memory after a session ends is nothing.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, which forgets what it held.
struct Forgetful;

#[global_allocator]
static ALLOCATOR: Forgetful = Forgetful;

// SAFETY: all memory comes from and goes to `System`. Growing is the trait's own `realloc`,
// which allocates, copies and calls `dealloc`: the old place, too, is zeroed.
unsafe impl GlobalAlloc for Forgetful {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises. The system hands out large zeroed memory untouched.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller gives back `layout.size()` bytes at `at`.
        unsafe {
            at.write_bytes(0, layout.size());
            // Nothing reads the zeros: without this the compiler may leave them out.
            std::hint::black_box(at);
            System.dealloc(at, layout);
        }
    }
}

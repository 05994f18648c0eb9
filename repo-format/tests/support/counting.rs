//! An allocator that counts, so that a test can say what a decoder may cost.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static ALLOCATED_BYTES: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    // Fails only while the thread ends, when nothing is measured any more.
    let _ = ALLOCATED_BYTES.try_with(|sum| sum.set(sum.get().saturating_add(bytes)));
}

#[expect(unsafe_code, reason = "GlobalAlloc is an unsafe trait; every call is passed on as it is")]
// SAFETY: the system's allocator does the work under the caller's promises; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(bytes);
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(block, layout, bytes) }
    }
}

/// What `work` returns, and the bytes this thread asked for meanwhile, freed again or not.
pub fn allocated_by<T>(work: impl FnOnce() -> T) -> (T, usize) {
    ALLOCATED_BYTES.set(0);
    let out = work();
    (out, ALLOCATED_BYTES.get())
}

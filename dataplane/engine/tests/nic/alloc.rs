//! An allocator that counts what the thread allocates while it is told to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNTING: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Counts allocations and frees between [`counted`] and [`uncounted`].
pub struct Counting;

fn note() {
    if COUNTING.get() {
        COUNT.set(COUNT.get() + 1);
    }
}

// SAFETY: everything is the system allocator's doing; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note();
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// How often this thread allocated or freed while it was counted.
pub fn count() -> u64 {
    COUNT.get()
}

/// Counts what `f` allocates.
pub fn counted<R>(f: impl FnOnce() -> R) -> R {
    let before = COUNTING.replace(true);
    let result = f();
    COUNTING.set(before);
    result
}

/// Does not count what `f` allocates: the simulation inside the engine's turn.
pub fn uncounted<R>(f: impl FnOnce() -> R) -> R {
    let before = COUNTING.replace(false);
    let result = f();
    COUNTING.set(before);
    result
}

//! The bound on memory that every fuzz target has: what a decoder takes is in proportion to what has arrived.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// Counts what the thread that fuzzes holds.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

// SAFETY: the system's allocator does it all; the counters are numbers of the thread and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(block, layout) }
    }
}

/// Runs a target and panics if it held more at a time than so much, and so many times the input.
pub fn bounded(data: &[u8], fixed_bytes: usize, times: usize, target: fn(&[u8])) {
    let before = HELD.get();
    MOST.set(before);
    target(data);
    let most = (MOST.get() - before) as usize;
    let bound = fixed_bytes + times * data.len();
    assert!(most <= bound, "{most} bytes were held for an input of {}", data.len());
}

//! Allocators that count: what a decision must not do, and what a compiled policy weighs.
#![allow(unsafe_code, reason = "an allocator is unsafe by its trait; every call is the system allocator's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the allocations of each thread, at the price of one addition.
#[derive(Debug)]
pub struct Calls;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

impl Calls {
    /// Returns how often this thread has allocated.
    pub fn of_this_thread() -> u64 {
        CALLS.get()
    }

    fn count() {
        // A thread that ends allocates no more that anybody asks for.
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
    }
}

// SAFETY: every call is the system allocator's, counted.
unsafe impl GlobalAlloc for Calls {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Calls::count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Calls::count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Calls::count();
        // SAFETY: the caller keeps the contract of `realloc`, and the pointer is the system allocator's.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and the pointer is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Counts the bytes that all threads asked for and did not give back: now, and at the highest.
#[derive(Debug)]
pub struct LiveBytes;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

impl LiveBytes {
    /// Returns the bytes that are in use now.
    pub fn now() -> usize {
        LIVE.load(Ordering::Relaxed)
    }

    /// Returns the most bytes that were in use at once since the last call of [`LiveBytes::reset_peak`].
    pub fn peak() -> usize {
        PEAK.load(Ordering::Relaxed)
    }

    /// Begins a new search for the highest point.
    pub fn reset_peak() {
        PEAK.store(LiveBytes::now(), Ordering::Relaxed);
    }

    fn add(bytes: usize) {
        let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(live, Ordering::Relaxed);
    }

    fn sub(bytes: usize) {
        LIVE.fetch_sub(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call is the system allocator's, counted.
unsafe impl GlobalAlloc for LiveBytes {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LiveBytes::add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LiveBytes::add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new block may both be there while the content moves.
        LiveBytes::add(size);
        // SAFETY: the caller keeps the contract of `realloc`, and the pointer is the system allocator's.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        LiveBytes::sub(if moved.is_null() { size } else { layout.size() });
        moved
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LiveBytes::sub(layout.size());
        // SAFETY: the caller keeps the contract of `dealloc`, and the pointer is the system allocator's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Returns the bytes of memory that the process occupies, with all that the allocator keeps in hand; 0 where the kernel does not
/// say.
pub fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<usize>().ok());
    pages.unwrap_or(0) * 4096
}

//! An allocator that counts, and refuses what no input may take.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// What an input may have allocated at a time, beside what there was before it.
pub const MOST_BYTES: usize = 256 << 20;

/// The system's allocator, with counters. They are the process's: threads that an input makes count with it.
pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static TOTAL: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
static OVER: AtomicBool = AtomicBool::new(false);

/// Counts `bytes` more; false where they are over the limit, and were not counted.
fn grow(bytes: usize) -> bool {
    let live = LIVE.fetch_add(bytes, Relaxed).wrapping_add(bytes);
    if live > LIMIT.load(Relaxed) || bytes > MOST_BYTES {
        LIVE.fetch_sub(bytes, Relaxed);
        OVER.store(true, Relaxed);
        return false;
    }
    TOTAL.fetch_add(bytes, Relaxed);
    PEAK.fetch_max(live, Relaxed);
    true
}

// SAFETY: every call goes to the system's allocator with what the caller gave; null means no memory, which callers expect.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match grow(layout.size()) {
            true => unsafe { System.alloc(layout) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match grow(layout.size()) {
            true => unsafe { System.alloc_zeroed(layout) },
            false => std::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        if new > layout.size() && !grow(new - layout.size()) {
            return std::ptr::null_mut();
        }
        if new < layout.size() {
            LIVE.fetch_sub(layout.size() - new, Relaxed);
        }
        unsafe { System.realloc(pointer, layout, new) }
    }
}

/// What an input allocated.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Most at a time.
    pub peak: usize,
    /// All together.
    pub total: usize,
    /// Whether more was asked for than it may have.
    pub over: bool,
}

/// Counts what `work` allocates, and gives it [`MOST_BYTES`] at most.
pub fn counted<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    TOTAL.store(0, Relaxed);
    OVER.store(false, Relaxed);
    LIMIT.store(before + MOST_BYTES, Relaxed);
    let result = work();
    LIMIT.store(usize::MAX, Relaxed);
    let peak = PEAK.load(Relaxed).saturating_sub(before);
    (result, Taken { peak, total: TOTAL.load(Relaxed), over: OVER.load(Relaxed) })
}

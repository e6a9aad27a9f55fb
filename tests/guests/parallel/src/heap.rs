//! The heap: dlmalloc behind a lock that sleeps in `memory.atomic.wait32`.
//!
//! std's own heap for this target spins instead, because a browser's main thread may not
//! sleep; here, a thread that the node has put aside while it allocates must not make
//! all the others burn their time.

use std::alloc::{GlobalAlloc, Layout};
use std::arch::wasm32::{memory_atomic_notify, memory_atomic_wait32};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI32, Ordering};

use dlmalloc::Dlmalloc;

const FREE: i32 = 0;
const HELD: i32 = 1;
/// Held, and somebody may be asleep.
const CONTENDED: i32 = 2;

pub struct LockedHeap {
    state: AtomicI32,
    heap: UnsafeCell<Dlmalloc>,
}

// SAFETY: `heap` is only reached through `with`, which holds the lock.
unsafe impl Sync for LockedHeap {}

impl LockedHeap {
    pub const fn new() -> Self {
        Self { state: AtomicI32::new(FREE), heap: UnsafeCell::new(Dlmalloc::new()) }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Dlmalloc) -> T) -> T {
        self.lock();
        // SAFETY: the lock is held, and `f` cannot get here again: dlmalloc allocates
        // nothing by itself.
        let result = f(unsafe { &mut *self.heap.get() });
        self.unlock();
        result
    }

    /// "Mutex, take 2" of Drepper's "Futexes Are Tricky" (2011).
    fn lock(&self) {
        if self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return;
        }
        while self.state.swap(CONTENDED, Ordering::Acquire) != FREE {
            // SAFETY: the address is that of a live, aligned word.
            unsafe { memory_atomic_wait32(self.state.as_ptr(), CONTENDED, -1) };
        }
    }

    fn unlock(&self) {
        if self.state.swap(FREE, Ordering::Release) == CONTENDED {
            // SAFETY: as above.
            unsafe { memory_atomic_notify(self.state.as_ptr(), 1) };
        }
    }
}

// SAFETY: dlmalloc keeps the contract of an allocator, and `with` serializes it.
unsafe impl GlobalAlloc for LockedHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout has a size.
        self.with(|heap| unsafe { heap.malloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller has the block from here, with this layout.
        self.with(|heap| unsafe { heap.free(block, layout.size(), layout.align()) });
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's layout has a size.
        self.with(|heap| unsafe { heap.calloc(layout.size(), layout.align()) })
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller has the block from here, with this layout.
        self.with(|heap| unsafe { heap.realloc(block, layout.size(), layout.align(), size) })
    }
}

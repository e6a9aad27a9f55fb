//! An allocator that ends the process when the signal handler calls it.

use std::alloc::{GlobalAlloc, Layout, System};

struct NotInHandlers;

#[global_allocator]
static ALLOCATOR: NotInHandlers = NotInHandlers;

fn check() {
    if sandscope_host::in_handler() {
        let text = b"the signal handler called the allocator\n";
        // SAFETY: `text` lives across the call; both calls are async-signal-safe.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::abort();
        }
    }
}

// SAFETY: every call goes to the system's allocator unchanged, or does not return.
unsafe impl GlobalAlloc for NotInHandlers {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        check();
        // SAFETY: `at` came from `alloc` above, so from the system.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check();
        // SAFETY: `at` came from `alloc` above, so from the system.
        unsafe { System.realloc(at, layout, size) }
    }
}

//! Threads: spawn and join over `wasi.thread-spawn`, without a threaded libc.
//!
//! The host answers `thread-spawn(start)` with the id of a thread (or a negative
//! number), makes another instance of this module over the same memory, and calls its
//! export `wasi_thread_start(id, start)` on a thread of its own. That instance has its
//! own globals, so its stack pointer still points to the stack of the first thread:
//! until it is set, no compiled function may run. The entry is therefore assembly:
//!
//! ```text
//! host thread                        assembly                       Rust
//! wasi_thread_start(id, start)  ->   __stack_pointer = stack_top
//!                                    __wasm_init_tls(tls)      ->
//!                                                              ->   run_thread(start)
//!                                    done = 1, notify          <-
//! ```
//!
//! `start` points to a [`Start`]; the assembly knows the offsets of its first fields.

use std::alloc::{self, Layout};
use std::arch::wasm32::memory_atomic_wait32;
use std::arch::{asm, global_asm};
use std::ffi::c_void;
use std::mem::offset_of;
use std::sync::atomic::{AtomicI32, Ordering};

/// The stack in linear memory that each thread gets.
const STACK_BYTES: usize = 128 * 1024;

/// What the ABI of wasm32 wants of a stack pointer.
const STACK_ALIGN: usize = 16;

#[link(wasm_import_module = "wasi")]
unsafe extern "C" {
    #[link_name = "thread-spawn"]
    fn thread_spawn(start: *mut c_void) -> i32;
}

#[repr(C)]
struct Start {
    stack_top: *mut u8,
    tls: *mut u8,
    /// 1 when the thread uses neither its stack nor its TLS any more.
    done: AtomicI32,
    main: Option<Box<dyn FnOnce() + Send>>,
    stack: Block,
    tls_block: Block,
}

const _: () = assert!(offset_of!(Start, stack_top) == 0);
const _: () = assert!(offset_of!(Start, tls) == 4);
const _: () = assert!(offset_of!(Start, done) == 8);

global_asm!(
    ".globaltype __stack_pointer, i32",
    ".functype __wasm_init_tls (i32) -> ()",
    ".functype {run_thread} (i32) -> ()",
    ".globl wasi_thread_start",
    ".type wasi_thread_start, @function",
    ".export_name wasi_thread_start, wasi_thread_start",
    "wasi_thread_start:",
    ".functype wasi_thread_start (i32, i32) -> ()",
    "local.get 1",
    "i32.load 0",
    "global.set __stack_pointer",
    "local.get 1",
    "i32.load 4",
    "call __wasm_init_tls",
    "local.get 1",
    "call {run_thread}",
    // From here on `start` may be freed at any time: waking somebody who does not wait
    // for this address any more does no harm.
    "local.get 1",
    "i32.const 1",
    "i32.atomic.store 8",
    "local.get 1",
    "i32.const -1",
    "memory.atomic.notify 8",
    "drop",
    "end_function",
    run_thread = sym run_thread,
);

unsafe extern "C" {
    /// The entry above; named here so that the linker keeps it.
    fn wasi_thread_start(id: i32, start: *mut c_void);
}

#[used]
static ENTRY: unsafe extern "C" fn(i32, *mut c_void) = wasi_thread_start;

/// Called by the assembly, on the thread's own stack.
extern "C" fn run_thread(start: *mut Start) {
    // SAFETY: `spawn` made it, and until `done` is set only this thread uses `main`.
    let main = unsafe { (*start).main.take() };
    if let Some(main) = main {
        main();
    }
}

/// A running thread; dropping it without `join` leaks its stack.
pub struct Thread {
    start: *mut Start,
}

/// Runs `main` on a new thread; the error is the host's negative answer.
pub fn spawn(main: impl FnOnce() + Send + 'static) -> Result<Thread, i32> {
    let stack = Block::new(STACK_BYTES, STACK_ALIGN);
    let tls_block = Block::new(tls_size(), tls_align());
    let start = Box::into_raw(Box::new(Start {
        stack_top: stack.end(),
        tls: tls_block.start,
        done: AtomicI32::new(0),
        main: Some(Box::new(main)),
        stack,
        tls_block,
    }));
    // SAFETY: `start` is valid until `join`, which waits for the thread's end.
    let id = unsafe { thread_spawn(start.cast()) };
    if id < 0 {
        // SAFETY: no thread has got it.
        drop(unsafe { Box::from_raw(start) });
        return Err(id);
    }
    Ok(Thread { start })
}

impl Thread {
    pub fn join(self) {
        // SAFETY: only this frees it, below.
        let done = unsafe { &(*self.start).done };
        while done.load(Ordering::Acquire) == 0 {
            // SAFETY: the address is that of a live, aligned word.
            unsafe { memory_atomic_wait32(done.as_ptr(), 0, -1) };
        }
        // SAFETY: the thread is done with it, see the assembly.
        drop(unsafe { Box::from_raw(self.start) });
    }
}

/// Memory from the heap that the compiler knows nothing about.
struct Block {
    start: *mut u8,
    layout: Layout,
}

impl Block {
    fn new(size: usize, align: usize) -> Self {
        let layout = Layout::from_size_align(size.max(1), align.max(1)).expect("small and aligned");
        // SAFETY: the size is not 0.
        let start = unsafe { alloc::alloc(layout) };
        if start.is_null() {
            alloc::handle_alloc_error(layout);
        }
        Self { start, layout }
    }

    fn end(&self) -> *mut u8 {
        // SAFETY: one past the end of the allocation.
        unsafe { self.start.add(self.layout.size()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: from `new`, with the same layout.
        unsafe { alloc::dealloc(self.start, self.layout) };
    }
}

/// The linker puts size and alignment of the thread-locals into globals.
fn tls_size() -> usize {
    let size;
    // SAFETY: reads an immutable global.
    unsafe {
        asm!(
            ".globaltype __tls_size, i32, immutable",
            "global.get __tls_size",
            "local.set {size}",
            size = out(local) size,
            options(pure, nomem),
        );
    }
    size
}

fn tls_align() -> usize {
    let align;
    // SAFETY: reads an immutable global.
    unsafe {
        asm!(
            ".globaltype __tls_align, i32, immutable",
            "global.get __tls_align",
            "local.set {align}",
            align = out(local) align,
            options(pure, nomem),
        );
    }
    align
}

//! Native stacks of async guests, made by us so that their high-water mark can be read off the page tables.
//!
//! # Accuracy
//! Exact to a page, over the life of a store: a stack is an empty mapping, and the lowest page that was
//! touched is asked for when it goes. Code of the engine and of Rust touches each page on its way down; below a
//! gap of 256 KiB, which only a foreign host function could leave, nothing is looked for. Stores that lived for a
//! millisecond or more are measured, and one in sixty-four of the others. A span has it as it was after the call
//! that the stack was made for; later calls of the store use the same one, so that nothing is known of them. Host
//! functions run on the same stack and count.
//! Stores that are not async, or pooled, have no stack of their own: for them there is only the lowest stack
//! pointer of a sample. A store whose stack was more than 80 % full counts once as deep, however many calls it
//! served.
//!
//! # Cost
//! Nothing while the guest runs; one `mincore` at the end of a store that is measured, of 64 pages and as many as
//! are in use (for all 512 pages 2 to 8 µs: x86-64, 2 cores, measured by hand), and one for a call that is kept as a span. Mappings are emptied
//! and used again, which is cheaper than the engine's own way of mapping a stack for each store.
//!
//! # Security
//! Only which pages exist is read, never what is in them. A stack that is used again was emptied by the kernel.

use std::cell::RefCell;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use wasmtime::{StackCreator, StackMemory};

use crate::clock::Moment;
use crate::pages;
use crate::sampler;
use crate::workload::Figures;

/// Stores that lived longer are always measured, ns.
const ALWAYS_NS: u64 = 1_000_000;
/// Emptied stacks that are kept. They take address space, but no memory.
const KEPT: usize = 64;
/// One in so many of the others.
const ONE_IN: u32 = 64;
/// Bytes of a huge page (x86-64, and aarch64 with pages of 4 KiB).
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Makes stacks for one engine.
#[derive(Default)]
pub(crate) struct Stacks(Arc<Mutex<Vec<Mapping>>>);

// SAFETY: stacks are page-aligned, zero-filled mappings with a guard page below that stay mapped until they
// are dropped.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, _zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let page = pages::size();
        let length = size.max(1).next_multiple_of(page) + page;
        // Where another thread is at them, a new one is made rather than waited.
        let kept = self.0.try_lock().ok().and_then(|mut kept| kept.pop());
        let mapping = match kept.filter(|kept| kept.length == length) {
            Some(kept) => kept,
            None => Mapping::new(length, page)?,
        };
        let lent = Arc::new(Lent { mapping, kept: Arc::clone(&self.0) });
        // On a thread that is ending nobody asks any more.
        let _ = MADE.try_with(|made| made.replace(Some(Made(Arc::downgrade(&lent)))));
        Ok(Box::new(Stack { lent, figures: sampler::kept_figures(), made: Moment::now() }))
    }
}

thread_local! {
    /// The stack that was made last on this thread, until somebody asks for it.
    static MADE: RefCell<Option<Made>> = const { RefCell::new(None) };
}

/// A stack that was made; it may be gone by now.
pub(crate) struct Made(Weak<Lent>);

impl Made {
    /// Forgets what was made on this thread until now.
    pub(crate) fn forget() {
        Self::take();
    }

    /// The last stack that was made on this thread.
    pub(crate) fn take() -> Option<Self> {
        MADE.try_with(RefCell::take).ok().flatten()
    }

    /// Bytes of it that were ever in use; `None` once it is gone.
    pub(crate) fn used(&self) -> Option<u64> {
        self.0.upgrade()?.mapping.touched().map(|used| used as u64)
    }
}

/// A stack and the workload that it was made for.
struct Stack {
    lent: Arc<Lent>,
    figures: Option<Arc<Figures>>,
    made: Moment,
}

/// A mapping that goes back when its store is done with it.
struct Lent {
    mapping: Mapping,
    kept: Arc<Mutex<Vec<Mapping>>>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mapping = std::mem::replace(&mut self.mapping, Mapping::NONE);
        if mapping.empty()
            && let Ok(mut kept) = self.kept.try_lock()
            && kept.len() < KEPT
        {
            kept.push(mapping);
        }
    }
}

// SAFETY: as for `Stacks`.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.lent.mapping.base.wrapping_add(self.lent.mapping.length)
    }

    fn range(&self) -> Range<usize> {
        let start = self.lent.mapping.base as usize + self.lent.mapping.page;
        start..self.lent.mapping.base as usize + self.lent.mapping.length
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.lent.mapping.base..self.lent.mapping.base.wrapping_add(self.lent.mapping.page)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        static SHORT: AtomicU32 = AtomicU32::new(0);
        let chosen = || {
            self.made.elapsed_ns() >= ALWAYS_NS
                || SHORT.fetch_add(1, Ordering::Relaxed).is_multiple_of(ONE_IN)
        };
        if let Some(figures) = &self.figures
            && chosen()
            && let Some(used) = self.lent.mapping.touched()
        {
            figures.runtime.stack.exact(used as u64);
        }
    }
}

/// Anonymous memory with a guard page at its start.
struct Mapping {
    base: *mut u8,
    /// Bytes, guard included.
    length: usize,
    /// Bytes of a page.
    page: usize,
}

// SAFETY: the mapping is owned and not bound to a thread.
unsafe impl Send for Mapping {}
// SAFETY: shared references only compute addresses and ask the kernel.
unsafe impl Sync for Mapping {}

impl Mapping {
    const NONE: Self = Self { base: ptr::null_mut(), length: 0, page: 0 };

    /// `length` bytes, a multiple of `page`, the guard included.
    fn new(length: usize, page: usize) -> std::io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping wherever the kernel likes.
        let base = unsafe { libc::mmap(ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let mapping = Self { base: base.cast(), length, page };
        let usable = mapping.base.wrapping_add(page).cast();
        // SAFETY: all but the first page of the new mapping.
        let opened = unsafe { libc::mprotect(usable, length - page, libc::PROT_READ | libc::PROT_WRITE) };
        if opened != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // A huge page would make a stack of 2 MiB of the first touch. Most stacks have no place for one, and
        // are spared the call.
        #[cfg(target_os = "linux")]
        if (usable as usize).next_multiple_of(HUGE) + HUGE <= mapping.base as usize + length {
            // SAFETY: advice on our own mapping; refused only where there are no huge pages.
            unsafe { libc::madvise(usable, length - page, libc::MADV_NOHUGEPAGE) };
        }
        Ok(mapping)
    }

    /// Gives its pages back to the kernel, so that it is as new; whether that worked.
    fn empty(&self) -> bool {
        let usable = self.base.wrapping_add(self.page).cast();
        // SAFETY: our own private mapping, which nothing refers to any more.
        unsafe { libc::madvise(usable, self.length - self.page, libc::MADV_DONTNEED) == 0 }
    }

    /// Bytes from the lowest page that was touched to the top.
    fn touched(&self) -> Option<usize> {
        pages::touched_from_above(self.base as usize + self.page, self.length - self.page)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: our own mapping, which nothing refers to any more.
            unsafe { libc::munmap(self.base.cast(), self.length) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was touched is seen to the page; what was only reserved is not.
    #[test]
    fn touched_pages_are_seen() {
        let page = pages::size();
        let mapping = Mapping::new((2 << 20) + page, page).unwrap();
        assert_eq!(mapping.touched(), Some(0));
        let top = mapping.base.wrapping_add(mapping.length);
        // SAFETY: inside the usable part of the mapping.
        unsafe { top.sub(100_000).write(1) };
        assert_eq!(mapping.touched(), Some(100_000usize.next_multiple_of(mapping.page)));
        for down in (page..=2 << 20).step_by(page) {
            // SAFETY: inside the usable part of the mapping.
            unsafe { top.sub(down).write(1) };
        }
        assert_eq!(mapping.touched(), Some(2 << 20));
    }

    /// A stack that is used again shows nothing of what was on it, and counts from nothing.
    #[test]
    fn stacks_are_used_again_empty() {
        let stacks = Stacks::default();
        let first = stacks.new_stack(1 << 20, false).unwrap();
        let range = first.range();
        // SAFETY: inside the stack, which nothing else uses.
        unsafe { first.top().sub(50_000).write(1) };
        drop(first);
        let again = stacks.new_stack(1 << 20, true).unwrap();
        assert_eq!(again.range(), range);
        let page = pages::size();
        let mapping = Mapping { base: again.guard_range().start, length: range.len() + page, page };
        assert_eq!(mapping.touched(), Some(0));
        std::mem::forget(mapping);
    }
}

//! Native stacks of async guests, made by us so that their high-water mark can be read off the page tables.
//!
//! # Accuracy
//! Exact to a page, over the life of a store: a stack is a fresh mapping, and the lowest page that was
//! touched is asked for when it goes. Stores that lived for a millisecond or more are measured, and one in
//! sixty-four of the others. Host functions run on the same stack and count. Stores that are not async, or
//! pooled, have no stack of their own: for them there is only the lowest stack pointer of a sample. A store whose
//! stack was more than 80 % full counts once as deep, however many calls it served.
//!
//! # Cost
//! Nothing while the guest runs; one `mincore` at the end of a store: 2 to 8 µs (x86-64, 2 cores, measured by
//! hand before there was a benchmark).
//!
//! # Security
//! Only which pages exist is read, never what is in them.

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use wasmtime::{StackCreator, StackMemory};

use crate::pages;
use crate::sampler;
use crate::scope::Shared;
use crate::workload::Figures;

/// Stores that lived longer are always measured.
const ALWAYS: Duration = Duration::from_millis(1);
/// One in so many of the others.
const ONE_IN: u32 = 64;
/// Bytes of a huge page (x86-64, and aarch64 with pages of 4 KiB).
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// Makes stacks for the engines of one scope.
pub(crate) struct Stacks(Weak<Shared>);

impl Stacks {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }
}

// SAFETY: stacks are page-aligned, zero-filled mappings with a guard page below that stay mapped until they
// are dropped.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, _zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let mapping = Mapping::new(size)?;
        let figures = self.0.upgrade().and_then(|shared| {
            let active = sampler::figures(ptr::from_ref)?;
            // The active call may be of another scope.
            shared.known_figures(active)
        });
        Ok(Box::new(Stack { mapping, figures, made: Instant::now() }))
    }
}

/// A stack and the workload that it was made for.
struct Stack {
    mapping: Mapping,
    figures: Option<Arc<Figures>>,
    made: Instant,
}

// SAFETY: as for `Stacks`.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.mapping.base.wrapping_add(self.mapping.length)
    }

    fn range(&self) -> Range<usize> {
        let start = self.mapping.base as usize + self.mapping.page;
        start..self.mapping.base as usize + self.mapping.length
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.mapping.base..self.mapping.base.wrapping_add(self.mapping.page)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        static SHORT: AtomicU32 = AtomicU32::new(0);
        let Some(figures) = &self.figures else { return };
        let chosen =
            self.made.elapsed() >= ALWAYS || SHORT.fetch_add(1, Ordering::Relaxed).is_multiple_of(ONE_IN);
        if let (true, Some(used)) = (chosen, self.mapping.touched()) {
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
    fn new(size: usize) -> std::io::Result<Self> {
        let page = pages::size();
        let length = size.max(1).next_multiple_of(page) + page;
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

    /// Bytes from the lowest page that was touched to the top.
    fn touched(&self) -> Option<usize> {
        // From below: nearly all of a stack is untouched.
        let usable = self.length - self.page;
        let lowest = pages::lowest(self.base as usize + self.page, usable)?;
        Some(usable - lowest)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nothing refers to any more.
        unsafe { libc::munmap(self.base.cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was touched is seen to the page; what was only reserved is not.
    #[test]
    fn touched_pages_are_seen() {
        let mapping = Mapping::new(2 << 20).unwrap();
        assert_eq!(mapping.touched(), Some(0));
        let top = mapping.base.wrapping_add(mapping.length);
        // SAFETY: inside the usable part of the mapping.
        unsafe { top.sub(100_000).write(1) };
        assert_eq!(mapping.touched(), Some(100_000usize.next_multiple_of(mapping.page)));
        // SAFETY: inside the usable part of the mapping.
        unsafe { mapping.base.add(mapping.page).write(1) };
        assert_eq!(mapping.touched(), Some(2 << 20));
    }
}

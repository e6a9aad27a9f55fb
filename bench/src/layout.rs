//! Where things lie in memory. Where machine code lies alone moves a guest's speed by several percent, so the
//! two sides of a pair get the same layout, and each pair another one.
//!
//! ```text
//! high │ stack, libraries, gaps filled │ hole: freed before the compiler runs, but for a random padding │ … low
//! ```
//! The kernel maps into the highest gap that is large enough. What only one side has (the stack and heap of the
//! aggregator's thread) is mapped below the hole; then the hole is freed, and both sides put code, heaps and
//! stacks of guests there in the same order. Tables say on how many engines this worked.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};

/// Enough for the code of the largest guest and what the compiler needs beside it, bytes.
const HOLE: usize = 512 << 20;
const PAGE: usize = 4096;

/// Has the program start without randomized addresses. Where that is not allowed, addresses differ between
/// the two sides, which widens intervals and biases nothing.
pub fn fixed(command: &mut Command) -> &mut Command {
    let fix = || {
        // SAFETY: sets a flag of the calling process, which is about to become the program.
        unsafe { libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong) };
        Ok(())
    };
    // SAFETY: the closure makes one system call and touches no memory.
    unsafe { command.pre_exec(fix) }
}

/// Address space that is kept free until this is dropped.
pub struct Hole {
    at: *mut libc::c_void,
    /// Bytes at its top that stay mapped.
    padding: usize,
}

impl Hole {
    /// Maps a hole, and for good every gap that is left above. Of the hole, `padding` pages stay.
    pub fn reserve(padding: usize) -> Result<Self> {
        let hole = Self { at: map(HOLE)?, padding: padding.max(1) * PAGE };
        let mut size = HOLE;
        while size >= PAGE {
            let at = map(size)?;
            if at < hole.at {
                // SAFETY: mapped by the line before, used by nobody.
                unsafe { libc::munmap(at, size) };
                size /= 2;
            }
        }
        Ok(hole)
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        // SAFETY: mapped by `reserve`, never handed out.
        unsafe { libc::munmap(self.at, HOLE - self.padding) };
    }
}

fn map(length: usize) -> Result<*mut libc::c_void> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        bail!("reserve {length} bytes of address space: {}", std::io::Error::last_os_error());
    }
    Ok(at)
}

/// Keeps the calling thread, and threads that it starts, on the last processor.
pub fn pin() {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    // SAFETY: an all-zero set is the empty set, `processors - 1` is below the number of processors, and the
    // set lives across the call. A refusal leaves the thread where it is, which only adds noise.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processors - 1, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

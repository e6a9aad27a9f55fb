//! Where things lie in memory. Where machine code lies alone moves a guest's speed by several percent, so the
//! two sides of a pair get the same layout, and each pair another one.
//!
//! ```text
//! high │ stack, libraries │ padding: random per pair │ hole: freed before the compiler runs │ … low
//! ```
//! The kernel maps into the highest gap that is large enough. What only one side has (the heap of the
//! aggregator's thread) is mapped below the hole; then the hole is freed, and both sides put code, heaps and
//! stacks of guests there in the same order. Tables say on how many engines this worked.

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Result, bail};

/// Enough for the code of the largest guest and what the compiler needs beside it, bytes.
const HOLE: usize = 512 << 20;

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
pub struct Hole(*mut libc::c_void);

impl Hole {
    /// Maps `padding` pages for good, and a hole below them.
    pub fn reserve(padding: usize) -> Result<Self> {
        map(padding.max(1) * 4096)?;
        Ok(Self(map(HOLE)?))
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        // SAFETY: mapped by `reserve`, never handed out.
        unsafe { libc::munmap(self.0, HOLE) };
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

//! The array of runtime functions that all compiled code calls through, and putting our functions into it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use wasmtime_environ::BuiltinFunctionIndex;

use super::layout::InstanceContext;
use super::maps::{self, Mapping};
use super::probe::Probe;
use super::{Doubt, layout};
use crate::hooks;

/// Runtime functions that have a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    /// `memory.atomic.wait32`.
    Wait32,
    /// `memory.atomic.wait64`.
    Wait64,
    /// `memory.atomic.notify`.
    Notify,
    /// `memory.grow` of a memory that the instance defines.
    MemoryGrow,
    /// Allocation of a garbage-collected object: each (reference counting), or the slow path (copying).
    GcAlloc,
    /// Growth of the GC heap of the collector that never collects.
    GrowGcHeap,
    /// A collection that compiled code asks for (reference counting).
    ForceGc,
}

impl Builtin {
    const ALL: [Self; 7] = [
        Self::Wait32,
        Self::Wait64,
        Self::Notify,
        Self::MemoryGrow,
        Self::GcAlloc,
        Self::GrowGcHeap,
        Self::ForceGc,
    ];

    fn index(self) -> usize {
        let index = match self {
            Self::Wait32 => BuiltinFunctionIndex::memory_atomic_wait32(),
            Self::Wait64 => BuiltinFunctionIndex::memory_atomic_wait64(),
            Self::Notify => BuiltinFunctionIndex::memory_atomic_notify(),
            Self::MemoryGrow => BuiltinFunctionIndex::memory_grow(),
            Self::GcAlloc => BuiltinFunctionIndex::gc_alloc_raw(),
            Self::GrowGcHeap => BuiltinFunctionIndex::grow_gc_heap(),
            Self::ForceGc => BuiltinFunctionIndex::force_gc(),
        };
        index.index() as usize
    }
}

static ORIGINALS: [AtomicUsize; Builtin::ALL.len()] = [const { AtomicUsize::new(0) }; Builtin::ALL.len()];

/// The engine's own function. Set before its hook can be called.
#[inline]
pub(crate) fn original(builtin: Builtin) -> usize {
    ORIGINALS[builtin as usize].load(Ordering::Relaxed)
}

/// Set while the self-test runs, on its thread only: the hooks say there that they were called.
static TESTING: AtomicBool = AtomicBool::new(false);

/// Puts the hooks into the array and runs a guest through two of them; takes them out again on any doubt.
pub(super) fn interpose(probe: &Arc<Probe>) -> Result<(), Doubt> {
    if !cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return Err(Doubt::Platform);
    }
    let array = probe.in_host(InstanceContext::builtins)?;
    let known = maps::all();
    let place = check(array, &known)?;
    let slot = |builtin: Builtin| array + builtin.index() * size_of::<usize>();
    for builtin in Builtin::ALL {
        // SAFETY: `check` found the whole array inside a readable mapping.
        let function = unsafe { std::ptr::read_volatile(slot(builtin) as *const usize) };
        ORIGINALS[builtin as usize].store(function, Ordering::Relaxed);
    }
    let hooks = Builtin::ALL.map(|builtin| (slot(builtin), hooks::address(builtin)));
    write(&place, array, &hooks)?;
    TESTING.store(true, Ordering::SeqCst);
    let seen = hooks::calls_seen();
    let result = probe.grow_and_wait();
    let calls = hooks::calls_seen() - seen;
    TESTING.store(false, Ordering::SeqCst);
    // memory.grow gives the old size, one page; a wait for another value than the memory's gives 1.
    if result == Ok((1, 1)) && calls >= 2 {
        return Ok(());
    }
    let originals = Builtin::ALL.map(|builtin| (slot(builtin), original(builtin)));
    write(&place, array, &originals)?;
    Err(result.err().unwrap_or(Doubt::Layout { what: "the results of the runtime functions" }))
}

/// Whether hooks are being tested.
pub(crate) fn testing() -> bool {
    TESTING.load(Ordering::Relaxed)
}

/// The mapping of the array, if every entry is the address of code.
fn check(array: usize, known: &[Mapping]) -> Result<Mapping, Doubt> {
    let doubt = |what| Doubt::Layout { what };
    let end = array.saturating_add(layout::builtins() * size_of::<usize>());
    if !array.is_multiple_of(size_of::<usize>()) {
        return Err(doubt("the array of runtime functions"));
    }
    let place = known
        .iter()
        .find(|mapping| mapping.read && mapping.contains(array) && end <= mapping.end)
        .ok_or(doubt("the array of runtime functions"))?;
    for slot in (array..end).step_by(size_of::<usize>()) {
        // SAFETY: inside a readable mapping of this process.
        let function = unsafe { std::ptr::read_volatile(slot as *const usize) };
        if !known.iter().any(|mapping| mapping.execute && mapping.contains(function)) {
            return Err(doubt("an entry of the array of runtime functions"));
        }
    }
    Ok(place.clone())
}

/// Stores each word with one atomic store while the pages of the array are writable.
fn write(place: &Mapping, array: usize, words: &[(usize, usize)]) -> Result<(), Doubt> {
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let start = array & !(page - 1);
    let end = (array + layout::builtins() * size_of::<usize>()).next_multiple_of(page);
    let protect = |write: bool| {
        let rights = if write { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: whole pages of one mapping of this program's data; they stay readable throughout.
        match unsafe { libc::mprotect(start as *mut libc::c_void, end - start, rights) } {
            0 => Ok(()),
            _ => Err(Doubt::Kernel {
                what: "mprotect",
                errno: std::io::Error::last_os_error().raw_os_error().unwrap_or(0),
            }),
        }
    };
    if place.execute {
        return Err(Doubt::Layout { what: "the rights of the array of runtime functions" });
    }
    protect(true)?;
    for &(slot, word) in words {
        // SAFETY: an aligned word of the array, writable now. Compiled code loads it whole, so that it sees
        // either function; both have the same signature.
        unsafe { AtomicUsize::from_ptr(slot as *mut usize) }.store(word, Ordering::SeqCst);
    }
    if place.write { Ok(()) } else { protect(false) }
}

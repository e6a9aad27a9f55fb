//! Which store's guest runs on this thread, as the engine itself keeps it: a thread-local points to the
//! state of the running call on the stack, which points to the store's context.
//!
//! No crate says where the thread-local is or how the call's state is laid out. So it is looked for: a guest
//! is run whose store context is known, and every word of this program's thread-local block that points up
//! the stack to something that holds that context is a candidate. It has to be the only one, at the same
//! place in another thread, follow nested calls, and be empty when no guest runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering};

use super::layout::StoreContext;
use super::probe::Probe;
use super::{Doubt, maps};

/// Distance of the thread-local from the thread pointer; 0 if it is not known.
static SLOT: AtomicIsize = AtomicIsize::new(0);
/// Distance of the store context from the start of the call's state.
static FIELD: AtomicUsize = AtomicUsize::new(0);

/// Words of the call's state that are looked at; it has about eight.
const STATE_WORDS: usize = 16;
/// The engine marks initialized threads in the lowest bit of its thread-local.
const MARK: usize = 1;

/// Where a thread-local is and where in its target the context is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Location {
    slot: isize,
    field: usize,
}

/// Finds the thread-local, or says why not.
pub(super) fn find(probe: &Arc<Probe>) -> Result<(), Doubt> {
    if thread_pointer().is_none() {
        return Err(Doubt::Platform);
    }
    let here = probe.in_host(|context| candidates(context.store()))??;
    let there = {
        let probe = Arc::clone(probe);
        let thread = std::thread::Builder::new().name("sandscope-probe".to_owned());
        let join = thread
            .spawn(move || probe.in_host(|context| candidates(context.store()))?)
            .map_err(|error| kernel("clone", &error))?;
        join.join().map_err(|_| Doubt::Layout { what: "the other thread's state" })??
    };
    let [location] = *here.iter().filter(|known| there.contains(known)).copied().collect::<Vec<_>>() else {
        return Err(Doubt::Layout { what: "the thread-local of the running call" });
    };
    let nested = probe.nested(move |context| read(location) == Some(context.store()))?;
    if !nested {
        return Err(Doubt::Layout { what: "a nested call" });
    }
    if read(location).is_some() {
        return Err(Doubt::Layout { what: "a thread without a call" });
    }
    FIELD.store(location.field, Ordering::Relaxed);
    SLOT.store(location.slot, Ordering::Release);
    Ok(())
}

/// The context of the running call's store. Async-signal-safe.
pub(super) fn current() -> Option<StoreContext> {
    let slot = SLOT.load(Ordering::Acquire);
    if slot == 0 {
        return None;
    }
    read(Location { slot, field: FIELD.load(Ordering::Relaxed) })
}

fn read(location: Location) -> Option<StoreContext> {
    let slot = thread_pointer()?.wrapping_add_signed(location.slot);
    // SAFETY: `find` saw the word inside this program's static thread-local block, at the same distance in
    // two threads; the block is mapped as long as the thread lives.
    let state = unsafe { std::ptr::read_volatile(slot as *const usize) } & !MARK;
    if state == 0 {
        return None;
    }
    // SAFETY: the engine sets the word to a live call state of this thread's stacks before it runs a guest
    // and takes it away before that state ends.
    Some(StoreContext(unsafe { std::ptr::read_volatile((state + location.field) as *const usize) }))
}

/// All places that could be the thread-local, with a guest of `store` running.
fn candidates(store: StoreContext) -> Result<Vec<Location>, Doubt> {
    let unknown = Doubt::Layout { what: "the thread-local block" };
    let pointer = thread_pointer().ok_or(Doubt::Platform)?;
    let block = maps::thread_local_block(candidates as *const () as usize).ok_or(unknown)?;
    let local = 0usize;
    let stack = maps::mapping_of(&raw const local as usize).ok_or(Doubt::Layout { what: "the stack" })?;
    let floor = &raw const local as usize;
    let mut found = Vec::new();
    let start = block.start.next_multiple_of(size_of::<usize>());
    for slot in (start..block.end.saturating_sub(size_of::<usize>() - 1)).step_by(size_of::<usize>()) {
        // SAFETY: inside the thread-local block of this thread.
        let state = unsafe { std::ptr::read_volatile(slot as *const usize) } & !MARK;
        let end = state.saturating_add(STATE_WORDS * size_of::<usize>());
        if !state.is_multiple_of(size_of::<usize>()) || state < floor || end > stack.end {
            continue;
        }
        for field in (0..STATE_WORDS).map(|word| word * size_of::<usize>()) {
            // SAFETY: between this frame and the end of the stack's mapping.
            let word = unsafe { std::ptr::read_volatile((state + field) as *const usize) };
            if word == store.0 {
                found.push(Location { slot: slot.wrapping_sub(pointer).cast_signed(), field });
            }
        }
    }
    Ok(found)
}

fn kernel(what: &'static str, error: &std::io::Error) -> Doubt {
    Doubt::Kernel { what, errno: error.raw_os_error().unwrap_or(0) }
}

/// The address that static thread-locals are relative to.
#[inline]
fn thread_pointer() -> Option<usize> {
    let pointer: usize;
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    // SAFETY: reads the word that the ABI keeps at the start of the thread's control block: its own address.
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly));
    }
    #[cfg(all(target_os = "linux", target_arch = "aarch64"))]
    // SAFETY: reads a register that user space may always read.
    unsafe {
        std::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem));
    }
    #[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
    {
        pointer = 0;
    }
    (pointer != 0).then_some(pointer)
}

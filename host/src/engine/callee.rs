//! Host functions as the engine calls them: compiled code loads the function's address from the context that
//! a linker made for it, which all stores share, and calls it with that context.
//!
//! ```text
//! Func of a store --> VMFuncRef --vmctx--> magic | VMFuncRef { array_call, …, vmctx: itself } | closure
//!                                                              ^ loaded at every call, and replaced
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use wasmtime_environ::{HostPtr, PtrSize, VM_ARRAY_CALL_HOST_FUNC_MAGIC};

use super::layout::{InstanceContext, StoreContext};
use super::maps::{self, Mapping};
use super::{Doubt, ExitFrame};

/// What compiled code calls: the callee's context, the caller's, arguments and results, and how many there is
/// room for. False if it failed, with the reason kept by the engine; nothing unwinds out of it.
pub(crate) type ArrayCall = unsafe extern "C" fn(usize, usize, usize, usize) -> bool;

/// The context of a host function (`VMArrayCallHostFuncContext`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Callee(usize);

/// Offset of the address that compiled code loads.
fn entry_offset() -> usize {
    usize::from(HostPtr.vmarray_call_host_func_context_func_ref())
        + usize::from(HostPtr.vm_func_ref().array_call())
}

/// Offset of the context's pointer to itself.
fn itself_offset() -> usize {
    usize::from(HostPtr.vmarray_call_host_func_context_func_ref())
        + usize::from(HostPtr.vm_func_ref().vmctx())
}

impl Callee {
    /// The context behind a function; `None` if a guest defines the function.
    ///
    /// # Safety
    /// `raw` is what [`wasmtime::Func::to_raw`] gave for a function of a live store.
    pub(crate) unsafe fn behind(raw: *mut std::ffi::c_void) -> Result<Option<Self>, Doubt> {
        if !cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))) {
            return Err(Doubt::Platform);
        }
        let doubt = Err(Doubt::Layout { what: "the context of a host function" });
        // SAFETY: the raw form is the address of a live `VMFuncRef`.
        let context: usize = unsafe { read(raw as usize + usize::from(HostPtr.vm_func_ref().vmctx())) };
        if context == 0 || !context.is_multiple_of(align_of::<usize>()) {
            return doubt;
        }
        // SAFETY: the context of a live function, and every context starts with its magic.
        if unsafe { read::<u32>(context) } != VM_ARRAY_CALL_HOST_FUNC_MAGIC {
            return Ok(None);
        }
        // SAFETY: by its magic it is the context of a host function, which has these fields.
        let itself: usize = unsafe { read(context + itself_offset()) };
        if itself == context { Ok(Some(Self(context))) } else { doubt }
    }

    /// The context that a host function was called with.
    pub(crate) fn address(self) -> usize {
        self.0
    }

    /// What compiled code calls now, if it is code.
    ///
    /// # Safety
    /// The function is alive.
    pub(crate) unsafe fn entry(self) -> Result<usize, Doubt> {
        // SAFETY: a word of the live context.
        let entry = unsafe { read(self.0 + entry_offset()) };
        if is_code(entry) { Ok(entry) } else { Err(Doubt::Layout { what: "the address of a host function" }) }
    }

    /// Makes compiled code call something else from now on.
    ///
    /// # Safety
    /// The function is alive, and `entry` does for this context what the former one does.
    pub(crate) unsafe fn replace(self, entry: ArrayCall) {
        let slot = (self.0 + entry_offset()) as *mut usize;
        // SAFETY: an aligned word of the heap that the engine set once and only copies since. Compiled code
        // loads it whole, so that it calls either function.
        unsafe { AtomicUsize::from_ptr(slot) }.store(entry as usize, Ordering::SeqCst);
    }
}

/// This process's memory, for looking at what may have been freed.
pub(crate) struct Memory(File);

impl Memory {
    /// `None` where the kernel does not show a process its own memory.
    pub(crate) fn open() -> Option<Self> {
        File::open("/proc/self/mem").ok().map(Self)
    }

    /// Whether a live context that calls `entry` may be at an address. Never false for one that is there.
    pub(crate) fn may_hold(&self, context: usize, entry: ArrayCall) -> bool {
        self.word(context).is_some_and(|magic| magic as u32 == VM_ARRAY_CALL_HOST_FUNC_MAGIC)
            && self.word(context + entry_offset()) == Some(entry as usize)
            && self.word(context + itself_offset()) == Some(context)
    }

    /// A word, if it is mapped.
    pub(crate) fn word(&self, address: usize) -> Option<usize> {
        let mut word = [0; size_of::<usize>()];
        self.0.read_exact_at(&mut word, address as u64).ok()?;
        Some(usize::from_ne_bytes(word))
    }
}

/// Where the guest with this context was left for the host.
///
/// # Safety
/// `caller` is what compiled code passed to a host function that did not return yet.
pub(crate) unsafe fn exit_of(caller: usize) -> Option<ExitFrame> {
    let store: StoreContext = InstanceContext::passed(caller).store();
    // SAFETY: the store runs on this thread, up the stack.
    unsafe { store.exit() }
}

/// # Safety
/// `address` is that of a live, aligned `T` that no other thread writes but as a whole.
unsafe fn read<T: Copy>(address: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::read_volatile(address as *const T) }
}

/// Whether an address is one of code. Mappings are read again only for an address that none had.
fn is_code(address: usize) -> bool {
    static KNOWN: Mutex<Vec<Mapping>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let is_in = |known: &[Mapping]| known.iter().any(|mapping| mapping.execute && mapping.contains(address));
    if !is_in(&known) {
        *known = maps::all();
    }
    is_in(&known)
}

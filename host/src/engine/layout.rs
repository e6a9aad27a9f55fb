//! Reading the engine's structures: a store's context and an instance's.

use wasmtime_environ::{BuiltinFunctionIndex, HostPtr, PtrSize, VMCONTEXT_MAGIC};

/// `VMStoreContext` of a live store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreContext(pub(super) usize);

/// Where the guest was left for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExitFrame {
    /// Return address into the guest: the instruction after the call.
    pub pc: usize,
    /// Frame pointer of the engine's trampoline; the word there is the guest's frame pointer, the word
    /// above it the return address again.
    pub trampoline_fp: usize,
}

/// The store's heap of garbage-collected objects, as compiled code sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GcHeap {
    /// Address of the collector's data: the heap's identity while it lives.
    pub identity: usize,
    /// Bytes.
    pub capacity: usize,
    /// Copying collector: where the next object goes. Reference counting: its list of stack roots.
    pub first: u32,
    /// Copying collector: end of the active half. Reference counting: length of that list.
    pub second: u32,
    /// Reference counting: length of the list after the last collection.
    pub third: u32,
}

/// # Safety
/// `address` is that of a live, aligned `T` that no other thread writes.
unsafe fn read<T: Copy>(address: usize) -> T {
    // SAFETY: the caller's promise.
    unsafe { std::ptr::read_volatile(address as *const T) }
}

impl StoreContext {
    /// The exit frame; `None` while the guest runs or before it first left.
    ///
    /// # Safety
    /// The store is alive and runs on this thread.
    pub(crate) unsafe fn exit(self) -> Option<ExitFrame> {
        let offsets = HostPtr.vm_store_context();
        let (pc, fp) = (offsets.last_wasm_exit_pc(), offsets.last_wasm_exit_trampoline_fp());
        // SAFETY: both fields are words of the live context.
        let frame = unsafe {
            ExitFrame { pc: read(self.0 + usize::from(pc)), trampoline_fp: read(self.0 + usize::from(fp)) }
        };
        (frame.pc != 0 && frame.trampoline_fp != 0).then_some(frame)
    }

    /// Stack pointer at which the host entered the guest, and the lowest that the guest may use.
    ///
    /// # Safety
    /// As for [`Self::exit`].
    pub(crate) unsafe fn stack(self) -> (usize, usize) {
        let offsets = HostPtr.vm_store_context();
        let (entry, limit) = (offsets.last_wasm_entry_sp(), offsets.stack_limit());
        // SAFETY: both fields are words of the live context.
        unsafe { (read(self.0 + usize::from(entry)), read(self.0 + usize::from(limit))) }
    }
}

/// Definitions of memories that an instance may have behind its array of pointers to them: the engine allows
/// 100 memories.
const DEFINITIONS: usize = 100;

/// `VMContext` of an instance.
#[derive(Clone, Copy, Debug)]
pub(super) struct InstanceContext(usize);

impl InstanceContext {
    /// The context behind the raw form of one of an instance's own functions.
    ///
    /// # Safety
    /// `raw` is what [`wasmtime::Func::to_raw`] gave for a function of a live core instance.
    pub(super) unsafe fn of_function(raw: *mut std::ffi::c_void) -> Option<Self> {
        let offset = usize::from(HostPtr.vm_func_ref().vmctx());
        // SAFETY: the raw form is the address of a live `VMFuncRef`.
        unsafe { Self::at(read(raw as usize + offset)) }
    }

    /// # Safety
    /// `vmctx` is the address of a live context of any kind.
    unsafe fn at(vmctx: usize) -> Option<Self> {
        if vmctx == 0 || !vmctx.is_multiple_of(align_of::<usize>()) {
            return None;
        }
        // SAFETY: every context starts with its magic.
        let magic: u32 = unsafe { read(vmctx + usize::from(HostPtr.vmctx_magic())) };
        (magic == VMCONTEXT_MAGIC).then_some(Self(vmctx))
    }

    /// The context that compiled code passes to a runtime function.
    pub(super) const fn passed(vmctx: usize) -> Self {
        Self(vmctx)
    }

    pub(super) fn store(self) -> StoreContext {
        // SAFETY: a live instance's context points to its store's.
        StoreContext(unsafe { read(self.0 + usize::from(HostPtr.vmctx_store_context())) })
    }

    /// Address of the array of runtime functions.
    pub(super) fn builtins(self) -> usize {
        // SAFETY: a field of a live instance's context.
        unsafe { read(self.0 + usize::from(HostPtr.vmctx_builtin_functions())) }
    }

    /// Address and bytes of a memory that the instance defines, of its own; `None` if it does not look like one.
    ///
    /// What an instance knows of memories comes first in its dynamic part: imports, pointers to definitions,
    /// definitions. Without imports the pointers come first, and lead just behind themselves unless the memory
    /// is shared. Of an instance that imports memories and defines others, the pointer is read off an import:
    /// that leads to another instance, or, at worst, to a live structure of one right behind this.
    ///
    /// # Safety
    /// The instance is alive, its store runs on this thread, and `index` is that of a memory it defines.
    pub(super) unsafe fn memory(self, index: u32) -> Option<(usize, usize)> {
        let word = usize::from(HostPtr.size_of_vmmemory_pointer());
        let slot = self.0 + usize::from(HostPtr.vmctx_dynamic_data_start()) + index as usize * word;
        let definition = HostPtr.vm_memory_definition();
        let behind = DEFINITIONS * (word + usize::from(definition.size()));
        // SAFETY: the instance has at least as many pointers as it defines memories.
        let address: usize = unsafe { read(slot) };
        if !(slot + word..slot + behind).contains(&address) || !address.is_multiple_of(word) {
            return None;
        }
        // SAFETY: a definition in the instance's own context.
        unsafe {
            let length = read(address + usize::from(definition.current_length()));
            Some((read(address + usize::from(definition.base())), length))
        }
    }

    /// State of the store's GC heap; all zeroes if it has none yet.
    pub(super) fn gc_heap(self) -> GcHeap {
        let store = self.store();
        let length = HostPtr.vm_store_context().gc_heap_current_length();
        let data = usize::from(HostPtr.vmctx_gc_heap_data());
        // SAFETY: fields of a live store's and instance's context.
        let (capacity, data): (usize, usize) =
            unsafe { (read(store.0 + usize::from(length)), read(self.0 + data)) };
        if data == 0 || capacity == 0 {
            return GcHeap::default();
        }
        // Both collectors' data is at least as long as the shorter one's two words; the third is read only
        // from the longer one by `hooks::gc`, which knows it by the first two.
        let third = HostPtr.vmdrc_heap_data_over_approximated_stack_roots_len_after_last_gc();
        // SAFETY: the collector's data, alive as long as its heap. The copying collector's is 8 bytes inside
        // a larger object of the runtime, so that 4 more are readable, if meaningless.
        unsafe {
            GcHeap {
                identity: data,
                capacity,
                first: read(data + usize::from(HostPtr.vmcopying_heap_data_bump_ptr())),
                second: read(data + usize::from(HostPtr.vmcopying_heap_data_active_space_end())),
                third: read(data + usize::from(third)),
            }
        }
    }
}

/// Entries of the array of runtime functions.
pub(super) fn builtins() -> usize {
    BuiltinFunctionIndex::len() as usize
}

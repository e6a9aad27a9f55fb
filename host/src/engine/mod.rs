//! The only place that knows the engine's insides: where a store keeps the frame that left the guest, and
//! the array of runtime functions that compiled code calls through.
//!
//! Offsets and indices come from `wasmtime-environ`, pinned to the engine's exact version. What no crate
//! says (which thread-local names the running call) is found by experiment at start-up, in two threads, and
//! used only if the experiment has exactly one answer. On any doubt the probes that need it say that they
//! are unavailable; everything else works.
//!
//! ```text
//! thread-local --> call state --> store context --> exit frame, stack limit, GC heap
//!                                      ^
//! vmctx of an instance ----------------+--> builtin array --> hooks (see `hooks`)
//! context of a host function --> its address --> `hostcall`
//! ```

mod activation;
mod array;
mod callee;
mod layout;
mod maps;
mod probe;

use std::sync::OnceLock;

pub(crate) use array::{Builtin, original, testing};
pub(crate) use callee::{ArrayCall, Callee, Memory, exit_of};
pub(crate) use layout::{ExitFrame, GcHeap, StoreContext};
pub(crate) use probe::{Traits, is_winch, traits};

/// What of the engine's insides can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// Why samples in host code have no guest stack.
    pub exit_frames: Option<Doubt>,
    /// Why waits, growths and collections are not seen.
    pub builtins: Option<Doubt>,
}

/// Why a probe is unavailable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// No support for this operating system and architecture.
    #[error("this operating system or architecture has no support for it")]
    Platform,
    /// The probe module could not be compiled or run.
    #[error("the engine did not run the self-test: {reason}")]
    Engine {
        /// What the engine said.
        reason: String,
    },
    /// The engine's memory does not look as the pinned version's layout says.
    #[error("the engine's memory does not look as expected: {what}")]
    Layout {
        /// What was wrong.
        what: &'static str,
    },
    /// There is no room for what is to be observed.
    #[error("more than {limit} are in use")]
    Room {
        /// How many there is room for.
        limit: usize,
    },
    /// The kernel refused something.
    #[error("{what} failed (errno {errno})")]
    Kernel {
        /// The call.
        what: &'static str,
        /// errno.
        errno: i32,
    },
}

/// Prepares and tests access, once per process; before the first guest is loaded.
pub(crate) fn access() -> &'static Access {
    static ACCESS: OnceLock<Access> = OnceLock::new();
    ACCESS.get_or_init(|| {
        let probe = match probe::Probe::new() {
            Ok(probe) => std::sync::Arc::new(probe),
            Err(doubt) => return Access { exit_frames: Some(doubt.clone()), builtins: Some(doubt) },
        };
        Access { exit_frames: activation::find(&probe).err(), builtins: array::interpose(&probe).err() }
    })
}

/// The context of the store whose guest this thread runs now, if one is known. Async-signal-safe.
pub(crate) fn current() -> Option<StoreContext> {
    activation::current()
}

/// Address and bytes of a memory of its own that an instance defines, if it looks like one.
///
/// # Safety
/// `vmctx` and `index` are what compiled code passed, and its instance is alive.
pub(crate) unsafe fn memory(vmctx: usize, index: u32) -> Option<(usize, usize)> {
    // SAFETY: the caller's promise.
    unsafe { layout::InstanceContext::passed(vmctx).memory(index) }
}

/// State of the GC heap of the instance whose code called a runtime function.
///
/// # Safety
/// `vmctx` is what compiled code passed, and its instance is alive.
pub(crate) unsafe fn gc_heap(vmctx: usize) -> GcHeap {
    layout::InstanceContext::passed(vmctx).gc_heap()
}

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    /// On the platforms that are supported, the pinned engine has no doubt left.
    #[test]
    fn everything_is_accessible() {
        assert_eq!(*access(), Access::default());
        // Tests of other modules may run a guest elsewhere; this thread runs none.
        assert_eq!(current(), None);
    }

    /// An engine with default settings gives guests 512 KiB and runs their own code.
    #[test]
    fn engines_are_asked() {
        access();
        let usual = Traits { stack: Some(512 << 10), copies_code: false };
        assert_eq!(traits(&wasmtime::Engine::default()), Some(usual));
    }

    /// The other compiler is known from the settings, which name it only in their text.
    #[test]
    fn winch_is_told_from_cranelift() {
        use wasmtime::{Config, Strategy};
        assert!(!is_winch(&Config::new()));
        assert!(!is_winch(Config::new().strategy(Strategy::Cranelift)));
        assert!(is_winch(Config::new().strategy(Strategy::Winch)));
    }
}

//! What differs between architectures: the registers of a signal, and what they mean inside a prologue or an
//! epilogue. Each file reads instructions that the engine's code generator emits, as bytes, so its tests run
//! everywhere.

#[cfg(any(test, target_arch = "aarch64"))]
mod aarch64;
#[cfg(any(test, target_arch = "x86_64"))]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(super) use aarch64::{Registers, strip};
#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{Registers, strip};

/// Where the walk of a stack goes on from the interrupted instruction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Innermost {
    /// The interrupted function's return address, unless the frame at `fp` holds it.
    pub return_address: Option<usize>,
    /// The innermost frame that stands: the caller's frame pointer, and above it a return address.
    pub fp: usize,
}

//! The signal sampler: timers per thread, a handler that copies program counters, rings that hold them.
//!
//! ```text
//! enter() --sets--> thread state <--writes-- signal handler --reads--> text table
//!                        |                                               ^
//!                     drain() --> RawSample                    register/retire code
//! ```
//! Nothing here knows what a module is: program counters go in, program counters come out, with the
//! workload that was running. [`crate::code`] turns them into offsets.
//!
//! # Accuracy
//! Thread CPU time at a fixed rate; the kernel checks these timers once per scheduler tick, so the rate is
//! capped at its frequency (100 to 1000 Hz) and missed expirations arrive as weight. A sample in host code
//! has the stack of the guest that called it, from the exit frame that the engine keeps; without that frame
//! (see [`crate::engine`]) it is counted under `[host]` alone. Engines that interpret guests (Pulley) or copy
//! their code (`guest_debug`) cannot be sampled, which is a [`crate::Warning`]. So is the engine's other compiler,
//! Winch: its guests keep frame pointers too and are sampled, but by rules that were tested on Cranelift's code.
//!
//! # Cost
//! At 99 Hz guests took 0.999 to 1.004 of the bare engine's time, at 1 kHz 1.02 to 1.06 (x86-64, 2 cores, ±3 %,
//! measured by hand); `docs/BENCHMARKS.md` says what of it is measured again. Entering and leaving a call is a
//! few thread-local stores.
//!
//! # Security
//! A ring holds addresses of guest code and the ordinal of a workload, nothing from guest memory.

#[cfg(sandscope_sampler)]
mod arch;
mod flight;
#[cfg(sandscope_sampler)]
mod linux;
mod rate;
#[cfg_attr(not(sandscope_sampler), allow(dead_code, reason = "without signals nothing takes samples"))]
mod ring;
#[cfg(sandscope_sampler)]
mod signal;
#[cfg(all(test, sandscope_sampler, target_arch = "x86_64"))]
pub(crate) mod step;
#[cfg_attr(not(sandscope_sampler), allow(dead_code, reason = "without signals nothing takes samples"))]
mod table;
#[cfg_attr(not(sandscope_sampler), allow(dead_code, reason = "without signals nothing takes samples"))]
mod thread;
#[cfg(sandscope_sampler)]
mod unwind;
// `build.rs` says where there is a sampler.
#[cfg(not(sandscope_sampler))]
mod unsupported;

pub(crate) use flight::{InFlight, Note, Parked, calling, in_flight, noted, restore};
pub(crate) use rate::{MAX_HZ, Rate};
pub(crate) use ring::{Drained, Kind};
pub(crate) use table::{TEXT, TextRange};
pub(crate) use thread::{
    Active, Entry, active_span, drain, enter, event, figures, in_reporter, kept_figures, reclaim_tables,
    release, set_rate,
};

/// Deepest stack that is kept, in frames; deeper ones lose their outermost frames and are counted.
pub(crate) const MAX_FRAMES: usize = 512;

/// Longest distance between two places of one guest's stack, in bytes: larger than any.
const MAX_STACK: usize = 64 << 20;

/// Why samples are not being taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// No sampler for this operating system and architecture.
    #[error("the sampler has no support for {os} on {arch}")]
    Platform {
        /// `std::env::consts::OS`.
        os: &'static str,
        /// `std::env::consts::ARCH`.
        arch: &'static str,
    },
    /// The engine interprets guests (Pulley): there is no machine code to be interrupted in.
    #[error("the engine interprets its guests")]
    Interpreter,
    /// The engine runs guests in copies of their code, one per store (`Config::guest_debug`): the sampler knows
    /// the original's place only.
    #[error("the engine copies its guests' code into each store, as for debugging them")]
    CopiedCode,
    /// The engine compiles guests with Winch. Samples are taken, but the rules for reading a stack in a function's
    /// first and last instructions were tested on Cranelift's code only.
    #[error("the engine compiles its guests with Winch, whose stacks may be read with a caller missing")]
    Baseline,
    /// Every real-time signal has a handler already.
    #[error("every real-time signal is in use by the process")]
    NoSignal,
    /// The kernel refused the handler.
    #[error("the signal handler was refused (errno {errno})")]
    Handler {
        /// errno.
        errno: i32,
    },
}

/// Whether the calling thread is inside the signal handler: for an allocator that checks that it is not called
/// there. Async-signal-safe.
#[doc(hidden)]
pub fn in_handler() -> bool {
    #[cfg(sandscope_sampler)]
    return signal::inside();
    #[cfg(not(sandscope_sampler))]
    false
}

/// Whether any guest was rewritten to report allocations.
pub(crate) fn has_reporters() -> bool {
    TEXT.has_reporters()
}

/// Installs the process's signal handler, once; later calls give the first call's answer.
pub(crate) fn install() -> Result<(), Unavailable> {
    #[cfg(sandscope_sampler)]
    return signal::install();
    #[cfg(not(sandscope_sampler))]
    unsupported::install()
}

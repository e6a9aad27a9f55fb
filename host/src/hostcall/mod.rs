//! Calls of host functions: counted always, timed as often as it costs nothing, by workload and function.
//!
//! ```text
//! linker --link--> context of each function: the engine's address <--> ours
//! guest --> trampoline --> hook (table: what it was, which number) --> the engine's --> the host's closure
//!                           |                                                            |
//!                           +-- count, time, failure --> figures of the workload         +-- events ring
//! ```
//! The engine gives no name and no wrapper for this; the address is replaced where compiled code loads it, once
//! per function, so guests, stores and `InstancePre` stay what they are. Components' functions have no such
//! place: see [`crate::HostFunction`].
//!
//! # Accuracy
//! Counts are exact, failures as well (the function returned an error, or was dropped while it waited). Of
//! functions that return within a few microseconds one call in up to a thousand is timed, and stands for the
//! others; so a rare long call of such a function may be missed in times and profiles, though not while it
//! lasts. A function that a linker has under two names goes by the first.
//!
//! # Security
//! Names of imports, which the host chose, and durations.

mod figures;
mod hook;
mod link;
mod named;
mod names;
mod table;

pub(crate) use figures::HostCalls;
pub use named::HostFunction;
pub(crate) use names::{NONE, name};

//! An instrumented wasmtime host: a library for embedders, and the runner behind `sandscope run` and `serve`.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use sandscope_host::{Sandscope, WorkloadId};
//! let scope = Sandscope::builder().region("eu-1").otlp("http://127.0.0.1:4317").build()?;
//! let mut config = wasmtime::Config::new();
//! scope.configure(&mut config);
//! let engine = wasmtime::Engine::new(&config)?;
//! let guest = scope.load_module(&engine, &std::fs::read("guest.wasm")?, &WorkloadId::new("guest", "1"), "guest")?;
//! let mut store = wasmtime::Store::new(&engine, guest.workload().store_probe());
//! store.limiter(|probe| probe);
//! let instance = guest.workload().instantiate(|| wasmtime::Instance::new(&mut store, &guest, &[]))?;
//! let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
//! guest.workload().call(|| run.call(&mut store, ()))?;
//! # Ok(()) }
//! ```
//! [`Builder::module_cache`] keeps what was compiled for the next process; [`Sandscope::prepare`] compiles on one
//! machine what [`Sandscope::load_precompiled_module`] runs on others.
//!
//! [`Sandscope::observe_linker`] counts and times the host functions that core guests call, and [`HostFunction`]
//! those of components.
//!
//! Guests run unmodified. Nothing on a guest's thread blocks, allocates or formats for telemetry's sake while
//! the guest runs; what does not fit is counted.

mod agent;
mod aggregate;
mod cache;
mod call;
mod clock;
mod code;
mod cold;
mod compiled;
mod debug_info;
mod dump;
#[cfg(all(test, sandscope_sampler))]
mod edges;
mod engine;
mod export;
mod facade;
mod flight;
mod hooks;
mod hostcall;
mod load;
mod memories;
mod observed;
mod output;
mod pages;
mod pool;
mod prepare;
mod redact;
mod rewrite;
pub mod runner;
mod runtime;
mod sampler;
mod scope;
mod shape;
mod shelf;
mod sidecar;
mod sites;
mod span;
mod spool;
#[cfg_attr(not(unix), path = "stack_unsupported.rs")]
mod stack;
mod trap;
mod uploads;
mod workload;

pub use cache::CacheError;
pub use call::{CallSpan, Request};
pub use cold::ColdStart;
pub use dump::DumpedMemory;
pub use engine::Doubt;
pub use flight::capture;
pub use flight::{Recordings, Trigger, TriggerError};
pub use hostcall::HostFunction;
pub use load::{Loaded, Workload};
pub use output::{GuestOutput, GuestStream};
pub use prepare::Prepared;
pub use redact::{Redaction, RedactionError};
pub use sampler::Unavailable;
#[doc(hidden)]
pub use sampler::in_handler;
pub use sandscope_model::{ModuleId, WorkloadId};
pub use sandscope_proto::connect::{ConnectError, Credentials};
pub use sandscope_proto::start::{Cache as StartCache, Phase as StartPhase};
pub use scope::{BuildError, Builder, Clock, ENGINE_VERSION, Sandscope, Warning};
pub use shape::CoreModule;
pub use sidecar::{Sidecar, SidecarError};
pub use span::TraceParent;
pub use spool::SpoolSettings;
pub use trap::{TrapFrame, TrapReport};
pub use workload::{Figures, Outcome, StoreProbe, trap_code};

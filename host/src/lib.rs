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
//! Guests run unmodified. Nothing on a guest's thread blocks, allocates or formats for telemetry's sake while
//! the guest runs; what does not fit is counted.

mod agent;
mod aggregate;
mod code;
mod debug_info;
#[cfg(all(test, sandscope_sampler))]
mod edges;
mod export;
mod facade;
mod load;
pub mod runner;
mod sampler;
mod scope;
mod trap;
mod workload;

pub use load::{Loaded, Workload};
pub use sampler::Unavailable;
pub use sandscope_model::{ModuleId, WorkloadId};
pub use scope::{BuildError, Builder, ENGINE_VERSION, Sandscope, Warning};
pub use trap::{TrapFrame, TrapReport};
pub use workload::{Figures, Outcome, StoreProbe, trap_code};

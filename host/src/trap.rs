//! A call that ended in a trap, as raw as the engine tells it: module offsets, no names.

use std::sync::Arc;
use std::time::SystemTime;

use sandscope_model::{ModuleId, WorkloadId};
use wasmtime::{Trap, WasmBacktrace};

use crate::workload::trap_code;

/// A trap with its stack.
#[derive(Clone, Debug)]
pub struct TrapReport {
    /// When the call ended.
    pub time: SystemTime,
    /// Whose call.
    pub workload: WorkloadId,
    /// The engine's name of the trap in snake case, `host_error` for a failure in the host.
    pub code: String,
    /// One line for people. It may hold text of the guest.
    pub message: String,
    /// Innermost first. Offsets are of the instruction in the whole file.
    pub frames: Vec<TrapFrame>,
}

/// A frame of a trap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrapFrame {
    /// The module or component that the workload was loaded from.
    pub module: ModuleId,
    /// Whole-file offset.
    pub offset: u64,
    /// Index of the function in its core module.
    pub function: u32,
}

impl TrapReport {
    /// What `error` says of a call of `workload`, whose code is `module`.
    pub(crate) fn new(workload: &WorkloadId, module: &ModuleId, error: &wasmtime::Error) -> Arc<Self> {
        let (code, message) = match error.downcast_ref::<Trap>() {
            // The engine puts "wasm trap: " before each; where this is shown says that already.
            Some(trap) => (trap_code(*trap), trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
            None => ("host_error".to_owned(), error.root_cause().to_string()),
        };
        let frames = error.downcast_ref::<WasmBacktrace>().map_or_else(Vec::new, |backtrace| {
            let frames = backtrace.frames().iter();
            frames
                .map(|frame| TrapFrame {
                    module: module.clone(),
                    offset: frame.module_offset().unwrap_or(0) as u64,
                    function: frame.func_index(),
                })
                .collect()
        });
        Arc::new(Self { time: SystemTime::now(), workload: workload.clone(), code, message, frames })
    }
}

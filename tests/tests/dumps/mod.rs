//! Traps of guests in the engine, with the core dump that it writes and the places that it knows.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod dwarf;

use sandscope_symbols::{FrameVariables, StoppedFrame};
use wasmtime::{
    Config, Engine, Error, Linker, Module, Store, StoreLimits, StoreLimitsBuilder, WasmBacktrace,
    WasmCoreDump,
};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{self, WasiP1Ctx};

/// Deep enough for every stack in these tests.
const MAX_FRAMES: usize = 256;

/// A guest that trapped.
pub struct Trap {
    pub dump: Vec<u8>,
    /// Where in the file each frame is, innermost first; `None` for a function that was not entered yet.
    pub offsets: Vec<Option<u64>>,
}

/// An engine that writes core dumps.
pub fn engine() -> Engine {
    let mut config = Config::new();
    config.coredump_on_trap(true);
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(MAX_FRAMES));
    config.shared_memory(true);
    config.wasm_memory64(true);
    Engine::new(&config).unwrap()
}

/// What a trap left behind.
pub fn trap<T: 'static>(store: &mut Store<T>, error: &Error) -> Trap {
    let dump = error.downcast_ref::<WasmCoreDump>().expect("a trap has a core dump");
    let offsets = match error.downcast_ref::<WasmBacktrace>() {
        Some(backtrace) => backtrace.frames(),
        None => dump.frames(),
    };
    let offsets = offsets.iter().map(|frame| frame.module_offset().map(|offset| offset as u64)).collect();
    Trap { dump: dump.serialize(store, "test"), offsets }
}

/// Runs a WASI command that traps, with so many bytes of memory at most.
pub fn command(bytes: &[u8], args: &[&str], memory: usize) -> Trap {
    let engine = engine();
    let mut linker: Linker<(WasiP1Ctx, StoreLimits)> = Linker::new(&engine);
    p1::add_to_linker_sync(&mut linker, |(wasi, _)| wasi).unwrap();
    let limits = StoreLimitsBuilder::new().memory_size(memory).build();
    let mut store = Store::new(&engine, (WasiCtxBuilder::new().args(args).build_p1(), limits));
    store.limiter(|(_, limits)| limits);
    let module = Module::new(&engine, bytes).unwrap();
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap();
    let error = start.call(&mut store, ()).unwrap_err();
    trap(&mut store, &error)
}

impl Trap {
    /// Places that were found by the dump alone are those that the engine knows.
    pub fn check(&self, placed: &[StoppedFrame]) {
        assert_eq!(placed.len(), self.offsets.len());
        for (placed, offset) in placed.iter().zip(&self.offsets) {
            assert!(offset.is_none_or(|offset| offset == placed.offset), "{placed:?} {offset:?}");
        }
    }
}

/// A frame for the message of a failed test.
pub fn show(frame: &FrameVariables) -> String {
    let variables =
        frame.variables.iter().map(|known| format!("\n  {}: {} = {}", known.name, known.ty, known.value));
    format!("{} {:?}{}", frame.frame.function, frame.gap, variables.collect::<String>())
}

//! The embedder of `plain_core`, observed: stack, memory, garbage collection, cold start, CPU and traps of the
//! guest go into a recording (or, with `otlp`, to a collector).
#![allow(clippy::print_stdout, reason = "it says what the guest returned")]

use sandscope_host::{Sandscope, WorkloadId};
use wasmtime::{Config, Engine, Instance, Result, Store};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "tests/guests/gc.wasm".to_owned());
    let bytes = std::fs::read(path)?;
    let record = std::env::args().nth(2).unwrap_or_else(|| "core.mcap".to_owned());
    let scope = Sandscope::builder().record(record).build()?;
    let mut config = Config::new();
    config.wasm_gc(true).wasm_function_references(true);
    scope.configure(&mut config);
    let engine = Engine::new(&config)?;
    let module = scope.load_module(&engine, &bytes, &WorkloadId::new("gc", "1"), "gc.wasm")?;
    let mut store = Store::new(&engine, module.workload().store_probe());
    store.limiter(|probe| probe);
    let instance = module.workload().instantiate(|| Instance::new(&mut store, &module, &[]))?;
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
    println!("{}", module.workload().call(|| run.call(&mut store, 100))?);
    Ok(())
}

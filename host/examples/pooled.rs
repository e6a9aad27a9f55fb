//! An embedder that pools instances: one per call, many calls.
#![allow(clippy::print_stdout, reason = "it says what the guest returned")]

use sandscope_host::{Sandscope, WorkloadId};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, Linker, PoolingAllocationConfig, Result, Store};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "tests/guests/gc.wasm".to_owned());
    let bytes = std::fs::read(path)?;
    let record = std::env::args().nth(2).unwrap_or_else(|| "pooled.mcap".to_owned());
    let scope = Sandscope::builder().record(record).build()?;
    let mut config = Config::new();
    config.wasm_gc(true).wasm_function_references(true);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(PoolingAllocationConfig::default()));
    scope.configure(&mut config);
    let engine = Engine::new(&config)?;
    let module = scope.load_module(&engine, &bytes, &WorkloadId::new("gc", "1"), "gc.wasm")?;
    let linker = Linker::new(&engine).instantiate_pre(&module)?;
    for _ in 0..20 {
        let mut store = Store::new(&engine, module.workload().store_probe());
        store.limiter(|probe| probe);
        let instance = module.workload().instantiate(|| linker.instantiate(&mut store))?;
        let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
        println!("{}", module.workload().call(|| run.call(&mut store, 100))?);
    }
    Ok(())
}

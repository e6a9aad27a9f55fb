//! An embedder whose modules are compiled elsewhere: [`Sandscope::prepare`] gives the artifact and a sidecar,
//! and with both the samples keep the identity that debug info is found by.
#![allow(clippy::print_stdout, reason = "it says what the guest returned")]

use sandscope_host::{Sandscope, Sidecar, WorkloadId};
use wasmtime::{Config, Engine, Instance, Result, Store};

fn engine(scope: &Sandscope) -> Result<Engine> {
    let mut config = Config::new();
    config.wasm_gc(true).wasm_function_references(true);
    scope.configure(&mut config);
    Engine::new(&config)
}

/// Where modules are compiled: a build machine.
fn build(bytes: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let scope = Sandscope::builder().hz(0.0).build()?;
    let prepared = Sandscope::prepare(&engine(&scope)?, bytes)?;
    Ok((prepared.artifact, prepared.sidecar.to_bytes()))
}

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "tests/guests/gc.wasm".to_owned());
    let (artifact, sidecar) = build(&std::fs::read(path)?)?;
    let record = std::env::args().nth(2).unwrap_or_else(|| "precompiled.mcap".to_owned());
    let scope = Sandscope::builder().record(record).build()?;
    let (engine, sidecar) = (engine(&scope)?, Sidecar::from_bytes(&sidecar)?);
    let id = WorkloadId::new("gc", "1");
    // SAFETY: the artifact comes from `build` above, unchanged.
    let module =
        unsafe { scope.load_precompiled_module(&engine, &artifact, Some(&sidecar), &id, "gc.cwasm") }?;
    let mut store = Store::new(&engine, module.workload().store_probe());
    store.limiter(|probe| probe);
    let instance = module.workload().instantiate(|| Instance::new(&mut store, &module, &[]))?;
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
    println!("{}", module.workload().call(|| run.call(&mut store, 100))?);
    Ok(())
}

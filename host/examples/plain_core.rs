//! A plain embedder that runs a core module: what `core` is without sandscope.
#![allow(clippy::print_stdout, reason = "it says what the guest returned")]

use wasmtime::{Config, Engine, Instance, Module, Result, Store};

fn main() -> Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| "tests/guests/gc.wasm".to_owned());
    let bytes = std::fs::read(path)?;
    let mut config = Config::new();
    config.wasm_gc(true).wasm_function_references(true);
    let engine = Engine::new(&config)?;
    let module = Module::new(&engine, &bytes)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[])?;
    let run = instance.get_typed_func::<i32, i32>(&mut store, "run")?;
    println!("{}", run.call(&mut store, 100)?);
    Ok(())
}

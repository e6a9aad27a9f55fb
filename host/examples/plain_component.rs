//! A plain async embedder that runs a component: what `component` is without sandscope.
#![allow(clippy::print_stdout, reason = "it says what the guest returned")]

use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, Result, Store};

const ADD: &str = r#"(component
    (core module $m
        (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))
    (core instance $i (instantiate $m))
    (func (export "add") (param "a" u32) (param "b" u32) (result u32)
        (canon lift (core func $i "add"))))"#;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let bytes = wat::parse_str(ADD)?;
    let config = Config::new();
    let engine = Engine::new(&config)?;
    let component = Component::new(&engine, &bytes)?;
    let linker = Linker::new(&engine);
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate_async(&mut store, &component).await?;
    let add = instance.get_typed_func::<(u32, u32), (u32,)>(&mut store, "add")?;
    println!("{}", add.call_async(&mut store, (40, 2)).await?.0);
    Ok(())
}

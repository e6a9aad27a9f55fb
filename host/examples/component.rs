//! The embedder of `plain_component`, observed.
#![allow(clippy::print_stdout, reason = "it says what the guest returned")]

use sandscope_host::{Sandscope, WorkloadId};
use wasmtime::component::Linker;
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
    let record = std::env::args().nth(2).unwrap_or_else(|| "component.mcap".to_owned());
    let scope = Sandscope::builder().record(record).build()?;
    let mut config = Config::new();
    scope.configure(&mut config);
    let engine = Engine::new(&config)?;
    let component = scope.load_component(&engine, &bytes, &WorkloadId::new("add", "1"), "add.wasm")?;
    let linker = Linker::new(&engine);
    let mut store = Store::new(&engine, component.workload().store_probe());
    store.limiter(|probe| probe);
    let instance = linker.instantiate_async(&mut store, &component).await?;
    let add = instance.get_typed_func::<(u32, u32), (u32,)>(&mut store, "add")?;
    println!("{}", component.workload().call_async(add.call_async(&mut store, (40, 2))).await?.0);
    Ok(())
}

//! What is known of a guest's memories, on real engines.

use sandscope_host::{Sandscope, StoreProbe, WorkloadId};
use wasmtime::{Config, Engine, Instance, Store};

fn instance(scope: &Sandscope, wat: &str, limit: usize) -> (Store<StoreProbe>, Instance) {
    let mut config = Config::new();
    scope.configure(&mut config);
    config.wasm_custom_page_sizes(true);
    let engine = Engine::new(&config).unwrap();
    let wasm = wat::parse_str(wat).unwrap();
    let guest = scope.load_module(&engine, &wasm, &WorkloadId::new("memory", "1"), "memory.wasm").unwrap();
    let mut store = Store::new(&engine, guest.workload().store_probe().with_limit(limit));
    store.limiter(|probe| probe);
    let instance = guest.workload().instantiate(|| Instance::new(&mut store, &guest, &[])).unwrap();
    (store, instance)
}

/// With pages of one byte the engine reports growths as failed that it never asked for: they leave the limit
/// where it is.
#[test]
fn a_failure_that_nobody_asked_for_frees_nothing() {
    let scope = Sandscope::builder().hz(0.0).build().unwrap();
    let wat = r#"(module (memory (export "memory") 0 (pagesize 1))
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"#;
    let (mut store, instance) = instance(&scope, wat, 1_000_000);
    let grow = instance.get_typed_func::<i32, i32>(&mut store, "grow").unwrap();
    for round in 0..4 {
        let fits = round < 2;
        assert_eq!(grow.call(&mut store, 400_000).unwrap() >= 0, fits, "round {round}");
        assert_eq!(grow.call(&mut store, -1).unwrap(), -1);
    }
    let memory = instance.get_memory(&mut store, "memory").unwrap();
    assert_eq!((memory.data_size(&store), store.data().size()), (800_000, 800_000));
}

//! Modules that arrive compiled, and the cache inside one process: the same ids, names and places as from
//! the file.

use std::path::Path;
use std::sync::{Arc, Mutex};

use sandscope_host::{
    Sandscope, Sidecar, SidecarError, StartCache, StartPhase, TrapReport, Warning, WorkloadId,
};
use sandscope_recording::Recording;
use wasmtime::{Config, Engine, Instance, Linker, Module, Store};

/// `run` traps two calls deep; there is an imported function and LLVM's stack pointer.
const WAT: &str = r#"(module $lib
    (import "env" "log" (func $log (param i32)))
    (global $__stack_pointer (mut i32) (i32.const 65536))
    (func $fails (param i32) (drop (i32.div_u (i32.const 1) (local.get 0))))
    (func $run (export "run") (call $fails (i32.const 0)))
    (func $fine (export "fine") (call $log (i32.const 1))))"#;

fn engine(scope: &Sandscope, change: impl FnOnce(&mut Config)) -> Engine {
    let mut config = Config::new();
    scope.configure(&mut config);
    change(&mut config);
    Engine::new(&config).unwrap()
}

fn id() -> WorkloadId {
    WorkloadId::new("lib", "1")
}

fn guest(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../tests/guests/{name}.wasm", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Calls `run` of a loaded module, which traps.
fn trap(engine: &Engine, guest: &sandscope_host::Loaded<Module>) -> Arc<TrapReport> {
    let mut linker: Linker<_> = Linker::new(engine);
    linker.func_wrap("env", "log", |_: i32| ()).unwrap();
    let pre = linker.instantiate_pre(guest).unwrap();
    let mut store = Store::new(engine, guest.workload().store_probe());
    let instance = guest.workload().instantiate(|| pre.instantiate(&mut store)).unwrap();
    let run = instance.get_typed_func::<(), ()>(&mut store, "run").unwrap();
    guest.workload().report(&guest.workload().call(|| run.call(&mut store, ())).unwrap_err())
}

/// With its sidecar a module that was compiled elsewhere is the module: same id, same imports and stack
/// pointer, same places in a trap.
#[test]
fn a_sidecar_makes_it_the_same_module() {
    let scope = Sandscope::builder().hz(0.0).build().unwrap();
    let engine = engine(&scope, |_| ());
    let bytes = wat::parse_str(WAT).unwrap();
    let loaded = scope.load_module(&engine, &bytes, &id(), "lib.wasm").unwrap();
    let prepared = Sandscope::prepare(&engine, &bytes).unwrap();
    let sidecar = Sidecar::from_bytes(&prepared.sidecar.to_bytes()).unwrap();
    // SAFETY: the artifact is what `prepare` gave.
    let arrived = unsafe {
        scope.load_precompiled_module(&engine, &prepared.artifact, Some(&sidecar), &id(), "lib.wasm")
    }
    .unwrap();
    assert_eq!(arrived.workload().module(), loaded.workload().module());
    assert_eq!(arrived.sidecar(), loaded.sidecar());
    let [module] = sidecar.core_modules() else { panic!("a core module is one") };
    assert_eq!(module.imported_functions, [("env".to_owned(), "log".to_owned())]);
    assert_eq!((module.stack_pointer, sidecar.length()), (Some(0), bytes.len() as u64));
    let (there, here) = (trap(&engine, &arrived), trap(&engine, &loaded));
    assert_eq!(there.frames.len(), 2);
    assert_eq!(format!("{:?}", there.frames), format!("{:?}", here.frames));

    let start = arrived.workload().cold_start();
    assert_eq!(start.cache, StartCache::None);
    assert!(start.phase(StartPhase::Deserialize).is_some() && start.phase(StartPhase::FirstCall).is_some());
    assert!(start.phase(StartPhase::Compile).is_none() && start.phase(StartPhase::Read).is_none());
    scope.shutdown();
}

/// Without one it is known by a hash of what arrived, the same each time; no debug info goes with it.
#[test]
fn without_a_sidecar_the_id_is_a_hash() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let scope = Sandscope::builder().hz(0.0).record(&path).build().unwrap();
    let engine = engine(&scope, |_| ());
    let artifact = Sandscope::prepare(&engine, &wat::parse_str(WAT).unwrap()).unwrap().artifact;
    let load = || {
        // SAFETY: the artifact is what `prepare` gave.
        unsafe { scope.load_precompiled_module(&engine, &artifact, None, &id(), "lib.cwasm") }.unwrap()
    };
    let (first, second) = (load(), load());
    assert!(first.workload().module().as_str().starts_with("text:"));
    assert_eq!(first.workload().module(), second.workload().module());
    assert!(first.sidecar().is_none());
    assert_eq!(trap(&engine, &first).frames.len(), 2);
    scope.shutdown();
    let recording = Recording::open(&path).unwrap();
    let [module] = recording.modules() else { panic!("announced once") };
    assert_eq!(&module.id, first.workload().module());
    assert_eq!(recording.debug_info(&module.id).unwrap(), None);
    assert_eq!(recording.cold_starts().len(), 2, "one of them was never called, and is recorded as it is");
}

/// A sidecar of another module is refused: better no names than wrong ones.
#[test]
fn a_sidecar_of_other_code_is_refused() {
    let scope = Sandscope::builder().hz(0.0).build().unwrap();
    let engine = engine(&scope, |_| ());
    let artifact = Sandscope::prepare(&engine, &wat::parse_str(WAT).unwrap()).unwrap().artifact;
    let other = Sandscope::prepare(&engine, &wat::parse_str("(module (func nop))").unwrap()).unwrap();
    // SAFETY: the artifact is what `prepare` gave.
    let error = unsafe {
        scope.load_precompiled_module(&engine, &artifact, Some(&other.sidecar), &id(), "lib.cwasm")
    };
    let Err(error) = error else { panic!("accepted") };
    assert!(matches!(error.downcast_ref(), Some(SidecarError::OtherCode { .. })), "{error}");
    scope.shutdown();
}

/// Components too, with a sidecar that knows the modules inside.
#[test]
fn components_are_prepared_and_cached() {
    let dir = tempfile::tempdir().unwrap();
    let scope = Sandscope::builder().hz(0.0).module_cache(dir.path().join("cache")).build().unwrap();
    let engine = engine(&scope, |_| ());
    let bytes = guest("session");
    let prepared = Sandscope::prepare(&engine, &bytes).unwrap();
    // SAFETY: the artifact is what `prepare` gave.
    let arrived = unsafe {
        scope.load_precompiled_component(&engine, &prepared.artifact, Some(&prepared.sidecar), &id(), "s")
    }
    .unwrap();
    let load = || scope.load_component(&engine, &bytes, &id(), "session.wasm").unwrap();
    let (first, second) = (load(), load());
    assert_eq!(first.workload().cold_start().cache, StartCache::Miss);
    assert_eq!(second.workload().cold_start().cache, StartCache::Hit);
    for other in [&first, &second] {
        assert_eq!(other.workload().module(), arrived.workload().module());
        assert_eq!(other.sidecar(), arrived.sidecar());
    }
    let modules = prepared.sidecar.core_modules();
    assert!(modules.iter().any(|module| module.stack_pointer == Some(0)));
    assert!(modules.iter().any(|module| !module.imported_functions.is_empty()));
    scope.shutdown();
}

/// The stack pointer of real guests, of a compiler that strips no names and of one that does.
#[test]
fn real_guests_have_a_stack_pointer() {
    let engine = Engine::default();
    for name in ["crash", "pricing"] {
        let sidecar = Sandscope::prepare(&engine, &guest(name)).unwrap().sidecar;
        assert_eq!(sidecar.core_modules()[0].stack_pointer, Some(0), "{name}");
    }
}

/// Entries are of one engine's settings: another engine compiles for itself and disturbs none.
#[test]
fn other_settings_miss() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let bytes = wat::parse_str(WAT).unwrap();
    let start = |change: fn(&mut Config)| {
        let scope = Sandscope::builder().hz(0.0).module_cache(&cache).build().unwrap();
        let engine = engine(&scope, change);
        let loaded = scope.load_module(&engine, &bytes, &id(), "lib.wasm").unwrap();
        scope.shutdown();
        loaded.workload().cold_start().cache
    };
    let plain: fn(&mut Config) = |_| ();
    let fuel: fn(&mut Config) = |config| {
        config.consume_fuel(true);
    };
    let (hit, miss) = (StartCache::Hit, StartCache::Miss);
    assert_eq!([plain, fuel, plain, fuel].map(start), [miss, miss, hit, hit]);
}

/// A cache that cannot be written warns once, and guests start all the same.
#[test]
fn a_cache_that_fails_is_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let warnings: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&warnings);
    let scope = Sandscope::builder()
        .hz(0.0)
        .module_cache(dir.path().join("cache"))
        .on_warning(move |warning| {
            if let Warning::Cache(_) = warning {
                heard.lock().unwrap().push(warning.to_string());
            }
        })
        .build()
        .unwrap();
    std::fs::remove_dir_all(dir.path()).unwrap();
    let engine = engine(&scope, |_| ());
    for n in 0..3 {
        let bytes =
            wat::parse_str(format!("(module (func (export \"f\") (result i32) i32.const {n}))")).unwrap();
        let guest = scope.load_module(&engine, &bytes, &id(), "f.wasm").unwrap();
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &guest, &[]).unwrap();
        let f = instance.get_typed_func::<(), i32>(&mut store, "f").unwrap();
        assert_eq!(guest.workload().call(|| f.call(&mut store, ())).unwrap(), n);
    }
    scope.shutdown();
    let warnings = warnings.lock().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(Path::new("cache").to_str().unwrap()), "{warnings:?}");
}

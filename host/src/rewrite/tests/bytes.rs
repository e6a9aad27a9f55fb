//! The files themselves: offsets, components, and input that is broken.

use wasmparser::Operator;
use wasmtime::component::{Component, Linker};
use wasmtime::{
    Config, Engine, Instance, InstanceAllocationStrategy, Module, PoolingAllocationConfig, ResourceLimiter,
    Store, WasmBacktrace,
};

use super::super::protocol::Report;
use super::super::{NotInstrumented, instrument};
use super::{ALLOCATORS, IMPORT, check_offsets, engine, functions, module_range, sample};

/// Offsets of instructions in a small module, one without a global section and one with a lot before the code.
#[test]
fn offsets_lead_back() {
    let allocators = wat::parse_str(ALLOCATORS).unwrap();
    check_offsets(&allocators, &instrument(&allocators, 1).unwrap());
    let bare = wat::parse_str(
        r#"(module (@custom "before" "x") (memory 1) (func (export "malloc") (param i32) (result i32)
            (local i64 f32) local.get 0) (func nop) (data (i32.const 0) "data"))"#,
    )
    .unwrap();
    let rewritten = instrument(&bare, 1).unwrap();
    check_offsets(&bare, &rewritten);
    Module::new(&engine(), &rewritten.bytes).unwrap();
}

/// Reads reports off the growth that the engine asks its host about.
#[derive(Default)]
struct Growth(Vec<Report>);

impl ResourceLimiter for Growth {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.0.extend(Report::from_delta((desired - current) as u64 >> 16));
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

/// Core modules of a component are replaced, also in nested components; everything else stays. What the host
/// allocates in the guest is reported too, and impossible growth stays impossible when the host allows it.
#[test]
fn components_are_rewritten_inside() {
    let module = ALLOCATORS.replace(IMPORT, r#"(func (export "take") (param i32 i32))"#);
    let core = |name: &str| module.replacen("(module", &format!("(core module ${name}"), 1);
    let original = wat::parse_str(format!(
        r#"(component
            (core module (memory 1))
            {}
            (core instance $m (instantiate $m))
            (component {} (core instance (instantiate $inner)))
            (alias core export $m "memory" (core memory $memory))
            (alias core export $m "cabi_realloc" (core func $realloc))
            (func (export "take") (param "text" string)
                (canon lift (core func $m "take") (memory $memory) (realloc $realloc))))"#,
        core("m"),
        core("inner"),
    ))
    .unwrap();
    let rewritten = instrument(&original, 1).unwrap();
    check_offsets(&original, &rewritten);
    assert_eq!(rewritten.modules.iter().map(|module| module.ordinal).collect::<Vec<_>>(), [1, 2]);
    for module in &rewritten.modules {
        Module::new(&engine(), &rewritten.bytes[module_range(module)]).unwrap();
    }

    let engine = engine();
    let mut store = Store::new(&engine, Growth::default());
    store.limiter(|growth| growth);
    let component = Component::new(&engine, &rewritten.bytes).unwrap();
    let instance = Linker::new(&engine).instantiate(&mut store, &component).unwrap();
    let take = instance.get_typed_func::<(&str,), ()>(&mut store, "take").unwrap();
    take.call(&mut store, ("a text of 30 bytes, all ASCII…",)).unwrap();
    assert_eq!(store.data().0, [Report::First, Report::Size(32), Report::Allocated(1024)]);
}

/// Refuses growth (not a new memory, which begins at 0) with an error, so that a report ends in a backtrace.
struct Refuse;

impl ResourceLimiter for Refuse {
    fn memory_growing(&mut self, current: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if current == 0 { Ok(true) } else { Err(wasmtime::Error::msg("growth")) }
    }

    fn table_growing(&mut self, _: usize, _: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(true)
    }
}

/// The stack of a report, as the engine sees it: a function that reports, then code of ours, then the guest's
/// functions, each at the offset of its call in the author's file.
#[test]
fn stacks_of_reports_lead_back() {
    let original = wat::parse_str(
        r#"(module (memory 1)
            (func $malloc (param i32) (result i32) (i32.const 8))
            (func $caller (result i32) (call $malloc (i32.const 9)))
            (func (export "main") (result i32) (i32.add (call $caller) (i32.const 1))))"#,
    )
    .unwrap();
    let rewritten = instrument(&original, 1).unwrap();
    let engine = engine();
    let mut store = Store::new(&engine, Refuse);
    store.limiter(|refuse| refuse);
    let module = Module::new(&engine, &rewritten.bytes).unwrap();
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let main = instance.get_typed_func::<(), i32>(&mut store, "main").unwrap();
    let error = main.call(&mut store, ()).unwrap_err();
    let frames = error.downcast_ref::<WasmBacktrace>().unwrap().frames();
    assert!(rewritten.modules[0].reporters.contains(&frames[0].func_index()));
    let stack: Vec<(Option<u32>, Option<u64>)> = frames
        .iter()
        .map(|frame| {
            let function = rewritten.modules[0].original_function(frame.func_index());
            (function, rewritten.map.original_offset(frame.module_offset().unwrap() as u64))
        })
        .collect();
    let call = |function: usize| {
        let operators = &functions(&original)[0][&function];
        operators.iter().find(|(_, op)| matches!(op, Operator::Call { .. })).map(|(at, _)| *at as u64)
    };
    let ours = (None, None);
    assert_eq!(stack, [ours, ours, (Some(0), None), (Some(1), call(1)), (Some(2), call(2))]);
}

/// The pooling allocator's default limits (one memory, one table per module) still hold.
#[test]
fn pooled_instances() {
    let wat = ALLOCATORS.replace(IMPORT, "");
    let rewritten = instrument(&wat::parse_str(wat).unwrap(), 1).unwrap();
    let mut config = Config::new();
    // A thousand memories' worth of addresses is more than an emulator can keep account of.
    let mut pool = PoolingAllocationConfig::default();
    pool.total_memories(4).total_tables(4).total_core_instances(4).total_gc_heaps(1).total_stacks(4);
    pool.max_memory_size(1 << 26);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)).memory_reservation(1 << 26);
    let engine = Engine::new(&config).unwrap();
    let module = Module::new(&engine, &rewritten.bytes).unwrap();
    let mut store = Store::new(&engine, ());
    Instance::new(&mut store, &module, &[]).unwrap();
    Component::new(&engine, instrument(&sample("session.wasm"), 1).unwrap().bytes).unwrap();
}

/// Files that are cut off or damaged are refused or rewritten, never more: no panic, no endless work.
#[test]
fn broken_files() {
    let module = wat::parse_str(ALLOCATORS).unwrap();
    let nested = wat::parse_str(format!(
        "(component (component {}))",
        ALLOCATORS.replacen("(module", "(core module", 1)
    ))
    .unwrap();
    for file in [&module, &nested] {
        for length in 0..file.len() {
            _ = instrument(&file[..length], 1);
        }
        let mut broken = file.clone();
        for at in 0..file.len() {
            for flip in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff, 0x7f] {
                broken[at] ^= flip;
                if let Ok(rewritten) = instrument(&broken, 1) {
                    for offset in [0, at as u64, rewritten.bytes.len() as u64, u64::MAX] {
                        let before = rewritten.map.original_offset(offset);
                        assert!(before.is_none_or(|before| before < broken.len() as u64));
                    }
                }
                broken[at] = file[at];
            }
        }
    }
}

/// Components nested without end cost nothing but an error.
#[test]
fn nesting_is_bounded() {
    let mut bytes = wat::parse_str("(component)").unwrap();
    for _ in 0..100 {
        let mut outer = bytes[..8].to_vec();
        outer.push(4);
        let mut size = bytes.len();
        while size >= 0x80 {
            outer.push(size as u8 | 0x80);
            size >>= 7;
        }
        outer.push(size as u8);
        outer.extend(&bytes);
        bytes = outer;
    }
    assert!(matches!(instrument(&bytes, 1), Err(NotInstrumented::TooDeep { .. })));
}

//! Rewritten guests, run: what they report, and that nothing else is different.

mod bytes;
mod guests;
mod price;
mod protocol;

use std::collections::VecDeque;
use std::ops::Range;

use wasmparser::{Operator, Parser, Payload};
use wasmtime::{Caller, Config, Engine, Instance, Linker, Module, Store};

use super::protocol::Report;
use super::{Instrumented, Rewritten, instrument};

/// Allocators of every kind over one that hands out memory from 1024 up and returns 0 when two pages are used
/// up; `freed` counts frees. `report` is for the host of these tests, see [`Guest`].
const ALLOCATORS: &str = r#"(module
    (import "host" "report" (func (param i32) (result i32)))
    (memory (export "memory") 2)
    (global $at (mut i32) (i32.const 1024))
    (global $freed (export "freed") (mut i32) (i32.const 0))
    (func $dlmalloc (param $n i32) (result i32) (local $p i32)
        (if (i32.gt_u (local.get $n) (i32.sub (i32.const 131072) (global.get $at))) (then (return (i32.const 0))))
        (local.set $p (global.get $at))
        (global.set $at (i32.and (i32.add (i32.add (local.get $p) (local.get $n)) (i32.const 15)) (i32.const -16)))
        (local.get $p))
    (func $malloc (export "malloc") (param i32) (result i32) (call $dlmalloc (local.get 0)))
    (func $dlfree (param i32) (global.set $freed (i32.add (global.get $freed) (i32.const 1))))
    (func $free (export "free") (param i32) (call $dlfree (local.get 0)))
    (func $calloc (export "calloc") (param i32 i32) (result i32)
        (call $malloc (i32.mul (local.get 0) (local.get 1))))
    (func $realloc (export "realloc") (param $p i32) (param $n i32) (result i32) (local $q i32)
        (local.set $q (call $malloc (local.get $n)))
        (if (local.get $q) (then (call $free (local.get $p))))
        (local.get $q))
    (func (export "aligned_alloc") (param i32 i32) (result i32) (return_call $malloc (local.get 1)))
    (func (export "posix_memalign") (param i32 i32 i32) (result i32)
        (i32.store (local.get 0) (call $malloc (local.get 2)))
        (i32.eqz (i32.load (local.get 0))))
    (func $detour (param i32 i32) (result i32) (call $realloc (local.get 0) (local.get 1)))
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (if (result i32) (local.get 0)
            (then (call $detour (local.get 0) (local.get 3)))
            (else (call $malloc (local.get 3)))))
    (table 1 funcref)
    (elem (i32.const 0) $malloc)
    (func (export "through_table") (param i32) (result i32)
        (call_indirect (param i32) (result i32) (local.get 0) (i32.const 0))))"#;

/// The line of [`ALLOCATORS`] that only these tests need.
const IMPORT: &str = r#"(import "host" "report" (func (param i32) (result i32)))"#;

/// What a guest told, and what it is told: answers in turn, then always `otherwise`.
struct Told {
    reports: Vec<Report>,
    answers: VecDeque<i32>,
    otherwise: i32,
}

/// An instance whose reports go to function 0, its import, instead of the engine: `memory.grow 0` and `call 0`
/// are two bytes each.
struct Guest {
    store: Store<Told>,
    instance: Instance,
}

impl Guest {
    fn new(wat: &str, period: u32) -> (Self, Instrumented) {
        let mut rewritten = instrument(&wat::parse_str(wat).unwrap(), period).unwrap();
        let module = rewritten.modules.remove(0);
        for at in reports(&rewritten.bytes, &module) {
            rewritten.bytes[at..at + 2].copy_from_slice(&[0x10, 0]);
        }
        (Self::unmodified(&rewritten.bytes), module)
    }

    fn unmodified(wasm: &[u8]) -> Self {
        let engine = engine();
        let mut linker: Linker<Told> = Linker::new(&engine);
        let report = |mut caller: Caller<'_, Told>, delta: i32| {
            let report = Report::from_delta(u64::from(delta as u32));
            let told = caller.data_mut();
            told.reports.extend(report);
            told.answers.pop_front().unwrap_or(told.otherwise)
        };
        linker.func_wrap("host", "report", report).unwrap();
        let mut store =
            Store::new(&engine, Told { reports: vec![], answers: VecDeque::new(), otherwise: -1 });
        let module = Module::new(&engine, wasm).unwrap();
        let instance = linker.instantiate(&mut store, &module).unwrap();
        Self { store, instance }
    }

    fn answers<const N: usize>(&mut self, answers: [i32; N]) {
        self.store.data_mut().answers = answers.into();
    }

    /// Calls an export; what it returned, 0 if nothing, and what it reported.
    fn call(&mut self, export: &str, args: &[i32]) -> (i32, Vec<Report>) {
        let function = self.instance.get_func(&mut self.store, export).unwrap();
        let args: Vec<wasmtime::Val> = args.iter().map(|arg| (*arg).into()).collect();
        let mut results = vec![wasmtime::Val::I32(0); function.ty(&self.store).results().len()];
        function.call(&mut self.store, &args, &mut results).unwrap();
        let result = results.first().map_or(0, wasmtime::Val::unwrap_i32);
        (result, std::mem::take(&mut self.store.data_mut().reports))
    }

    fn global(&mut self, name: &str) -> i32 {
        self.instance.get_global(&mut self.store, name).unwrap().get(&mut self.store).unwrap_i32()
    }
}

fn engine() -> Engine {
    let mut config = Config::new();
    config.wasm_threads(true).shared_memory(true).wasm_custom_page_sizes(true);
    Engine::new(&config).unwrap()
}

/// Offsets of the `memory.grow` instructions in the functions that report.
fn reports(wasm: &[u8], module: &Instrumented) -> Vec<usize> {
    let core = &functions(wasm)[module.ordinal as usize];
    let reporters = module.reporters.iter().map(|index| &core[&(*index as usize)]);
    reporters
        .flatten()
        .filter(|(_, operator)| matches!(operator, Operator::MemoryGrow { .. }))
        .map(|(at, _)| *at)
        .collect()
}

/// The instructions of each function of each core module of a file, with their offsets, by function index.
fn functions(wasm: &[u8]) -> Vec<std::collections::BTreeMap<usize, Vec<(usize, Operator<'_>)>>> {
    let mut modules = vec![];
    let mut open: Vec<Option<(usize, usize)>> = vec![];
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.unwrap() {
            Payload::Version { encoding, .. } => {
                open.push((encoding == wasmparser::Encoding::Module).then(|| {
                    modules.push(std::collections::BTreeMap::new());
                    (modules.len() - 1, 0)
                }));
            }
            Payload::End(_) => _ = open.pop(),
            Payload::ImportSection(imports) => {
                let imports = imports.into_imports();
                let functions = imports
                    .filter(|import| matches!(import.as_ref().unwrap().ty, wasmparser::TypeRef::Func(_)));
                open.last_mut().unwrap().as_mut().unwrap().1 = functions.count();
            }
            Payload::CodeSectionEntry(body) => {
                let (module, next) = open.last_mut().unwrap().as_mut().unwrap();
                let operators = body.get_operators_reader().unwrap().into_iter_with_offsets();
                let operators = operators.map(|operator| operator.map(|(op, at)| (at, op)).unwrap());
                modules[*module].insert(*next, operators.collect());
                *next += 1;
            }
            _ => {}
        }
    }
    modules
}

/// The bytes of one of the committed sample guests.
fn sample(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests").join(name);
    std::fs::read(path).unwrap()
}

/// Every byte that is said to come from the original is there, and every instruction of the original is in the
/// new file, in its function, in order.
#[track_caller]
fn check_offsets(original: &[u8], new: &Rewritten) {
    for (at, byte) in new.bytes.iter().enumerate() {
        if let Some(before) = new.map.original_offset(at as u64) {
            assert_eq!(original[before as usize], *byte, "offset {at:#x} is not what was at {before:#x}");
        }
    }
    assert_eq!(new.map.original_offset(new.bytes.len() as u64), None);
    let (before, after) = (functions(original), functions(&new.bytes));
    for module in &new.modules {
        let (before, after) = (&before[module.ordinal as usize], &after[module.ordinal as usize]);
        let mut complete = std::collections::BTreeSet::new();
        for (index, operators) in after {
            let mapped: Vec<usize> = operators
                .iter()
                .filter_map(|(at, _)| new.map.original_offset(*at as u64))
                .map(|at| at as usize)
                .collect();
            let Some(function) = module.original_function(*index as u32) else {
                assert!(mapped.is_empty(), "function {index} is ours");
                continue;
            };
            let wanted: Vec<usize> = before[&(function as usize)].iter().map(|(at, _)| *at).collect();
            // A function that became its slow path has none of its instructions, its copy has all.
            assert!(mapped.is_empty() || mapped == wanted, "function {index}, once {function}");
            if !mapped.is_empty() {
                complete.insert(function as usize);
            }
        }
        assert_eq!(complete.len(), before.len(), "functions were lost");
    }
}

/// Bytes of a core module in the new file.
fn module_range(module: &Instrumented) -> Range<usize> {
    module.range.start as usize..module.range.end as usize
}

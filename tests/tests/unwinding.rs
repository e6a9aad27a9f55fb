//! Where frames lie in linear memory, for each way in which compilers set them up: small modules with debug info by
//! hand, stopped in the real engine.

mod dumps;

use dumps::dwarf::{FBREG, Function, LOCAL_0, assemble};
use dumps::{Trap, engine, show, trap};
use sandscope_symbols::{
    CoreDump, FrameGap, FrameTable, FrameVariables, Stopped, StoppedFrame, SymbolFile, Value,
};
use wasmtime::component::Component;
use wasmtime::{Caller, Extern, Linker, Module, Store};

/// Calls `main` of a module, whose import `host.call` calls `inner` of the same instance.
fn run(bytes: &[u8]) -> Trap {
    let engine = engine();
    let module = Module::new(&engine, bytes).unwrap();
    let mut linker: Linker<()> = Linker::new(&engine);
    let call = |mut caller: Caller<'_, ()>| {
        let Some(Extern::Func(inner)) = caller.get_export("inner") else { panic!("no inner") };
        inner.call(&mut caller, &[], &mut [])
    };
    linker.func_wrap("host", "call", call).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &module).unwrap();
    let main = instance.get_typed_func::<(), ()>(&mut store, "main").unwrap();
    let error = main.call(&mut store, ()).unwrap_err();
    trap(&mut store, &error)
}

/// One line for each frame: its name, its variables, and what is unknown of it.
fn lines(found: &[Vec<FrameVariables>]) -> Vec<String> {
    let line = |frame: &FrameVariables| {
        let variables = frame.variables.iter().map(|known| format!(" {}={}", known.name, known.value));
        let gap = frame.gap.map(|gap| format!(" {gap:?}")).unwrap_or_default();
        format!("{}{}{gap}", frame.frame.function, variables.collect::<String>())
    };
    found.iter().flatten().map(line).collect()
}

/// The frames of a stopped module.
fn frames(bytes: &[u8], trap: &Trap) -> Vec<Vec<FrameVariables>> {
    let file = SymbolFile::parse(bytes).unwrap();
    let dump = CoreDump::parse(&trap.dump).unwrap();
    let placed: Vec<StoppedFrame> =
        file.place(&dump, &dump.stacks[0]).into_iter().map(Option::unwrap).collect();
    trap.check(&placed);
    file.variables(&FrameTable::read(bytes), &dump, &placed)
}

const MAIN: Function = Function { name: "main", base: 0, variables: &[("y", &[FBREG, 40])] };

/// `main` with a frame of 48 bytes, which stores 42 in its variable `y` and calls another function.
fn with_main(callee: &str, others: &str) -> String {
    format!(
        r#"(module (import "host" "call" (func $host)) (memory 1) (global $__stack_pointer (mut i32) (i32.const 4096))
          (func (export "main") (local i32)
            global.get $__stack_pointer  i32.const 48  i32.sub  local.tee 0  global.set $__stack_pointer
            local.get 0  i32.const 42  i32.store offset=40
            call {callee}
            local.get 0  i32.const 48  i32.add  global.set $__stack_pointer)
          {others} DEBUG_INFO)"#
    )
}

fn check(callee: &str, others: &str, functions: Vec<Function>, expected: &[&str]) {
    let functions: Vec<Function> = std::iter::once(MAIN).chain(functions).collect();
    let bytes = assemble(&with_main(callee, others), &functions);
    assert_eq!(lines(&frames(&bytes, &run(&bytes))), expected);
    // The name of the global is not needed.
    let nameless = assemble(&with_main(callee, others).replace("__stack_pointer", "other"), &functions);
    assert_eq!(lines(&frames(&nameless, &run(&nameless))), expected);
}

/// A leaf keeps its variables below the stack pointer, without moving it.
#[test]
fn leaves_use_the_red_zone() {
    let leaf = "(func $leaf (local i32)
        global.get $__stack_pointer  i32.const 32  i32.sub  local.tee 0  i32.const 7  i32.store offset=12
        unreachable)";
    let function = Function { name: "leaf", base: 0, variables: &[("x", &[FBREG, 12])] };
    check("$leaf", leaf, vec![function], &["leaf x=7", "main y=42"]);
}

/// The local that held the frame's base may hold a variable later, as optimizers reuse locals: the base is no answer
/// for that.
#[test]
fn reused_locals_are_not_the_base() {
    let leaf = "(func $leaf (local i32)
        global.get $__stack_pointer  i32.const 32  i32.sub  local.tee 0  i32.const 7  i32.store offset=12
        i32.const 60  local.set 0  unreachable)";
    let function = Function { name: "leaf", base: 0, variables: &[("x", &[FBREG, 12]), ("s", LOCAL_0)] };
    check("$leaf", leaf, vec![function], &["leaf x=7 s=<not recorded>", "main y=42"]);
}

/// `i32.add -N`, and values that pass through locals as in unoptimized code.
#[test]
fn prologues_have_several_forms() {
    let middle = "(func $middle (local i32)
        global.get $__stack_pointer  i32.const -16  i32.add  local.tee 0  global.set $__stack_pointer
        local.get 0  i32.const 5  i32.store offset=8  call $slow
        local.get 0  i32.const 16  i32.add  global.set $__stack_pointer)
      (func $slow (local i32 i32 i32 i32 i32)
        global.get $__stack_pointer  local.set 0  i32.const 64  local.set 1
        local.get 0  local.get 1  i32.sub  local.set 2  local.get 2  global.set $__stack_pointer
        i32.const 6  local.set 3  local.get 2  local.get 3  i32.store offset=60
        block  local.get 3  br_if 0  unreachable  end
        call $trap
        i32.const 64  local.set 4  local.get 2  local.get 4  i32.add  local.set 0
        local.get 0  global.set $__stack_pointer  return)
      (func $trap unreachable)";
    let functions = vec![
        Function { name: "middle", base: 0, variables: &[("a", &[FBREG, 8])] },
        Function { name: "slow", base: 2, variables: &[("b", &[FBREG, 60])] },
        Function { name: "trap", base: 0, variables: &[] },
    ];
    check("$middle", middle, functions, &["trap", "slow b=6", "middle a=5", "main y=42"]);
}

/// How far an aligned frame was rounded down is not known, so neither are its callers.
#[test]
fn aligned_frames_hide_their_callers() {
    let aligned = "(func $aligned (local i32 i32)
        global.get $__stack_pointer  local.tee 1  i32.const 100  i32.sub  i32.const -64  i32.and
        local.tee 0  global.set $__stack_pointer
        local.get 0  i32.const 5  i32.store offset=4  call $trap  local.get 1  global.set $__stack_pointer)
      (func $trap unreachable)";
    let functions = vec![
        Function { name: "aligned", base: 0, variables: &[("a", &[FBREG, 4])] },
        Function { name: "trap", base: 0, variables: &[] },
    ];
    check("$aligned", aligned, functions, &["trap", "aligned a=5", "main y=<not recorded> Hidden"]);
}

/// In an aligned leaf the pointer is still that of its caller.
#[test]
fn aligned_leaves_hide_nothing() {
    let aligned = "(func $aligned (local i32)
        global.get $__stack_pointer  i32.const 100  i32.sub  i32.const -64  i32.and  local.tee 0
        i32.const 5  i32.store offset=4  unreachable)";
    let functions = vec![Function { name: "aligned", base: 0, variables: &[("a", &[FBREG, 4])] }];
    check("$aligned", aligned, functions, &["aligned a=5", "main y=42"]);
}

/// A function that moves the pointer by what it was given.
#[test]
fn dynamic_frames_are_unknown() {
    let dynamic = "(func $dynamic (local i32)
        global.get $__stack_pointer  i32.const 16  i32.sub  local.tee 0  global.set $__stack_pointer
        local.get 0  i32.const 5  i32.store offset=4
        loop  global.get $__stack_pointer  i32.const 32  i32.sub  global.set $__stack_pointer  end
        call $trap)
      (func $trap unreachable)";
    let functions = vec![
        Function { name: "dynamic", base: 0, variables: &[("a", &[FBREG, 4])] },
        Function { name: "trap", base: 0, variables: &[] },
    ];
    let expected = ["trap", "dynamic a=<not recorded> Dynamic", "main y=<not recorded> Hidden"];
    check("$dynamic", dynamic, functions, &expected);
}

/// The engine's stack ends on entry to a function, before that has a frame: what is in it is not shown, and its
/// callers are where they are.
#[test]
fn a_trap_in_a_prologue_leaves_the_callers() {
    let text = r#"(module (memory 64) (global $__stack_pointer (mut i32) (i32.const 4194304))
      (func (export "main") i32.const 1 call $down)
      (func $down (param i32) (local i32)
        global.get $__stack_pointer  i32.const 16  i32.sub  local.tee 1  global.set $__stack_pointer
        local.get 1  local.get 0  i32.store offset=12
        local.get 0  i32.const 1  i32.add  call $down
        local.get 1  i32.const 16  i32.add  global.set $__stack_pointer)
      DEBUG_INFO)"#;
    let functions = [
        Function { name: "main", base: 0, variables: &[] },
        Function { name: "down", base: 1, variables: &[("depth", &[FBREG, 12])] },
    ];
    let bytes = assemble(text, &functions);
    let found = frames(&bytes, &run(&bytes));
    let found: Vec<&FrameVariables> = found.iter().flatten().collect();
    let (innermost, callers) = found.split_first().unwrap();
    assert_eq!(innermost.gap, Some(FrameGap::NoFrameYet));
    assert_eq!(innermost.variables[0].value, Value::NotRecorded);
    let depth = |frame: &FrameVariables| match &frame.variables[0].value {
        Value::Known(depth) => depth.parse::<u32>().unwrap(),
        other => panic!("{other}: {}", show(frame)),
    };
    assert!(callers.len() > 200);
    for pair in callers.windows(2) {
        assert_eq!(depth(pair[0]), depth(pair[1]) + 1);
    }
}

/// The guest calls the host, which calls the guest again: one stack in linear memory, two in the engine.
#[test]
fn frames_go_on_behind_the_host() {
    let inner = r#"(func (export "inner") (local i32)
        global.get $__stack_pointer  i32.const 16  i32.sub  local.tee 0  global.set $__stack_pointer
        local.get 0  i32.const 5  i32.store offset=8  call $trap)
      (func $trap unreachable)"#;
    let functions = vec![
        Function { name: "inner", base: 0, variables: &[("a", &[FBREG, 8])] },
        Function { name: "trap", base: 0, variables: &[] },
    ];
    check("$host", inner, functions, &["trap", "inner a=5", "main y=42"]);
}

/// The same in a memory of 64 bits.
#[test]
fn memories_of_64_bits_have_stacks_too() {
    let text = r#"(module (memory i64 1) (global $__stack_pointer (mut i64) (i64.const 4096))
      (func (export "main") (local i64)
        global.get $__stack_pointer  i64.const 48  i64.sub  local.tee 0  global.set $__stack_pointer
        local.get 0  i32.const 42  i32.store offset=40
        call $leaf
        local.get 0  i64.const 48  i64.add  global.set $__stack_pointer)
      (func $leaf (local i64)
        global.get $__stack_pointer  i64.const -32  i64.add  local.tee 0  i32.const 7  i32.store offset=12
        unreachable)
      DEBUG_INFO)"#;
    let bytes =
        assemble(text, &[MAIN, Function { name: "leaf", base: 0, variables: &[("x", &[FBREG, 12])] }]);
    assert_eq!(lines(&frames(&bytes, &run(&bytes))), ["leaf x=7", "main y=42"]);
}

/// The memory of threads is not in core dumps. Who still holds the guest can answer.
#[test]
fn shared_memory_has_to_be_brought() {
    let text = r#"(module (memory (export "memory") 1 1 shared)
      (global $__stack_pointer (export "__stack_pointer") (mut i32) (i32.const 4096))
      (func (export "main") (local i32)
        global.get $__stack_pointer  i32.const 48  i32.sub  local.tee 0  global.set $__stack_pointer
        local.get 0  i32.const 42  i32.store offset=40
        unreachable)
      DEBUG_INFO)"#;
    let bytes = assemble(text, &[MAIN]);
    let engine = engine();
    let module = Module::new(&engine, &bytes).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &module).unwrap();
    let main = instance.get_typed_func::<(), ()>(&mut store, "main").unwrap();
    let error = main.call(&mut store, ()).unwrap_err();
    let trap = trap(&mut store, &error);
    assert_eq!(lines(&frames(&bytes, &trap)), ["main y=<not recorded> SharedMemory"]);

    struct Live(Vec<u8>, u32);
    impl Stopped for Live {
        fn memory(&self, _: u32, _: u32, address: u64, into: &mut [u8]) -> bool {
            let bytes = usize::try_from(address).ok().and_then(|at| self.0.get(at..at + into.len()));
            bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
        }
        fn global(&self, _: u32, _: u32) -> Option<u64> {
            Some(u64::from(self.1))
        }
        fn is_ambiguous(&self, _: u32) -> bool {
            false
        }
    }
    let memory = instance.get_shared_memory(&mut store, "memory").unwrap();
    // SAFETY: the guest has stopped, and no other thread has the memory.
    let bytes_of_memory: Vec<u8> = memory.data().iter().map(|byte| unsafe { *byte.get() }).collect();
    let pointer = instance.get_global(&mut store, "__stack_pointer").unwrap().get(&mut store).unwrap_i32();
    let live = Live(bytes_of_memory, pointer.cast_unsigned());
    let frame = StoppedFrame { instance: 0, offset: trap.offsets[0].unwrap(), locals: Vec::new() };
    let file = SymbolFile::parse(&bytes).unwrap();
    let found = file.variables(&FrameTable::read(&bytes), &live, std::slice::from_ref(&frame));
    assert_eq!(lines(&found), ["main y=42"]);
    // A wasm local that somebody knows needs no table.
    let known = StoppedFrame { locals: vec![Some(4096 - 48)], ..frame };
    let found = file.variables(&FrameTable::default(), &live, &[known]);
    assert_eq!(lines(&found), ["main y=42 NoSizes"]);
}

/// In a component, offsets count from the component's start and each module has its own stack.
#[test]
fn components_have_stacks() {
    let module = with_main(
        "$leaf",
        "(func $leaf (local i32)
        global.get $__stack_pointer  i32.const 32  i32.sub  local.tee 0  i32.const 7  i32.store offset=12
        unreachable)",
    );
    let module = module.replace(r#"(import "host" "call" (func $host))"#, "").replacen(
        "(module",
        "(core module $m",
        1,
    );
    let text = format!(
        r#"(component {module}
          (core instance $i (instantiate $m))
          (func (export "main") (canon lift (core func $i "main"))))"#
    );
    let bytes =
        assemble(&text, &[MAIN, Function { name: "leaf", base: 0, variables: &[("x", &[FBREG, 12])] }]);
    let engine = engine();
    let component = Component::new(&engine, &bytes).unwrap();
    let mut store = Store::new(&engine, ());
    let linker = wasmtime::component::Linker::<()>::new(&engine);
    let instance = linker.instantiate(&mut store, &component).unwrap();
    let main = instance.get_typed_func::<(), ()>(&mut store, "main").unwrap();
    let error = main.call(&mut store, ()).unwrap_err();
    let trap = trap(&mut store, &error);
    assert_eq!(lines(&frames(&bytes, &trap)), ["leaf x=7", "main y=42"]);
}

/// Two instances of one module: engines name the last one for every frame, so nothing can be trusted.
#[test]
fn instances_of_one_module_are_not_confused() {
    let bytes = assemble(
        &with_main("$trap", "(func $trap unreachable)"),
        &[MAIN, Function { name: "trap", base: 0, variables: &[] }],
    );
    let engine = engine();
    let module = Module::new(&engine, &bytes).unwrap();
    let mut linker: Linker<()> = Linker::new(&engine);
    linker.func_wrap("host", "call", || {}).unwrap();
    let mut store = Store::new(&engine, ());
    let first = linker.instantiate(&mut store, &module).unwrap();
    linker.instantiate(&mut store, &module).unwrap();
    let main = first.get_typed_func::<(), ()>(&mut store, "main").unwrap();
    let error = main.call(&mut store, ()).unwrap_err();
    let trap = trap(&mut store, &error);
    assert_eq!(lines(&frames(&bytes, &trap)), ["trap Ambiguous", "main y=<not recorded> Ambiguous"]);
}

/// Debug info as hosts send it has no code: without the table that was read where the code was, frames are unknown,
/// with it they are not.
#[test]
fn the_table_travels_beside_blanked_code() {
    let bytes = assemble(
        &with_main("$trap", "(func $trap unreachable)"),
        &[MAIN, Function { name: "trap", base: 0, variables: &[] }],
    );
    let trap = run(&bytes);
    let mut blank = bytes.clone();
    for payload in wasmparser::Parser::new(0).parse_all(&bytes) {
        if let wasmparser::Payload::CodeSectionEntry(body) = payload.unwrap() {
            blank[body.range()].fill(0);
        }
    }
    let file = SymbolFile::parse(&blank).unwrap();
    let dump = CoreDump::parse(&trap.dump).unwrap();
    let placed: Vec<StoppedFrame> = file.place(&dump, &dump.stacks[0]).into_iter().flatten().collect();
    let without = file.variables(&FrameTable::read(&blank), &dump, &placed);
    assert_eq!(lines(&without), ["trap NoSizes", "main y=<not recorded> NoSizes"]);
    let table = FrameTable::from_bytes(&FrameTable::read(&bytes).to_bytes()).unwrap();
    assert_eq!(lines(&file.variables(&table, &dump, &placed)), ["trap", "main y=42"]);
}

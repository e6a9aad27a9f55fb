//! The bytes of a core dump: the sections of the tool conventions (`Coredump.md`), and ours.
//!
//! ```text
//! "core" | Memory | Global | Data | "coremodules" | "coreinstances" | "corestack" | "sandscope"
//! ```
//! Globals that are not kept are null references: no reader takes those for a number.

use prost::Message as _;
use sandscope_proto::recording as wire;
use wasm_encoder::{
    ConstExpr, CoreDumpInstancesSection, CoreDumpModulesSection, CoreDumpSection, CoreDumpStackSection,
    CustomSection, DataSection, GlobalSection, GlobalType, HeapType, MemorySection, MemoryType, Module,
    ValType,
};
use wasmtime::Val;

use super::memory::Kept;
use super::state::State;

/// Name of our section.
const SECTION: &str = "sandscope";

pub(super) fn dump(
    name: &str,
    thread: &str,
    state: &State<'_>,
    kept: &Kept,
    info: &wire::CoreDump,
) -> Vec<u8> {
    let mut out = Module::new();
    out.section(&CoreDumpSection::new(name));
    let mut memories = MemorySection::new();
    for memory in &state.memories {
        memories.memory(MemoryType {
            minimum: memory.pages,
            maximum: memory.ty.maximum(),
            memory64: memory.ty.is_64(),
            shared: memory.ty.is_shared(),
            page_size_log2: (memory.ty.page_size_log2() != 16)
                .then_some(u32::from(memory.ty.page_size_log2())),
        });
    }
    out.section(&memories);
    let mut globals = GlobalSection::new();
    for (nth, value) in (0..).zip(&state.globals) {
        let (val_type, value) = constant(value, kept.globals.contains(&nth));
        globals.global(GlobalType { val_type, mutable: true, shared: false }, &value);
    }
    out.section(&globals);
    let mut data = DataSection::new();
    for (nth, (memory, runs)) in (0..).zip(state.memories.iter().zip(&kept.memories)) {
        for (start, bytes) in runs {
            let start = if memory.ty.is_64() {
                ConstExpr::i64_const(start.cast_signed())
            } else {
                ConstExpr::i32_const((*start as u32).cast_signed())
            };
            data.active(nth, &start, bytes.iter().copied());
        }
    }
    out.section(&data);
    let mut modules = CoreDumpModulesSection::new();
    for (nth, module) in state.modules.iter().enumerate() {
        match module.name() {
            Some(name) => modules.module(name),
            None => modules.module(format!("<module {nth}>")),
        };
    }
    out.section(&modules);
    let mut instances = CoreDumpInstancesSection::new();
    for instance in &state.instances {
        let known = |indices: &[Option<u32>]| -> Vec<u32> {
            indices.iter().map(|index| index.unwrap_or(u32::MAX)).collect()
        };
        instances.instance(instance.module, known(&instance.memories), known(&instance.globals));
    }
    out.section(&instances);
    let mut stack = CoreDumpStackSection::new(thread);
    for frame in &state.frames {
        stack.frame(frame.instance, frame.function, frame.code_offset, [], []);
    }
    out.section(&stack);
    out.section(&CustomSection { name: SECTION.into(), data: info.encode_to_vec().into() });
    out.finish()
}

fn constant(value: &Val, is_kept: bool) -> (ValType, ConstExpr) {
    match value {
        Val::I32(value) if is_kept => (ValType::I32, ConstExpr::i32_const(*value)),
        Val::I64(value) if is_kept => (ValType::I64, ConstExpr::i64_const(*value)),
        Val::F32(bits) if is_kept => (ValType::F32, ConstExpr::f32_const(f32::from_bits(*bits).into())),
        Val::F64(bits) if is_kept => (ValType::F64, ConstExpr::f64_const(f64::from_bits(*bits).into())),
        Val::V128(value) if is_kept => (ValType::V128, ConstExpr::v128_const(value.as_u128().cast_signed())),
        _ => (ValType::EXTERNREF, ConstExpr::ref_null(HeapType::EXTERN)),
    }
}

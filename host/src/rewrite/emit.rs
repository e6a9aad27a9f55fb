//! Writes a core module according to its plan: sections with our items appended, everything else copied.

use super::NotInstrumented;
use super::asm::address_type;
use super::body::{self, OwnBody};
use super::module::{Module, Section};
use super::output::Output;
use super::plan::{Allocator, Plan};

// Section ids (core spec, binary format).
const TYPE: u8 = 1;
const FUNCTION: u8 = 3;
const GLOBAL: u8 = 6;
const CODE: u8 = 10;

/// Sections that stand behind globals: exports, start, elements, data count, code, data.
const AFTER_GLOBALS: [u8; 6] = [7, 8, 9, 12, CODE, 11];

/// Writes the module to `out`.
pub(super) fn module(
    out: &mut Output<'_>,
    module: &Module<'_>,
    plan: &Plan<'_>,
) -> Result<(), NotInstrumented> {
    out.copy(module.range.start..module.range.start + 8);
    let mut globals_written = false;
    for section in &module.sections {
        if !globals_written && AFTER_GLOBALS.contains(&section.id) {
            let open = out.open_section(GLOBAL);
            let (count, items) = globals(plan);
            out.leb(count);
            out.add(&items);
            out.close(open)?;
            globals_written = true;
        }
        match section.id {
            TYPE => {
                let (count, items) = types(plan);
                append(out, section, count, &items)?;
            }
            FUNCTION => {
                let (count, items) = functions(plan);
                append(out, section, count, &items)?;
            }
            GLOBAL => {
                let (count, items) = globals(plan);
                append(out, section, count, &items)?;
                globals_written = true;
            }
            CODE => code(out, section, module, plan)?,
            _ => out.copy(section.whole.clone()),
        }
    }
    Ok(())
}

/// Copies a section with `count` items more.
fn append(out: &mut Output<'_>, section: &Section, count: u32, items: &[u8]) -> Result<(), NotInstrumented> {
    let open = out.open_section(section.id);
    out.leb(section.count.checked_add(count).ok_or(NotInstrumented::TooMany)?);
    out.copy(section.items.clone());
    out.add(items);
    out.close(open)
}

/// The types of `sampled` and `freed`.
fn types(plan: &Plan<'_>) -> (u32, Vec<u8>) {
    let address = address_type(plan.wide);
    let mut types = wasm_encoder::TypeSection::new();
    types.ty().function([address, address], []);
    types.ty().function([address], []);
    (types.len(), items(&types))
}

/// The types of the appended functions, in the order of their indices.
fn functions(plan: &Plan<'_>) -> (u32, Vec<u8>) {
    let mut functions = wasm_encoder::FunctionSection::new();
    functions.function(plan.types);
    if plan.live.is_ok() {
        functions.function(plan.types + 1);
    }
    for allocator in &plan.allocators {
        functions.function(allocator.type_index);
        if allocator.slow.is_some() {
            functions.function(allocator.type_index);
        }
    }
    (functions.len(), items(&functions))
}

/// The budget and the filter's address.
fn globals(plan: &Plan<'_>) -> (u32, Vec<u8>) {
    use wasm_encoder::{ConstExpr, GlobalType, ValType};
    let global = |val_type| GlobalType { val_type, mutable: true, shared: false };
    let mut globals = wasm_encoder::GlobalSection::new();
    globals.global(global(ValType::I64), &ConstExpr::i64_const(body::FIRST_BUDGET));
    if plan.live.is_ok() {
        let zero = if plan.wide { ConstExpr::i64_const(0) } else { ConstExpr::i32_const(0) };
        globals.global(global(address_type(plan.wide)), &zero);
    }
    (globals.len(), items(&globals))
}

/// A section's items: fewer than 128, behind a size that takes as many bytes as it needs, and their count.
fn items(section: &impl wasm_encoder::Encode) -> Vec<u8> {
    let mut bytes = Vec::new();
    section.encode(&mut bytes);
    let size = bytes.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    bytes.split_off(size + 1)
}

fn code(
    out: &mut Output<'_>,
    section: &Section,
    module: &Module<'_>,
    plan: &Plan<'_>,
) -> Result<(), NotInstrumented> {
    let open = out.open_section(CODE);
    let appended: u32 = 1
        + u32::from(plan.live.is_ok())
        + plan.allocators.iter().map(|allocator| 1 + u32::from(allocator.slow.is_some())).sum::<u32>();
    out.leb(section.count.checked_add(appended).ok_or(NotInstrumented::TooMany)?);

    // Bodies that stay as they are, in runs that reach from one allocator to the next.
    let mut copied = section.items.start;
    for allocator in &plan.allocators {
        let at = (allocator.function - module.imported_functions) as usize;
        let before = at.checked_sub(1).map_or(section.items.start, |at| module.bodies[at].end);
        out.copy(copied..before);
        copied = module.bodies[at].end;
        in_place(out, module, plan, allocator)?;
    }
    out.copy(copied..section.items.end);

    ours(out, body::sampled(plan))?;
    if let Ok(live) = plan.live {
        ours(out, body::freed(plan, live))?;
    }
    for allocator in &plan.allocators {
        theirs(out, module, plan, allocator, &[])?;
        if allocator.slow.is_some() {
            ours(out, body::slow(plan, allocator))?;
        }
    }
    out.close(open)
}

/// The function at the allocator's own index.
fn in_place(
    out: &mut Output<'_>,
    module: &Module<'_>,
    plan: &Plan<'_>,
    allocator: &Allocator<'_>,
) -> Result<(), NotInstrumented> {
    match allocator.slow {
        Some(slow) if allocator.nested => ours(out, body::only_slow(allocator, slow)),
        slow => theirs(out, module, plan, allocator, &body::entry(plan, allocator, slow)),
    }
}

/// A function of our own.
fn ours(out: &mut Output<'_>, body: OwnBody) -> Result<(), NotInstrumented> {
    let open = out.open();
    out.add(&body.finish());
    out.close(open)
}

/// The author's body with `entry` before its first instruction, and calls to allocators led to their copies.
fn theirs(
    out: &mut Output<'_>,
    module: &Module<'_>,
    plan: &Plan<'_>,
    allocator: &Allocator<'_>,
    entry: &[u8],
) -> Result<(), NotInstrumented> {
    let Some(body) = module.body(allocator.function) else { return Ok(()) };
    let open = out.open();
    let range = body.range();
    let first = body.get_binary_reader_for_operators()?.original_position();
    out.copy(range.start..first);
    out.add(entry);
    let mut copied = first;
    for call in module.calls(allocator.function)? {
        if let Some(copy) = plan.copy_of(call.callee) {
            out.copy(copied..call.operand.start);
            out.leb(copy);
            copied = call.operand.end;
        }
    }
    out.copy(copied..range.end);
    out.close(open)
}

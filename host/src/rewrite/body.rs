//! The code that is added: instructions at the entry of allocators, and the appended functions.

use wasm_encoder::{BlockType, ValType};

use super::asm::{Asm, address_type, byte};
use super::names::Role;
use super::plan::{Allocator, Live, Plan};
use super::protocol::{FILTER_BYTES, Report};

/// Budget of an instance that has not been given one. Far below what any allocation makes of a real one.
pub(super) const FIRST_BUDGET: i64 = -(1 << 62);

/// Budgets below this one were not given by the host yet: sizes are below 2^40 each.
const NO_BUDGET: i64 = FIRST_BUDGET / 2;

/// Budget while nothing is to be counted.
const OUT_OF_REACH: i64 = 1 << 62;

/// Memory pages are 2^16 bytes, the filter is 2^12: binary logarithm of the filters in a page.
const FILTERS_PER_PAGE_LOG2: i64 = 4;
const FILTER_LOG2: i64 = FILTER_BYTES.ilog2() as i64;

/// A function of our own: its locals beyond the parameters, and its instructions.
pub(super) struct OwnBody {
    locals: Vec<ValType>,
    asm: Asm,
}

impl OwnBody {
    /// The body, without its size.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.asm.i().end();
        let mut function = wasm_encoder::Function::new_with_locals_types(self.locals);
        function.raw(self.asm.bytes);
        function.into_raw_body()
    }
}

/// What stands before an allocator's first instruction: for one that frees (no `slow`), the test whether the
/// pointer is sampled; for one that allocates, the account.
pub(super) fn entry(plan: &Plan<'_>, allocator: &Allocator<'_>, slow: Option<u32>) -> Vec<u8> {
    let mut asm = Asm::new(plan.wide);
    let Some(slow) = slow else {
        if let Ok(live) = plan.live {
            asm.in_filter(live, 0).i().if_(BlockType::Empty).local_get(0).call(live.freed).end();
        }
        return asm.bytes;
    };
    asm.i().global_get(plan.budget);
    asm.size(allocator.role).extend().i().i64_sub().global_set(plan.budget);
    asm.spent(plan);
    if let Ok(live) = plan.live
        && allocator.role.reallocates()
    {
        asm.in_filter(live, 0).i().i32_or();
    }
    asm.i().if_(BlockType::Empty);
    asm.params(allocator).i().call(slow).return_().end();
    asm.bytes
}

/// The body of an allocator that reaches others by detours.
pub(super) fn only_slow(allocator: &Allocator<'_>, slow: u32) -> OwnBody {
    let mut asm = Asm::new(false);
    asm.params(allocator).i().call(slow);
    OwnBody { locals: Vec::new(), asm }
}

/// Allocates, then reports what has to be.
pub(super) fn slow(plan: &Plan<'_>, allocator: &Allocator<'_>) -> OwnBody {
    let role = allocator.role;
    let (result, saved) = (allocator.params, allocator.params + 1);
    let result_type = if role == Role::PosixMemalign { ValType::I32 } else { address_type(plan.wide) };
    let mut asm = Asm::new(plan.wide);
    if allocator.nested {
        asm.i().global_get(plan.budget).local_set(saved).i64_const(OUT_OF_REACH).global_set(plan.budget);
    }
    asm.params(allocator).i().call(allocator.copy).local_set(result);
    if allocator.nested {
        asm.get(saved).size(role).extend().i().i64_sub().global_set(plan.budget);
    }
    if let Ok(live) = plan.live
        && role.reallocates()
    {
        // The old block is gone unless the call failed; a call for 0 bytes frees and may return null.
        asm.in_filter(live, 0).i().if_(BlockType::Empty);
        asm.get(result).eqz().i().i32_eqz();
        asm.size(role).eqz().i().i32_or().if_(BlockType::Empty).local_get(0).call(live.freed).end().end();
    }
    asm.spent(plan).i().if_(BlockType::Empty);
    asm.size(role);
    if role == Role::PosixMemalign {
        asm.get(result).i().if_(BlockType::Result(address_type(plan.wide)));
        asm.constant(0).i().else_();
        asm.get(0).load().i().end();
    } else {
        asm.get(result);
    }
    asm.i().call(plan.sampled).end().local_get(result);
    OwnBody { locals: vec![result_type, ValType::I64], asm }
}

/// `sampled(size, pointer)`: the budget is spent.
pub(super) fn sampled(plan: &Plan<'_>) -> OwnBody {
    let (size, pointer, number, filter) = (0, 1, 2, 3);
    let mut asm = Asm::new(plan.wide);
    // A failed allocation is none.
    asm.get(pointer).eqz().i().if_(BlockType::Empty).global_get(plan.budget);
    asm.get(size).extend().i().i64_add().global_set(plan.budget).return_().end();

    asm.i().global_get(plan.budget).i64_const(NO_BUDGET).i64_lt_s().if_(BlockType::Empty);
    asm.report(Report::FIRST, |asm| _ = asm.constant(0)).interval(plan, number);
    asm.get(size).extend().i().i64_sub().local_tee(number).global_set(plan.budget);
    asm.get(number).i().i64_const(0).i64_gt_s().if_(BlockType::Empty).return_().end().end();

    asm.report(Report::SIZE, |asm| _ = asm.get(size).constant(7).add()).i().drop();
    asm.report(Report::ALLOCATED, |asm| _ = asm.get(pointer)).interval(plan, number);
    asm.i().global_set(plan.budget);
    if let Ok(live) = plan.live {
        remember(&mut asm, plan, live, pointer, number, filter);
    }
    OwnBody { locals: vec![ValType::I64, address_type(plan.wide)], asm }
}

/// Sets the filter's bit for a pointer, having made the filter if there is none.
fn remember(asm: &mut Asm, plan: &Plan<'_>, live: Live, pointer: u32, saved: u32, filter: u32) {
    asm.i().global_get(live.filter);
    asm.eqz().i().if_(BlockType::Empty);
    // The allocator may reach others, which must not report from here.
    asm.i().global_get(plan.budget).local_set(saved).i64_const(OUT_OF_REACH).global_set(plan.budget);
    let bytes = i64::from(FILTER_BYTES);
    let (source, role) = live.source;
    match role {
        Role::RustAlloc => asm.constant(bytes).constant(8),
        Role::Calloc => asm.constant(1).constant(bytes),
        Role::Memalign => asm.constant(8).constant(bytes),
        Role::Realloc => asm.constant(0).constant(bytes),
        Role::RustRealloc | Role::CanonicalRealloc => asm.constant(0).constant(0).constant(8).constant(bytes),
        _ => asm.constant(bytes),
    };
    asm.i().call(source).local_set(filter).local_get(saved).global_set(plan.budget);
    // No filter if there was no room, or if what came back is no block within the memory: the index of the
    // 4 KiB that its last byte lies in must be below the memory's number of them.
    asm.get(filter).eqz().i().if_(BlockType::Empty).return_().end();
    asm.get(filter).constant(1).sub().constant(FILTER_LOG2).shr().constant(1).add();
    asm.i().memory_size(0);
    asm.constant(FILTERS_PER_PAGE_LOG2).shl().ge().i().if_(BlockType::Empty).return_().end();
    asm.get(filter).i().i32_const(0);
    asm.constant(bytes).i().memory_fill(0).local_get(filter).global_set(live.filter).end();

    asm.filter_byte(live, pointer);
    asm.filter_byte(live, pointer).i().i32_load8_u(byte()).i32_const(1);
    asm.filter_shift(pointer).i().i32_shl().i32_or().i32_store8(byte());
}

/// `freed(pointer)`: the filter has it.
pub(super) fn freed(plan: &Plan<'_>, live: Live) -> OwnBody {
    let pointer = 0;
    let mut asm = Asm::new(plan.wide);
    asm.report(Report::FREED, |asm| _ = asm.get(pointer)).eqz().i().if_(BlockType::Empty);
    asm.filter_byte(live, pointer);
    asm.filter_byte(live, pointer).i().i32_load8_u(byte()).i32_const(-2);
    asm.filter_shift(pointer).i().i32_rotl().i32_and().i32_store8(byte()).end();
    OwnBody { locals: Vec::new(), asm }
}

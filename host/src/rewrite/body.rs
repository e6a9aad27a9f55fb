//! The code that is added: instructions at the entry of allocators, and the appended functions.
//!
//! Written for either width of addresses; `A` stands for the address type in comments.

use wasm_encoder::{BlockType, InstructionSink, MemArg, ValType};

use super::names::Role;
use super::plan::{Allocator, Live, Plan};
use super::protocol::{FILTER_BYTES, HASH_32, HASH_64, HASH_SHIFT_32, HASH_SHIFT_64, Report};

/// Budget of an instance that has not been given one. Far below what any allocation makes of a real one.
pub(super) const FIRST_BUDGET: i64 = -(1 << 62);

/// Budgets below this one were not given by the host yet: sizes are below 2^40 each.
const NO_BUDGET: i64 = FIRST_BUDGET / 2;

/// Budget while nothing is to be counted.
const OUT_OF_REACH: i64 = 1 << 62;

/// Budgets are answered in units of 2^6 bytes.
const BUDGET_UNIT_LOG2: i64 = 6;

/// Sizes in 64-bit memories are taken modulo this many bytes, so that a failing request of 2^63 bytes cannot
/// turn the budget round.
const SIZE_MASK_64: i64 = (1 << 40) - 1;

/// Memory pages are 2^16 bytes, the filter is 2^12: binary logarithm of the filters in a page.
const FILTERS_PER_PAGE_LOG2: i64 = 4;
const FILTER_LOG2: i64 = FILTER_BYTES.ilog2() as i64;

/// The type of addresses.
pub(super) fn address_type(wide: bool) -> ValType {
    if wide { ValType::I64 } else { ValType::I32 }
}

/// Instructions being written, for addresses of one width.
struct Asm {
    bytes: Vec<u8>,
    wide: bool,
}

/// An instruction on addresses: the one for 32 bits and the one for 64.
macro_rules! address_instructions {
    ($($name:ident = $narrow:ident | $wide:ident;)*) => {
        impl Asm {
            $(fn $name(&mut self) -> &mut Self {
                let wide = self.wide;
                let mut i = self.i();
                if wide { i.$wide() } else { i.$narrow() };
                self
            })*
        }
    };
}

address_instructions! {
    add = i32_add | i64_add;
    sub = i32_sub | i64_sub;
    mul = i32_mul | i64_mul;
    and = i32_and | i64_and;
    or = i32_or | i64_or;
    shl = i32_shl | i64_shl;
    shr = i32_shr_u | i64_shr_u;
    eqz = i32_eqz | i64_eqz;
    ge = i32_ge_u | i64_ge_u;
}

impl Asm {
    fn new(wide: bool) -> Self {
        Self { bytes: Vec::new(), wide }
    }

    fn i(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.bytes)
    }

    fn get(&mut self, local: u32) -> &mut Self {
        self.i().local_get(local);
        self
    }

    /// A constant of type A.
    fn constant(&mut self, value: i64) -> &mut Self {
        // Truncated on purpose: bit patterns.
        let wide = self.wide;
        let mut i = self.i();
        if wide {
            i.i64_const(value)
        } else {
            i.i32_const(value as i32)
        };
        self
    }

    /// The address in memory at an address.
    fn load(&mut self) -> &mut Self {
        let wide = self.wide;
        let mut i = self.i();
        if wide {
            i.i64_load(byte())
        } else {
            i.i32_load(byte())
        };
        self
    }

    /// A on the stack to i64.
    fn extend(&mut self) -> &mut Self {
        if !self.wide {
            self.i().i64_extend_i32_u();
        }
        self
    }

    /// A on the stack to i32, its low half.
    fn low(&mut self) -> &mut Self {
        if self.wide {
            self.i().i32_wrap_i64();
        }
        self
    }

    fn params(&mut self, allocator: &Allocator<'_>) -> &mut Self {
        for param in 0..allocator.params {
            self.get(param);
        }
        self
    }

    /// The size that a call of an allocator asks for, as A.
    fn size(&mut self, role: Role) -> &mut Self {
        match role {
            Role::Calloc => self.get(0).get(1).mul(),
            Role::Memalign | Role::Realloc | Role::ManagedRenew => self.get(1),
            Role::PosixMemalign => self.get(2),
            Role::RustRealloc | Role::CanonicalRealloc => self.get(3),
            _ => self.get(0),
        };
        if self.wide {
            self.constant(SIZE_MASK_64).and();
        }
        self
    }

    /// `budget > 0` negated, as i32.
    fn spent(&mut self, plan: &Plan<'_>) -> &mut Self {
        self.i().global_get(plan.budget).i64_const(0).i64_le_s();
        self
    }

    /// The hash of the pointer in a local, as A, below the filter's number of bits.
    fn hash(&mut self, pointer: u32) -> &mut Self {
        let (factor, shift) =
            if self.wide { (HASH_64 as i64, HASH_SHIFT_64) } else { (i64::from(HASH_32), HASH_SHIFT_32) };
        self.get(pointer).constant(4).shr().constant(factor).mul().constant(i64::from(shift)).shr()
    }

    /// The address of the filter's byte for a pointer.
    fn filter_byte(&mut self, live: Live, pointer: u32) -> &mut Self {
        self.i().global_get(live.filter);
        self.hash(pointer).constant(3).shr().add()
    }

    /// The pointer's bit in its byte as a number from 0 to 7, i32.
    fn filter_shift(&mut self, pointer: u32) -> &mut Self {
        self.hash(pointer).low().i().i32_const(7).i32_and();
        self
    }

    /// Whether the filter has a pointer, as i32. Touches no memory before there is a filter.
    fn in_filter(&mut self, live: Live, pointer: u32) -> &mut Self {
        self.i().global_get(live.filter);
        if self.wide {
            self.i().i64_const(0).i64_ne();
        }
        self.i().if_(BlockType::Result(ValType::I32));
        self.filter_byte(live, pointer).i().i32_load8_u(byte());
        self.filter_shift(pointer).i().i32_shr_u().i32_const(1).i32_and().else_().i32_const(0).end();
        self
    }

    /// Takes a value of type A, leaves the answer to a report.
    fn report(&mut self, kind: u64, value: impl FnOnce(&mut Self)) -> &mut Self {
        let tag = if self.wide { 1 << 63 | kind << 61 } else { 1 << 31 | kind << 29 };
        value(self);
        self.constant(3).shr().constant(tag as i64).or().i().memory_grow(0);
        self
    }

    /// Turns an answer into a budget, i64. Uses an i64 local.
    fn interval(&mut self, plan: &Plan<'_>, scratch: u32) -> &mut Self {
        if !self.wide {
            self.i().i64_extend_i32_s();
        }
        self.i()
            .local_tee(scratch)
            .i64_const(BUDGET_UNIT_LOG2)
            .i64_shl()
            .i64_const(i64::from(plan.period))
            .local_get(scratch)
            .i64_const(0)
            .i64_gt_s()
            .select();
        self
    }
}

/// A byte of memory 0, or what is aligned to no more.
fn byte() -> MemArg {
    MemArg { offset: 0, align: 0, memory_index: 0 }
}

/// A function of our own: its locals beyond the parameters, and its instructions.
pub(super) struct Scratch {
    locals: Vec<ValType>,
    asm: Asm,
}

impl Scratch {
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
pub(super) fn only_slow(allocator: &Allocator<'_>, slow: u32) -> Scratch {
    let mut asm = Asm::new(false);
    asm.params(allocator).i().call(slow);
    Scratch { locals: Vec::new(), asm }
}

/// Allocates, then reports what has to be.
pub(super) fn slow(plan: &Plan<'_>, allocator: &Allocator<'_>) -> Scratch {
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
    Scratch { locals: vec![result_type, ValType::I64], asm }
}

/// `sampled(size, pointer)`: the budget is spent.
pub(super) fn sampled(plan: &Plan<'_>) -> Scratch {
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
    Scratch { locals: vec![ValType::I64, address_type(plan.wide)], asm }
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
pub(super) fn freed(plan: &Plan<'_>, live: Live) -> Scratch {
    let pointer = 0;
    let mut asm = Asm::new(plan.wide);
    asm.report(Report::FREED, |asm| _ = asm.get(pointer)).eqz().i().if_(BlockType::Empty);
    asm.filter_byte(live, pointer);
    asm.filter_byte(live, pointer).i().i32_load8_u(byte()).i32_const(-2);
    asm.filter_shift(pointer).i().i32_rotl().i32_and().i32_store8(byte()).end();
    Scratch { locals: Vec::new(), asm }
}

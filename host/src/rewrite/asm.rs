//! Writing instructions for addresses of either width; `A` stands for the address type in comments.

use wasm_encoder::{BlockType, InstructionSink, MemArg, ValType};

use super::names::Role;
use super::plan::{Allocator, Live, Plan};
use super::protocol::{HASH_32, HASH_64, HASH_SHIFT_32, HASH_SHIFT_64};

/// Budgets are answered in units of 2^6 bytes.
const BUDGET_UNIT_LOG2: i64 = 6;

/// Sizes in 64-bit memories are taken modulo this many bytes, so that a failing request of 2^63 bytes cannot
/// turn the budget round.
const SIZE_MASK_64: i64 = (1 << 40) - 1;

/// The type of addresses.
pub(super) fn address_type(wide: bool) -> ValType {
    if wide { ValType::I64 } else { ValType::I32 }
}

/// Instructions being written, for addresses of one width.
pub(super) struct Asm {
    pub(super) bytes: Vec<u8>,
    wide: bool,
}

/// An instruction on addresses: the one for 32 bits and the one for 64.
macro_rules! address_instructions {
    ($($name:ident = $narrow:ident | $wide:ident;)*) => {
        impl Asm {
            $(pub(super) fn $name(&mut self) -> &mut Self {
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
    pub(super) fn new(wide: bool) -> Self {
        Self { bytes: Vec::new(), wide }
    }

    pub(super) fn i(&mut self) -> InstructionSink<'_> {
        InstructionSink::new(&mut self.bytes)
    }

    pub(super) fn get(&mut self, local: u32) -> &mut Self {
        self.i().local_get(local);
        self
    }

    /// A constant of type A.
    pub(super) fn constant(&mut self, value: i64) -> &mut Self {
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
    pub(super) fn load(&mut self) -> &mut Self {
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
    pub(super) fn extend(&mut self) -> &mut Self {
        if !self.wide {
            self.i().i64_extend_i32_u();
        }
        self
    }

    /// A on the stack to i32, its low half.
    pub(super) fn low(&mut self) -> &mut Self {
        if self.wide {
            self.i().i32_wrap_i64();
        }
        self
    }

    pub(super) fn params(&mut self, allocator: &Allocator<'_>) -> &mut Self {
        for param in 0..allocator.params {
            self.get(param);
        }
        self
    }

    /// The size that a call of an allocator asks for, as A.
    pub(super) fn size(&mut self, role: Role) -> &mut Self {
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
    pub(super) fn spent(&mut self, plan: &Plan<'_>) -> &mut Self {
        self.i().global_get(plan.budget).i64_const(0).i64_le_s();
        self
    }

    /// The hash of the pointer in a local, as A, below the filter's number of bits.
    pub(super) fn hash(&mut self, pointer: u32) -> &mut Self {
        let (factor, shift) =
            if self.wide { (HASH_64 as i64, HASH_SHIFT_64) } else { (i64::from(HASH_32), HASH_SHIFT_32) };
        self.get(pointer).constant(4).shr().constant(factor).mul().constant(i64::from(shift)).shr()
    }

    /// The address of the filter's byte for a pointer.
    pub(super) fn filter_byte(&mut self, live: Live, pointer: u32) -> &mut Self {
        self.i().global_get(live.filter);
        self.hash(pointer).constant(3).shr().add()
    }

    /// The pointer's bit in its byte as a number from 0 to 7, i32.
    pub(super) fn filter_shift(&mut self, pointer: u32) -> &mut Self {
        self.hash(pointer).low().i().i32_const(7).i32_and();
        self
    }

    /// Whether the filter has a pointer, as i32. Touches no memory before there is a filter.
    pub(super) fn in_filter(&mut self, live: Live, pointer: u32) -> &mut Self {
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
    pub(super) fn report(&mut self, kind: u64, value: impl FnOnce(&mut Self)) -> &mut Self {
        let tag = if self.wide { 1 << 63 | kind << 61 } else { 1 << 31 | kind << 29 };
        value(self);
        self.constant(3).shr().constant(tag as i64).or().i().memory_grow(0);
        self
    }

    /// Turns an answer into a budget, i64. Uses an i64 local.
    pub(super) fn interval(&mut self, plan: &Plan<'_>, scratch: u32) -> &mut Self {
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
pub(super) fn byte() -> MemArg {
    MemArg { offset: 0, align: 0, memory_index: 0 }
}

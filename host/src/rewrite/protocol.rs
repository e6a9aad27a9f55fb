//! What a rewritten guest and its host say to each other: a `memory.grow` of memory 0 by an impossible number
//! of pages, in a function that was appended for it. An engine that knows nothing of it answers −1.
//!
//! ```text
//! 32-bit memory    1 | kind: 2 bits | value >> 3: 29 bits       at least 2^31 pages, of 65,536 possible ones
//! 64-bit memory    1 | kind: 2 bits | value >> 3: 61 bits
//! ```
//! | kind | value | answer |
//! |---|---|---|
//! | 0 | size of the allocation that spent the budget, in bytes, rounded up to 8 | none |
//! | 1 | its pointer, rounded down to 8; always right after kind 0 | the next budget |
//! | 2 | a pointer whose filter bit is set, about to be freed | 0 clears the bit, all else leaves it |
//! | 3 | 0: the instance's first allocation, not a sample yet | the first budget |
//!
//! Budgets are answered in units of 64 bytes; an answer below 1 means the period that the guest was rewritten
//! with. Without kind 3, instances that allocate less than the first budget would never be seen.
//! The engine reads −2 as an unwind, so a host may not answer that.

/// What a guest reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Kind 0: bytes.
    Size(u64),
    /// Kind 1: the address of the sampled allocation.
    Allocated(u64),
    /// Kind 2: an address that may be that of a sampled allocation.
    Freed(u64),
    /// Kind 3: an instance begins.
    First,
}

impl Report {
    /// Number of the kind, as it stands in the delta.
    pub(super) const SIZE: u64 = 0;
    pub(super) const ALLOCATED: u64 = 1;
    pub(super) const FREED: u64 = 2;
    pub(super) const FIRST: u64 = 3;

    /// Reads the delta of a `memory.grow`, zero-extended. `None` if it is no report.
    pub(crate) fn from_delta(delta: u64) -> Option<Self> {
        let (kind, value) = match delta.leading_zeros() {
            0 => (delta >> 61, delta << 3),
            32 => (delta >> 29, (delta << 3) & 0xffff_ffff),
            _ => return None,
        };
        Some(match kind & 3 {
            Self::SIZE => Self::Size(value),
            Self::ALLOCATED => Self::Allocated(value),
            Self::FREED => Self::Freed(value),
            _ => Self::First,
        })
    }
}

/// Bytes of the filter.
pub(super) const FILTER_BYTES: u32 = 4096;

/// The filter bit of a pointer, 0 to 32767, in a module with a 64-bit memory (`wide`) or a 32-bit one. A host
/// answers [`Report::Freed`] with 0 when no other live sample has the same bit.
pub(crate) fn filter_bit(pointer: u64, wide: bool) -> u16 {
    if wide {
        ((pointer >> 4).wrapping_mul(HASH_64) >> HASH_SHIFT_64) as u16
    } else {
        ((pointer as u32 >> 4).wrapping_mul(HASH_32) >> HASH_SHIFT_32) as u16
    }
}

// Multiplicative hashing by 2^n divided by the golden ratio; the shift leaves 15 bits.
pub(super) const HASH_32: u32 = 0x9e37_79b1;
pub(super) const HASH_SHIFT_32: u32 = 17;
pub(super) const HASH_64: u64 = 0x9e37_79b9_7f4a_7c15;
pub(super) const HASH_SHIFT_64: u32 = 49;

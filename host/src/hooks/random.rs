//! Cheap random numbers for choosing events. Not for secrets.

use std::cell::Cell;

thread_local! {
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// A number below `bound`, nearly uniform.
#[inline(never)] // the state's address must not be kept across a switch of threads
pub(crate) fn below(bound: u64) -> u64 {
    let number = STATE.try_with(|state| {
        // SplitMix64; a thread starts from the address of its own state.
        let next = match state.get() {
            0 => std::ptr::from_ref(state) as u64,
            seed => seed,
        }
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    });
    ((u128::from(number.unwrap_or(0)) * u128::from(bound)) >> 64) as u64
}

//! Reports of rewritten guests: sampled allocations, and the end of those that were sampled.
//!
//! # Accuracy
//! Allocations are sampled by bytes with random intervals, so that each byte has the same chance whatever the
//! pattern. Bytes and counts by stack are estimates; of a stack that allocated 100 times the period the
//! standard error is 10 %. Live bytes count what was sampled and not freed.
//!
//! # Cost
//! Only with `--alloc`: a few instructions per allocation in the guest, a walk and a table lookup per sample.
//!
//! # Security
//! Addresses and sizes of the guest's allocations, never their contents.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};

use super::memory::TRAPPED;
use super::random;
use crate::rewrite::protocol::{Report, filter_bit};
use crate::sampler::{self, Kind};

/// Bytes that no growth of a memory asks for in earnest: reports ask for 2^31 pages and more.
const IMPOSSIBLE: usize = 1 << 47;

/// Mean bytes between two samples of a thread.
pub(crate) const PERIOD: u32 = 512 << 10;

/// Slots for live samples per instance, half of which are used; beyond, samples count as allocated only.
const SLOTS: usize = 4096;

/// Instances that report, by the address of their context.
static INSTANCES: Mutex<Option<HashMap<usize, Instance>>> = Mutex::new(None);

thread_local! {
    /// Size of the allocation that is about to be reported.
    static SIZE: Cell<u64> = const { Cell::new(0) };
    /// The instance that begins, while the engine is asked for the store's limiter.
    static BEGINNING: Cell<Option<InstanceKey>> = const { Cell::new(None) };
}

/// An instance that reports allocations: address of its context and a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InstanceKey {
    context: usize,
    /// Unique in the process.
    pub number: u64,
}

/// Live samples of an instance: pointers, in open addressing by filter bit.
struct Instance {
    key: InstanceKey,
    slots: Box<[u64; SLOTS]>,
    used: usize,
}

/// Answers a report. `ask_limiter` makes the engine ask the store's limiter about an impossible growth.
pub(super) fn answer(vmctx: usize, delta: u64, report: Report, ask_limiter: impl FnOnce() -> usize) -> usize {
    let wide = delta.leading_zeros() == 0;
    match report {
        Report::First => {
            if begin(vmctx, ask_limiter) == TRAPPED {
                TRAPPED
            } else {
                budget()
            }
        }
        Report::Size(bytes) => {
            SIZE.set(bytes);
            0
        }
        Report::Allocated(pointer) => {
            allocated(vmctx, pointer, wide);
            budget()
        }
        Report::Freed(pointer) => usize::from(freed(vmctx, pointer, wide)),
    }
}

/// Draws the bytes until the next sample, in the protocol's units of 64. Exponential, so that every byte has
/// the same chance.
fn budget() -> usize {
    let uniform = (random::below(1 << 53) + 1) as f64 / (1u64 << 53) as f64;
    ((-uniform.ln() * PERIOD as f64 / 64.0) as usize).clamp(1, 1 << 24)
}

/// What a sampled allocation of `size` bytes stands for: how many allocations, and bytes in all.
pub(crate) fn stands_for(size: u64) -> (f64, f64) {
    let chance = -(-(size.max(1) as f64) / PERIOD as f64).exp_m1();
    (1.0 / chance, size as f64 / chance)
}

/// Runs `with` on the table of instances. `None` if another thread has it: the guest does not wait.
fn instances<R>(with: impl FnOnce(&mut HashMap<usize, Instance>) -> R) -> Option<R> {
    let mut guard = match INSTANCES.try_lock() {
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return None,
    };
    Some(with(guard.get_or_insert_default()))
}

fn begin(vmctx: usize, ask_limiter: impl FnOnce() -> usize) -> usize {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    let key = InstanceKey { context: vmctx, number: NUMBERS.fetch_add(1, Ordering::Relaxed) };
    let before = exchange(Some(key));
    let answer = ask_limiter();
    // Still there if the store has no limiter of ours: its end would not be seen, so nothing is kept of it. Not
    // there either if the limiter waited and the guest went on on another thread.
    let taken = exchange(before) != Some(key);
    instances(|all| {
        all.remove(&vmctx);
        if taken && answer != TRAPPED {
            all.insert(vmctx, Instance { key, slots: Box::new([0; SLOTS]), used: 0 });
        }
    });
    answer
}

#[inline(never)] // the thread may be another one after the engine was asked
fn exchange(key: Option<InstanceKey>) -> Option<InstanceKey> {
    BEGINNING.replace(key)
}

/// The instance that begins on this thread, for the limiter of its store: it tells [`ended`] when the store
/// ends. The growth that it was asked about is none.
pub(crate) fn beginning(desired: usize) -> Option<InstanceKey> {
    if desired >= IMPOSSIBLE { exchange(None) } else { None }
}

/// Forgets an instance whose store ended.
pub(crate) fn ended(key: InstanceKey) {
    let mut guard = INSTANCES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(all) = guard.as_mut()
        && all.get(&key.context).is_some_and(|instance| instance.key == key)
    {
        all.remove(&key.context);
    }
}

#[inline(never)] // thread-locals
fn allocated(vmctx: usize, pointer: u64, wide: bool) {
    let size = SIZE.replace(0);
    let number = instances(|all| {
        let instance = all.get_mut(&vmctx)?;
        instance.insert(pointer, wide).then_some(instance.key.number)
    });
    sampler::event(Kind::Alloc, &[size, pointer, number.flatten().unwrap_or(0)]);
}

/// Whether the filter's bit stays.
fn freed(vmctx: usize, pointer: u64, wide: bool) -> bool {
    let known = instances(|all| {
        let instance = all.get_mut(&vmctx)?;
        let number = instance.remove(pointer, wide).then_some(instance.key.number);
        Some((number, instance.has_bit(filter_bit(pointer, wide), wide)))
    });
    let (number, stays) = known.flatten().unwrap_or((None, true));
    if let Some(number) = number {
        sampler::event(Kind::Free, &[pointer, number]);
    }
    stays
}

impl Instance {
    fn home(pointer: u64, wide: bool) -> usize {
        usize::from(filter_bit(pointer, wide)) % SLOTS
    }

    /// Slots of a pointer's chain: from its home to the first empty one.
    fn chain(&self, home: usize) -> impl Iterator<Item = usize> {
        (0..SLOTS).map(move |step| (home + step) % SLOTS).take_while(|&at| self.slots[at] != 0)
    }

    /// Returns false if there is no room, or the allocation failed.
    fn insert(&mut self, pointer: u64, wide: bool) -> bool {
        let home = Self::home(pointer, wide);
        if pointer == 0 || self.used >= SLOTS / 2 || self.chain(home).any(|at| self.slots[at] == pointer) {
            return false;
        }
        let free = home + self.chain(home).count();
        self.slots[free % SLOTS] = pointer;
        self.used += 1;
        true
    }

    fn remove(&mut self, pointer: u64, wide: bool) -> bool {
        let Some(mut hole) = self.chain(Self::home(pointer, wide)).find(|&at| self.slots[at] == pointer)
        else {
            return false;
        };
        self.used -= 1;
        // Close the gap: whatever may not stand behind it moves up.
        let mut at = hole;
        loop {
            self.slots[hole] = 0;
            at = (at + 1) % SLOTS;
            let moved = self.slots[at];
            if moved == 0 {
                return true;
            }
            let home = Self::home(moved, wide);
            if (at + SLOTS - home) % SLOTS >= (at + SLOTS - hole) % SLOTS {
                self.slots[hole] = moved;
                hole = at;
            }
        }
    }

    fn has_bit(&self, bit: u16, wide: bool) -> bool {
        self.chain(usize::from(bit) % SLOTS).any(|at| filter_bit(self.slots[at], wide) == bit)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The table behaves as a set under any order of insertions and removals, and knows which bits are in use.
    #[test]
    fn live_samples_are_a_set() {
        let key = InstanceKey { context: 1, number: 1 };
        let mut instance = Instance { key, slots: Box::new([0; SLOTS]), used: 0 };
        let mut known = HashSet::new();
        for step in 0..20_000u64 {
            let pointer = (random::below(6000) + 1) * 8;
            if random::below(100) < 52 {
                let fits = known.len() < SLOTS / 2;
                assert_eq!(instance.insert(pointer, false), fits && known.insert(pointer), "step {step}");
            } else {
                assert_eq!(instance.remove(pointer, false), known.remove(&pointer), "step {step}");
            }
            let bit = filter_bit(pointer, false);
            assert_eq!(instance.has_bit(bit, false), known.iter().any(|&p| filter_bit(p, false) == bit));
        }
    }

    /// Intervals have the right mean, and what samples stand for adds up to what was allocated.
    #[test]
    fn samples_are_unbiased() {
        let draws = 20_000;
        let mean = (0..draws).map(|_| budget() as f64 * 64.0).sum::<f64>() / f64::from(draws);
        assert!((mean / PERIOD as f64 - 1.0).abs() < 0.05, "{mean}");
        let (size, count) = (300_000u64, 20_000);
        let chance = |_| random::below(1 << 53) as f64 / (1u64 << 53) as f64;
        let sampled =
            (0..count).map(chance).filter(|&u| u < -(-(size as f64) / PERIOD as f64).exp_m1()).count();
        let (each, bytes) = stands_for(size);
        assert!((sampled as f64 * each / f64::from(count) - 1.0).abs() < 0.05);
        assert!((sampled as f64 * bytes / (size as f64 * f64::from(count)) - 1.0).abs() < 0.05);
    }
}

//! Counters that keep the cost of one file in proportion to its length, however its parts refer to each other.

use std::sync::atomic::{AtomicUsize, Ordering};

/// An amount that only shrinks. Shared by all lookups of a file.
pub(crate) struct Budget(AtomicUsize);

impl Budget {
    /// A budget of so many units of whatever is counted.
    pub fn new(amount: usize) -> Self {
        Self(AtomicUsize::new(amount))
    }

    /// Spends, or refuses and leaves the rest to others.
    pub fn take(&self, amount: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(amount)).is_ok()
    }

    /// Takes back what was not needed.
    pub fn give(&self, amount: usize) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Spends what is left.
    pub fn drain(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// What is left.
    pub fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.left() == 0
    }
}

/// Appends to an index and pays for it; `None` if the budget is spent or 32 bits do not count them.
pub(crate) fn add<T>(list: &mut Vec<T>, item: T, retained: &Budget) -> Option<u32> {
    let index = u32::try_from(list.len()).ok()?;
    retained.take(size_of::<T>()).then(|| list.push(item))?;
    Some(index)
}

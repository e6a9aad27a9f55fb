//! The table of text ranges that the signal handler looks program counters up in.
//!
//! Readers are signal handlers: they take no lock and may be preempted anywhere. A reader announces the
//! table it reads in its thread's hazard slot; a replaced table is freed only when no slot names it.

use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// One module's machine code in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TextRange {
    /// First address.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

/// Sorted, disjoint ranges.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextTable {
    ranges: Vec<TextRange>,
    /// Functions whose growth of memory is a report: see [`crate::rewrite`].
    reporters: Vec<TextRange>,
}

impl TextTable {
    /// A table of sorted, disjoint ranges.
    #[cfg(test)]
    pub(super) fn new(ranges: Vec<TextRange>) -> Self {
        Self { ranges, reporters: Vec::new() }
    }

    /// The range that holds an address. Async-signal-safe.
    pub(crate) fn find(&self, pc: usize) -> Option<TextRange> {
        holding(&self.ranges, pc)
    }

    /// Whether an address lies in a function that reports. Async-signal-safe.
    pub(crate) fn is_reporter(&self, pc: usize) -> bool {
        holding(&self.reporters, pc).is_some()
    }
}

fn holding(ranges: &[TextRange], pc: usize) -> Option<TextRange> {
    let index = ranges.partition_point(|range| range.start <= pc);
    let range = *ranges.get(index.checked_sub(1)?)?;
    (pc < range.end).then_some(range)
}

/// The process's table: signal handlers are per process, so there is one for all engines.
pub(crate) struct SharedTable {
    current: AtomicPtr<TextTable>,
    reporting: AtomicBool,
    writer: Mutex<Vec<Retired>>,
}

/// The process's table.
pub(crate) static TEXT: SharedTable = SharedTable::new();

struct Retired(*mut TextTable);

// SAFETY: the pointer is an owned, heap-allocated table that nobody but its (still announced) readers uses.
unsafe impl Send for Retired {}

impl SharedTable {
    const fn new() -> Self {
        Self {
            current: AtomicPtr::new(ptr::null_mut()),
            reporting: AtomicBool::new(false),
            writer: Mutex::new(Vec::new()),
        }
    }

    /// Adds a module's text, and its functions that report. It must stay mapped and unchanged until [`Self::remove`] and, after it,
    /// [`Self::reclaim`] with every reader's slot.
    pub(crate) fn add(&self, text: TextRange, reporters: &[TextRange]) {
        self.edit(|table| {
            table.ranges.push(text);
            table.ranges.sort_by_key(|range| range.start);
            table.reporters.extend_from_slice(reporters);
            table.reporters.sort_by_key(|range| range.start);
        });
    }

    /// Whether any text has functions that report.
    pub(crate) fn has_reporters(&self) -> bool {
        self.reporting.load(Ordering::Relaxed)
    }

    /// Removes a text: handlers that start after this call no longer see it.
    pub(crate) fn remove(&self, old: TextRange) {
        self.edit(|table| {
            table.ranges.retain(|range| *range != old);
            table.reporters.retain(|range| !(old.start..old.end).contains(&range.start));
        });
    }

    fn edit(&self, change: impl FnOnce(&mut TextTable)) {
        let mut retired = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: tables are replaced and freed only under `writer`, which is held.
        let mut table = unsafe { current.as_ref() }.cloned().unwrap_or_default();
        change(&mut table);
        self.reporting.store(!table.reporters.is_empty(), Ordering::Relaxed);
        let next = Box::into_raw(Box::new(table));
        self.current.store(next, Ordering::SeqCst);
        if !current.is_null() {
            retired.push(Retired(current));
        }
    }

    /// Frees replaced tables that no slot announces. Returns whether none is left, which means that no
    /// handler can still find a range that was removed before this call.
    pub(crate) fn reclaim(&self, announced: impl Fn(*mut TextTable) -> bool) -> bool {
        let mut retired = self.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        retired.retain(|table| {
            let in_use = announced(table.0);
            if !in_use {
                // SAFETY: `table` was made by `Box::into_raw`, is no longer current, and no reader announced
                // it after it was replaced: a reader re-checks `current` after announcing.
                drop(unsafe { Box::from_raw(table.0) });
            }
            in_use
        });
        retired.is_empty()
    }

    /// Runs `read` on the current table, announced in `hazard` meanwhile; on `None` if there never was one.
    /// Async-signal-safe if `read` is.
    pub(crate) fn with<R>(
        &self,
        hazard: &AtomicPtr<TextTable>,
        read: impl FnOnce(Option<&TextTable>) -> R,
    ) -> R {
        loop {
            let table = self.current.load(Ordering::SeqCst);
            if table.is_null() {
                return read(None);
            }
            hazard.store(table, Ordering::SeqCst);
            if self.current.load(Ordering::SeqCst) != table {
                continue;
            }
            // SAFETY: announced before the re-check, so `reclaim` sees it and leaves the table alone.
            let result = read(Some(unsafe { &*table }));
            hazard.store(ptr::null_mut(), Ordering::SeqCst);
            return result;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: usize, end: usize) -> TextRange {
        TextRange { start, end }
    }

    #[test]
    fn finds_only_inside_ranges() {
        let table = TextTable::new(vec![range(10, 20), range(30, 40)]);
        assert!(!table.is_reporter(13));
        for (pc, want) in [(9, None), (10, Some(10)), (19, Some(10)), (20, None), (39, Some(30)), (40, None)]
        {
            assert_eq!(table.find(pc).map(|r| r.start), want, "{pc}");
        }
    }

    /// A table that a reader announced outlives its replacement.
    #[test]
    fn announced_tables_are_kept() {
        let shared = SharedTable::new();
        let hazard = AtomicPtr::new(ptr::null_mut());
        assert!(shared.with(&hazard, |table| table.is_none()));
        shared.add(range(1, 2), &[]);
        shared.with(&hazard, |table| {
            let announced = hazard.load(Ordering::SeqCst);
            shared.remove(range(1, 2));
            assert!(!shared.reclaim(|t| t == announced));
            assert!(table.unwrap().find(1).is_some());
        });
        assert!(shared.reclaim(|t| t == hazard.load(Ordering::SeqCst)));
        assert_eq!(shared.with(&hazard, |table| table.unwrap().find(1)), None);
        shared.remove(range(8, 9));
        shared.reclaim(|_| false);
        drop(unsafe_free(&shared));
    }

    fn unsafe_free(shared: &SharedTable) -> Box<TextTable> {
        // SAFETY: the test is the only user of the table.
        unsafe { Box::from_raw(shared.current.swap(ptr::null_mut(), Ordering::SeqCst)) }
    }
}

//! Which host functions are observed: from the context that a function is called with to what it called
//! before, and its number.
//!
//! Readers are guests' threads and take no lock. Entries are keyed by address, and a function's memory may be
//! freed and used again without anybody telling. That is sound, because an entry is read only by a call that
//! its own function's replaced address led here, which that function is alive for: what is newly made at an
//! old address calls the engine's code until it is observed itself, and then its entry is replaced first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Most functions at once.
pub(super) const LIMIT: usize = 4096;
/// Places, twice as many.
const PLACES: usize = 2 * LIMIT;
/// Stands for a function that was forgotten; no address of a context.
const FORGOTTEN: usize = 1;

struct Place {
    /// Address of the function's context; 0 if there never was one.
    context: AtomicUsize,
    original: AtomicUsize,
    number: AtomicUsize,
}

impl Place {
    const fn new() -> Self {
        Self { context: AtomicUsize::new(0), original: AtomicUsize::new(0), number: AtomicUsize::new(0) }
    }
}

/// The table.
pub(super) struct Table {
    places: [Place; PLACES],
    /// Places that hold a function. Locked by writers.
    used: Mutex<usize>,
}

/// The process's table.
pub(super) static TABLE: Table = Table::new();

fn places_of(context: usize) -> impl Iterator<Item = usize> {
    let first = (context >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15_u64 as usize) >> (usize::BITS - 13);
    (first..first + PLACES).map(|place| place % PLACES)
}

impl Table {
    const fn new() -> Self {
        Self { places: [const { Place::new() }; PLACES], used: Mutex::new(0) }
    }

    /// What a function called before it was observed, and its number. The function has to be in the table.
    #[inline]
    pub(super) fn find(&self, context: usize) -> (usize, u16) {
        loop {
            for place in places_of(context).map(|place| &self.places[place]) {
                match place.context.load(Ordering::Acquire) {
                    known if known == context => {
                        let number = place.number.load(Ordering::Relaxed) as u16;
                        return (place.original.load(Ordering::Relaxed), number);
                    }
                    0 => break,
                    _ => {}
                }
            }
            // Compiled code saw the function replaced before this thread sees its place filled.
            std::hint::spin_loop();
        }
    }

    /// Adds a function, or replaces one that was at the same address, and then calls `replaced`. When the
    /// table is full, those that `may_live` denies are forgotten first. False if there is no room.
    pub(super) fn insert(
        &self,
        (context, original, number): (usize, usize, u16),
        may_live: impl Fn(usize) -> bool,
        replace: impl FnOnce(),
    ) -> bool {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut known, mut free) = self.search(context);
        if known.is_none() && *used >= LIMIT {
            *used -= self.forget(may_live);
            (known, free) = self.search(context);
        }
        let Some(place) = known.or(free.filter(|_| *used < LIMIT)) else { return false };
        *used += usize::from(known.is_none());
        let place = &self.places[place];
        place.original.store(original, Ordering::Relaxed);
        place.number.store(usize::from(number), Ordering::Relaxed);
        place.context.store(context, Ordering::SeqCst);
        replace();
        true
    }

    /// Where a function is, and where it could be.
    fn search(&self, context: usize) -> (Option<usize>, Option<usize>) {
        let mut free = None;
        for place in places_of(context) {
            match self.places[place].context.load(Ordering::Relaxed) {
                known if known == context => return (Some(place), free),
                0 => return (None, free.or(Some(place))),
                FORGOTTEN => free = free.or(Some(place)),
                _ => {}
            }
        }
        (None, free)
    }

    /// Forgets functions that are gone for sure; how many.
    fn forget(&self, may_live: impl Fn(usize) -> bool) -> usize {
        let mut forgotten = 0;
        // Backwards, so that a forgotten place before a free one can be free as well.
        for place in (0..PLACES).rev() {
            let context = &self.places[place].context;
            let at = context.load(Ordering::Relaxed);
            let gone = at > FORGOTTEN && !may_live(at);
            forgotten += usize::from(gone);
            if gone || at == FORGOTTEN {
                let next = self.places[(place + 1) % PLACES].context.load(Ordering::Relaxed);
                context.store(if next == 0 { 0 } else { FORGOTTEN }, Ordering::Relaxed);
            }
        }
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Functions come and go for ever in bounded space; those that live are always found.
    #[test]
    fn the_dead_make_room() {
        let table = Box::new(Table::new());
        let address = |i: usize| 0x10_0000 + i * 64;
        let add = |i: usize, from: usize| {
            table.insert((address(i), i, (i % 1000) as u16), |at| at >= address(from), || ())
        };
        for i in 0..10 * LIMIT {
            // The last hundred live.
            assert!(add(i, i.saturating_sub(100)), "{i}");
            for known in i.saturating_sub(100)..=i {
                assert_eq!(table.find(address(known)), (known, (known % 1000) as u16));
            }
        }
        // What is new at an old address replaces what was there.
        assert!(table.insert((address(10 * LIMIT - 1), 7, 8), |_| true, || ()));
        assert_eq!(table.find(address(10 * LIMIT - 1)), (7, 8));
    }

    /// A full table takes no more, and says so.
    #[test]
    fn a_full_table_refuses() {
        let table = Box::new(Table::new());
        let added = (1..=2 * LIMIT).filter(|i| table.insert((i * 48, *i, 1), |_| true, || ())).count();
        assert_eq!(added, LIMIT);
        assert_eq!(table.find(48 * LIMIT).0, LIMIT);
    }
}

//! Calls of host functions that did not return yet: noted where a guest leaves, looked at by the aggregator from
//! afar. Nobody stops or signals a thread for it.
//!
//! A note is three words that only the guest's own thread writes. While an async function waits, its call's
//! note is parked in a place of its own, so that the thread is free for others. A stack is read through the
//! kernel, which refuses memory that is gone, and believed only if the same call still waits afterwards.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

#[cfg(sandscope_sampler)]
use super::arch::strip;
use super::thread;
use crate::engine::{ExitFrame, Memory};

/// Async calls that can be parked at once; further ones are not shown while they wait.
const PLACES: usize = 1024;
/// Places that are tried before one is given up.
const TRIES: usize = 32;

/// A call of the host: the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// The thread's count of its calls, and in the low 16 bits the function's number.
    call: u64,
    /// Where the guest left, if known.
    pc: usize,
    fp: usize,
}

/// A note that the aggregator may read at any time.
pub(super) struct NoteCell {
    call: AtomicU64,
    pc: AtomicUsize,
    fp: AtomicUsize,
    /// Calls of this thread so far.
    count: AtomicU64,
}

impl NoteCell {
    pub(super) const fn new() -> Self {
        let (pc, fp) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { call: AtomicU64::new(0), pc, fp, count: AtomicU64::new(0) }
    }

    #[inline]
    fn get(&self) -> Note {
        let call = self.call.load(Ordering::Acquire);
        Note { call, pc: self.pc.load(Ordering::Relaxed), fp: self.fp.load(Ordering::Relaxed) }
    }

    #[inline]
    pub(super) fn replace(&self, note: Note) -> Note {
        let before = self.get();
        self.set(note);
        before
    }

    #[inline]
    pub(super) fn set(&self, note: Note) {
        if note.call != 0 {
            self.pc.store(note.pc, Ordering::Relaxed);
            self.fp.store(note.fp, Ordering::Relaxed);
        }
        self.call.store(note.call, Ordering::Release);
    }
}

/// Notes that the active guest calls a function; what was noted before.
#[inline]
pub(crate) fn calling(number: u16, exit: Option<ExitFrame>) -> Note {
    let Some(state) = thread::active() else { return Note::default() };
    let before = state.flight.get();
    let count = state.flight.count.load(Ordering::Relaxed) + 1;
    state.flight.count.store(count, Ordering::Relaxed);
    let (pc, fp) = exit.map_or((0, 0), |exit| (exit.pc, exit.trampoline_fp));
    state.flight.set(Note { call: (count << 16) | u64::from(number), pc, fp });
    before
}

/// What is noted now.
pub(crate) fn noted() -> Note {
    thread::active().map_or(Note::default(), |state| state.flight.get())
}

/// Notes what was noted before a call, or what a call noted before it waited.
#[inline(never)] // thread-locals must be looked up after a call
pub(crate) fn restore(note: Note) {
    if let Some(state) = thread::active() {
        state.flight.set(note);
    }
}

struct Place {
    /// Scope of the call; 0 while the place is free.
    scope: AtomicU64,
    workload: AtomicU32,
    note: NoteCell,
}

static PARKED: [Place; PLACES] =
    [const { Place { scope: AtomicU64::new(0), workload: AtomicU32::new(0), note: NoteCell::new() } };
        PLACES];

/// A place for the calls of one guest that is not running, one after the other.
pub(crate) struct Parked(&'static Place);

impl Parked {
    /// `None` if there is no room.
    pub(crate) fn claim(scope: u64, workload: u32) -> Option<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let first = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut places = (first..first.wrapping_add(TRIES)).map(|place| &PARKED[place % PLACES]);
        let claim = |place: &&Place| {
            place.scope.compare_exchange(0, scope, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let place = places.find(claim)?;
        place.workload.store(workload, Ordering::Relaxed);
        Some(Self(place))
    }

    /// [`Self::claim`] for the active call.
    pub(crate) fn of_active() -> Option<Self> {
        let (scope, workload) = thread::active()?.owner();
        // A scope that ended is told nothing.
        if scope == 0 { None } else { Self::claim(scope, workload) }
    }

    pub(crate) fn set(&self, note: Note) {
        self.0.note.set(note);
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.note.set(Note::default());
        self.0.scope.store(0, Ordering::Release);
    }
}

/// A call that did not return yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFlight {
    /// Ordinal of the workload.
    pub workload: u32,
    /// Address of the place that it is noted in.
    place: usize,
    note: Note,
}

impl InFlight {
    /// The same for as long as the call lasts, and no other call's.
    pub(crate) fn identity(&self) -> (usize, u64) {
        (self.place, self.note.call)
    }

    /// Number of the function.
    pub(crate) fn function(&self) -> u16 {
        self.note.call as u16
    }

    /// Return addresses of the guest's stack, innermost first; those that may have been read while it was
    /// changing are for the caller to throw away, if the call is not in flight any more.
    pub(crate) fn stack(&self, memory: &Memory, is_guest: impl Fn(u64) -> bool) -> Vec<u64> {
        #[cfg(not(sandscope_sampler))]
        let strip = |pc| pc;
        let frame = |fp: usize| {
            let words = memory.word(fp).zip(memory.word(fp.wrapping_add(8)));
            words.filter(|_| fp.is_multiple_of(8)).map(|(next, return_address)| (next, strip(return_address)))
        };
        let mut stack = Vec::new();
        // The frame of the engine's trampoline: it returns to where the guest left.
        let mut at = frame(self.note.fp).filter(|(_, pc)| *pc == strip(self.note.pc));
        while let Some((fp, pc)) = at
            && is_guest(pc as u64)
            && stack.len() < super::MAX_FRAMES
        {
            stack.push(pc as u64);
            at = frame(fp);
        }
        stack
    }
}

/// Calls of a scope's guests that did not return yet.
pub(crate) fn in_flight(scope: u64) -> Vec<InFlight> {
    let mut out = Vec::new();
    let mut add = |workload: u32, cell: &NoteCell| {
        let note = cell.get();
        if note.call != 0 {
            out.push(InFlight { workload, place: std::ptr::from_ref(cell) as usize, note });
        }
    };
    thread::each_of(scope, |workload, flight| add(workload, flight));
    for place in PARKED.iter().filter(|place| place.scope.load(Ordering::Acquire) == scope) {
        add(place.workload.load(Ordering::Relaxed), &place.note);
    }
    out
}

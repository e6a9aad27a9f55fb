//! Threads that run guests: their rings, which call is active on them, and draining.
//!
//! States are allocated once and recycled, never freed: a late signal always finds valid memory.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::table::{TEXT, TextTable};

/// Words of a ring: 60 KiB, which at 99 Hz and 100 ms between drains holds the deepest stacks.
const RING: usize = 7680;
/// Words of a record before its program counters.
const HEADER: usize = 2;

/// What a thread that runs guests shares with its signal handler and with the drain.
pub(crate) struct ThreadState {
    /// Scope that the ring belongs to; 0 while the state is free.
    scope: AtomicU64,
    /// Set by the thread's end: drain once more, then recycle.
    exited: AtomicBool,
    /// Ordinal of the workload of the active call.
    pub(super) workload: AtomicU32,
    /// Table that the handler is reading.
    pub(super) hazard: AtomicPtr<TextTable>,
    /// Samples that found no room.
    pub(super) dropped: AtomicU64,
    /// Records, written by the thread's own handler only, read by the drain only.
    ring: Box<[AtomicU64]>,
    written: AtomicU64,
    read: AtomicU64,
    /// The kernel's timer. Locked by the thread when it attaches and ends and by the scope's end, never by
    /// the handler.
    timer: Mutex<Option<Timer>>,
}

/// A timer of the kernel, deleted on drop.
#[cfg(sandscope_sampler)]
type Timer = super::linux::Timer;
#[cfg(not(sandscope_sampler))]
type Timer = super::unsupported::Timer;

static STATES: Mutex<Vec<&'static ThreadState>> = Mutex::new(Vec::new());

thread_local! {
    /// The state that the handler writes to; null while no guest is active. Constant and without a
    /// destructor, so that the handler may read it at any moment of a thread's life.
    static ACTIVE: Cell<*const ThreadState> = const { Cell::new(ptr::null()) };
    /// The scope of the last attachment and its state: the path of every call but a thread's first.
    static LAST: Cell<(u64, *const ThreadState)> = const { Cell::new((0, ptr::null())) };
    static ATTACHED: RefCell<Attachments> = const { RefCell::new(Attachments(Vec::new())) };
}

struct Attachments(Vec<(u64, &'static ThreadState)>);

impl Drop for Attachments {
    fn drop(&mut self) {
        LAST.set((0, ptr::null()));
        for (scope, state) in self.0.drain(..) {
            if state.scope.load(Ordering::Acquire) == scope {
                *lock(&state.timer) = None;
                state.exited.store(true, Ordering::Release);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The state of the active call, for the handler. Async-signal-safe.
pub(super) fn active() -> Option<&'static ThreadState> {
    // SAFETY: `ACTIVE` is null or a state of `STATES`, which are never freed.
    unsafe { ACTIVE.get().as_ref() }
}

/// A call of a guest that is active on this thread until this value is dropped.
pub(crate) struct Active {
    previous: *const ThreadState,
    workload: u32,
    state: *const ThreadState,
}

impl Drop for Active {
    fn drop(&mut self) {
        ACTIVE.set(self.previous);
        // SAFETY: as in `active`.
        if let Some(state) = unsafe { self.state.as_ref() } {
            state.workload.store(self.workload, Ordering::Relaxed);
        }
    }
}

/// Marks a workload's call as active on this thread. Nested calls restore the outer one.
///
/// The first time on a thread makes its timer; if the kernel refuses, `unsampled` is counted up.
pub(crate) fn enter(scope: u64, hz: f64, workload: u32, unsampled: &AtomicU64) -> Active {
    let (last, state) = LAST.get();
    let state = if last == scope { state } else { attach(scope, hz, unsampled) };
    // SAFETY: as in `active`.
    let outer = match unsafe { state.as_ref() } {
        Some(state) => state.workload.swap(workload, Ordering::Relaxed),
        None => 0,
    };
    Active { previous: ACTIVE.replace(state), workload: outer, state }
}

#[cold]
fn attach(scope: u64, hz: f64, unsampled: &AtomicU64) -> *const ThreadState {
    let found = ATTACHED.try_with(|attached| {
        let mut attached = attached.borrow_mut();
        // States of scopes that ended were recycled and may belong to another thread by now.
        attached.0.retain(|(scope, state)| state.scope.load(Ordering::Acquire) == *scope);
        if let Some((_, state)) = attached.0.iter().find(|(known, _)| *known == scope) {
            return ptr::from_ref(*state);
        }
        let state = take_state(scope);
        if hz > 0.0 {
            match Timer::start(hz, ptr::from_ref(state)) {
                Some(timer) => *lock(&state.timer) = Some(timer),
                None => {
                    unsampled.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        attached.0.push((scope, state));
        ptr::from_ref(state)
    });
    // A thread that is ending (its destructors run) is not sampled any more.
    let state = found.unwrap_or(ptr::null());
    LAST.set((scope, state));
    state
}

fn take_state(scope: u64) -> &'static ThreadState {
    let mut states = lock(&STATES);
    let free = states.iter().copied().find(|state| state.scope.load(Ordering::Acquire) == 0);
    let state = free.unwrap_or_else(|| {
        let state: &'static ThreadState = Box::leak(Box::new(ThreadState {
            scope: AtomicU64::new(0),
            exited: AtomicBool::new(false),
            workload: AtomicU32::new(0),
            hazard: AtomicPtr::new(ptr::null_mut()),
            dropped: AtomicU64::new(0),
            ring: (0..RING).map(|_| AtomicU64::new(0)).collect(),
            written: AtomicU64::new(0),
            read: AtomicU64::new(0),
            timer: Mutex::new(None),
        }));
        states.push(state);
        state
    });
    state.exited.store(false, Ordering::Relaxed);
    state.dropped.store(0, Ordering::Relaxed);
    state.read.store(state.written.load(Ordering::Relaxed), Ordering::Relaxed);
    state.scope.store(scope, Ordering::Release);
    state
}

/// Stops the timers of a scope and gives its states back. No call of the scope may be active.
pub(crate) fn release(scope: u64) {
    for state in lock(&STATES).iter().filter(|state| state.scope.load(Ordering::Acquire) == scope) {
        *lock(&state.timer) = None;
        state.scope.store(0, Ordering::Release);
    }
}

/// A record under construction in a ring.
pub(super) struct Record<'a> {
    state: &'a ThreadState,
    start: u64,
    room: usize,
    frames: usize,
    truncated: bool,
}

impl ThreadState {
    /// Starts a record, or counts a drop if the ring is full. Async-signal-safe.
    pub(super) fn record(&self, weight: u64) -> Option<Record<'_>> {
        let start = self.written.load(Ordering::Relaxed);
        let used = start - self.read.load(Ordering::Acquire);
        let room = RING as u64 - used;
        if room < (HEADER + 8) as u64 {
            self.dropped.fetch_add(weight, Ordering::Relaxed);
            return None;
        }
        let room = (room as usize - HEADER).min(super::MAX_FRAMES);
        Some(Record { state: self, start, room, frames: 0, truncated: false })
    }

    fn word(&self, position: u64) -> &AtomicU64 {
        &self.ring[(position % RING as u64) as usize]
    }
}

impl Record<'_> {
    /// Adds a program counter, leaf first. Returns whether there is room for another.
    pub(super) fn push(&mut self, pc: usize) -> bool {
        if self.frames == self.room {
            self.truncated = true;
            return false;
        }
        let position = self.start + (HEADER + self.frames) as u64;
        self.state.word(position).store(pc as u64, Ordering::Relaxed);
        self.frames += 1;
        true
    }

    /// Publishes the record.
    pub(super) fn commit(self, weight: u64) {
        let state = self.state;
        let workload = u64::from(state.workload.load(Ordering::Relaxed));
        let header = self.frames as u64 | (u64::from(self.truncated) << 16) | (weight.min(0xffff_ffff) << 32);
        state.word(self.start).store(header, Ordering::Relaxed);
        state.word(self.start + 1).store(workload, Ordering::Relaxed);
        state.written.store(self.start + (HEADER + self.frames) as u64, Ordering::Release);
    }
}

/// What a drain gives out per sample.
pub(crate) struct Drained<'a> {
    /// Ordinal of the workload.
    pub workload: u32,
    /// Timer expirations that this sample stands for.
    pub weight: u64,
    /// Whether outermost frames are missing.
    pub truncated: bool,
    /// Program counters, leaf first; empty if the thread was in host code. The leaf is the interrupted
    /// instruction, the others are return addresses.
    pub pcs: &'a [u64],
}

/// Empties the rings of a scope and recycles those of threads that ended. Returns samples dropped.
///
/// One drain of a scope at a time.
pub(crate) fn drain(scope: u64, mut each: impl FnMut(Drained<'_>)) -> u64 {
    let states: Vec<&'static ThreadState> =
        lock(&STATES).iter().copied().filter(|state| state.scope.load(Ordering::Acquire) == scope).collect();
    let mut dropped = 0;
    let mut pcs = Vec::with_capacity(super::MAX_FRAMES);
    for state in states {
        let exited = state.exited.load(Ordering::Acquire);
        let written = state.written.load(Ordering::Acquire);
        let mut read = state.read.load(Ordering::Relaxed);
        while read < written {
            let header = state.word(read).load(Ordering::Relaxed);
            let frames = header & 0xffff;
            pcs.clear();
            pcs.extend((0..frames).map(|i| state.word(read + HEADER as u64 + i).load(Ordering::Relaxed)));
            each(Drained {
                workload: state.word(read + 1).load(Ordering::Relaxed) as u32,
                weight: header >> 32,
                truncated: header & (1 << 16) != 0,
                pcs: &pcs,
            });
            read += HEADER as u64 + frames;
            state.read.store(read, Ordering::Release);
        }
        dropped += state.dropped.swap(0, Ordering::Relaxed);
        if exited {
            state.scope.store(0, Ordering::Release);
        }
    }
    dropped
}

/// Whether some handler is reading `table`.
fn announced(table: *mut TextTable) -> bool {
    lock(&STATES).iter().any(|state| state.hazard.load(Ordering::SeqCst) == table)
}

/// Frees replaced text tables; true if no handler can still see a range that was removed before.
pub(crate) fn reclaim_tables() -> bool {
    TEXT.reclaim(announced)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records come out as they went in, also around the ring's end, and overflow is counted.
    #[test]
    fn rings_wrap_and_count_overflow() {
        let scope = u64::MAX;
        let state = take_state(scope);
        let mut seen = 0u64;
        for round in 0..300u64 {
            let mut record = state.record(1).expect("room after a drain");
            for i in 0..100 {
                assert!(record.push((round * 1000 + i) as usize));
            }
            record.commit(round + 1);
            drain(scope, |sample| {
                assert_eq!(sample.pcs.len(), 100);
                assert_eq!((sample.weight, sample.pcs[99]), (round + 1, round * 1000 + 99));
                seen += 1;
            });
        }
        assert_eq!(seen, 300);
        let mut taken = 0;
        while let Some(mut record) = state.record(1) {
            while record.push(7) {}
            record.commit(1);
            taken += 1;
        }
        assert!(taken >= RING / (super::super::MAX_FRAMES + HEADER));
        let mut drained = 0;
        let dropped =
            drain(scope, |sample| drained += usize::from(sample.truncated || sample.pcs.len() < 512));
        assert_eq!((drained, dropped), (taken, 1));
        release(scope);
    }
}

//! Threads that run guests: their rings, which call is active on them, and draining.
//!
//! States are allocated once and recycled, never freed: a late signal always finds valid memory.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use super::ring::{Drained, Kind, Label, Record, Ring};
use super::table::{TEXT, TextTable};
use crate::engine;
use crate::workload::Figures;

/// Words of the ring of samples: 32 KiB, which at 99 Hz and 50 ms between drains holds the deepest stacks.
const SAMPLES: usize = 4096;
/// Words of the ring of events: 32 KiB less what the rest of the state takes.
const EVENTS: usize = 4032;

/// What a thread that runs guests shares with its signal handler, its hooks and with the drain.
pub(crate) struct ThreadState {
    /// Scope that the rings belong to; 0 while the state is free.
    scope: AtomicU64,
    /// Calls that are active on the state's thread, written by it alone. The state is nobody else's before
    /// they ended, whatever becomes of the scope.
    depth: AtomicU32,
    /// Set by the thread's end: drain once more, then recycle.
    exited: AtomicBool,
    /// Ordinal of the workload of the active call.
    workload: AtomicU32,
    /// Span id of the active call; 0 for none.
    span: AtomicU64,
    /// Span id of the last call whose stack was nearly full.
    deep: AtomicU64,
    /// Written by the thread's signal handler only.
    pub(super) samples: Ring,
    /// Table that the handler is reading.
    pub(super) hazard: AtomicPtr<TextTable>,
    /// Written by the thread's hooks only.
    events: Ring,
    /// Table that a hook is reading; the handler may interrupt it.
    event_hazard: AtomicPtr<TextTable>,
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
    /// Figures of the active call's workload.
    static FIGURES: Cell<*const Figures> = const { Cell::new(ptr::null()) };
    /// The scope of the last attachment and its state: the path of every call but a thread's first.
    static LAST: Cell<(u64, *const ThreadState)> = const { Cell::new((0, ptr::null())) };
    static ATTACHED: RefCell<Attachments> = const { RefCell::new(Attachments(Vec::new())) };
}

struct Attachments(Vec<(u64, &'static ThreadState)>);

impl Drop for Attachments {
    fn drop(&mut self) {
        LAST.set((0, ptr::null()));
        // Locked: a state that was given back may be another thread's by the next line.
        let _states = lock(&STATES);
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

/// The figures of the active call's workload, for hooks.
pub(crate) fn figures<R>(with: impl FnOnce(&Figures) -> R) -> Option<R> {
    // SAFETY: `FIGURES` is null or borrowed by the `Active` that set it, which is not dropped before it
    // restores the one before; both happen on this thread.
    unsafe { FIGURES.get().as_ref() }.map(with)
}

/// A call that becomes active.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub scope: u64,
    pub hz: f64,
    pub figures: &'a Figures,
    /// Id of the call's span; 0 for none.
    pub span: u64,
    /// Counted up if the thread cannot be given a timer.
    pub unsampled: &'a AtomicU64,
}

/// A call of a guest that is active on this thread until this value is dropped.
pub(crate) struct Active<'a> {
    state: *const ThreadState,
    previous: *const ThreadState,
    workload: u32,
    span: u64,
    figures: *const Figures,
    _borrow: PhantomData<&'a Figures>,
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        ACTIVE.set(self.previous);
        FIGURES.set(self.figures);
        // SAFETY: as in `active`.
        if let Some(state) = unsafe { self.state.as_ref() } {
            state.workload.store(self.workload, Ordering::Relaxed);
            state.span.store(self.span, Ordering::Relaxed);
            state.depth.store(state.depth.load(Ordering::Relaxed) - 1, Ordering::Release);
        }
    }
}

/// Marks a workload's call as active on this thread. Nested calls restore the outer one.
///
/// The first time on a thread makes its timer.
pub(crate) fn enter(entry: Entry<'_>) -> Active<'_> {
    let (last, state) = LAST.get();
    let state = if last == entry.scope { state } else { attach(entry.scope, entry.hz, entry.unsampled) };
    // SAFETY: as in `active`.
    let state = unsafe { state.as_ref() }.filter(|state| state.hold(entry.scope));
    let (workload, span) = match state {
        Some(state) => {
            let before = (state.workload.load(Ordering::Relaxed), state.span.load(Ordering::Relaxed));
            state.workload.store(entry.figures.ordinal, Ordering::Relaxed);
            state.span.store(entry.span, Ordering::Relaxed);
            before
        }
        None => (0, 0),
    };
    let state = state.map_or(ptr::null(), ptr::from_ref);
    let figures = FIGURES.replace(entry.figures);
    Active { state, previous: ACTIVE.replace(state), workload, span, figures, _borrow: PhantomData }
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
            // Locked: the scope may end meanwhile, and then nobody else would stop the timer.
            let _states = lock(&STATES);
            match Timer::start(hz, ptr::from_ref(state)) {
                Some(timer) if state.scope.load(Ordering::Acquire) == scope => {
                    *lock(&state.timer) = Some(timer);
                }
                Some(_) => {}
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
    let free = states.iter().copied().find(|state| state.take(scope));
    let state = free.unwrap_or_else(|| {
        let state: &'static ThreadState = Box::leak(Box::new(ThreadState {
            scope: AtomicU64::new(scope),
            depth: AtomicU32::new(0),
            exited: AtomicBool::new(false),
            workload: AtomicU32::new(0),
            span: AtomicU64::new(0),
            deep: AtomicU64::new(0),
            samples: Ring::new(SAMPLES),
            hazard: AtomicPtr::new(ptr::null_mut()),
            events: Ring::new(EVENTS),
            event_hazard: AtomicPtr::new(ptr::null_mut()),
            timer: Mutex::new(None),
        }));
        states.push(state);
        state
    });
    state.exited.store(false, Ordering::Relaxed);
    state.samples.clear();
    state.events.clear();
    state
}

/// Stops the timers of a scope and gives its states back. Calls that are still active keep theirs until they
/// end.
pub(crate) fn release(scope: u64) {
    for state in lock(&STATES).iter().filter(|state| state.scope.load(Ordering::Acquire) == scope) {
        *lock(&state.timer) = None;
        state.scope.store(0, Ordering::Release);
    }
}

impl ThreadState {
    /// Counts a call of this thread, if the state is still the scope's. Sequentially consistent with `take`:
    /// of a thread that comes back to a scope that ended and one that takes the state, one sees the other.
    fn hold(&self, scope: u64) -> bool {
        let depth = self.depth.load(Ordering::Relaxed);
        self.depth.store(depth + 1, Ordering::SeqCst);
        let held = self.scope.load(Ordering::SeqCst) == scope;
        if !held {
            self.depth.store(depth, Ordering::Release);
        }
        held
    }

    /// Takes a free state for a scope, under the lock of all states.
    fn take(&self, scope: u64) -> bool {
        if self.scope.load(Ordering::SeqCst) != 0 {
            return false;
        }
        self.scope.store(scope, Ordering::SeqCst);
        let free = self.depth.load(Ordering::SeqCst) == 0;
        if !free {
            self.scope.store(0, Ordering::SeqCst);
        }
        free
    }

    /// Whether the active call's stack is seen nearly full for the first time. Async-signal-safe.
    fn first_deep(&self) -> bool {
        let span = self.span.load(Ordering::Relaxed);
        span != 0 && self.deep.swap(span, Ordering::Relaxed) != span
    }

    /// What a record of this moment says.
    pub(super) fn label(&self, weight: u64) -> Label {
        Label {
            workload: self.workload.load(Ordering::Relaxed),
            span: self.span.load(Ordering::Relaxed),
            weight,
        }
    }
}

/// Records an event of the active call with the guest's stack as it left for the host, if a call is active.
/// Only on the thread of the guest, outside signal handlers. Neither allocates nor blocks.
pub(crate) fn event(kind: Kind, values: &[u64]) {
    let Some(state) = active() else { return };
    let Some(mut record) = state.events.record(kind, 1) else { return };
    TEXT.with(&state.event_hazard, |table| {
        if let Some(table) = table {
            walk_host(table, here(), &mut record);
        }
        record.commit(state.label(1), values);
    });
}

/// Whether the guest left for the host in a function that reports allocations; `None` without an active call.
#[inline(never)] // thread-locals
pub(crate) fn in_reporter() -> Option<bool> {
    let state = active()?;
    // SAFETY: the engine says that this store's guest runs on this thread, so the store is alive.
    let exit = engine::current().and_then(|store| unsafe { store.exit() })?;
    Some(TEXT.with(&state.event_hazard, |table| table.is_some_and(|table| table.is_reporter(exit.pc - 1))))
}

/// An address on the current stack, below every frame of the guest.
#[inline(never)]
fn here() -> usize {
    let local = 0u8;
    std::hint::black_box(&raw const local) as usize
}

/// Adds the guest's stack as it left for the host. Async-signal-safe.
pub(super) fn walk_host(table: &TextTable, sp: usize, record: &mut Record<'_>) {
    // SAFETY: the engine says that this store's guest runs on this thread, so the store is alive.
    let Some(exit) = engine::current().and_then(|store| unsafe { store.exit() }) else { return };
    #[cfg(sandscope_sampler)]
    // SAFETY: the engine recorded the exit for the call that runs on this thread, and clears it when the call
    // returns; a frame that is left from an earlier one is below `sp` or has another return address.
    unsafe {
        super::unwind::walk_exit(table, exit.pc, exit.trampoline_fp, sp, |pc| record.push(pc));
    }
    #[cfg(not(sandscope_sampler))]
    let _ = (table, sp, exit);
    if !record.is_empty() {
        stack_used(exit.trampoline_fp);
    }
}

/// Notes how much of the guest's native stack is in use with its stack pointer at `sp`. Async-signal-safe.
pub(super) fn stack_used(sp: usize) {
    let Some(store) = engine::current() else { return };
    // SAFETY: as in `walk_host`.
    let (entry, _) = unsafe { store.stack() };
    let used = entry.wrapping_sub(sp);
    if entry != 0 && used <= super::MAX_STACK {
        figures(|figures| {
            if figures.runtime.stack.sampled(used as u64) && active().is_some_and(ThreadState::first_deep) {
                figures.runtime.stack.sampled_deep();
            }
        });
    }
}

/// What found no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    pub samples: u64,
    pub events: u64,
}

/// Empties the rings of a scope and recycles those of threads that ended.
///
/// One drain of a scope at a time.
pub(crate) fn drain(scope: u64, mut each: impl FnMut(&Drained<'_>)) -> Dropped {
    let states: Vec<&'static ThreadState> =
        lock(&STATES).iter().copied().filter(|state| state.scope.load(Ordering::Acquire) == scope).collect();
    let mut dropped = Dropped::default();
    let mut pcs = Vec::with_capacity(super::MAX_FRAMES);
    for state in states {
        let exited = state.exited.load(Ordering::Acquire);
        dropped.samples += state.samples.drain(&mut pcs, &mut each);
        dropped.events += state.events.drain(&mut pcs, &mut each);
        if exited {
            state.scope.store(0, Ordering::Release);
        }
    }
    dropped
}

/// Whether some handler is reading `table`.
fn announced(table: *mut TextTable) -> bool {
    let named = |slot: &AtomicPtr<TextTable>| slot.load(Ordering::SeqCst) == table;
    lock(&STATES).iter().any(|state| named(&state.hazard) || named(&state.event_hazard))
}

/// Frees replaced text tables; true if no handler can still see a range that was removed before.
pub(crate) fn reclaim_tables() -> bool {
    TEXT.reclaim(announced)
}

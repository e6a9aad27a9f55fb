//! Threads that run guests: their rings, which call is active on them, and draining.
//!
//! States are allocated once and recycled, never freed: a late signal always finds valid memory.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::flight::{Note, NoteCell};
use super::rate::Rate;
use super::ring::{Drained, Kind, Label, Record, Ring};
use super::table::{TEXT, TextTable};
use crate::engine;
use crate::span::{AMBIGUOUS, NO_SPAN};
use crate::workload::Figures;

/// Words of the ring of samples: 32 KiB, which at 99 Hz and 50 ms between drains holds the deepest stacks.
const SAMPLES: usize = 4096;
/// Words of the ring of events: 32 KiB less what the rest of the state takes.
const EVENTS: usize = 4032;

/// What a thread that runs guests shares with its signal handler, its hooks and with the drain.
pub(crate) struct ThreadState {
    /// Scope that the rings belong to; 0 for none.
    scope: AtomicU64,
    /// Whether a thread has it. A thread keeps its states until it ends, whatever becomes of their scopes, so
    /// that a call that is still active never finds its state with another thread.
    owned: AtomicBool,
    /// Calls that are active on the state's thread, which alone reads and writes it.
    depth: AtomicU32,
    /// The kernel's number of the thread; 0 where there is none.
    thread: AtomicU32,
    /// Ordinal of the workload of the active call.
    workload: AtomicU32,
    /// Span id of the active call; 0 for none.
    span: AtomicU64,
    /// What the guest calls of the host.
    pub(super) flight: NoteCell,
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
    static FIGURES: Cell<*const Arc<Figures>> = const { Cell::new(ptr::null()) };
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
            }
            state.owned.store(false, Ordering::Release);
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

/// The span of the active call; `None` if there is none, or nobody knows which of several it is.
pub(crate) fn active_span() -> Option<u64> {
    let span = active()?.span.load(Ordering::Relaxed);
    (span != NO_SPAN && span != AMBIGUOUS).then_some(span)
}

/// The figures of the active call's workload, for hooks.
pub(crate) fn figures<R>(with: impl FnOnce(&Figures) -> R) -> Option<R> {
    active_figures().map(|figures| with(figures))
}

/// [`figures`] to keep.
pub(crate) fn kept_figures() -> Option<Arc<Figures>> {
    active_figures().map(Arc::clone)
}

fn active_figures<'a>() -> Option<&'a Arc<Figures>> {
    // SAFETY: `FIGURES` is null or borrowed by the `Active` that set it, which is not dropped before it
    // restores the one before; both happen on this thread, and both callers are done with it before.
    unsafe { FIGURES.get().as_ref() }
}

/// A call that becomes active.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub scope: u64,
    pub rate: &'a Rate,
    pub figures: &'a Arc<Figures>,
    /// Id of the call's span; 0 for none.
    pub span: u64,
    /// Whether the call goes on after this entry, and the call around it too: a poll.
    pub concurrent: bool,
    /// Counted up if the thread cannot be given a timer.
    pub unsampled: &'a AtomicU64,
}

/// A call of a guest that is active on this thread until this value is dropped.
pub(crate) struct Active<'a> {
    state: *const ThreadState,
    previous: *const ThreadState,
    workload: u32,
    span: u64,
    figures: *const Arc<Figures>,
    _borrow: PhantomData<&'a Figures>,
}

impl Active<'_> {
    /// Notes what the guest calls of the host; what was noted before.
    #[inline]
    pub(crate) fn note(&self, note: Note) -> Note {
        // SAFETY: as in `active`.
        unsafe { self.state.as_ref() }.map_or(Note::default(), |state| state.flight.replace(note))
    }

    /// What samples of this moment are linked to, if they are taken.
    #[inline]
    pub(crate) fn span(&self) -> Option<u64> {
        // SAFETY: as in `active`.
        unsafe { self.state.as_ref() }.map(|state| state.span.load(Ordering::Relaxed))
    }
}

impl Drop for Active<'_> {
    #[inline]
    fn drop(&mut self) {
        ACTIVE.set(self.previous);
        FIGURES.set(self.figures);
        // SAFETY: as in `active`.
        if let Some(state) = unsafe { self.state.as_ref() } {
            state.workload.store(self.workload, Ordering::Relaxed);
            state.span.store(self.span, Ordering::Relaxed);
            state.depth.store(state.depth.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        }
    }
}

/// Marks a workload's call as active on this thread. Nested calls restore the outer one, of which nobody knows any
/// more what it runs if both are concurrent calls of one workload: see [`AMBIGUOUS`].
///
/// The first time on a thread makes its timer.
#[inline]
pub(crate) fn enter(entry: Entry<'_>) -> Active<'_> {
    let (last, state) = LAST.get();
    let state = if last == entry.scope { state } else { attach(entry.scope, entry.rate, entry.unsampled) };
    // SAFETY: as in `active`.
    let state = unsafe { state.as_ref() };
    let (workload, span) = match state {
        Some(state) => {
            state.depth.store(state.depth.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            let mut before = (state.workload.load(Ordering::Relaxed), state.span.load(Ordering::Relaxed));
            let both_calls = before.1 != NO_SPAN && entry.span != NO_SPAN;
            if entry.concurrent && both_calls && before.0 == entry.figures.ordinal {
                before.1 = AMBIGUOUS;
            }
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
fn attach(scope: u64, rate: &Rate, unsampled: &AtomicU64) -> *const ThreadState {
    let found = ATTACHED.try_with(|attached| {
        let mut attached = attached.borrow_mut();
        if let Some((_, state)) = attached.0.iter().find(|(known, _)| *known == scope) {
            return ptr::from_ref(*state);
        }
        // One of a scope that ended, unless its last call is still active.
        let own = attached.0.iter().position(|(_, state)| state.is_idle());
        let state = own.map_or_else(take_state, |at| attached.0.swap_remove(at).1);
        state.begin(scope);
        state.thread.store(thread_id(), Ordering::Relaxed);
        if rate.usual() > 0.0 {
            // Locked: the scope may end or change its rate meanwhile, and nobody else would tell the timer.
            let _states = lock(&STATES);
            match Timer::start(rate.now(), ptr::from_ref(state)) {
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

fn thread_id() -> u32 {
    #[cfg(target_os = "linux")]
    // SAFETY: gettid has no preconditions.
    return unsafe { libc::gettid() } as u32;
    #[cfg(not(target_os = "linux"))]
    0
}

fn take_state() -> &'static ThreadState {
    let mut states = lock(&STATES);
    let free = |state: &&ThreadState| {
        !state.owned.load(Ordering::Acquire) && state.scope.load(Ordering::Acquire) == 0
    };
    let state = states.iter().copied().find(free).unwrap_or_else(|| {
        let state: &'static ThreadState = Box::leak(Box::new(ThreadState {
            scope: AtomicU64::new(0),
            owned: AtomicBool::new(true),
            depth: AtomicU32::new(0),
            thread: AtomicU32::new(0),
            workload: AtomicU32::new(0),
            span: AtomicU64::new(0),
            flight: NoteCell::new(),
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
    state.owned.store(true, Ordering::Relaxed);
    state
}

/// Changes how often samples are taken on the threads of a scope, those that come later included.
pub(crate) fn set_rate(scope: u64, rate: &Rate, hz: f64) {
    let states = lock(&STATES);
    rate.set(hz);
    for state in states.iter().filter(|state| state.scope.load(Ordering::Acquire) == scope) {
        if let Some(timer) = &*lock(&state.timer) {
            // A thread that is gone takes no samples.
            let _ = timer.set(hz);
        }
    }
}

/// Stops the timers of a scope. Its states stay with their threads, for other scopes.
pub(crate) fn release(scope: u64) {
    for state in lock(&STATES).iter().filter(|state| state.scope.load(Ordering::Acquire) == scope) {
        *lock(&state.timer) = None;
        state.scope.store(0, Ordering::Release);
    }
}

impl ThreadState {
    /// Whether its scope ended and no call of it is active; to be asked by its own thread.
    fn is_idle(&self) -> bool {
        self.scope.load(Ordering::Acquire) == 0 && self.depth.load(Ordering::Relaxed) == 0
    }

    /// Begins to record for a scope; by its own thread.
    fn begin(&self, scope: u64) {
        self.flight.set(Note::default());
        self.samples.clear();
        self.events.clear();
        self.scope.store(scope, Ordering::Release);
    }

    /// Whether the active call's stack is seen nearly full for the first time. Async-signal-safe.
    fn first_deep(&self) -> bool {
        let span = self.span.load(Ordering::Relaxed);
        span != 0 && self.deep.swap(span, Ordering::Relaxed) != span
    }

    /// The scope and the workload of the active call.
    pub(super) fn owner(&self) -> (u64, u32) {
        (self.scope.load(Ordering::Acquire), self.workload.load(Ordering::Relaxed))
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

/// What a drain found beside records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Samples that found no room.
    pub dropped_samples: u64,
    /// Events that found no room.
    pub dropped_events: u64,
    /// Whether a ring was so full that the next drain should come soon.
    pub crowded: bool,
}

/// Empties the rings of a scope and recycles those of threads that ended. Gives out each record with the kernel's
/// number of its thread.
///
/// One drain of a scope at a time.
pub(crate) fn drain(scope: u64, mut each: impl FnMut(u32, &Drained<'_>)) -> Found {
    let states: Vec<&'static ThreadState> =
        lock(&STATES).iter().copied().filter(|state| state.scope.load(Ordering::Acquire) == scope).collect();
    let mut found = Found::default();
    let mut pcs = Vec::with_capacity(super::MAX_FRAMES);
    for state in states {
        let exited = !state.owned.load(Ordering::Acquire);
        let thread = state.thread.load(Ordering::Relaxed);
        let mut each = |record: &Drained<'_>| each(thread, record);
        found.crowded |= state.samples.is_crowded() || state.events.is_crowded();
        found.dropped_samples += state.samples.drain(&mut pcs, &mut each);
        found.dropped_events += state.events.drain(&mut pcs, &mut each);
        if exited {
            state.scope.store(0, Ordering::Release);
        }
    }
    found
}

/// The workload that is active and the call of the host that is noted, of each thread of a scope.
pub(super) fn each_of(scope: u64, mut each: impl FnMut(u32, &NoteCell)) {
    let states = lock(&STATES);
    for state in states.iter().filter(|state| state.scope.load(Ordering::Acquire) == scope) {
        each(state.workload.load(Ordering::Relaxed), &state.flight);
    }
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

#[cfg(test)]
mod tests {
    use sandscope_model::WorkloadId;

    use super::*;

    /// A call in whose poll another one of the same workload is polled is nobody's from then on: what runs next may
    /// be either. A call inside a host function of a call, or of another workload, leaves it as it was.
    #[test]
    fn interleaved_calls_are_ambiguous() {
        let figures = [0, 1].map(|n| Arc::new(Figures::new(WorkloadId::new("w", &n.to_string()), n)));
        let (rate, unsampled) = (Rate::new(0.0), AtomicU64::new(0));
        let enter = |workload: usize, span, concurrent| {
            let figures = &figures[workload];
            enter(Entry { scope: 1 << 41, rate: &rate, figures, span, concurrent, unsampled: &unsampled })
        };
        let outer = enter(0, 7, true);
        for (workload, span, concurrent) in [(0, 8, false), (1, 8, true), (0, NO_SPAN, true)] {
            let inner = enter(workload, span, concurrent);
            assert_eq!((inner.span(), active().unwrap().label(1).span), (Some(span), span));
            drop(inner);
            assert_eq!(outer.span(), Some(7));
        }
        let inner = enter(0, 8, true);
        assert_eq!(inner.span(), Some(8));
        drop(inner);
        assert_eq!(outer.span(), Some(AMBIGUOUS));
        drop(outer);
        release(1 << 41);
    }
}

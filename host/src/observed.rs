//! A guest's future with its workload marked as active around it, and where the time of a call went.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::clock::{Moment, thread_cpu_ns};
use crate::load::Workload;
use crate::sampler::{self, Active, Note, Parked};
use crate::stack::Made;

/// Where the time of a call went.
pub(crate) struct Spent {
    /// CPU time, if it is taken.
    cpu_ns: Option<u64>,
    /// How long an async call was not polled.
    unpolled_ns: Option<u64>,
    /// The first stack that the engine made during the call.
    stack: Option<Made>,
}

impl Spent {
    /// Of a call that begins. `takes_cpu`: also its CPU time and stack, for two system calls a poll.
    pub(crate) fn new(takes_cpu: bool) -> Self {
        Self { cpu_ns: takes_cpu.then_some(0), unpolled_ns: None, stack: None }
    }

    /// Adds the CPU time of what this thread does in `run`.
    pub(crate) fn over<R>(&mut self, run: impl FnOnce() -> R) -> R {
        let Some(before) = self.cpu_ns else { return run() };
        Made::forget();
        let from = thread_cpu_ns();
        let out = run();
        self.cpu_ns = from.zip(thread_cpu_ns()).map(|(from, to)| before + to.saturating_sub(from));
        self.stack = self.stack.take().or_else(Made::take);
        out
    }

    pub(crate) fn cpu_ns(&self) -> Option<u64> {
        self.cpu_ns
    }

    /// What of a duration was not CPU time; without CPU time, what of it an async call was not polled.
    pub(crate) fn off_cpu_ns(&self, duration_ns: u64) -> Option<u64> {
        self.cpu_ns.map(|cpu| duration_ns.saturating_sub(cpu)).or(self.unpolled_ns)
    }

    /// Bytes of stack at its deepest, if the engine made one for the call and it is still there: it belongs to
    /// the store, whose later calls use it again.
    pub(crate) fn stack(&self) -> Option<u64> {
        self.stack.as_ref()?.used()
    }
}

pin_project! {
    /// A guest's future: its workload is active around each poll and around its drop, which may run guest code.
    ///
    /// The future lies inside rather than in a box of its own: of a short call an allocation would be a
    /// measurable part.
    pub(crate) struct Observed<'a, F, E> {
        workload: &'a Workload,
        span: u64,
        started: Option<Moment>,
        // When it last began to wait for the host.
        waiting: Option<Moment>,
        spent: Spent,
        // The call of the host that it waits in, and where that is shown meanwhile.
        call: Note,
        parked: Option<Parked>,
        #[pin]
        future: Option<F>,
        end: Option<E>,
    }

    impl<F, E> PinnedDrop for Observed<'_, F, E> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                *this.parked = None;
                let _active = this.workload.enter(*this.span);
                let outer = sampler::swap(*this.call);
                this.future.set(None);
                sampler::swap(outer);
            }
        }
    }
}

impl<'a, F, E, T> Observed<'a, F, E>
where
    F: Future,
    E: FnOnce(F::Output, Moment, Spent) -> T,
{
    /// `span` is what samples are linked to; `end` is given the output at once, when the first poll was, and
    /// where the time went.
    pub(crate) fn new(workload: &'a Workload, span: u64, spent: Spent, future: F, end: E) -> Self {
        let (future, end, call) = (Some(future), Some(end), Note::default());
        let spent = Spent { unpolled_ns: Some(0), ..spent };
        Self { workload, span, started: None, waiting: None, spent, call, parked: None, future, end }
    }
}

impl<F, E, T> Future for Observed<'_, F, E>
where
    F: Future,
    E: FnOnce(F::Output, Moment, Spent) -> T,
{
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut this = self.project();
        let started = *this.started.get_or_insert_with(Moment::now);
        if let (Some(since), Some(unpolled)) = (this.waiting.take(), &mut this.spent.unpolled_ns) {
            *unpolled += since.elapsed_ns();
        }
        let active = this.workload.enter_as(*this.span, true);
        park(this.parked, this.workload, Note::default());
        let outer = sampler::swap(*this.call);
        // Not polled again after its end, which would be the caller's mistake.
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let polled = this.spent.over(|| future.poll(context));
        // It stays ambiguous once it is.
        *this.span = active.as_ref().and_then(Active::span).unwrap_or(*this.span);
        let Poll::Ready(output) = polled else {
            *this.call = sampler::swap(outer);
            drop(active);
            *this.waiting = Some(Moment::now());
            park(this.parked, this.workload, *this.call);
            return Poll::Pending;
        };
        this.future.set(None);
        sampler::swap(outer);
        drop(active);
        let spent = std::mem::replace(this.spent, Spent::new(false));
        this.end.take().map_or(Poll::Pending, |end| Poll::Ready(end(output, started, spent)))
    }
}

/// Shows the call of the host that a guest waits in while nobody polls it.
fn park(parked: &mut Option<Parked>, workload: &Workload, call: Note) {
    if parked.is_none() && call != Note::default() {
        *parked = Parked::claim(workload.shared.scope, workload.figures.ordinal);
    }
    if let Some(parked) = parked {
        parked.set(call);
    }
}

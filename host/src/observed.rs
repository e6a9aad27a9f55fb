//! A guest's future with its workload marked as active around it, and where the time of a call went.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::clock::{Moment, thread_cpu_ns};
use crate::load::Workload;
use crate::sampler::{Active, Note, Parked};
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
        let from = self.begin();
        let out = run();
        self.end(from);
        out
    }

    /// The thread's CPU clock, if it is needed.
    #[inline]
    fn begin(&self) -> Option<u64> {
        self.cpu_ns?;
        Made::forget();
        thread_cpu_ns()
    }

    #[inline]
    fn end(&mut self, from: Option<u64>) {
        let Some(before) = self.cpu_ns else { return };
        self.cpu_ns = from.zip(thread_cpu_ns()).map(|(from, to)| before + to.saturating_sub(from));
        self.stack = self.stack.take().or_else(Made::take);
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

/// Polls from which on a call that is polled often is not worth the readings of the CPU clock.
const OFTEN: u32 = 4;

/// What is done around each poll, whatever the future is: kept apart from it, so that there is one copy of it, which
/// stays in the processor's caches.
struct Polls<'a> {
    workload: &'a Workload,
    span: u64,
    started: Option<Moment>,
    /// When it last began to wait for the host.
    waiting: Option<Moment>,
    count: u32,
    spent: Spent,
    /// The call of the host that it waits in.
    call: Note,
    /// Where that is shown meanwhile.
    parked: Option<Parked>,
}

/// A poll that began, and what was there before it.
struct Entered<'a> {
    active: Option<Active<'a>>,
    outer: Note,
    cpu: Option<u64>,
}

impl<'a> Polls<'a> {
    #[inline(never)]
    fn begin(&mut self) -> Entered<'a> {
        match self.waiting.take() {
            Some(since) => {
                let now = Moment::now();
                if let Some(unpolled) = &mut self.spent.unpolled_ns {
                    *unpolled += now.ns_since(since);
                }
                self.unpark();
                self.spare(now);
            }
            None => {
                self.started.get_or_insert_with(Moment::now);
            }
        }
        let active = self.workload.enter_as(self.span, true);
        let outer = active.as_ref().map_or(Note::default(), |active| active.note(self.call));
        Entered { active, outer, cpu: self.spent.begin() }
    }

    #[inline(never)]
    fn end(&mut self, Entered { active, outer, cpu }: Entered<'a>, pending: bool) {
        self.spent.end(cpu);
        if let Some(active) = active {
            // It stays ambiguous once it is.
            self.span = active.span().unwrap_or(self.span);
            self.call = active.note(outer);
        }
        self.count += 1;
        if pending {
            self.waiting = Some(Moment::now());
            self.park();
        }
    }

    /// Takes no more readings of the CPU clock where they would be a measurable part of what they measure.
    fn spare(&mut self, now: Moment) {
        let often = self.count >= OFTEN && self.spent.cpu_ns.is_some();
        if let Some(started) = self.started.filter(|_| often)
            && self.workload.figures.gate.is_polled_often(now.ns_since(started), self.count)
        {
            self.spent.cpu_ns = None;
        }
    }

    /// Shows the call of the host that the guest waits in while nobody polls it.
    fn park(&mut self) {
        if self.parked.is_none() && self.call != Note::default() {
            self.parked = Parked::claim(self.workload.shared.scope, self.workload.figures.ordinal);
        }
        if let Some(parked) = &self.parked {
            parked.set(self.call);
        }
    }

    fn unpark(&self) {
        if let Some(parked) = &self.parked {
            parked.set(Note::default());
        }
    }
}

pin_project! {
    /// A guest's future: its workload is active around each poll and around its drop, which may run guest code.
    ///
    /// The future lies inside rather than in a box of its own: of a short call an allocation would be a
    /// measurable part.
    pub(crate) struct Observed<'a, F, E> {
        polls: Polls<'a>,
        #[pin]
        future: Option<F>,
        end: Option<E>,
    }

    impl<F, E> PinnedDrop for Observed<'_, F, E> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                let poll = this.polls.begin();
                this.polls.parked = None;
                this.future.set(None);
                this.polls.end(poll, false);
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
        let spent = Spent { unpolled_ns: Some(0), ..spent };
        let (started, waiting, call, parked) = (None, None, Note::default(), None);
        let polls = Polls { workload, span, started, waiting, count: 0, spent, call, parked };
        Self { polls, future: Some(future), end: Some(end) }
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
        // Not polled again after its end, which would be the caller's mistake.
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let poll = this.polls.begin();
        let polled = future.poll(context);
        if polled.is_ready() {
            this.future.set(None);
        }
        this.polls.end(poll, polled.is_pending());
        let Poll::Ready(output) = polled else { return Poll::Pending };
        let (Some(end), Some(started)) = (this.end.take(), this.polls.started) else { return Poll::Pending };
        let spent = std::mem::replace(&mut this.polls.spent, Spent::new(false));
        Poll::Ready(end(output, started, spent))
    }
}

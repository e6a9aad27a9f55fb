//! A guest's future: its workload is active around each poll, and around its drop, which may run guest code.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::clock::Moment;
use crate::load::Workload;
use crate::sampler::{self, Note, Parked};

/// When a future ran.
#[derive(Clone, Copy)]
pub(crate) struct Timing {
    /// Its first poll.
    pub started: Moment,
    /// How long it was not polled because it waited, ns.
    pub waited_ns: u64,
}

pin_project! {
    /// The future lies inside rather than in a box of its own: of a short call an allocation would be a
    /// measurable part.
    pub(crate) struct Observed<'a, F, E> {
        workload: &'a Workload,
        span: u64,
        started: Option<Moment>,
        // When it last began to wait for the host.
        waiting: Option<Moment>,
        waited_ns: u64,
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
    E: FnOnce(F::Output, Timing) -> T,
{
    /// `span` is what samples are linked to; `end` is given the output at once.
    pub(crate) fn new(workload: &'a Workload, span: u64, future: F, end: E) -> Self {
        let (future, end) = (Some(future), Some(end));
        let call = Note::default();
        Self { workload, span, started: None, waiting: None, waited_ns: 0, call, parked: None, future, end }
    }
}

impl<F, E, T> Future for Observed<'_, F, E>
where
    F: Future,
    E: FnOnce(F::Output, Timing) -> T,
{
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut this = self.project();
        let started = *this.started.get_or_insert_with(Moment::now);
        if let Some(since) = this.waiting.take() {
            *this.waited_ns += since.elapsed_ns();
        }
        let active = this.workload.enter(*this.span);
        park(this.parked, this.workload, Note::default());
        let outer = sampler::swap(*this.call);
        // Not polled again after its end, which would be the caller's mistake.
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let polled = future.poll(context);
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
        let timing = Timing { started, waited_ns: *this.waited_ns };
        this.end.take().map_or(Poll::Pending, |end| Poll::Ready(end(output, timing)))
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

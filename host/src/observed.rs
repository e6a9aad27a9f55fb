//! A guest's future: its workload is active around each poll, and around its drop, which may run guest code.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::clock::Moment;
use crate::load::Workload;

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
        #[pin]
        future: Option<F>,
        end: Option<E>,
    }

    impl<F, E> PinnedDrop for Observed<'_, F, E> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                let _active = this.workload.enter(*this.span);
                this.future.set(None);
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
        Self { workload, span, started: None, waiting: None, waited_ns: 0, future, end }
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
        // Not polled again after its end, which would be the caller's mistake.
        let Some(future) = this.future.as_mut().as_pin_mut() else { return Poll::Pending };
        let Poll::Ready(output) = future.poll(context) else {
            drop(active);
            *this.waiting = Some(Moment::now());
            return Poll::Pending;
        };
        this.future.set(None);
        drop(active);
        let timing = Timing { started, waited_ns: *this.waited_ns };
        this.end.take().map_or(Poll::Pending, |end| Poll::Ready(end(output, timing)))
    }
}

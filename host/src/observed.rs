//! A guest's future with its workload marked as active around it, and where the time of a call went.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use crate::clock::{Moment, thread_cpu_ns};
use crate::load::Workload;
use crate::sampler::Active;
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

/// A guest's future: its workload is active around each poll and around its drop, which may run guest code.
pub(crate) struct Observed<'a, F> {
    workload: &'a Workload,
    span: u64,
    future: Option<Pin<Box<F>>>,
    /// When the guest last began to wait for the host.
    waiting: Option<Moment>,
    spent: Spent,
}

impl<'a, F: Future> Observed<'a, F> {
    pub(crate) async fn run(workload: &'a Workload, span: u64, future: F) -> F::Output {
        Self::timed(workload, span, Spent::new(false), future).await.0
    }

    /// Also gives where the time went.
    pub(crate) fn timed(
        workload: &'a Workload,
        span: u64,
        spent: Spent,
        future: F,
    ) -> impl Future<Output = (F::Output, Spent)> + use<'a, F> {
        let spent = Spent { unpolled_ns: Some(0), ..spent };
        let mut observed = Self { workload, span, future: Some(Box::pin(future)), waiting: None, spent };
        poll_fn(move |context| {
            let Observed { workload, span, future, waiting, spent } = &mut observed;
            if let (Some(since), Some(unpolled)) = (waiting.take(), &mut spent.unpolled_ns) {
                *unpolled += since.elapsed_ns();
            }
            let active = workload.enter_as(*span, true);
            let Some(future) = future else { return Poll::Pending };
            let polled = spent.over(|| future.as_mut().poll(context));
            // It stays ambiguous once it is.
            *span = active.as_ref().and_then(Active::span).unwrap_or(*span);
            drop(active);
            if polled.is_pending() {
                *waiting = Some(Moment::now());
            }
            polled.map(|output| (output, std::mem::replace(spent, Spent::new(false))))
        })
    }
}

impl<F> Drop for Observed<'_, F> {
    fn drop(&mut self) {
        let _active = self.workload.enter(self.span);
        self.future = None;
    }
}

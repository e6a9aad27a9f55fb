//! Calls into guests: timed, counted by how they end, sampled while they run, and kept as spans.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sandscope_proto::start::Phase;
use wasmtime::{AsContextMut, Result, Trap};

use crate::aggregate::Command;
use crate::clock::Moment;
use crate::dump;
use crate::load::Workload;
use crate::observed::{Observed, Spent};
use crate::sampler::{self, Active, Entry};
use crate::scope::Shared;
use crate::span::{CallContext, Details, Http, NO_SPAN, SpanRecord, TraceParent, http_method};
use crate::trap::TrapReport;
use crate::workload::{Figures, Outcome};

impl Workload {
    /// The workload with a name for its calls, which their spans carry: what is called, such as
    /// `wasi:http/incoming-handler.handle`. To be made once, not per call.
    pub fn named(&self, entry: &str) -> Self {
        let mut named = self.clone();
        named.entry = entry.into();
        named
    }

    /// Times a call into the guest, counts how it ended, samples it, and makes it a trace of its own.
    ///
    /// # Errors
    /// What `call` returns.
    pub fn call<R>(&self, call: impl FnOnce() -> Result<R>) -> Result<R> {
        self.request().call(call)
    }

    /// [`Self::call`] for an async call: what the future does on any thread, its drop included, is counted
    /// as the guest's. A call that is dropped before it ends is not counted.
    ///
    /// # Errors
    /// What the future returns.
    pub fn call_async<R, F>(&self, call: F) -> impl Future<Output = Result<R>> + use<'_, R, F>
    where
        F: Future<Output = Result<R>>,
    {
        self.request().observed(call, |result, _span| result)
    }

    /// A call for which more is known: who asks for it, and how long it waited.
    pub fn request(&self) -> Request<'_> {
        Request { workload: self, parent: None, queued: None }
    }

    /// Counts a call that is not made because too many run and wait already.
    pub fn turn_away(&self) {
        self.figures.turned_away();
    }

    /// Samples what a thread of the guest does. It is part of the call that started it, so it is no call of its
    /// own; a trap counts.
    ///
    /// # Errors
    /// What the future returns.
    pub async fn thread_async<R>(&self, body: impl Future<Output = Result<R>>) -> Result<R> {
        let _counted = self.thread();
        let failed = |result: Result<R>, _, _| result.inspect_err(|error| self.failed(error));
        Observed::new(self, NO_SPAN, Spent::new(false), body, failed).await
    }

    /// What an error of this workload's call says about the guest.
    pub fn report(&self, error: &wasmtime::Error) -> Arc<TrapReport> {
        TrapReport::new(self.figures.id(), self.module(), self.rewritten.as_deref(), error)
    }

    /// Takes the core dump of a failure that is of no call, such as of a start function or of a guest's thread, which
    /// `thread` names; `running` are the guest's other threads. See [`CallSpan::core_dump`].
    pub fn core_dump<T: 'static>(
        &self,
        store: impl AsContextMut<Data = T>,
        error: &wasmtime::Error,
        thread: &str,
        running: &[String],
    ) {
        dump::take(self, None, store, error, thread, running);
    }

    /// Counts a thread that the guest started, until the guard is dropped.
    fn thread(&self) -> ThreadGuard {
        self.figures.threads(1);
        ThreadGuard(Arc::clone(&self.figures))
    }

    /// Marks the workload as active on this thread. `span` is what samples are linked to.
    #[inline]
    pub(crate) fn enter(&self, span: u64) -> Option<Active<'_>> {
        self.enter_as(span, false)
    }

    /// [`Self::enter`], of a call that may be one of several in a store: `concurrent`.
    #[inline]
    pub(crate) fn enter_as(&self, span: u64, concurrent: bool) -> Option<Active<'_>> {
        let Shared { scope, ref rate, ref unsampled, .. } = *self.shared;
        let entry = Entry { scope, rate, figures: &self.figures, span, concurrent, unsampled };
        (!self.shared.closed.load(Ordering::Relaxed)).then(|| sampler::enter(entry))
    }

    /// Counts a trap, and tells the aggregator of the first ones of each place.
    pub(crate) fn failed(&self, error: &wasmtime::Error) {
        if self.figures.failed(self.rewritten.as_deref(), error) {
            self.shared.tell(Command::Trapped(self.report(error)));
        }
    }
}

/// A call that is about to be made.
#[must_use = "nothing is called yet"]
pub struct Request<'a> {
    workload: &'a Workload,
    parent: Option<TraceParent>,
    queued: Option<Duration>,
}

impl<'a> Request<'a> {
    /// The span that asks for the call; without one the call is a trace of its own.
    pub fn parent(mut self, parent: impl Into<Option<TraceParent>>) -> Self {
        self.parent = parent.into();
        self
    }

    /// How long the request waited for its turn, if it is known.
    pub fn queued(mut self, waited: impl Into<Option<Duration>>) -> Self {
        self.queued = waited.into();
        self
    }

    /// See [`Workload::call`].
    ///
    /// # Errors
    /// What `call` returns.
    pub fn call<R>(self, call: impl FnOnce() -> Result<R>) -> Result<R> {
        let started = Moment::now();
        let context = CallContext::new(self.parent);
        let mut spent = Spent::new(self.workload.figures.gate.takes_cpu());
        let active = self.workload.enter(context.span_id);
        let result = spent.over(call);
        drop(active);
        CallSpan::ended(self.workload, context, started, self.queued, spent, &result);
        result
    }

    /// See [`Workload::call_async`]. The span is open for what is known only afterwards, and kept when it is
    /// dropped.
    ///
    /// Calls that are concurrent in one store run in the polls of [`wasmtime::Store::run_concurrent`], not in
    /// their own: besides each of them, that future has to be made a call too, or none of them is sampled. Their
    /// samples are linked to none of the calls, since the engine does not say which one runs.
    pub fn call_async<R, F>(self, call: F) -> impl Future<Output = (Result<R>, CallSpan<'a>)> + use<'a, R, F>
    where
        F: Future<Output = Result<R>>,
    {
        self.observed(call, |result, span| (result, span))
    }

    /// No async function: those move what they are given once more, and the futures of calls are large.
    fn observed<R, F, T, E>(self, call: F, end: E) -> impl Future<Output = T> + use<'a, R, F, T, E>
    where
        F: Future<Output = Result<R>>,
        E: FnOnce(Result<R>, CallSpan<'a>) -> T,
    {
        let Self { workload, parent, queued } = self;
        let context = CallContext::new(parent);
        let (span, spent) = (context.span_id, Spent::new(workload.figures.gate.takes_cpu()));
        let ended = move |result: Result<R>, started, spent| {
            let span = CallSpan::ended(workload, context, started, queued, spent, &result);
            end(result, span)
        };
        Observed::new(workload, span, spent, call, ended)
    }
}

/// The span of a call that ended. Dropping it hands it in.
pub struct CallSpan<'a> {
    workload: &'a Workload,
    context: CallContext,
    started: Moment,
    duration_ns: u64,
    outcome: Outcome,
    trap: Option<Trap>,
    details: Details,
    spent: Spent,
}

impl<'a> CallSpan<'a> {
    fn ended<R>(
        workload: &'a Workload,
        context: CallContext,
        started: Moment,
        queued: Option<Duration>,
        spent: Spent,
        result: &Result<R>,
    ) -> Self {
        let (duration_ns, outcome) = (started.elapsed_ns(), Outcome::of(result));
        workload.figures.called(outcome, duration_ns);
        workload.first_phase(Phase::FirstCall, duration_ns);
        let mut trap = None;
        if let Err(error) = result {
            trap = error.downcast_ref().copied();
            workload.failed(error);
        }
        let queued_ns = queued.map(|waited| u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX));
        if let Some(ns) = queued_ns {
            workload.figures.queued(ns);
        }
        if spent.cpu_ns().is_some() {
            workload.figures.gate.took_cpu(duration_ns);
        }
        let details = Details {
            queued_ns,
            guest_cpu_ns: spent.cpu_ns(),
            off_cpu_ns: spent.off_cpu_ns(duration_ns),
            ..Details::default()
        };
        Self { workload, context, started, duration_ns, outcome, trap, details, spent }
    }

    /// The largest that the store's memories were, in bytes: [`StoreProbe::size`](crate::StoreProbe::size).
    pub fn peak_memory(&mut self, bytes: usize) {
        self.details.peak_memory = Some(bytes as u64);
    }

    /// Puts the guest's state into the recording, if there is one and the call trapped as none before: `error` is what
    /// the call returned, `store` the one it was made in. What it holds of memory is the builder's
    /// [`dumped_memory`](crate::Builder::dumped_memory).
    pub fn core_dump<T: 'static>(&mut self, store: impl AsContextMut<Data = T>, error: &wasmtime::Error) {
        self.core_dump_among(store, error, &[]);
    }

    /// [`Self::core_dump`] of a guest whose threads of these names go on.
    pub(crate) fn core_dump_among<T: 'static>(
        &mut self,
        store: impl AsContextMut<Data = T>,
        error: &wasmtime::Error,
        running: &[String],
    ) {
        // A failed call is kept where there is room, and then under this id.
        self.context.keep();
        dump::take(self.workload, Some(&self.context), store, error, "main", running);
    }

    /// The HTTP request that it handled, and the status of the answer if there was one. A method that HTTP
    /// does not define becomes `_OTHER`.
    pub fn http(&mut self, method: &str, status: Option<u16>) {
        self.details.http = Some(Http { method: http_method(method), status });
    }
}

impl Drop for CallSpan<'_> {
    fn drop(&mut self) {
        let Workload { shared, figures, entry, .. } = self.workload;
        let answered_failure = self.details.http.and_then(|http| http.status).is_some_and(|code| code >= 500);
        let failed = self.outcome != Outcome::Ok || answered_failure;
        let Some(kept) = figures.gate.admit(failed, self.context.sampled(), self.duration_ns) else { return };
        self.context.keep();
        // Asked for here, since most calls are not kept.
        self.details.stack = self.spent.stack();
        let record = SpanRecord {
            context: std::mem::take(&mut self.context),
            workload: figures.ordinal,
            name: Arc::clone(entry),
            kept,
            started: self.started,
            duration_ns: self.duration_ns,
            outcome: self.outcome,
            trap: self.trap,
            details: self.details,
        };
        if shared.spans.try_send(record).is_err() {
            shared.lost_spans.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A guest's thread that is alive.
struct ThreadGuard(Arc<Figures>);

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        self.0.threads(-1);
    }
}

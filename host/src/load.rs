//! Loaded guests, and marking what they do: instantiations, calls. Loading itself is in [`crate::prepare`].

use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sandscope_model::{ModuleId, WorkloadId};
use sandscope_proto::start::Phase;
use wasmtime::{Result, Trap};

use crate::aggregate::Command;
use crate::code::Code;
use crate::cold::{ColdStart, Start, as_nanos, nanos};
use crate::sampler::{self, Active, Entry};
use crate::scope::Shared;
use crate::sidecar::Sidecar;
use crate::trap::TrapReport;
use crate::workload::{Figures, Outcome, StoreProbe};

/// A compiled guest and the workload that it is. Keep it as long as stores run its code: when it is dropped,
/// its samples end.
pub struct Loaded<T> {
    artifact: T,
    workload: Workload,
    sidecar: Option<Sidecar>,
    _hold: Hold,
}

impl<T> Deref for Loaded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.artifact
    }
}

impl<T> Loaded<T> {
    /// Makes samples in the code visible, until it is dropped.
    pub(crate) fn new(artifact: T, code: Arc<Code>, workload: Workload, sidecar: Option<Sidecar>) -> Self {
        workload.shared.codes.add(&code);
        let _hold = Hold { shared: Arc::clone(&workload.shared), code };
        Self { artifact, workload, sidecar, _hold }
    }

    /// The workload: marks calls, makes store probes.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// What the file that it was compiled from says; `None` if it came compiled, without a sidecar.
    pub fn sidecar(&self) -> Option<&Sidecar> {
        self.sidecar.as_ref()
    }
}

/// Takes the code out of sampling when its [`Loaded`] is gone.
struct Hold {
    shared: Arc<Shared>,
    code: Arc<Code>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.codes.retire(&self.code);
    }
}

/// A workload version on this host. Cheap to clone.
#[derive(Clone)]
pub struct Workload {
    shared: Arc<Shared>,
    figures: Arc<Figures>,
    module: ModuleId,
    start: Arc<Start>,
}

impl Workload {
    pub(crate) fn new(shared: &Arc<Shared>, id: &WorkloadId, module: ModuleId, start: Arc<Start>) -> Self {
        Self { shared: Arc::clone(shared), figures: shared.figures(id), module, start }
    }

    /// Name and version.
    pub fn id(&self) -> &WorkloadId {
        self.figures.id()
    }

    /// The module or component behind it.
    pub fn module(&self) -> &ModuleId {
        &self.module
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.figures
    }

    /// How it came up, as far as it has.
    pub fn cold_start(&self) -> ColdStart {
        self.start.so_far()
    }

    /// Tells how long the embedder took to read or fetch the file: a phase of the cold start that nobody else
    /// sees. To be told before the first call ends.
    pub fn was_read_in(&self, took: Duration) {
        self.first_phase(Phase::Read, as_nanos(took));
    }

    /// Tells how long the embedder took to resolve the imports (`instantiate_pre`), before the first call ends.
    pub fn was_linked_in(&self, took: Duration) {
        self.first_phase(Phase::Link, as_nanos(took));
    }

    /// A phase that counts once per loaded module.
    pub(crate) fn first_phase(&self, phase: Phase, ns: u64) {
        if self.start.end(phase, ns) {
            self.figures.started(self.start.cache, phase, ns);
        }
    }

    /// What a store of this workload carries in its data.
    pub fn store_probe(&self) -> StoreProbe {
        StoreProbe::new(&self.figures)
    }

    /// Times an instantiation, start function included, and samples it.
    ///
    /// # Errors
    /// What `instantiate` returns.
    pub fn instantiate<R>(&self, instantiate: impl FnOnce() -> Result<R>) -> Result<R> {
        let started = Instant::now();
        let active = self.enter(0);
        let result = instantiate();
        drop(active);
        self.instantiated(started, result)
    }

    /// [`Self::instantiate`] for an async store.
    ///
    /// # Errors
    /// What the future returns.
    pub async fn instantiate_async<R>(&self, instantiate: impl Future<Output = Result<R>>) -> Result<R> {
        let started = Instant::now();
        let result = Observed::run(self, instantiate).await;
        self.instantiated(started, result)
    }

    /// Times a call into the guest, counts how it ended, and samples it.
    ///
    /// # Errors
    /// What `call` returns.
    pub fn call<R>(&self, call: impl FnOnce() -> Result<R>) -> Result<R> {
        let started = Instant::now();
        let active = self.enter(0);
        let result = call();
        drop(active);
        self.called(started, result)
    }

    /// [`Self::call`] for an async call: what the future does on any thread, its drop included, is counted
    /// as the guest's. A call that is dropped before it ends is not counted.
    ///
    /// # Errors
    /// What the future returns.
    pub async fn call_async<R>(&self, call: impl Future<Output = Result<R>>) -> Result<R> {
        let started = Instant::now();
        let result = Observed::run(self, call).await;
        self.called(started, result)
    }

    /// Samples what a thread of the guest does. It is part of the call that started it, so it is no call of its
    /// own; a trap counts.
    ///
    /// # Errors
    /// What the future returns.
    pub async fn thread_async<R>(&self, body: impl Future<Output = Result<R>>) -> Result<R> {
        let _counted = self.thread();
        let result = Observed::run(self, body).await;
        if let Err(error) = &result {
            self.failed(error);
        }
        result
    }

    /// Counts a thread that the guest started, until the guard is dropped.
    fn thread(&self) -> ThreadGuard {
        self.figures.threads(1);
        ThreadGuard(Arc::clone(&self.figures))
    }

    fn enter(&self, span: u64) -> Option<Active<'_>> {
        let Shared { scope, hz, ref unsampled, .. } = *self.shared;
        let entry = Entry { scope, hz, figures: &self.figures, span, unsampled };
        (!self.shared.closed.load(Ordering::Relaxed)).then(|| sampler::enter(entry))
    }

    fn instantiated<R>(&self, started: Instant, result: Result<R>) -> Result<R> {
        match &result {
            Ok(_) => {
                let ns = nanos(started);
                self.start.end(Phase::Instantiate, ns);
                self.figures.started(self.start.cache, Phase::Instantiate, ns);
            }
            Err(error) => self.failed(error),
        }
        result
    }

    fn called<R>(&self, started: Instant, result: Result<R>) -> Result<R> {
        let outcome = match &result {
            Ok(_) => Outcome::Ok,
            Err(error) => match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
                Some(exit) if exit.0 == 0 => Outcome::Ok,
                Some(_) => Outcome::Error,
                None if error.is::<Trap>() => Outcome::Trap,
                None => Outcome::Error,
            },
        };
        let ns = nanos(started);
        self.figures.called(outcome, ns);
        self.first_phase(Phase::FirstCall, ns);
        if let Err(error) = &result {
            self.failed(error);
        }
        result
    }

    fn failed(&self, error: &wasmtime::Error) {
        if let Some(trap) = error.downcast_ref::<Trap>() {
            self.figures.trapped(*trap);
            self.shared.tell(Command::Trapped(self.report(error)));
        }
    }

    /// What an error of this workload's call says about the guest.
    pub fn report(&self, error: &wasmtime::Error) -> Arc<TrapReport> {
        TrapReport::new(self.figures.id(), &self.module, error)
    }
}

/// A guest's thread that is alive.
struct ThreadGuard(Arc<Figures>);

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        self.0.threads(-1);
    }
}

/// A guest's future: its workload is active around each poll and around its drop, which may run guest code.
struct Observed<'a, F> {
    workload: &'a Workload,
    future: Option<Pin<Box<F>>>,
}

impl<'a, F: Future> Observed<'a, F> {
    fn run(workload: &'a Workload, future: F) -> impl Future<Output = F::Output> + use<'a, F> {
        let mut observed = Self { workload, future: Some(Box::pin(future)) };
        poll_fn(move |context| {
            let _active = observed.workload.enter(0);
            match &mut observed.future {
                Some(future) => future.as_mut().poll(context),
                None => std::task::Poll::Pending,
            }
        })
    }
}

impl<F> Drop for Observed<'_, F> {
    fn drop(&mut self) {
        let _active = self.workload.enter(0);
        self.future = None;
    }
}

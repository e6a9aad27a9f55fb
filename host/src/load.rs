//! Loaded guests and their instantiations. Loading itself is in [`crate::prepare`], calls are in [`crate::call`].

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sandscope_model::{ModuleId, WorkloadId};
use sandscope_proto::start::Phase;
use wasmtime::Result;

use crate::clock::Moment;
use crate::code::Code;
use crate::cold::{ColdStart, Start, as_nanos};
use crate::dump::FrameSizes;
use crate::observed::{Observed, Spent};
use crate::rewrite::Rewritten;
use crate::scope::Shared;
use crate::sidecar::Sidecar;
use crate::span::NO_SPAN;
use crate::workload::{Figures, StoreProbe};

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
        self.shared.codes.retire(&self.code, self.shared.closed.load(Ordering::Acquire));
    }
}

/// A workload version on this host. Cheap to clone.
#[derive(Clone)]
pub struct Workload {
    pub(crate) shared: Arc<Shared>,
    pub(crate) figures: Arc<Figures>,
    module: ModuleId,
    pub(crate) start: Arc<Start>,
    /// How its file was changed before it was compiled, if it was.
    pub(crate) rewritten: Option<Arc<Rewritten>>,
    /// For core dumps.
    pub(crate) frame_sizes: Arc<FrameSizes>,
    /// What spans of its calls are called.
    pub(crate) entry: Arc<str>,
}

impl Workload {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        id: &WorkloadId,
        module: ModuleId,
        start: Arc<Start>,
        rewritten: Option<Arc<Rewritten>>,
        frame_sizes: Arc<FrameSizes>,
    ) -> Self {
        let entry = Arc::from("call");
        let (shared, figures) = (Arc::clone(shared), shared.figures(id));
        Self { shared, figures, module, start, rewritten, frame_sizes, entry }
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
        let started = Moment::now();
        let active = self.enter(NO_SPAN);
        let result = instantiate();
        drop(active);
        self.instantiated(started, result)
    }

    /// [`Self::instantiate`] for an async store.
    ///
    /// # Errors
    /// What the future returns.
    pub fn instantiate_async<R, F>(&self, instantiate: F) -> impl Future<Output = Result<R>> + use<'_, R, F>
    where
        F: Future<Output = Result<R>>,
    {
        let ended = |result, started, _| self.instantiated(started, result);
        Observed::new(self, NO_SPAN, Spent::new(false), instantiate, ended)
    }

    fn instantiated<R>(&self, started: Moment, result: Result<R>) -> Result<R> {
        match &result {
            Ok(_) => {
                let ns = started.elapsed_ns();
                self.start.end(Phase::Instantiate, ns);
                self.figures.started(self.start.cache, Phase::Instantiate, ns);
            }
            Err(error) => self.failed(error),
        }
        result
    }
}

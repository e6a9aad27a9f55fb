//! Loading guests and marking what they do: modules, instantiations, calls.

use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sandscope_model::{ModuleId, WorkloadId};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Result, Trap};

use crate::aggregate::{Command, NewCode};
use crate::code::{Artifact, Code};
use crate::sampler::{self, Active, Entry};
use crate::scope::{Sandscope, Shared};
use crate::trap::TrapReport;
use crate::workload::{Figures, Outcome, StoreProbe};

/// A compiled guest and the workload that it is. Keep it as long as stores run its code: when it is dropped,
/// its samples end.
pub struct Loaded<T> {
    artifact: T,
    workload: Workload,
    _hold: Arc<Hold>,
}

impl<T> Deref for Loaded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.artifact
    }
}

impl<T> Loaded<T> {
    /// The workload: marks calls, makes store probes.
    pub fn workload(&self) -> &Workload {
        &self.workload
    }
}

/// Takes the code out of sampling when the last user of a [`Loaded`] is gone.
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
}

impl Sandscope {
    /// Compiles a core module and makes it observable. `name` is for people (a file name).
    ///
    /// # Errors
    /// The engine's, if the bytes are no valid module.
    pub fn load_module(
        &self,
        engine: &Engine,
        bytes: &[u8],
        id: &WorkloadId,
        name: &str,
    ) -> Result<Loaded<Module>> {
        let started = Instant::now();
        let module = Module::new(engine, bytes)?;
        Ok(self.loaded(engine, module.clone(), Artifact::Module(module), started, bytes, id, name))
    }

    /// Compiles a component and makes it observable. `name` is for people (a file name).
    ///
    /// # Errors
    /// The engine's, if the bytes are no valid component.
    pub fn load_component(
        &self,
        engine: &Engine,
        bytes: &[u8],
        id: &WorkloadId,
        name: &str,
    ) -> Result<Loaded<Component>> {
        let started = Instant::now();
        let component = Component::new(engine, bytes)?;
        Ok(self.loaded(engine, component.clone(), Artifact::Component(component), started, bytes, id, name))
    }

    #[expect(clippy::too_many_arguments, reason = "each is one fact about the guest")]
    fn loaded<T>(
        &self,
        engine: &Engine,
        artifact: T,
        code: Artifact,
        started: Instant,
        bytes: &[u8],
        id: &WorkloadId,
        name: &str,
    ) -> Loaded<T> {
        let compiled = nanos(started);
        let shared = Arc::clone(self.shared());
        let figures = shared.figures(id);
        figures.compiled(compiled);
        if let Some(limit) = shared.stack_limit(engine) {
            figures.runtime.stack.limited(limit);
        }
        let module = ModuleId::of(bytes);
        let code = Arc::new(Code::new(module.clone(), bytes.len() as u64, code));
        shared.codes.add(&code);
        shared.tell(Command::Loaded(NewCode {
            id: module.clone(),
            workload: id.clone(),
            name: name.to_owned(),
            bytes: bytes.into(),
            code: Arc::clone(&code),
        }));
        let workload = Workload { shared: Arc::clone(&shared), figures, module };
        Loaded { artifact, workload, _hold: Arc::new(Hold { shared, code }) }
    }
}

impl Workload {
    /// Name and version.
    pub fn id(&self) -> &WorkloadId {
        self.figures.id()
    }

    /// The module or component behind it.
    pub fn module(&self) -> &ModuleId {
        &self.module
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
            Ok(_) => self.figures.instantiated(nanos(started)),
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
        self.figures.called(outcome, nanos(started));
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

fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

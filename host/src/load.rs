//! Loading guests and instantiating them. Calls are in `call`.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Instant;

use sandscope_model::{ModuleId, WorkloadId};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Result};

use crate::aggregate::{Command, NewCode};
use crate::call::Observed;
use crate::code::{Artifact, Code};
use crate::scope::{Sandscope, Shared};
use crate::span::NO_SPAN;
use crate::workload::{Figures, StoreProbe};

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
    pub(crate) shared: Arc<Shared>,
    pub(crate) figures: Arc<Figures>,
    module: ModuleId,
    /// What spans of its calls are called.
    pub(crate) entry: Arc<str>,
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
        self.shared().pools.watch(engine);
        Ok(self.loaded(module.clone(), Artifact::Module(module), started, bytes, id, name))
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
        self.shared().pools.watch(engine);
        Ok(self.loaded(component.clone(), Artifact::Component(component), started, bytes, id, name))
    }

    fn loaded<T>(
        &self,
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
        let module = ModuleId::of(bytes);
        let code = Arc::new(Code::new(module.clone(), bytes.len() as u64, code));
        shared.codes.add(&code);
        shared.tell(Command::Loaded(NewCode {
            id: module.clone(),
            workload: id.clone(),
            name: name.to_owned(),
            bytes: bytes.into(),
        }));
        let entry = Arc::from("call");
        let workload = Workload { shared: Arc::clone(&shared), figures, module, entry };
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
        let active = self.enter(NO_SPAN);
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
        let result = Observed::run(self, NO_SPAN, instantiate).await;
        self.instantiated(started, result)
    }

    fn instantiated<R>(&self, started: Instant, result: Result<R>) -> Result<R> {
        match &result {
            Ok(_) => self.figures.instantiated(nanos(started)),
            Err(error) => self.failed(error),
        }
        result
    }
}

/// Time since an instant, in nanoseconds.
pub(crate) fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

//! Loading guests: from the bytes that their author shipped, or compiled before, with a sidecar that says what
//! the compiled form does not.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sandscope_model::{ModuleId, WorkloadId};
use sandscope_proto::start::{Cache, Phase};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Result};

use crate::aggregate::{Command, NewCode};
use crate::code::{Artifact, Code};
use crate::cold::{Start, nanos};
use crate::compiled::{Compiled, Made, compile, make};
use crate::dump::FrameSizes;
use crate::engine::is_winch;
use crate::load::{Loaded, Workload};
use crate::rewrite::Rewritten;
use crate::sampler::Unavailable;
use crate::scope::Sandscope;
use crate::sidecar::Sidecar;

/// A module or component compiled ahead of time, and what has to accompany it.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Native code, for engines of the same version and settings.
    pub artifact: Vec<u8>,
    /// What [`Sandscope::load_precompiled_module`] needs to know of the file that it was compiled from.
    pub sidecar: Sidecar,
}

impl Sandscope {
    /// Compiles a module or component ahead of time, for engines of the same version and settings in other
    /// processes or on other machines. The settings include those of [`Sandscope::configure`].
    ///
    /// # Errors
    /// The engine's, if the bytes are no valid module or component.
    pub fn prepare(engine: &Engine, bytes: &[u8]) -> Result<Prepared> {
        if bytes.get(6..8) == Some(&[Component::KIND, 0]) {
            prepare::<Component>(engine, bytes)
        } else {
            prepare::<Module>(engine, bytes)
        }
    }

    /// Compiles a core module, or takes it from the cache, and makes it observable. `name` is for people (a
    /// file name).
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
        self.load(engine, bytes, id, name)
    }

    /// Compiles a component, or takes it from the cache, and makes it observable. `name` is for people (a file
    /// name).
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
        self.load(engine, bytes, id, name)
    }

    /// Makes a core module observable that was compiled before. Without the sidecar of [`Sandscope::prepare`]
    /// its id is `text:` and a hash: no debug info is found for it, and its functions have no names.
    ///
    /// # Errors
    /// The engine's, if the artifact is of another version or of other settings; a [`crate::SidecarError`] if the
    /// sidecar accompanies other code.
    ///
    /// # Safety
    /// `artifact` is what [`Sandscope::prepare`], [`Module::serialize`] or [`Engine::precompile_module`] gave,
    /// unchanged: the engine runs the native code in it without looking at it.
    pub unsafe fn load_precompiled_module(
        &self,
        engine: &Engine,
        artifact: &[u8],
        sidecar: Option<&Sidecar>,
        id: &WorkloadId,
        name: &str,
    ) -> Result<Loaded<Module>> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.load_precompiled(engine, artifact, sidecar, id, name) }
    }

    /// [`Self::load_precompiled_module`] for a component.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Safety
    /// As there, with [`Component::serialize`] and [`Engine::precompile_component`].
    pub unsafe fn load_precompiled_component(
        &self,
        engine: &Engine,
        artifact: &[u8],
        sidecar: Option<&Sidecar>,
        id: &WorkloadId,
        name: &str,
    ) -> Result<Loaded<Component>> {
        // SAFETY: the caller's promise is the same.
        unsafe { self.load_precompiled(engine, artifact, sidecar, id, name) }
    }

    fn load<T: Compiled>(
        &self,
        engine: &Engine,
        bytes: &[u8],
        id: &WorkloadId,
        name: &str,
    ) -> Result<Loaded<T>> {
        let began = SystemTime::now();
        let made = make::<T>(self.shared(), engine, bytes)?;
        let source = Source {
            id: made.sidecar.module().clone(),
            sidecar: Some(made.sidecar),
            bytes: Some(bytes.into()),
            rewritten: made.rewritten,
            cache: made.cache,
            began,
            took: made.took,
        };
        Ok(self.loaded(engine, made.compiled, made.code, source, id, name))
    }

    /// # Safety
    /// As [`Compiled::deserialize`].
    unsafe fn load_precompiled<T: Compiled>(
        &self,
        engine: &Engine,
        artifact: &[u8],
        sidecar: Option<&Sidecar>,
        id: &WorkloadId,
        name: &str,
    ) -> Result<Loaded<T>> {
        if self.shared().alloc {
            let reason = "the guest's allocations are unknown: it came compiled";
            self.shared().tell(Command::Allocations(reason.to_owned()));
        }
        let (began, started) = (SystemTime::now(), Instant::now());
        // SAFETY: the caller's promise is the same.
        let compiled = unsafe { T::deserialize(engine, artifact) }?;
        let took = (Phase::Deserialize, nanos(started));
        let code = compiled.code();
        sidecar.map_or(Ok(()), |sidecar| sidecar.check(&code)).map_err(wasmtime::Error::new)?;
        let source = Source {
            id: sidecar.map_or_else(|| ModuleId::of_text(artifact), |sidecar| sidecar.module().clone()),
            sidecar: sidecar.cloned(),
            bytes: None,
            rewritten: None,
            cache: Cache::None,
            began,
            took,
        };
        Ok(self.loaded(engine, compiled, code, source, id, name))
    }

    fn loaded<T>(
        &self,
        engine: &Engine,
        artifact: T,
        code: Artifact,
        source: Source,
        id: &WorkloadId,
        name: &str,
    ) -> Loaded<T> {
        let Source { id: module, sidecar, bytes, rewritten, cache, began, took: (phase, ns) } = source;
        let start = Arc::new(Start::new(id.clone(), module.clone(), cache, began));
        let wanted = self.shared().dumps.wanted();
        let frame_sizes = Arc::new(FrameSizes::of(bytes.clone().filter(|_| wanted)));
        let workload = Workload::new(
            self.shared(),
            id,
            module.clone(),
            Arc::clone(&start),
            rewritten.clone(),
            Arc::clone(&frame_sizes),
        );
        workload.first_phase(phase, ns);
        self.shared().pools.watch(engine);
        let traits = self.shared().traits(engine);
        if engine.is_pulley() {
            self.shared().tell(Command::Unsampled(Unavailable::Interpreter));
        } else if traits.copies_code {
            self.shared().tell(Command::Unsampled(Unavailable::CopiedCode));
        } else if is_winch(engine.config()) {
            self.shared().tell(Command::Unsampled(Unavailable::Baseline));
        }
        if let Some(limit) = traits.stack {
            workload.figures().runtime.stack.limited(limit);
        }
        let length = sidecar.as_ref().map_or(0, Sidecar::length);
        let code = Arc::new(Code::new(module.clone(), length, code, rewritten));
        let loaded = Loaded::new(artifact, Arc::clone(&code), workload, sidecar);
        let (workload, name) = (id.clone(), name.to_owned());
        let pooled = engine.pooling_allocator_metrics().is_some();
        let code = NewCode { id: module, workload, name, bytes, code, start, pooled, frame_sizes };
        self.shared().tell(Command::Loaded(code));
        loaded
    }
}

fn prepare<T: Compiled>(engine: &Engine, bytes: &[u8]) -> Result<Prepared> {
    let made: Made<T> = compile(engine, bytes, Cache::None)?;
    Ok(Prepared { artifact: made.compiled.serialize()?, sidecar: made.sidecar })
}

/// Where code came from.
struct Source {
    id: ModuleId,
    sidecar: Option<Sidecar>,
    /// The file, if it is here: its debug info is offered to whoever wants it.
    bytes: Option<Arc<[u8]>>,
    rewritten: Option<Arc<Rewritten>>,
    cache: Cache,
    began: SystemTime,
    /// Nanoseconds to compile or deserialize it.
    took: (Phase, u64),
}

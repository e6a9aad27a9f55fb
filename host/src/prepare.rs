//! From a guest's bytes to code: compiled here, taken from the cache, or compiled elsewhere before. What is
//! done with the code afterwards is in [`crate::load`].

use std::time::Instant;

use sandscope_proto::start::{Cache, Phase};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Result};

use crate::aggregate::Command;
use crate::cache::{Key, ModuleCache};
use crate::code::Artifact;
use crate::scope::{Sandscope, Shared};
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
}

fn prepare<T: Compiled>(engine: &Engine, bytes: &[u8]) -> Result<Prepared> {
    let made: Made<T> = compile(engine, bytes, Cache::None)?;
    Ok(Prepared { artifact: made.compiled.serialize()?, sidecar: made.sidecar })
}

/// What the engine compiles.
pub(crate) trait Compiled: Clone {
    /// The "layer" field of the preamble: 0 for core modules, 1 for components (Binary.md).
    const KIND: u8;

    fn compile(engine: &Engine, bytes: &[u8]) -> Result<Self>;
    fn serialize(&self) -> Result<Vec<u8>>;
    fn code(&self) -> Artifact;

    /// # Safety
    /// `artifact` is what `serialize` gave, unchanged: it holds native code.
    unsafe fn deserialize(engine: &Engine, artifact: &[u8]) -> Result<Self>;
}

impl Compiled for Module {
    const KIND: u8 = 0;

    fn compile(engine: &Engine, bytes: &[u8]) -> Result<Self> {
        Self::new(engine, bytes)
    }

    fn serialize(&self) -> Result<Vec<u8>> {
        self.serialize()
    }

    fn code(&self) -> Artifact {
        Artifact::Module(self.clone())
    }

    unsafe fn deserialize(engine: &Engine, artifact: &[u8]) -> Result<Self> {
        // SAFETY: the caller's promise is the same.
        unsafe { Self::deserialize(engine, artifact) }
    }
}

impl Compiled for Component {
    const KIND: u8 = 1;

    fn compile(engine: &Engine, bytes: &[u8]) -> Result<Self> {
        Self::new(engine, bytes)
    }

    fn serialize(&self) -> Result<Vec<u8>> {
        self.serialize()
    }

    fn code(&self) -> Artifact {
        Artifact::Component(self.clone())
    }

    unsafe fn deserialize(engine: &Engine, artifact: &[u8]) -> Result<Self> {
        // SAFETY: the caller's promise is the same.
        unsafe { Self::deserialize(engine, artifact) }
    }
}

/// Code, and how it came to be.
pub(crate) struct Made<T> {
    pub compiled: T,
    pub code: Artifact,
    pub sidecar: Sidecar,
    pub cache: Cache,
    /// The phase that it took, and nanoseconds.
    pub took: (Phase, u64),
}

/// Code for a guest's bytes: out of the scope's cache if there is one and it is in there, else compiled and
/// put there.
pub(crate) fn make<T: Compiled>(shared: &Shared, engine: &Engine, bytes: &[u8]) -> Result<Made<T>> {
    let Some(cache) = &shared.cache else { return compile(engine, bytes, Cache::None) };
    let started = Instant::now();
    let key = Key::of(engine, T::KIND, bytes);
    if let Some((compiled, sidecar)) = cached::<T>(cache, &key, engine) {
        let took = (Phase::Deserialize, nanos(started));
        return Ok(Made { code: compiled.code(), compiled, sidecar, cache: Cache::Hit, took });
    }
    let made: Made<T> = compile(engine, bytes, Cache::Miss)?;
    // An artifact that cannot be serialized is not worth a word: it is compiled each time.
    if let Ok(artifact) = made.compiled.serialize()
        && let Err(error) = cache.put(&key, &made.sidecar, &artifact)
    {
        shared.tell(Command::CacheFailed(error));
    }
    Ok(made)
}

fn cached<T: Compiled>(cache: &ModuleCache, key: &Key, engine: &Engine) -> Option<(T, Sidecar)> {
    let entry = cache.get(key)?;
    // SAFETY: the artifact is what `serialize` gave to `store`: its file belongs to this user and nobody else
    // can write to it (read from the open descriptor), it was read whole before it was verified, its hash is
    // right, and it was stored for this engine's version and settings. Whoever can forge all that already
    // runs code as this user.
    match unsafe { T::deserialize(engine, entry.artifact()) } {
        Ok(compiled) => Some((compiled, entry.sidecar)),
        Err(_) => {
            cache.remove(key);
            None
        }
    }
}

fn compile<T: Compiled>(engine: &Engine, bytes: &[u8], cache: Cache) -> Result<Made<T>> {
    let started = Instant::now();
    let compiled = T::compile(engine, bytes)?;
    let took = (Phase::Compile, nanos(started));
    let code = compiled.code();
    let sidecar = Sidecar::new(bytes, &code);
    Ok(Made { compiled, code, sidecar, cache, took })
}

/// Nanoseconds since then.
pub(crate) fn nanos(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

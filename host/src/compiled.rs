//! From a guest's bytes to native code: taken from the cache, or compiled and put there. What the code is for
//! is elsewhere: see [`crate::prepare`].

use std::sync::Arc;
use std::time::Instant;

use sandscope_proto::start::{Cache, Phase};
use wasmtime::component::Component;
use wasmtime::{Engine, Module, Result};

use crate::aggregate::Command;
use crate::cache::{Key, ModuleCache};
use crate::code::Artifact;
use crate::cold::nanos;
use crate::hooks;
use crate::rewrite::{self, Rewritten};
use crate::scope::Shared;
use crate::sidecar::Sidecar;

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
    /// How the file was changed before it was compiled, if it was.
    pub rewritten: Option<Arc<Rewritten>>,
    pub cache: Cache,
    /// The phase that it took, and nanoseconds.
    pub took: (Phase, u64),
}

/// Code for a guest's bytes: out of the scope's cache if there is one and it is in there, else compiled and
/// put there.
pub(crate) fn make<T: Compiled>(shared: &Shared, engine: &Engine, bytes: &[u8]) -> Result<Made<T>> {
    if shared.alloc {
        match rewrite::instrument(bytes, hooks::alloc::PERIOD) {
            Ok(rewritten) => {
                if let Some(reason) = rewritten.not_live() {
                    shared.tell(Command::Allocations(format!("what the guest holds is unknown: {reason}")));
                }
                return compile_rewritten(engine, bytes, rewritten);
            }
            Err(reason) => {
                shared.tell(Command::Allocations(format!("the guest's allocations are unknown: {reason}")));
            }
        }
    }
    let Some(cache) = &shared.cache else { return compile(engine, bytes, Cache::None) };
    let started = Instant::now();
    let key = Key::of(engine, T::KIND, bytes);
    if let Some((compiled, sidecar)) = cached::<T>(cache, &key, engine) {
        let took = (Phase::Deserialize, nanos(started));
        return Ok(Made {
            code: compiled.code(),
            compiled,
            sidecar,
            rewritten: None,
            cache: Cache::Hit,
            took,
        });
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

/// Compiles; `cache` is what the cache had.
pub(crate) fn compile<T: Compiled>(engine: &Engine, bytes: &[u8], cache: Cache) -> Result<Made<T>> {
    let started = Instant::now();
    let compiled = T::compile(engine, bytes)?;
    let took = (Phase::Compile, nanos(started));
    let code = compiled.code();
    let sidecar = Sidecar::new(bytes, &code);
    Ok(Made { compiled, code, sidecar, rewritten: None, cache, took })
}

/// Compiles a guest that reports its allocations. What is not as its author shipped it is not cached.
fn compile_rewritten<T: Compiled>(
    engine: &Engine,
    bytes: &[u8],
    mut rewritten: Rewritten,
) -> Result<Made<T>> {
    let started = Instant::now();
    let compiled = T::compile(engine, &rewritten.bytes)?;
    let took = (Phase::Compile, nanos(started));
    rewritten.bytes = Vec::new();
    let code = compiled.code();
    let sidecar = Sidecar::new(bytes, &code);
    Ok(Made { compiled, code, sidecar, rewritten: Some(Arc::new(rewritten)), cache: Cache::None, took })
}

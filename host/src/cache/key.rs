//! What a compiled module is found by: everything that its machine code depends on.

use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use wasmtime::Engine;

use crate::scope::ENGINE_VERSION;

/// Version of the cache's format. To be raised with every change of the entry or of the sidecar in it.
const FORMAT: u32 = 1;

/// SHA-256 over the format's version, the engine's version and settings, and the module's bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key([u8; 32]);

impl Key {
    /// `kind` keeps the compiled forms of modules and components apart.
    pub(crate) fn of(engine: &Engine, kind: u8, bytes: &[u8]) -> Self {
        let mut settings = Digesting(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut settings);
        let mut key = Sha256::new();
        key.update(FORMAT.to_le_bytes());
        key.update((ENGINE_VERSION.len() as u64).to_le_bytes());
        key.update(ENGINE_VERSION);
        key.update(settings.0.finalize());
        key.update([kind]);
        key.update(bytes);
        Self(key.finalize().into())
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Collects what a value hashes as; 64 bits of an ordinary hash would be too few to trust.
struct Digesting(Sha256);

impl Hasher for Digesting {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Nobody asks: the digest is taken instead.
    fn finish(&self) -> u64 {
        0
    }
}

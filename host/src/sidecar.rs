//! What accompanies a compiled module: the facts that only the file of its author says. In memory, and as
//! the bytes that an embedder keeps beside the compiled form.

use prost::Message as _;
use sandscope_model::ModuleId;
use sandscope_proto::module as wire;

use crate::code::Artifact;
use crate::shape::{CoreModule, core_modules};

/// Format version that this release writes and the largest that it reads.
const VERSION: u32 = 1;

/// Largest sidecar that is read, in bytes.
const MAX_BYTES: usize = 16 << 20;

/// Why a sidecar cannot be used. Fragments that complete "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// Larger than any that is written.
    #[error("read a sidecar of {length} bytes: more than the limit of {MAX_BYTES}")]
    TooLarge {
        /// Its length in bytes.
        length: usize,
    },
    /// No sidecar, or a damaged one.
    #[error("read a sidecar")]
    Malformed(#[from] prost::DecodeError),
    /// A field that no writer leaves like this.
    #[error("read a sidecar: its {field} is missing or malformed")]
    Field {
        /// Which.
        field: &'static str,
    },
    /// Written by a later release.
    #[error("read a sidecar of format version {found}: this release reads up to {VERSION}; prepare it again")]
    Version {
        /// Its version.
        found: u32,
    },
    /// The code was rewritten before it was compiled, so its offsets are not those of the file.
    #[error("read the sidecar of a rewritten module: this release does not map its offsets back")]
    Rewritten,
    /// It accompanies other code.
    #[error("use the sidecar of module {module}: it was made for other compiled code")]
    OtherCode {
        /// The module that it describes.
        module: ModuleId,
    },
}

/// Facts about a module or component as its author shipped it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidecar {
    module: ModuleId,
    length: u64,
    layout: [u8; 32],
    core_modules: Vec<CoreModule>,
}

impl Sidecar {
    pub(crate) fn new(bytes: &[u8], code: &Artifact) -> Self {
        Self {
            module: ModuleId::of(bytes),
            length: bytes.len() as u64,
            layout: code.layout(),
            core_modules: core_modules(bytes),
        }
    }

    /// Id of the file: what its debug info is found by.
    pub fn module(&self) -> &ModuleId {
        &self.module
    }

    /// Length of the file in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its core modules, in the order in which they begin; of a core module, itself.
    pub fn core_modules(&self) -> &[CoreModule] {
        &self.core_modules
    }

    /// Whether it was made for this code. What names and lines of samples depend on is where each function
    /// lies, and that is compared; hashing all code would take longer than loading it.
    pub(crate) fn check(&self, code: &Artifact) -> Result<(), SidecarError> {
        if self.layout == code.layout() {
            return Ok(());
        }
        Err(SidecarError::OtherCode { module: self.module.clone() })
    }

    /// Versioned bytes (`sandscope.module.v1.Sidecar`).
    pub fn to_bytes(&self) -> Vec<u8> {
        let import =
            |(module, name): &(String, String)| wire::Import { module: module.clone(), name: name.clone() };
        wire::Sidecar {
            version: VERSION,
            module_id: self.module.as_str().to_owned(),
            length: self.length,
            layout: self.layout.to_vec(),
            core_modules: self
                .core_modules
                .iter()
                .map(|module| wire::CoreModule {
                    imported_functions: module.imported_functions.iter().map(import).collect(),
                    stack_pointer: module.stack_pointer,
                })
                .collect(),
            offset_map: Vec::new(),
        }
        .encode_to_vec()
    }

    /// Reads what [`Sidecar::to_bytes`] wrote, in this release or an earlier one.
    ///
    /// # Errors
    /// See [`SidecarError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SidecarError> {
        if bytes.len() > MAX_BYTES {
            return Err(SidecarError::TooLarge { length: bytes.len() });
        }
        let message = wire::Sidecar::decode(bytes)?;
        if message.version == 0 {
            return Err(SidecarError::Field { field: "version" });
        }
        if message.version > VERSION {
            return Err(SidecarError::Version { found: message.version });
        }
        if !message.offset_map.is_empty() {
            return Err(SidecarError::Rewritten);
        }
        let core = |module: wire::CoreModule| CoreModule {
            imported_functions: module
                .imported_functions
                .into_iter()
                .map(|import| (import.module, import.name))
                .collect(),
            stack_pointer: module.stack_pointer,
        };
        Ok(Self {
            module: ModuleId::parse(&message.module_id).ok_or(SidecarError::Field { field: "module id" })?,
            length: message.length,
            layout: message.layout.try_into().map_err(|_| SidecarError::Field { field: "layout" })?,
            core_modules: message.core_modules.into_iter().map(core).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is read back; what is cut, changed or of a later release is refused with a reason.
    #[test]
    fn sidecars_survive_and_damage_is_refused() {
        let wat = r#"(module (import "wasi" "f" (func)) (global $__stack_pointer (mut i32) (i32.const 1)))"#;
        let bytes = wat::parse_str(wat).unwrap();
        let module = wasmtime::Module::new(&wasmtime::Engine::default(), &bytes).unwrap();
        let sidecar = Sidecar::new(&bytes, &Artifact::Module(module));
        let written = sidecar.to_bytes();
        assert_eq!(Sidecar::from_bytes(&written).unwrap(), sidecar);
        assert_eq!(sidecar.core_modules()[0].stack_pointer, Some(0));
        for end in 0..written.len() {
            // A cut between fields leaves a message; none of them says anything else than the whole.
            if let Ok(cut) = Sidecar::from_bytes(&written[..end]) {
                assert_eq!((&cut.module, cut.layout), (&sidecar.module, sidecar.layout));
            }
        }
        let mut later = wire::Sidecar::decode(&*written).unwrap();
        later.version = VERSION + 1;
        let error = Sidecar::from_bytes(&later.encode_to_vec()).unwrap_err();
        assert!(matches!(error, SidecarError::Version { found: 2 }), "{error}");
        assert!(matches!(Sidecar::from_bytes(b"\xff\xff"), Err(SidecarError::Malformed(_))));
        let error = Sidecar::from_bytes(&vec![0; MAX_BYTES + 1]).unwrap_err();
        assert!(matches!(error, SidecarError::TooLarge { .. }), "{error}");
    }
}

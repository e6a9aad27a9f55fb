//! The runner behind `sandscope run`, `serve` and `demo`: WASI commands and components, wasi:http handlers,
//! and guests with threads, all through the library's public face.

mod command;
mod error;
mod http;
mod threads;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sandscope_model::{ModuleId, WorkloadId};
use wasmparser::{Parser, Payload};
use wasmtime::component::Component;
use wasmtime::{Config, Engine};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder, cli};

pub use command::{Command, Ended};
pub use error::RunError;
pub use http::{HttpGuest, Response, ServeLimits};

use crate::{GuestStream, Loaded, Sandscope, Workload};

/// Largest file that is read as a guest, in bytes.
const MAX_MODULE: u64 = 512 << 20;

/// What a guest is given.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// Arguments, the program's name first.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<(String, String)>,
    /// Directories: on the host, in the guest.
    pub dirs: Vec<(PathBuf, String)>,
    /// Standard streams.
    pub stdio: Stdio,
    /// Limit of linear memory per store, in bytes.
    pub max_memory: Option<usize>,
}

/// A guest's standard streams.
#[derive(Clone, Debug, Default)]
pub enum Stdio {
    /// The process's own.
    #[default]
    Inherit,
    /// Input from bytes, output kept up to a limit and dropped.
    Given {
        /// Standard input.
        stdin: bytes::Bytes,
    },
}

/// Bytes of output that a guest with given streams may write before writes fail.
const OUTPUT_LIMIT: usize = 4 << 20;

impl Grants {
    fn wasi(&self, workload: &Workload) -> Result<WasiCtxBuilder, RunError> {
        let mut builder = WasiCtxBuilder::new();
        builder.args(&self.args).envs(&self.env);
        match &self.stdio {
            Stdio::Inherit => {
                builder.inherit_stdin();
                builder.stdout(workload.output(GuestStream::Stdout, cli::stdout()));
                builder.stderr(workload.output(GuestStream::Stderr, cli::stderr()));
            }
            Stdio::Given { stdin } => {
                builder.stdin(MemoryInputPipe::new(stdin.clone()));
                let pipe = || MemoryOutputPipe::new(OUTPUT_LIMIT);
                builder.stdout(workload.output(GuestStream::Stdout, pipe()));
                builder.stderr(workload.output(GuestStream::Stderr, pipe()));
            }
        }
        for (host, guest) in &self.dirs {
            builder
                .preopened_dir(host, guest, FsPerms::ReadWrite)
                .map_err(|source| RunError::Directory { path: host.clone(), source })?;
        }
        Ok(builder)
    }
}

/// Engines for guests of all kinds, instrumented.
pub struct Runner {
    /// For guests with one call at a time in an instance, which need not pay for keeping track of several.
    engine: Engine,
    /// For components of WASI 0.3, whose functions are async: made for the first one.
    concurrent: OnceLock<Engine>,
    config: Config,
    scope: Sandscope,
}

/// The generation of WASI that a component needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wasi {
    /// 0.2, or none.
    V2,
    /// 0.3, with 0.2 beside it or not.
    V3,
}

/// A file that is to be run.
pub struct GuestFile {
    /// Core module or component, binary.
    pub bytes: Vec<u8>,
    /// The file's name, for people.
    pub name: String,
    /// Its workload.
    pub workload: WorkloadId,
    /// How long reading it took.
    pub read_in: Duration,
}

impl GuestFile {
    /// Reads a guest. The workload is called after the file and its version is the start of the module id,
    /// unless given.
    ///
    /// # Errors
    /// A file that cannot be read or is no WebAssembly.
    pub fn read(path: &Path, name: Option<&str>, version: Option<&str>) -> Result<Self, RunError> {
        let unreadable = |source| RunError::Read { path: path.to_owned(), source };
        let started = Instant::now();
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > MAX_MODULE {
            return Err(RunError::TooLarge { path: path.to_owned(), length, limit: MAX_MODULE });
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        let read_in = started.elapsed();
        let bytes = error::binary(path, bytes)?;
        let stem =
            path.file_stem().map_or_else(|| "guest".to_owned(), |stem| stem.to_string_lossy().into_owned());
        let file = path.file_name().map_or_else(|| stem.clone(), |name| name.to_string_lossy().into_owned());
        let id = ModuleId::of(&bytes);
        let workload = WorkloadId::new(name.unwrap_or(&stem), version.unwrap_or(id.short()));
        Ok(Self { bytes, name: file, workload, read_in })
    }

    fn is_component(&self) -> bool {
        // The "layer" field of the preamble: 0 for core modules, 1 for components (Binary.md).
        self.bytes.get(6..8) == Some(&[1, 0])
    }

    /// What its imports and exports say, and those of components inside it.
    fn wasi(&self) -> Wasi {
        let newer = |name: &str| name.starts_with("wasi:") && name.contains("@0.3.");
        let mut payloads = Parser::new(0).parse_all(&self.bytes).map_while(Result::ok);
        let any = payloads.any(|payload| match payload {
            Payload::ComponentImportSection(imports) => {
                imports.into_iter().flatten().any(|import| newer(import.name.name))
            }
            Payload::ComponentExportSection(exports) => {
                exports.into_iter().flatten().any(|export| newer(export.name.name))
            }
            _ => false,
        });
        if any { Wasi::V3 } else { Wasi::V2 }
    }
}

impl Runner {
    /// An engine that runs everything that the engine's crate supports by default, threads and garbage
    /// collection included.
    ///
    /// # Errors
    /// The engine's, if this machine cannot run it.
    pub fn new(scope: &Sandscope) -> Result<Self, RunError> {
        let mut config = Config::new();
        scope.configure(&mut config);
        Self::with_config(scope, config)
    }

    /// [`Self::new`] with the engine configured by the caller: for benchmarks of bare engines.
    ///
    /// # Errors
    /// The engine's, if this machine cannot run it.
    pub fn with_config(scope: &Sandscope, mut config: Config) -> Result<Self, RunError> {
        config.wasm_threads(true).shared_memory(true).wasm_gc(true).wasm_function_references(true);
        config.wasm_exceptions(true).wasm_tail_call(true);
        config.concurrency_support(false);
        let engine = Engine::new(&config).map_err(RunError::Engine)?;
        Ok(Self { engine, concurrent: OnceLock::new(), config, scope: scope.clone() })
    }

    fn engine(&self, wasi: Wasi) -> Result<&Engine, RunError> {
        match wasi {
            Wasi::V2 => Ok(&self.engine),
            Wasi::V3 => {
                if let Some(engine) = self.concurrent.get() {
                    return Ok(engine);
                }
                let mut config = self.config.clone();
                let engine = Engine::new(config.concurrency_support(true)).map_err(RunError::Engine)?;
                Ok(self.concurrent.get_or_init(|| engine))
            }
        }
    }

    /// Compiles a guest that runs to its end: a WASI command, core module or component.
    ///
    /// # Errors
    /// A file that the engine refuses, or imports that nothing here provides.
    pub fn command(&self, file: &GuestFile) -> Result<Command, RunError> {
        if file.is_component() {
            let wasi = file.wasi();
            let engine = self.engine(wasi)?;
            Command::component(engine, wasi, self.component(engine, file)?, &file.name)
        } else {
            let loaded = self
                .scope
                .load_module(&self.engine, &file.bytes, &file.workload, &file.name)
                .map_err(|source| RunError::invalid(&file.name, &file.bytes, &source))?;
            loaded.workload().was_read_in(file.read_in);
            Command::module(&self.scope, &self.engine, loaded, &file.name)
        }
    }

    /// Compiles a wasi:http component.
    ///
    /// # Errors
    /// A file that the engine refuses or that handles no requests.
    pub fn http(&self, file: &GuestFile) -> Result<HttpGuest, RunError> {
        if !file.is_component() {
            return Err(RunError::NotHttp { name: file.name.clone() });
        }
        let wasi = file.wasi();
        let engine = self.engine(wasi)?;
        HttpGuest::new(engine, wasi, self.component(engine, file)?, &file.name)
    }

    fn component(&self, engine: &Engine, file: &GuestFile) -> Result<Loaded<Component>, RunError> {
        let loaded = self
            .scope
            .load_component(engine, &file.bytes, &file.workload, &file.name)
            .map_err(|source| RunError::invalid(&file.name, &file.bytes, &source))?;
        loaded.workload().was_read_in(file.read_in);
        Ok(loaded)
    }
}

//! The face of the library: one builder, one handle, and what both the handle and the aggregator share.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sandscope_model::WorkloadId;
use sandscope_proto::connect::{ConnectError, Credentials};
use sandscope_proto::otlp::Resource;
use tokio::sync::mpsc;
use wasmtime::{Engine, EngineWeak};

use crate::aggregate::{self, Command, Ended};
use crate::cache::{CacheError, DEFAULT_LIMIT, ModuleCache};
use crate::clock;
use crate::code::CodeRegistry;
use crate::dump::{DumpedMemory, Dumps};
use crate::engine::{self, Doubt, Traits};
use crate::flight::Recordings;
use crate::output::LineQueue;
use crate::pool::Pools;
use crate::redact::Redaction;
use crate::sampler::{self, MAX_HZ, Rate, Unavailable};
use crate::span::{self, SpanRecord};
use crate::spool::SpoolSettings;
#[cfg(unix)]
use crate::stack;
use crate::workload::Figures;

/// Commands that may wait for the aggregator; more are dropped and counted.
const COMMANDS: usize = 1024;

/// Why [`Builder::build`] failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The collector's address is no URL, or what is to be shown there cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The recording could not be created.
    #[error("create the recording {}", path.display())]
    Recording {
        /// As given.
        path: PathBuf,
        /// Why.
        source: sandscope_recording::WriteError,
    },
    /// The aggregator's thread could not be started.
    #[error("start the aggregator's thread")]
    Thread(#[source] std::io::Error),
}

/// Something that a person should know once; guests are not affected by any of it.
#[derive(Debug)]
pub enum Warning {
    /// The collector does not answer. Counters survive until it does.
    Collector {
        /// Its address.
        url: String,
        /// What the transport said.
        reason: String,
    },
    /// What waits for the collector waits in memory.
    Spool {
        /// The directory that was asked for.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// The recording is incomplete from here on.
    Recording {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        reason: String,
    },
    /// No samples are taken.
    Sampler(Unavailable),
    /// Samples in host code have no guest stack.
    HostStacks(Doubt),
    /// Waits, collections and who grows memory are not seen.
    Runtime(Doubt),
    /// Calls of host functions are not counted.
    HostCalls {
        /// How many functions of a linker.
        functions: usize,
        /// Why, of the last of them.
        reason: Doubt,
    },
    /// Another recorder of the `metrics` facade is installed already.
    Facade,
    /// What is not seen of a guest's allocations, and why.
    Allocations(String),
    /// Compiled modules are not cached, or not all of them: each start compiles.
    Cache(CacheError),
    /// The flight recorder could not write a recording, or has nowhere to.
    Recordings {
        /// Where they go.
        directory: PathBuf,
        /// What the file system said.
        reason: String,
    },
    /// Something that would have made a recording made none, because there were enough of its kind or of all.
    RecordingsSuppressed {
        /// What it was.
        trigger: String,
    },
    /// Nobody can ask for a capture.
    Socket {
        /// Where the socket should be.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Collector { url, reason } => {
                write!(f, "no telemetry reaches {url} ({reason}); the guest runs on, retrying")
            }
            Self::Spool { path, reason } => {
                write!(f, "nothing is spooled in {}, but in memory: {reason}", path.display())
            }
            Self::Recording { path, reason } => {
                write!(f, "recording {} stays incomplete: {reason}", path.display())
            }
            Self::Allocations(reason) => f.write_str(reason),
            Self::Cache(reason) => write!(f, "compiled modules are not cached: failed to {reason}"),
            Self::Recordings { directory, reason } => {
                write!(f, "no recording in {}: {reason}", directory.display())
            }
            Self::RecordingsSuppressed { trigger } => {
                write!(
                    f,
                    "no further recording of {trigger}: there is one per reason in 10 minutes, and 20 an hour"
                )
            }
            Self::Socket { path, reason } => {
                write!(f, "nobody can ask for captures at {}: {reason}", path.display())
            }
            Self::Sampler(reason) => write!(f, "no samples: {reason}"),
            Self::HostStacks(reason) => write!(f, "samples in host code have no guest stack: {reason}"),
            Self::Runtime(reason) => write!(f, "locks and garbage collection are not seen: {reason}"),
            Self::HostCalls { functions, reason } => {
                write!(f, "calls of {functions} host functions are not counted: {reason}")
            }
            Self::Facade => {
                f.write_str("metrics of the `metrics` facade do not arrive: another recorder is installed")
            }
        }
    }
}

/// What profiles show besides CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// Waits: those of guests for memory words and the collector, and calls of host functions of a millisecond
    /// or more.
    #[default]
    Cpu,
    /// The time of all calls of host functions, the short ones in proportion to their duration.
    Wall,
}

/// Is given a recording's path and why it was made.
type OnRecording = Box<dyn Fn(&Path, &str) + Send + Sync>;

/// Settings of an instrumented host. Everything has a default.
pub struct Builder {
    pub(crate) resource: Resource,
    pub(crate) hz: f64,
    pub(crate) otlp: Option<String>,
    pub(crate) spool: SpoolSettings,
    pub(crate) credentials: Credentials,
    pub(crate) interval: Duration,
    pub(crate) record: Option<PathBuf>,
    pub(crate) facade: bool,
    pub(crate) alloc: bool,
    pub(crate) clock: Clock,
    pub(crate) cache: Option<PathBuf>,
    pub(crate) cache_limit: u64,
    pub(crate) dumped: DumpedMemory,
    pub(crate) output: bool,
    pub(crate) redaction: Redaction,
    pub(crate) recordings: Option<Recordings>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) upload: bool,
    pub(crate) on_recording: OnRecording,
    pub(crate) on_warning: Box<dyn Fn(&Warning) + Send + Sync>,
}

impl Builder {
    /// `service.name`; default `sandscope`.
    pub fn service(mut self, name: &str) -> Self {
        name.clone_into(&mut self.resource.service);
        self
    }

    /// `cloud.region`; default `local`.
    pub fn region(mut self, region: &str) -> Self {
        region.clone_into(&mut self.resource.region);
        self
    }

    /// `host.name`; default the machine's.
    pub fn host_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.resource.host);
        self
    }

    /// Samples per second of CPU time and thread; 0 takes none. Default 99.
    pub fn hz(mut self, hz: f64) -> Self {
        self.hz = if hz.is_finite() { hz.clamp(0.0, MAX_HZ) } else { 0.0 };
        self
    }

    /// A collector's OTLP/gRPC address, such as `http://127.0.0.1:4317`. Default none.
    pub fn otlp(mut self, url: &str) -> Self {
        self.otlp = Some(url.to_owned());
        self
    }

    /// Where telemetry waits for a collector that does not answer, and how much of it. Default 32 MiB in memory.
    pub fn spool(mut self, settings: SpoolSettings) -> Self {
        self.spool = settings;
        self
    }

    /// What is shown to the collector, and which certificates it may have. Default nothing, and the system's roots for
    /// an `https` address.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Time between exports; default 10 s.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(100));
        self
    }

    /// Writes a recording. An existing file is replaced. Default none.
    pub fn record(mut self, path: impl Into<PathBuf>) -> Self {
        self.record = Some(path.into());
        self
    }

    /// Bridges the `metrics` facade to OpenTelemetry: what the embedder records with `metrics::counter!` and
    /// its like goes to the same collector. One per process. Default off.
    pub fn metrics_facade(mut self, on: bool) -> Self {
        self.facade = on;
        self
    }

    /// What profiles show besides CPU time; default [`Clock::Cpu`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Keeps compiled modules in this directory, so that they are compiled once per engine version and
    /// settings. It is created for this user alone; one that others can write to is not used, with a
    /// [`Warning`]. Any number of processes may share it. Default none.
    pub fn module_cache(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cache = Some(directory.into());
        self
    }

    /// Profiles allocations: guests whose allocators are known by name are changed before they are compiled so
    /// that they report about one allocation in 512 KiB. Default off; without it guests run as shipped.
    pub fn allocations(mut self, on: bool) -> Self {
        self.alloc = on;
        self
    }

    /// Keeps the lines that guests write in recordings too, of writers that are wrapped with [`Workload::output`]; those
    /// of the [`runner`](crate::runner)'s guests are. Lines may hold anything that guests know. Default off.
    ///
    /// [`Workload::output`]: crate::Workload::output
    pub fn guest_output(mut self, on: bool) -> Self {
        self.output = on;
        self
    }

    /// What recordings must not hold of guests' memories and lines: [`crate::Redaction`]. Default nothing.
    pub fn redact(mut self, redaction: Redaction) -> Self {
        self.redaction = redaction;
        self
    }

    /// Bytes that the cache may hold; what was not used for longest goes first. Default 1 GiB.
    pub fn module_cache_limit(mut self, bytes: u64) -> Self {
        self.cache_limit = bytes;
        self
    }

    /// What core dumps of traps may hold of guests' memories in the recording of the run ([`Self::record`]); for those of
    /// the flight recorder see [`Recordings::dumped_memory`]. Default nothing.
    pub fn dumped_memory(mut self, memory: DumpedMemory) -> Self {
        self.dumped = memory;
        self
    }

    /// Keeps the last seconds of every workload in memory and records them when a guest traps or a trigger is met.
    /// Default off.
    pub fn recordings(mut self, recordings: Recordings) -> Self {
        self.recordings = Some(recordings);
        self
    }

    /// Lets this user ask for recordings over a socket at this path: `sandscope capture`, or [`crate::capture`].
    /// Nobody else can write to its directory, which is created if need be. Default none.
    pub fn capture_socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = Some(path.into());
        self
    }

    /// Gives the collector what the flight recorder writes, too: recordings of traps and triggers, with all that
    /// [`Self::recordings`] puts into them. Default off. What somebody asks for through the collector, with `sandscope
    /// capture --connect`, goes there in any case, and holds no memory.
    pub fn upload_recordings(mut self, on: bool) -> Self {
        self.upload = on;
        self
    }

    /// Called, on the aggregator's thread, with each recording that the flight recorder made, and why.
    pub fn on_recording(mut self, made: impl Fn(&Path, &str) + Send + Sync + 'static) -> Self {
        self.on_recording = Box::new(made);
        self
    }

    /// Called, on the aggregator's thread, at most once per kind of warning.
    pub fn on_warning(mut self, warn: impl Fn(&Warning) + Send + Sync + 'static) -> Self {
        self.on_warning = Box::new(warn);
        self
    }

    /// Starts the aggregator.
    ///
    /// # Errors
    /// See [`BuildError`]. A sampler that is unavailable or a collector that does not answer is a
    /// [`Warning`], not an error.
    pub fn build(self) -> Result<Sandscope, BuildError> {
        static NEXT_SCOPE: AtomicU64 = AtomicU64::new(1);
        let sampler = if self.hz > 0.0 { sampler::install() } else { Ok(()) };
        let access = clock::measured_over(engine::access);
        let cache = self.cache.as_deref().map(|directory| ModuleCache::open(directory, self.cache_limit));
        let cache =
            cache.and_then(|cache| cache.map_err(|error| (self.on_warning)(&Warning::Cache(error))).ok());
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (spans, ended) = span::queue();
        let wants_output = self.output
            && (self.record.is_some()
                || self.recordings.is_some()
                || self.socket.is_some()
                || self.otlp.is_some());
        let (output, written) = wants_output.then(LineQueue::new).unzip();
        let shared = Arc::new(Shared {
            scope: NEXT_SCOPE.fetch_add(1, Ordering::Relaxed),
            rate: Rate::new(if sampler.is_ok() { self.hz } else { 0.0 }),
            resource: self.resource.clone(),
            codes: CodeRegistry::default(),
            cache,
            alloc: self.alloc && access.builtins.is_none() && access.exit_frames.is_none(),
            clock: self.clock,
            workloads: Mutex::default(),
            unsampled: AtomicU64::new(0),
            lost_commands: AtomicU64::new(0),
            engines: Mutex::default(),
            closed: AtomicBool::new(false),
            pools: Pools::default(),
            dumps: Dumps::new(
                self.record.is_some().then_some(self.dumped),
                self.recordings.as_ref().map(|recordings| recordings.dumped_memory),
            ),
            output,
            redaction: self.redaction.clone(),
            spans,
            lost_spans: AtomicU64::new(0),
            commands,
        });
        if let Err(reason) = sampler {
            (self.on_warning)(&Warning::Sampler(reason));
        }
        if let Some(reason) = &access.exit_frames {
            (self.on_warning)(&Warning::HostStacks(reason.clone()));
        }
        if let Some(reason) = &access.builtins {
            (self.on_warning)(&Warning::Runtime(reason.clone()));
        }
        let thread =
            aggregate::start(Arc::clone(&shared), inbox, Ended { spans: ended, lines: written }, self)?;
        Ok(Sandscope(Arc::new(Handle { shared, thread: Mutex::new(Some(thread)) })))
    }
}

/// What threads of guests, the embedder and the aggregator share.
pub(crate) struct Shared {
    pub(crate) scope: u64,
    pub(crate) rate: Rate,
    pub(crate) resource: Resource,
    pub(crate) codes: CodeRegistry,
    pub(crate) cache: Option<ModuleCache>,
    /// Whether guests are rewritten to report allocations.
    pub(crate) alloc: bool,
    clock: Clock,
    pub(crate) workloads: Mutex<Vec<Arc<Figures>>>,
    pub(crate) unsampled: AtomicU64,
    pub(crate) lost_commands: AtomicU64,
    /// Engines that guests were loaded for, with what they do to guests.
    engines: Mutex<Vec<(EngineWeak, Traits)>>,
    pub(crate) closed: AtomicBool,
    pub(crate) pools: Pools,
    pub(crate) dumps: Dumps,
    /// Lines that guests wrote; `None` if nobody wants them.
    pub(crate) output: Option<Arc<LineQueue>>,
    /// What recordings must not hold.
    pub(crate) redaction: Redaction,
    /// Calls that ended and are kept as spans.
    pub(crate) spans: SyncSender<SpanRecord>,
    /// Spans that found the queue full.
    pub(crate) lost_spans: AtomicU64,
    commands: mpsc::Sender<Command>,
}

impl Shared {
    /// Hands something to the aggregator without waiting; counts what finds no room.
    pub(crate) fn tell(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            self.lost_commands.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The figures of a workload, made at first sight.
    pub(crate) fn figures(&self, id: &WorkloadId) -> Arc<Figures> {
        let mut workloads = self.workloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = workloads.iter().find(|figures| figures.id() == id) {
            return Arc::clone(known);
        }
        let mut figures = Figures::new(id.clone(), workloads.len() as u32);
        figures.host_calls.all_in_profile = self.clock == Clock::Wall;
        let figures = Arc::new(figures);
        workloads.push(Arc::clone(&figures));
        figures
    }

    /// What an engine does to its guests, as far as it can be told; asked once per engine.
    pub(crate) fn traits(&self, engine: &Engine) -> Traits {
        let mut known = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(engine, _)| engine.upgrade().is_some());
        let same =
            |(other, _): &&(EngineWeak, _)| other.upgrade().is_some_and(|other| Engine::same(&other, engine));
        if let Some((_, traits)) = known.iter().find(same) {
            return *traits;
        }
        let traits = engine::traits(engine).unwrap_or_default();
        known.push((engine.weak(), traits));
        traits
    }

    pub(crate) fn all_figures(&self) -> Vec<Arc<Figures>> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// An instrumented host: makes engines observable, loads guests, and sends what they do. Cheap to clone; the
/// last clone's drop, or [`Sandscope::shutdown`], sends what is left.
#[derive(Clone)]
pub struct Sandscope(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Sandscope {
    /// Default settings.
    pub fn builder() -> Builder {
        Builder {
            resource: Resource {
                service: "sandscope".to_owned(),
                instance: instance_id(),
                host: host_name(),
                arch: architecture().to_owned(),
                region: "local".to_owned(),
                engine: "wasmtime".to_owned(),
                engine_version: ENGINE_VERSION.to_owned(),
            },
            hz: 99.0,
            otlp: None,
            spool: SpoolSettings::default(),
            credentials: Credentials::default(),
            interval: Duration::from_secs(10),
            record: None,
            facade: false,
            alloc: false,
            clock: Clock::Cpu,
            cache: None,
            cache_limit: DEFAULT_LIMIT,
            dumped: DumpedMemory::None,
            output: false,
            redaction: Redaction::default(),
            recordings: None,
            socket: None,
            upload: false,
            on_recording: Box::new(|_, _| ()),
            on_warning: Box::new(|_| ()),
        }
    }

    /// Sets what the probes need on an engine's configuration. None of it changes the speed of guests.
    ///
    /// Debug info is never read by the engine: hostile DWARF can end the process there.
    pub fn configure(&self, config: &mut wasmtime::Config) {
        config
            .generate_address_map(true)
            .coredump_on_trap(self.shared().dumps.wanted())
            .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(sampler::MAX_FRAMES))
            .wasm_backtrace_details(wasmtime::WasmBacktraceDetails::Disable);
        #[cfg(unix)]
        config.with_host_stack(Arc::new(stack::Stacks::default()));
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Sends and writes what is left, within a few seconds, and stops. Calls made later run unobserved.
    pub fn shutdown(&self) {
        self.0.stop();
    }
}

impl Handle {
    fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        self.shared.closed.store(true, Ordering::Release);
        // The aggregator looks at the flag at each drain too, should its inbox be full.
        self.shared.tell(Command::Stop);
        if thread.join().is_err() {
            self.shared.lost_commands.fetch_add(1, Ordering::Relaxed);
        }
        sampler::release(self.shared.scope);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Version of the engine that this crate was built with.
pub const ENGINE_VERSION: &str = "48.0.8";

/// Nanoseconds since 1970.
pub(crate) fn unix_nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// `host.arch` as OpenTelemetry spells it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Unique per boot of a process on a machine: time, process, and a counter for several in one process.
fn instance_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = unix_nanos(SystemTime::now());
    format!("{nanos:016x}-{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    /// The version that telemetry names is the engine's real one.
    #[test]
    fn engine_version_is_the_locked_one() {
        let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
        let entry = lock.split("[[package]]").find(|p| p.contains("name = \"wasmtime\"\n")).unwrap();
        assert!(entry.contains(&format!("version = \"{}\"", super::ENGINE_VERSION)), "{entry}");
    }
}

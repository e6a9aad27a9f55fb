//! The flags, as clap sees them. Nothing here decides anything.

mod capture;
mod collect;
mod query;
mod reach;
mod symbols;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use sandscope_host::Trigger;

use crate::values::{bytes, default_cache, duration, recorder_size, recorder_time, seconds};

pub use capture::{CaptureArgs, CaptureMemory};
pub use collect::{CollectArgs, HistoryAt, LogFull};
pub use query::{Format, QueryArgs};
pub use reach::{HostReach, Reach};
pub use symbols::{AddrStyle, SymbolizeArgs, SymbolsArgs, SymbolsCommand};

/// Observability and debugging for sandboxed (WebAssembly) workloads.
#[derive(Debug, Parser)]
#[command(name = "sandscope", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Print every setting of the command and where it came from, and do nothing else.
    #[arg(long, global = true)]
    pub explain_config: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a WASI command, core module or component, instrumented.
    #[command(after_help = "Example:\n  sandscope run --record run.mcap --dir . -- guest.wasm input.txt")]
    Run(RunArgs),
    /// Serve a wasi:http component, instrumented.
    #[command(after_help = "Example:\n  sandscope serve --addr 127.0.0.1:8080 session.wasm")]
    Serve(ServeArgs),
    /// Have a running host record a workload.
    #[command(after_help = "Example:\n  sandscope capture --workload session --for 10s -o session.mcap")]
    Capture(CaptureArgs),
    /// Start a collector.
    #[command(after_help = "Example:\n  sandscope collect --config collector.toml")]
    Collect(CollectArgs),
    /// Watch a collector in the terminal.
    #[command(after_help = "Example:\n  sandscope top --connect http://127.0.0.1:4320")]
    Top(TopArgs),
    /// Ask a collector's history, in SQL.
    #[command(
        after_help = "Example:\n  sandscope query \"SELECT region, workload, count(*) FROM spans WHERE status = 'error' \
                      AND time > now() - INTERVAL '1 hour' GROUP BY ALL\""
    )]
    Query(QueryArgs),
    /// Open a recording in the terminal.
    #[command(after_help = "Example:\n  sandscope open run.mcap")]
    Open(OpenArgs),
    /// A recording as text for a ticket, or as JSON for a script.
    #[command(after_help = "Example:\n  sandscope report run.mcap --json | jq '.functions[0]'")]
    Report(ReportArgs),
    /// A recording for other tools.
    #[command(
        after_help = "Example:\n  sandscope export run.mcap --to pprof -o run.pb.gz && go tool pprof -top run.pb.gz"
    )]
    Export(ExportArgs),
    /// What became slower, larger or more blocked from one recording to another.
    #[command(after_help = "Example:\n  sandscope diff before.mcap after.mcap --fail-on 'cpu>5%'")]
    Diff(DiffArgs),
    /// Whether a recording is whole, and what can be saved of one that is not.
    #[command(subcommand)]
    Recording(RecordingCommand),
    /// Offsets of a module to functions, files and lines.
    #[command(after_help = "Examples:\n  sandscope symbolize -m guest.wasm 0x1f3a 0x2042\n  \
                            sandscope symbolize -e guest.wasm -f -C -i < addresses")]
    Symbolize(SymbolizeArgs),
    /// Debug info by build id: keep it, list it, get it back.
    #[command(after_help = "Example:\n  sandscope symbols push guest.debug.wasm --to http://127.0.0.1:4321")]
    Symbols(SymbolsArgs),
    /// Regions, hosts, guests, load, a collector and the terminal UI, all on this machine.
    #[command(after_help = "Example:\n  sandscope demo --regions 3")]
    Demo(DemoArgs),
    /// One region's host of the demo.
    #[command(hide = true)]
    DemoHost(DemoHostArgs),
}

/// Who the host is and where its telemetry goes.
#[derive(Debug, Clone, Args)]
pub struct Identity {
    /// Region that the host stands in.
    #[arg(long, env = "SANDSCOPE_REGION", default_value = "local")]
    pub region: String,
    /// Service that the host runs.
    #[arg(long, env = "OTEL_SERVICE_NAME", default_value = "sandscope")]
    pub service: String,
    /// Name of the workload; by default the file's.
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// Version of the workload; by default 12 digits of the module id.
    #[arg(long, value_name = "V")]
    pub workload_version: Option<String>,
    /// A collector's OTLP/gRPC address.
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp: Option<String>,
    #[command(flatten)]
    pub reach: HostReach,
    /// Directory where telemetry waits for a collector that does not answer, also beyond the end of this host; in memory
    /// without one. One host uses it at a time.
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// How much of it waits.
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = bytes)]
    pub spool_size: usize,
    /// Seconds between exports.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub interval: Duration,
    /// Write a recording to this file.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Samples per second of CPU time and thread; 0 takes none.
    #[arg(long, default_value_t = 99.0)]
    pub hz: f64,
    /// What profiles show besides CPU time: waits (cpu), or all time in host functions too (wall).
    #[arg(long, value_enum, default_value_t = Clock::Cpu)]
    pub clock: Clock,
    /// Profile allocations too: the guest is changed before it is compiled, to report about one
    /// allocation in 512 KiB.
    #[arg(long)]
    pub alloc: bool,
}

/// What profiles show besides CPU time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Clock {
    /// Waits for locks and the collector, and calls of host functions of a millisecond or more.
    Cpu,
    /// The same, and shorter calls of host functions in proportion to their duration.
    Wall,
}

/// What of a guest's memory the core dump of a trap may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Memory {
    /// Nothing: variables are not recorded.
    None,
    /// The stack in it and the start of what that points to: 1 MiB at most.
    Stack,
    /// All of it, up to 512 MiB.
    All,
}

impl From<Memory> for sandscope_host::DumpedMemory {
    fn from(memory: Memory) -> Self {
        match memory {
            Memory::None => Self::None,
            Memory::Stack => Self::Stack,
            Memory::All => Self::All,
        }
    }
}

/// What the guest is given.
#[derive(Debug, Clone, Args)]
pub struct Given {
    /// Give the guest a directory, as HOST or HOST::GUEST.
    #[arg(long = "dir", value_name = "HOST[::GUEST]")]
    pub dirs: Vec<String>,
    /// Give the guest an environment variable, as NAME=VALUE, or NAME to pass on the host's.
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Most linear memory of an instance, such as 64MiB.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pub max_memory: Option<usize>,
}

/// Where compiled modules are kept.
#[derive(Debug, Clone, Args)]
pub struct ModuleCache {
    /// Keep compiled modules in this directory, which nobody else may write to; by default
    /// sandscope/modules in XDG_CACHE_HOME or ~/.cache.
    #[arg(long, value_name = "DIR", default_value = default_cache(), hide_default_value = true)]
    pub cache: Option<PathBuf>,
    /// Compile at every start, whatever --cache says.
    #[arg(long)]
    pub no_cache: bool,
}

#[derive(Debug, Subcommand)]
pub enum RecordingCommand {
    /// Say whether a recording is whole: exit code 0 if it is, 1 if something is missing.
    #[command(after_help = "Example:\n  sandscope recording verify run.mcap --json")]
    Verify(VerifyArgs),
    /// Write what is intact in a recording to a new file that is whole.
    #[command(after_help = "Example:\n  sandscope recording recover run.mcap -o recovered.mcap")]
    Recover(RecoverArgs),
}

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The recording.
    pub file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// The recording.
    pub file: PathBuf,
    /// The new file.
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the new file if it exists.
    #[arg(long)]
    pub overwrite: bool,
}

/// What the host records by itself, and for whom.
#[derive(Debug, Clone, Args)]
pub struct Flight {
    /// When a guest traps, write a recording of the seconds before it to this directory, which nobody else may
    /// write to.
    #[arg(long, value_name = "DIR")]
    pub recordings: Option<PathBuf>,
    /// How much of the past such a recording holds, such as 30s or 2m.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = recorder_time)]
    pub recorder_window: Duration,
    /// Memory of this process for the past of all guests, such as 64MiB.
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = recorder_size)]
    pub recorder_size: usize,
    /// Most bytes of recordings in the directory, such as 512MiB; repeats go first.
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = bytes)]
    pub recordings_limit: usize,
    /// Write one for this reason too: call>2s, call>p99*5, memory>90%, gc>100ms, lock>100ms, or a metric by its name
    /// as in wasm.memory.size>100MiB. May be given several times.
    #[arg(long = "trigger", value_name = "CONDITION")]
    pub triggers: Vec<Trigger>,
    /// Keep the lines that guests write to standard output and error in recordings too, whatever they hold: the first
    /// 4 KiB of each.
    #[arg(long)]
    pub record_output: bool,
    /// Overwrite what matches in recordings, in lines and in core dumps' memory, with asterisks; a regular expression
    /// over bytes, as often as needed.
    #[arg(long = "redact", value_name = "REGEX")]
    pub redact: Vec<String>,
    /// Give the collector (--otlp) the recordings that go to --recordings, too, with all that is in them.
    #[arg(long, requires = "otlp")]
    pub upload_recordings: bool,
    /// Let this user ask for recordings over a socket at this path; see sandscope capture.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub identity: Identity,
    #[command(flatten)]
    pub flight: Flight,
    #[command(flatten)]
    pub cache: ModuleCache,
    #[command(flatten)]
    pub given: Given,
    /// What of the guest's memory a recording may hold when it traps; by default stack with --record, and none in
    /// --recordings.
    #[arg(long, value_enum)]
    pub memory: Option<Memory>,
    /// Call this exported function, with numbers as arguments, instead of running the command.
    #[arg(long, value_name = "FUNCTION")]
    pub invoke: Option<String>,
    /// The guest and its arguments.
    #[arg(trailing_var_arg = true, required = true, value_names = ["MODULE", "ARGS"], num_args = 1..)]
    pub guest: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    pub identity: Identity,
    #[command(flatten)]
    pub flight: Flight,
    /// Write no recordings. Without --recordings they go to sandscope/recordings in XDG_STATE_HOME or
    /// ~/.local/state.
    #[arg(long, conflicts_with_all = ["recordings", "triggers"])]
    pub no_recordings: bool,
    #[command(flatten)]
    pub cache: ModuleCache,
    #[command(flatten)]
    pub given: Given,
    /// What of the guest's memory a recording may hold when it traps.
    #[arg(long, value_enum, default_value_t = Memory::None)]
    pub memory: Memory,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub addr: SocketAddr,
    /// Requests that an instance handles, one after another; 1 is an instance per request.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub reuse: u32,
    /// Requests that guests work on at once. As many more wait; the rest is answered with 503.
    #[arg(long, value_name = "N", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_concurrent: u32,
    /// Longest time of a guest for one request, such as 500ms or 2m; 0 is no limit.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub request_timeout: Duration,
    /// Largest body of a request, such as 64MiB.
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = bytes)]
    pub max_body: usize,
    /// The guest.
    pub component: PathBuf,
}

#[derive(Debug, Args)]
pub struct TopArgs {
    /// The collector's query address.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4320")]
    pub connect: String,
    #[command(flatten)]
    pub reach: Reach,
}

#[derive(Debug, Args)]
pub struct OpenArgs {
    /// A recording, or a core dump of the wasmtime command.
    pub file: PathBuf,
    /// The module that a core dump is of, where it is not beside the dump or in the current directory.
    #[arg(long, value_name = "FILE")]
    pub module: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A recording, or a core dump of the wasmtime command.
    pub file: PathBuf,
    /// The module that a core dump is of, where it is not beside the dump or in the current directory.
    #[arg(long, value_name = "FILE")]
    pub module: Option<PathBuf>,
    /// JSON for scripts instead of text.
    #[arg(long)]
    pub json: bool,
    /// Functions to list.
    #[arg(long, default_value_t = 20)]
    pub top: usize,
    /// Show lines of the guest's source from this directory: of the file there whose path ends like the recorded one.
    #[arg(long, value_name = "DIR")]
    pub source: Option<PathBuf>,
}

/// Without -f, -C, -i, -a, -p and -s: everything that is known, inlined calls and where each name comes from
/// included. With any of them: what addr2line prints for them.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// A recording, or a core dump of the wasmtime command.
    pub file: PathBuf,
    /// The module that a core dump is of, where it is not beside the dump or in the current directory.
    #[arg(long, value_name = "FILE")]
    pub module: Option<PathBuf>,
    /// The format.
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub to: ExportFormat,
    /// The file to write; - is standard output.
    #[arg(short, long, value_name = "OUT")]
    pub out: PathBuf,
    /// Which samples, for formats that hold one kind.
    #[arg(long, value_enum, default_value_t = ExportKind::Cpu)]
    pub kind: ExportKind,
    /// Which core dump, counted from 1, of a recording with several.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nth: usize,
}

/// A format of other tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// Gzipped profile.proto, for `go tool pprof` and everything that reads it: all kinds of samples.
    Pprof,
    /// A line per stack, for flame graph tools: one kind of samples.
    Folded,
    /// Gzipped JSON for <https://profiler.firefox.com>: all kinds of samples over time.
    Firefox,
    /// A trace for <https://ui.perfetto.dev>: spans and metrics over time.
    Perfetto,
    /// OTLP as JSON lines: metrics, spans, logs and profiles.
    Otlp,
    /// A core dump in the format of the WebAssembly tool conventions, with the locals that can be derived.
    Coredump,
}

/// What was sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportKind {
    /// CPU time, in samples.
    Cpu,
    /// Waits and calls of host functions, in nanoseconds.
    Wall,
    /// Allocations, in bytes.
    Alloc,
}

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The recording to compare with.
    pub baseline: PathBuf,
    /// The recording that may differ.
    pub candidate: PathBuf,
    /// Compare only this workload.
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Exit with 1 if something grew significantly by more, such as cpu>5%. May be given several times; what:
    /// cpu, wall, alloc, call, phase, lock, gc, host_call, memory.
    #[arg(long, value_name = "LIMIT")]
    pub fail_on: Vec<crate::diff::Limit>,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Regions, each a host process of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub regions: u16,
    /// No terminal UI: print at the end what it would show.
    #[arg(long)]
    pub headless: bool,
    /// End after this time, such as 30s or 2m; headless runs end after 30s by default.
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// JSON for scripts instead of text; headless only.
    #[arg(long, requires = "headless")]
    pub json: bool,
    /// Folder with the guests' .wasm files; by default the one that this binary was built beside.
    #[arg(long, value_name = "DIR")]
    pub guests: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DemoHostArgs {
    #[arg(long)]
    pub region: String,
    #[arg(long)]
    pub otlp: String,
    #[arg(long)]
    pub guests: PathBuf,
    /// Varies the load between regions.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

/// The user's cache directory (XDG Base Directory Specification), with a folder of ours. `None` without a
/// home, or with one that has no name in Unicode.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    /// Everything after the module is the guest's, flags included.
    #[test]
    fn guest_arguments_are_not_ours() {
        let cli = Cli::parse_from(["sandscope", "run", "--hz", "199", "--", "a.wasm", "--record", "x"]);
        let Command::Run(run) = cli.command else { panic!("run") };
        assert_eq!(
            (run.guest, run.identity.record),
            (vec!["a.wasm".into(), "--record".into(), "x".into()], None)
        );
        let cli = Cli::parse_from(["sandscope", "run", "a.wasm", "--hz", "1"]);
        let Command::Run(run) = cli.command else { panic!("run") };
        assert_eq!((run.guest.len(), run.identity.hz), (3, 99.0));
    }
}

//! The document that `report --json` prints. Its fields are a promise to scripts: seconds, bytes, shares
//! 0..1, `null` for what is unknown, an empty array where nothing was recorded. Fields may be added.

use std::fmt::Write as _;

use sandscope_model::text::visible;
use serde::Serialize;

/// All of it.
#[derive(Debug, Serialize)]
pub struct Document {
    pub recording: RecordingInfo,
    pub host: Host,
    pub modules: Vec<Module>,
    pub samples: Samples,
    /// Kind of the samples that `functions` are of.
    pub functions_kind: Option<&'static str>,
    pub functions: Vec<Function>,
    pub memory: Vec<Memory>,
    pub stack: Vec<Stack>,
    pub allocations: Vec<Allocation>,
    pub locks: Vec<Lock>,
    pub gc: Vec<Gc>,
    pub host_calls: Vec<HostCall>,
    pub blocked: Vec<Blocked>,
    pub cold_starts: Vec<ColdStart>,
    pub traps: Vec<Trap>,
    /// Sentences on what limits the answers: debug info that is missing or unfit.
    pub notes: Vec<String>,
}

/// The file.
#[derive(Debug, Serialize)]
pub struct RecordingInfo {
    pub complete: bool,
    pub duration_s: Option<f64>,
    pub format_version: u32,
    /// One sentence on what is missing.
    pub missing: Option<String>,
    /// Why there is a recording: `run`, `capture`, `trap: unreachable`.
    pub trigger: Option<String>,
    /// What a trigger was about; `null` if there was none.
    pub cause: Option<Cause>,
    /// Seconds since 1970.
    pub started_s: Option<f64>,
}

/// What made a host record.
#[derive(Debug, Serialize)]
pub struct Cause {
    pub workload: String,
    pub version: Option<String>,
    /// Seconds since 1970.
    pub time_s: Option<f64>,
    /// Triggers since the recording before that made none.
    pub suppressed: u64,
}

/// Where it was made.
#[derive(Debug, Serialize)]
pub struct Host {
    pub service: Option<String>,
    pub region: Option<String>,
    pub arch: Option<String>,
    /// Name and version.
    pub engine: Option<String>,
    pub host: Option<String>,
}

/// A module that ran.
#[derive(Debug, Serialize)]
pub struct Module {
    pub id: String,
    /// File or component name.
    pub name: String,
    /// Version of the workload.
    pub version: Option<String>,
    pub workload: String,
    /// Whether the recording has its debug info.
    pub debug_info: bool,
}

/// Samples by kind; `null` for a kind that was not recorded.
#[derive(Debug, Default, Serialize)]
pub struct Samples {
    pub cpu: Option<Counts>,
    pub wall: Option<Counts>,
    pub alloc: Option<Counts>,
}

/// Samples of one kind.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    pub count: u64,
    /// Samples that the host could not keep, and those that a damaged file lost.
    pub dropped: u64,
    pub hz: Option<f64>,
}

/// A function, by name, file and module. Inlined functions count as functions of their own.
#[derive(Debug, Serialize)]
pub struct Function {
    pub name: String,
    pub file: Option<String>,
    /// The line with the most samples.
    pub line: Option<u32>,
    /// Id of the module; `null` for host code.
    pub module: Option<String>,
    /// Share of all samples that ended in it.
    #[serde(rename = "self")]
    pub own: f64,
    /// Share of all samples that it is in.
    pub total: f64,
    pub self_samples: u64,
    pub total_samples: u64,
}

/// Linear memory of a workload: all of it together, then one entry for each memory whose place is known.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// Id of the module; `null` if the workload has several.
    pub module: Option<String>,
    /// Index of the memory among those that its instance defines; `null` where all memories of the workload
    /// are counted together.
    pub index: Option<u32>,
    /// Which instance of a store it belongs to, in the order in which they first grew one; `null` like `index`.
    pub instance: Option<u32>,
    /// Bytes at the end, of live instances.
    pub size: Option<u64>,
    /// Most bytes at any of the times of measurement.
    pub peak: Option<u64>,
    /// Most bytes of one instance that were seen in physical memory.
    pub resident: Option<u64>,
    pub limit: Option<u64>,
    pub grows: Option<u64>,
    pub refused: Option<u64>,
    pub workload: String,
}

/// Native stack of a workload's guests.
#[derive(Debug, Serialize)]
pub struct Stack {
    /// Id of the module; `null` if the workload has several.
    pub module: Option<String>,
    /// Most bytes in use at any time that was seen.
    pub used_max: Option<u64>,
    /// Bytes that a guest may use.
    pub limit: Option<u64>,
    /// Most bytes of the stack that the guest itself keeps in its memory.
    pub shadow_max: Option<u64>,
    /// Bytes of that stack.
    pub shadow_limit: Option<u64>,
    /// Calls that were seen with more than 80 % of either stack in use; calls that shared a store count once
    /// where it is the store that is measured.
    pub deep: u64,
    /// `exact`, or `sampled`: a lower bound.
    pub accuracy: Option<String>,
    pub workload: String,
}

/// A word of shared memory that guests waited for.
#[derive(Debug, Serialize)]
pub struct Lock {
    /// What the guest calls it, as `NAME`, or `NAME+0x8` inside of something larger; `null` where only its address is
    /// known.
    pub name: Option<String>,
    /// In the guest's memory.
    pub address: u64,
    /// Waits that blocked.
    pub contentions: f64,
    pub wait_s: f64,
    pub max_wait_s: f64,
    /// Where the longest wait was: `function (file:line)`, innermost first.
    pub stack: Vec<String>,
    /// The call that ended it.
    pub notified_by: Vec<String>,
    /// Waits that ended by their own time limit.
    pub timed_out: f64,
    pub workload: String,
}

/// A host function that guests called.
#[derive(Debug, Serialize)]
pub struct HostCall {
    /// Module and name of the import.
    pub name: String,
    /// Calls; `null` where they are only sampled: of components.
    pub count: Option<u64>,
    /// Calls that failed; `null` where they are only sampled.
    pub errors: Option<u64>,
    /// Time in it, waiting included; of functions that take microseconds an estimate from a part of the calls.
    /// Where `count` is `null`: CPU time, estimated from samples.
    pub time_s: f64,
    pub samples: u64,
    pub workload: String,
}

/// A call of a host function that had not returned when the recording ended.
#[derive(Debug, Serialize)]
pub struct Blocked {
    pub name: String,
    /// Seconds that it had been running.
    pub since_s: f64,
    /// Where the guest called it: `function (file:line)`, innermost first.
    pub stack: Vec<String>,
    pub workload: String,
}

/// A workload's garbage collector.
#[derive(Debug, Serialize)]
pub struct Gc {
    pub collector: String,
    pub collections: u64,
    /// Seconds that guests stalled in all, collections included.
    pub pause_s: f64,
    pub max_pause_s: Option<f64>,
    /// Bytes that survived the last collection.
    pub live: Option<u64>,
    /// Bytes allocated up to the last stall.
    pub allocated: Option<u64>,
    /// Bytes of the heap that stalled last.
    pub capacity: Option<u64>,
    /// Whether `collections` is a count; otherwise an estimate.
    pub exact: bool,
    pub workload: String,
}

/// A stack that allocated.
#[derive(Debug, Serialize)]
pub struct Allocation {
    /// `function (file:line)`, innermost first.
    pub stack: Vec<String>,
    /// Bytes not freed; `null` where frees cannot be seen.
    pub live: Option<u64>,
    /// Bytes not freed at the time when the workload held most; `null` where frees cannot be seen.
    pub peak: Option<u64>,
    /// Bytes since the start.
    pub allocated: u64,
    /// Allocations since the start.
    pub count: u64,
    pub workload: String,
}

/// How a workload came up.
#[derive(Debug, Serialize)]
pub struct ColdStart {
    pub workload: String,
    /// Of compiled modules: `hit`, `miss`, or `none` if it was not asked.
    pub cache: &'static str,
    pub phases: Phases,
    /// Instantiations that the phases are means over: 1 for a single start.
    pub count: Option<u64>,
    pub version: Option<String>,
    /// Id of the module.
    pub module: Option<String>,
    /// Seconds from the start of the recording to the start of loading.
    pub at_s: Option<f64>,
}

/// Seconds of each phase.
#[derive(Debug, Default, Serialize)]
pub struct Phases {
    pub read_s: Option<f64>,
    pub compile_s: Option<f64>,
    pub deserialize_s: Option<f64>,
    pub link_s: Option<f64>,
    pub instantiate_s: Option<f64>,
    pub first_call_s: Option<f64>,
}

/// A call that trapped.
#[derive(Debug, Serialize)]
pub struct Trap {
    pub code: String,
    pub message: String,
    pub workload: String,
    pub frames: Vec<TrapFrame>,
    pub version: Option<String>,
    /// Seconds after the start of the recording.
    pub at_s: Option<f64>,
    /// Traps with this code at this place.
    pub count: u64,
    /// The last events before it that were recorded, oldest first.
    pub events: Vec<Event>,
}

/// Something that happened before a trap.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Seconds after the start of the recording: when it ended, or was counted.
    pub at_s: f64,
    /// `start`, `call`, `growth`, `gc`, `trap`, or for a line that a guest wrote `stdout` or `stderr`.
    pub kind: &'static str,
    pub workload: String,
    /// The call's name, the trap's code, how many growths or collections, how a start found its code, the line.
    pub what: String,
    pub duration_s: Option<f64>,
}

/// A frame of a trap, innermost first; inlined ones are frames of their own.
#[derive(Debug, Serialize)]
pub struct TrapFrame {
    pub function: String,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub column: Option<u32>,
    pub inlined: bool,
    pub module: Option<String>,
    /// Whole-file byte offset.
    pub offset: u64,
    pub variables: Vec<Variable>,
}

/// A variable of a frame, parameters first.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Variable {
    pub name: String,
    #[serde(rename = "type")]
    pub ty: String,
    /// As its language writes it; `null` if it is not known.
    pub value: Option<String>,
    /// `ok`, `optimized-out`, or `not-recorded`.
    pub status: &'static str,
}

/// A document as JSON. Names of guests may hold characters that terminals obey (C1 controls) or that
/// reorder text; JSON allows them raw, so they are escaped here.
pub fn encode(document: &impl Serialize) -> Result<String, serde_json::Error> {
    let raw = serde_json::to_string(document)?;
    let mut out = String::with_capacity(raw.len());
    let mut units = [0; 2];
    for c in raw.chars() {
        let mut bytes = [0; 4];
        let text: &str = c.encode_utf8(&mut bytes);
        if c.is_ascii() && c != '\u{7f}' || visible(text) == text {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    Ok(out)
}

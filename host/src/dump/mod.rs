//! Core dumps of guests that trapped: raw state in the format of the tool conventions, and what that has no place for
//! in a section of ours. What the bytes mean to a guest's source is for readers: nothing here knows debug info.
//!
//! ```text
//! call fails --error with the engine's lists--> take --state--> build: sections --bytes--> aggregator: zstd, recording
//!                                                 \--memory: what of it is kept
//! ```
//! # Accuracy
//! One dump for each signature of traps (workload, code, innermost frame), [`MAX_DUMPS`] in all, and another where the
//! flight recorder asks again; frames as many as the engine keeps. wasm locals are not known. Of a module with several instances nobody knows which a frame is of.
//! Memory that is shared is copied while other threads run, so it may never have been like that at one time.
//!
//! # Cost
//! Nothing before a trap. Then the engine walks the stack twice, and what is kept of memory is copied.
//!
//! # Security
//! [`DumpedMemory`] decides what of a guest's memory leaves it; without any, neither do globals but stack pointers.

mod build;
mod memory;
mod state;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sandscope_frames::FrameTable;
use sandscope_proto::recording::{self as wire, CoreThread};
use wasmtime::{AsContextMut, WasmCoreDump};
use wasmtime_wasi::I32Exit;

use crate::aggregate::Command;
use crate::load::Workload;
use crate::scope::{ENGINE_VERSION, unix_nanos};
use crate::span::CallContext;

/// Dumps that a scope takes.
const MAX_DUMPS: usize = 32;

/// What a core dump may hold of a guest's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DumpedMemory {
    /// Nothing.
    #[default]
    None,
    /// The stack that compilers keep in it, and the first bytes of what that points to: 1 MiB at most.
    Stack,
    /// All of it, up to 512 MiB.
    All,
}

impl DumpedMemory {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Stack => "stack",
            Self::All => "all",
        }
    }
}

/// Which dumps are taken, and which were.
pub(crate) struct Dumps {
    /// For the recording of the run, if there is one.
    record: Option<DumpedMemory>,
    /// For recordings of the flight recorder, if it makes any.
    flight: Option<DumpedMemory>,
    /// Workload, code, and offset of the innermost frame.
    taken: Mutex<HashSet<(u32, String, u64)>>,
    under_way: AtomicUsize,
}

/// A dump on its way to the aggregator.
pub(crate) struct Dumped {
    /// Ordinal of the workload.
    pub owner: u32,
    /// Of the trap.
    pub code: String,
    /// Of its innermost frame.
    pub offset: u64,
    /// For the recording of the run.
    pub record: Option<Arc<[u8]>>,
    /// For the flight recorder.
    pub flight: Option<Arc<[u8]>>,
}

impl Dumps {
    pub(crate) fn new(record: Option<DumpedMemory>, flight: Option<DumpedMemory>) -> Self {
        Self { record, flight, taken: Mutex::default(), under_way: AtomicUsize::new(0) }
    }

    /// Whether there is a recording for them.
    pub(crate) fn wanted(&self) -> bool {
        self.record.is_some() || self.flight.is_some()
    }

    /// Whether one is being taken: large memories take longer than a recording waits for the end of a call.
    pub(crate) fn under_way(&self) -> bool {
        self.under_way.load(Ordering::Acquire) > 0
    }

    /// Whether a dump of this trap should be taken; true once.
    fn is_first(&self, workload: u32, code: &str, offset: u64) -> bool {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.len() < MAX_DUMPS && taken.insert((workload, code.to_owned(), offset))
    }

    /// Has the next trap at a place dumped again.
    pub(crate) fn forget(&self, workload: u32, code: &str, offset: u64) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.remove(&(workload, code.to_owned(), offset));
    }
}

/// Counts a dump that is being taken.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn start(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Frame sizes of a module, read from its file by whoever needs them first.
#[derive(Default)]
pub(crate) struct FrameSizes {
    bytes: Mutex<Option<Arc<[u8]>>>,
    table: OnceLock<FrameTable>,
}

impl FrameSizes {
    /// Of a file; without one nothing is known.
    pub(crate) fn of(bytes: Option<Arc<[u8]>>) -> Self {
        Self { bytes: Mutex::new(bytes), table: OnceLock::new() }
    }

    pub(crate) fn get(&self) -> &FrameTable {
        self.table.get_or_init(|| {
            let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner).take();
            bytes.map_or_else(FrameTable::default, |bytes| FrameTable::read(&bytes))
        })
    }
}

/// Takes the core dump of a call that failed with `error`, if one is wanted and it is the first of its kind. `thread`
/// names the thread that trapped; `running` those that go on.
pub(crate) fn take<T: 'static>(
    workload: &Workload,
    context: Option<&CallContext>,
    mut store: impl AsContextMut<Data = T>,
    error: &wasmtime::Error,
    thread: &str,
    running: &[String],
) {
    let shared = &workload.shared;
    if !shared.dumps.wanted() || error.is::<I32Exit>() {
        return;
    }
    let Some(dump) = error.downcast_ref::<WasmCoreDump>() else { return };
    let trap = workload.report(error);
    let (owner, offset) = (workload.figures.ordinal, trap.frames.first().map_or(0, |frame| frame.offset));
    if !shared.dumps.is_first(owner, &trap.code, offset) {
        return;
    }
    let _under_way = UnderWay::start(&shared.dumps.under_way);
    let table = workload.frame_sizes.get();
    let exclusive = state::Exclusive::of(&mut store, dump);
    let state = state::State::of(&store, dump, exclusive, table, workload.rewritten.as_deref());
    let offset_of = |frame: &state::Frame| frame.offset;
    let trapped = CoreThread {
        name: thread.to_owned(),
        state: "trapped".to_owned(),
        offsets: state.frames.iter().map(offset_of).collect(),
    };
    let others = running.iter().map(|name| CoreThread {
        name: name.clone(),
        state: "running".to_owned(),
        offsets: Vec::new(),
    });
    let mut info = wire::CoreDump {
        version: sandscope_proto::stacks::VERSION,
        time_unix_nano: unix_nanos(trap.time),
        workload: trap.workload.name.to_string(),
        workload_version: trap.workload.version.to_string(),
        code: trap.code.clone(),
        message: trap.message.clone(),
        trace_id: context.map_or_else(Vec::new, |context| context.trace_id.to_be_bytes().to_vec()),
        span_id: context.map_or_else(Vec::new, |context| context.span_id.to_be_bytes().to_vec()),
        engine: format!("wasmtime {ENGINE_VERSION}"),
        module_id: workload.module().as_str().to_owned(),
        memory: String::new(),
        left_out_bytes: 0,
        frames_cut: state.frames.len() >= crate::sampler::MAX_FRAMES,
        threads: std::iter::once(trapped).chain(others).collect(),
        frame_sizes: table.to_bytes(),
    };
    let mut dump = |policy: DumpedMemory| -> Arc<[u8]> {
        let mut kept = memory::keep(policy, &state);
        memory::mask(&mut kept, &state, &shared.redaction);
        policy.name().clone_into(&mut info.memory);
        info.left_out_bytes = kept.left_out;
        build::dump(&trap.workload.name, thread, &state, &kept, &info).into()
    };
    let Dumps { record, flight, .. } = shared.dumps;
    let recorded = record.map(&mut dump);
    let flown = if flight == record { recorded.clone() } else { flight.map(&mut dump) };
    let code = trap.code.clone();
    shared.tell(Command::Dumped(Dumped { owner, code, offset, record: recorded, flight: flown }));
}

//! The variables of a recording's traps, from the core dumps and the debug info in it.

use std::collections::{BTreeSet, HashMap};

use sandscope_proto::recording as wire;
use sandscope_recording::Recording;
use sandscope_symbols::{FrameVariables, SymbolFile, Value};

use crate::stopped::Stopped;

/// The frames of traps with their variables.
#[derive(Default)]
pub(super) struct Variables {
    /// By the trap's place in the recording: for each wasm frame, its source frames, innermost first.
    of: HashMap<usize, Vec<Vec<FrameVariables>>>,
    /// Sentences on what is missing.
    pub notes: BTreeSet<String>,
}

impl Variables {
    /// Reads all core dumps, one at a time.
    pub fn of(recording: &Recording) -> Self {
        let mut out = Self::default();
        for number in recording.core_dumps() {
            if let Err(why) = out.read(recording, number) {
                out.notes.insert(format!("core dump {number}: {why}"));
            }
        }
        out
    }

    /// The source frames of a trap's wasm frame.
    pub fn at(&self, trap: usize, frame: usize) -> &[FrameVariables] {
        self.of.get(&trap).and_then(|frames| frames.get(frame)).map_or(&[], |frames| frames)
    }

    /// Adds one dump, or says why not.
    fn read(&mut self, recording: &Recording, number: u32) -> Result<(), String> {
        let failed = |error: &dyn std::error::Error| format!("failed to {error}");
        let bytes = recording.core_dump(number).map_err(|error| failed(&error))?.unwrap_or_default();
        let Stopped { dump, info, frames, table, module } = Stopped::of(&bytes)?;
        let thread = info.threads.first().ok_or("it has no thread")?;
        let trap = recording.traps().iter().position(|trap| is_of(&info, thread, trap));
        let trap = trap.ok_or("its trap is not in the recording")?;
        // That there is none is said for the stack already.
        let Some(id) = module else { return Ok(()) };
        let debug = recording.debug_info(&id).map_err(|error| failed(&error))?;
        let Some(debug) = debug else { return Ok(()) };
        let file = SymbolFile::parse(&debug).map_err(|error| failed(&error))?;
        let found = file.variables(&table, &dump, &frames);
        self.note(&info, &found);
        self.of.insert(trap, found);
        Ok(())
    }

    /// Says why values are missing, and which flag keeps them.
    fn note(&mut self, info: &wire::CoreDump, found: &[Vec<FrameVariables>]) {
        let frames = || found.iter().flatten();
        let is_missing =
            frames().flat_map(|frame| &frame.variables).any(|variable| variable.value == Value::NotRecorded);
        if !is_missing {
            return;
        }
        let workload = &info.workload;
        self.notes.insert(match info.memory.as_str() {
            "none" => format!(
                "variables of {workload} are not recorded: its memory was left out with --memory none; run it with \
                 --memory stack or --memory all to keep them"
            ),
            "stack" => format!(
                "some variables of {workload} are not recorded: they were in wasm locals, which engines do not keep, \
                 or in memory beyond what --memory stack keeps; --memory all keeps the rest of it"
            ),
            _ => format!(
                "some variables of {workload} are not recorded: they were in wasm locals, which engines do not keep"
            ),
        });
        let gaps = frames().filter(|frame| !frame.variables.is_empty()).filter_map(|frame| frame.gap);
        self.notes.extend(gaps.map(|gap| format!("variables of {workload}: {gap}")));
        if info.frames_cut {
            self.notes.insert(format!("the stack of {workload} is deeper than the frames that are recorded"));
        }
    }
}

/// Whether a dump is of a trap: of the same workload, code and innermost place.
fn is_of(info: &wire::CoreDump, thread: &wire::CoreThread, trap: &wire::Trap) -> bool {
    let innermost = trap.frames.first().map(|frame| frame.offset);
    (&info.workload, &info.workload_version, &info.code)
        == (&trap.workload, &trap.workload_version, &trap.code)
        && innermost == thread.offsets.first().copied()
}

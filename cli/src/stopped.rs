//! A recorded core dump with what its writer added to it: a stopped guest that variables and locals can be read from.

use prost::Message as _;
use sandscope_model::ModuleId;
use sandscope_proto::recording as wire;
use sandscope_proto::stacks::VERSION;
use sandscope_recording::Recording;
use sandscope_symbols::{CoreDump, FrameTable, StoppedFrame, SymbolFile};

/// The guest, borrowing its dump.
pub struct Stopped<'a> {
    pub dump: CoreDump<'a>,
    pub info: wire::CoreDump,
    /// Of the thread that trapped, innermost first.
    pub frames: Vec<StoppedFrame>,
    pub table: FrameTable,
    /// `None` if it is not known which module trapped.
    pub module: Option<ModuleId>,
}

impl<'a> Stopped<'a> {
    /// Reads a dump, or says what it lacks.
    pub fn of(bytes: &'a [u8]) -> Result<Self, String> {
        let mut dump = CoreDump::parse(bytes).map_err(|error| format!("failed to {error}"))?;
        let info = dump.added.and_then(|added| wire::CoreDump::decode(added).ok());
        let info = info.filter(|info| info.version <= VERSION).ok_or("it does not say what trapped")?;
        dump.is_partial = info.memory != "all" || info.left_out_bytes > 0;
        let thread = info.threads.first().ok_or("it has no thread")?;
        let stack = dump.stacks.first().ok_or("it has no stack")?;
        let frames = stack.frames.iter().zip(&thread.offsets).map(|(frame, offset)| StoppedFrame {
            instance: frame.instance,
            offset: *offset,
            locals: frame.locals.clone(),
        });
        let frames = frames.collect();
        let table = FrameTable::from_bytes(&info.frame_sizes).unwrap_or_default();
        let module = ModuleId::parse(&info.module_id);
        Ok(Self { dump, info, frames, table, module })
    }

    /// The debug info of its module, or why there is none.
    pub fn symbols(&self, recording: &Recording) -> Result<SymbolFile, String> {
        let id = self.module.as_ref().ok_or("its module is unknown")?;
        let debug = recording.debug_info(id).map_err(|error| format!("failed to {error}"))?;
        let debug = debug.ok_or_else(|| format!("there is no debug info of module {}", id.short()))?;
        SymbolFile::parse(&debug).map_err(|error| format!("failed to {error}"))
    }
}

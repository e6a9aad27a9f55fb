//! Opening a file that commands read: a recording, or a core dump that another program wrote, such as `wasmtime run -D
//! coredump=FILE`. Of the latter the module is looked for, and what it says is put where recordings have it.
//!
//! # Security
//! A dump names its module; only the last part of that name is used, in the directory of the dump and the current one.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use prost::Message as _;
use sandscope_model::{ModuleId, WorkloadId};
use sandscope_proto::MAX_DEBUG_INFO;
use sandscope_proto::recording::{self as wire, CoreThread, Trap, TrapFrame};
use sandscope_proto::stacks::VERSION;
use sandscope_recording::{ForeignDump, MAX_CORE_DUMP, ModuleInfo, Recording};
use sandscope_symbols::{CoreDump, DumpStack, FrameTable, StoppedFrame, SymbolFile};

use crate::problem::{Problem, chain};

/// Frames that engines keep unless they are told otherwise.
const USUAL_FRAMES: usize = 20;

/// The module of a dump.
struct Found {
    bytes: Vec<u8>,
    file: SymbolFile,
    name: String,
    /// Of the first stack; those that fit nowhere are `None`.
    frames: Vec<Option<StoppedFrame>>,
}

/// Opens a recording or a core dump. `module` is the file that a dump is of, where it cannot be found.
pub fn open(path: &Path, module: Option<&Path>) -> Result<Recording, Problem> {
    match dump(path).map_err(|error| Problem::usage(format!("read {}: {error}", path.display())))? {
        Some(bytes) => read(path, &bytes, module),
        None => Recording::open(path).map_err(|error| Problem::usage(chain(&error))),
    }
}

/// The bytes of a file that begins as a core dump may; `None` for others.
fn dump(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let Ok(mut file) = File::open(path) else { return Ok(None) };
    let mut bytes = Vec::new();
    file.by_ref().take(4).read_to_end(&mut bytes)?;
    if bytes != *b"\0asm" {
        return Ok(None);
    }
    file.take(MAX_CORE_DUMP).read_to_end(&mut bytes)?;
    // Other modules are no recordings either, and that is said where recordings are read.
    let is_dump = CoreDump::parse(&bytes).is_ok();
    Ok(is_dump.then_some(bytes))
}

fn read(path: &Path, bytes: &[u8], module: Option<&Path>) -> Result<Recording, Problem> {
    let unreadable = |why: String| Problem::usage(format!("read {}: {why}", path.display()));
    let dump = CoreDump::parse(bytes).map_err(|error| unreadable(error.to_string()))?;
    let nothing = DumpStack::default();
    let stack = dump.stacks.first().unwrap_or(&nothing);
    let found = match module {
        Some(module) => {
            let failed = |error: io::Error| {
                Problem::usage(format!("read {}: {error}", module.display()))
                    .next("Name the .wasm file that ran with --module.")
            };
            let bytes = limited(module).map_err(failed)?;
            let found = Found::of(bytes, module, &dump, stack);
            Some(found.ok_or_else(|| Problem::usage(format!("read {}: it is no module", module.display())))?)
        }
        None => candidates(path, &dump)
            .into_iter()
            .filter_map(|path| Found::of(limited(&path).ok()?, &path, &dump, stack))
            .find(|found| found.frames.iter().all(Option::is_some)),
    };
    let missing = missing(&dump, stack, found.as_ref());
    let trap = trap(&dump, stack, found.as_ref());
    let info = info(&trap, stack, found.as_ref());
    let mut with_ours = bytes.to_vec();
    append_section(&mut with_ours, "sandscope", &info.encode_to_vec());
    let workload = WorkloadId::new(&trap.workload, "");
    let module = found.as_ref().map(|found| {
        (ModuleInfo { id: found.file.id().clone(), workload, name: found.name.clone() }, &*found.bytes)
    });
    let foreign = ForeignDump { trap, module, dump: &with_ours, missing };
    foreign.into_recording(path).map_err(|error| unreadable(error.to_string()))
}

/// Where the module may be: by the names that the dump has for it, beside the dump and in the current directory.
fn candidates(path: &Path, dump: &CoreDump<'_>) -> Vec<PathBuf> {
    let names = std::iter::once(&dump.process).chain(&dump.modules);
    let names = names.filter_map(|name| Some(Path::new(name).file_name()?.to_owned()));
    let beside = path.parent().unwrap_or(Path::new("")).to_owned();
    names.flat_map(|name| [beside.join(&name), PathBuf::from(name)]).filter(|path| path.is_file()).collect()
}

fn limited(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.len() > MAX_DEBUG_INFO {
        return Err(io::Error::other(format!("it has more than {MAX_DEBUG_INFO} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(MAX_DEBUG_INFO).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Found {
    fn of(bytes: Vec<u8>, path: &Path, dump: &CoreDump<'_>, stack: &DumpStack) -> Option<Self> {
        let file = SymbolFile::parse(&bytes).ok()?;
        let frames = file.place(dump, stack);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Some(Self { bytes, file, name, frames })
    }

    fn id(&self) -> &ModuleId {
        self.file.id()
    }

    fn offset(&self, nth: usize) -> Option<u64> {
        self.frames.get(nth)?.as_ref().map(|frame| frame.offset)
    }
}

fn missing(dump: &CoreDump<'_>, stack: &DumpStack, found: Option<&Found>) -> String {
    let mut out =
        "it is a core dump of another program, which does not tell what came before the trap".to_owned();
    match found {
        None => {
            let name = dump.modules.first().unwrap_or(&dump.process);
            out.push_str(&format!(
                "; the module that it is of, {name}, was not found: name it with --module FILE"
            ));
        }
        Some(found) if found.frames.iter().any(Option::is_none) => {
            out.push_str(&format!("; not all of its frames fit {}: it may be of another build", found.name));
        }
        Some(_) => {}
    }
    if stack.frames.len() == USUAL_FRAMES {
        out.push_str(&format!("; its stack may have been cut after {USUAL_FRAMES} frames"));
    }
    out.extend(dump.notes().iter().map(|note| format!("; {note}")));
    out
}

fn trap(dump: &CoreDump<'_>, stack: &DumpStack, found: Option<&Found>) -> Trap {
    let process = Path::new(&dump.process).file_stem().unwrap_or_default().to_string_lossy();
    let frames = stack.frames.iter().enumerate().map(|(nth, frame)| {
        let offset = found.and_then(|found| found.offset(nth));
        let module = found.filter(|_| offset.is_some()).map(|found| found.id().as_str().to_owned());
        TrapFrame {
            module_id: module.unwrap_or_default(),
            offset: offset.unwrap_or(0),
            function: frame.function,
        }
    });
    Trap {
        version: VERSION,
        time_unix_nano: 0,
        workload: process.into_owned(),
        workload_version: String::new(),
        code: "unknown".to_owned(),
        message: "its core dump does not say why".to_owned(),
        frames: frames.collect(),
        count: 1,
    }
}

/// What a host of ours would have added to the dump.
fn info(trap: &Trap, stack: &DumpStack, found: Option<&Found>) -> wire::CoreDump {
    let thread = CoreThread {
        name: stack.thread.clone(),
        state: "trapped".to_owned(),
        offsets: trap.frames.iter().map(|frame| frame.offset).collect(),
    };
    wire::CoreDump {
        version: VERSION,
        workload: trap.workload.clone(),
        code: trap.code.clone(),
        message: trap.message.clone(),
        module_id: found.map(|found| found.id().as_str().to_owned()).unwrap_or_default(),
        memory: "all".to_owned(),
        frames_cut: stack.frames.len() == USUAL_FRAMES,
        threads: vec![thread],
        frame_sizes: found.map(|found| FrameTable::read(&found.bytes).to_bytes()).unwrap_or_default(),
        ..wire::CoreDump::default()
    }
}

/// A custom section at the end of a module.
fn append_section(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    out.push(0);
    leb(out, 1 + name.len() + data.len());
    leb(out, name.len());
    out.extend(name.as_bytes());
    out.extend(data);
}

fn leb(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

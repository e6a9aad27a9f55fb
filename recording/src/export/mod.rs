//! Recordings as other tools read them: pure encoders, from a recording and names to bytes. Where names come
//! from is the caller's.

mod folded;
mod pprof;

pub use folded::folded;
pub use pprof::pprof;

use sandscope_model::text::visible;
use sandscope_model::{Frame, ModuleId, Profile, SourceFrame, WorkloadId};
use sandscope_proto::recording::TrapFrame;

/// Names of places in modules.
pub trait Names {
    /// The frames of a whole-file offset, innermost first; `None` if nothing is known of it.
    fn at(&self, module: &ModuleId, offset: u64) -> Option<&[SourceFrame]>;
}

/// What guest code is called where no debug info tells functions apart.
const UNKNOWN: &str = "wasm-function[?]";

/// One physical frame of a stack, innermost functions first: never empty.
struct Named<'a> {
    /// The module and the offset in it; `None` for host code.
    place: Option<(&'a ModuleId, u64)>,
    functions: Vec<Function<'a>>,
}

/// A function, safe to print.
struct Function<'a> {
    name: String,
    linkage: Option<&'a str>,
    file: Option<&'a str>,
    line: Option<u32>,
}

/// The frame of a profile.
fn named<'a>(frame: &'a Frame, profile: &'a Profile, names: &'a dyn Names) -> Named<'a> {
    let (module, offset) = match frame {
        Frame::Host(name) => {
            let name = visible(name).into_owned();
            return Named {
                place: None,
                functions: vec![Function { name, linkage: None, file: None, line: None }],
            };
        }
        Frame::Guest { module, offset } => (profile.modules.get(*module as usize), *offset),
    };
    at(module, offset, None, names)
}

/// The frame of a place; `function` is its index in the module, if that is known.
fn at<'a>(
    module: Option<&'a ModuleId>,
    offset: u64,
    function: Option<u32>,
    names: &'a dyn Names,
) -> Named<'a> {
    let place = module.map(|module| (module, offset));
    let sources = place.and_then(|(module, offset)| names.at(module, offset)).unwrap_or(&[]);
    let mut functions: Vec<Function<'a>> = sources
        .iter()
        .map(|source| Function {
            name: visible(&source.function).into_owned(),
            linkage: source.linkage.as_deref(),
            file: source.file.as_deref(),
            line: source.line,
        })
        .collect();
    if functions.is_empty() {
        let name = function.map_or_else(|| UNKNOWN.to_owned(), |index| SourceFrame::by_index(index).function);
        functions.push(Function { name, linkage: None, file: None, line: None });
    }
    Named { place, functions }
}

/// Frames that probes tell of, with the ids that their modules are known by. Frames of no module are left out.
fn modules_of(stack: &[TrapFrame]) -> Vec<(ModuleId, u64, u32)> {
    let one = |frame: &TrapFrame| Some((ModuleId::parse(&frame.module_id)?, frame.offset, frame.function));
    stack.iter().filter_map(one).collect()
}

/// A workload as the outermost frame and in labels: `name@version`.
fn title(workload: &WorkloadId) -> String {
    let version = if workload.version.is_empty() { String::new() } else { format!("@{}", workload.version) };
    visible(&format!("{}{version}", workload.name)).into_owned()
}

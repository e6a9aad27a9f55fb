//! What a module's text allows a stack to look like, and whether the recorded ones do.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use sandscope_host::ModuleId;
use sandscope_model::{Frame, Profile};
use sandscope_recording::Recording;
use wasmparser::{ElementItems, ExternalKind, Operator, Parser, Payload, TypeRef};

/// Frames that stand for something that has no place in a guest.
const HOST: [&str; 3] = ["[host]", "[engine]", "[other]"];
const TRUNCATED: &str = "[truncated]";

/// Who may call whom.
pub struct Facts {
    bodies: Vec<Range<u64>>,
    edges: HashSet<(usize, usize)>,
    /// What it may leave for: imports, and the engine's runtime.
    leaves: HashSet<String>,
    /// Functions that may be outermost.
    roots: HashSet<usize>,
}

impl Facts {
    /// Of a module. Calls through a table may reach whatever is in any.
    pub fn of(module: &[u8]) -> Self {
        let (mut imports, mut bodies, mut exports, mut table) =
            (0, Vec::new(), HashSet::new(), HashSet::new());
        let (mut calls, mut tails, mut indirect) = (HashSet::new(), HashSet::new(), HashSet::new());
        let mut leaves = HashSet::from(["gc", "memory.grow"].map(str::to_owned));
        for payload in Parser::new(0).parse_all(module) {
            match payload.expect("a valid module") {
                Payload::ImportSection(section) => {
                    for import in section.into_imports().map(|import| import.expect("a valid import")) {
                        if let TypeRef::Func(_) = import.ty {
                            imports += 1;
                            leaves.insert(format!("{}#{}", import.module, import.name));
                        }
                    }
                }
                Payload::ExportSection(section) => exports.extend(
                    section
                        .into_iter()
                        .map(|export| export.expect("a valid export"))
                        .filter(|export| export.kind == ExternalKind::Func)
                        .map(|export| export.index as usize - imports),
                ),
                Payload::ElementSection(section) => {
                    for element in section {
                        if let ElementItems::Functions(list) = element.expect("a valid element").items {
                            table.extend(list.into_iter().map(|f| f.expect("an index") as usize - imports));
                        }
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    let caller = bodies.len();
                    bodies.push(body.range().start as u64..body.range().end as u64);
                    for operator in body.get_operators_reader().expect("a valid body") {
                        match operator.expect("a valid operator") {
                            Operator::Call { function_index } => {
                                calls.insert((caller, function_index as usize))
                            }
                            Operator::ReturnCall { function_index } => {
                                tails.insert((caller, function_index as usize))
                            }
                            Operator::CallIndirect { .. } => indirect.insert(caller),
                            _ => false,
                        };
                    }
                }
                _ => {}
            }
        }
        // Calls of imports leave the guest.
        let own = |edges: HashSet<(usize, usize)>| -> HashSet<(usize, usize)> {
            edges.into_iter().filter_map(|(from, to)| Some((from, to.checked_sub(imports)?))).collect()
        };
        let (mut edges, tails) = (own(calls), own(tails));
        edges.extend(indirect.iter().flat_map(|&from| table.iter().map(move |&to| (from, to))));
        // A tail call puts its callee in the place of its caller.
        let mut roots: HashSet<usize> = exports;
        loop {
            let before = (edges.len(), roots.len());
            for &(by, to) in &tails {
                let callers: Vec<usize> =
                    edges.iter().filter(|(_, callee)| *callee == by).map(|(from, _)| *from).collect();
                edges.extend(callers.into_iter().map(|from| (from, to)));
                if roots.contains(&by) {
                    roots.insert(to);
                }
            }
            if before == (edges.len(), roots.len()) {
                break;
            }
        }
        Self { bodies, edges, leaves, roots }
    }

    fn function(&self, offset: u64) -> Option<usize> {
        self.bodies.iter().position(|body| body.contains(&offset))
    }
}

/// Samples by what they were: of a guest, or under one of the host's names.
#[derive(Default)]
pub struct Seen(pub BTreeMap<String, u64>);

impl Seen {
    fn add(&mut self, what: &str, samples: u64) {
        *self.0.entry(what.to_owned()).or_default() += samples;
    }

    /// Adds another's.
    pub fn merge(&mut self, other: Self) {
        for (what, samples) in other.0 {
            self.add(&what, samples);
        }
    }
}

/// What ran: per workload its modules, and each module's facts.
#[derive(Default)]
pub struct Truth {
    /// By name of the workload.
    pub workloads: HashMap<String, ModuleId>,
    /// By module.
    pub facts: HashMap<ModuleId, Facts>,
}

/// Checks every stack of a recording.
///
/// # Panics
/// At the first that cannot have been.
pub fn recording(path: &Path, truth: &Truth) -> Seen {
    let recording = Recording::open(path).expect("the recording opens");
    assert!(recording.complete(), "{:?}", recording.missing());
    let mut seen = Seen::default();
    for recorded in recording.profiles() {
        let module = truth.workloads.get(&*recorded.workload.name);
        let module = module.unwrap_or_else(|| panic!("no workload {:?} ran", recorded.workload));
        seen.add("dropped", recorded.dropped);
        for (stack, weight) in recorded.profile.iter() {
            let what = kind(&recorded.profile, stack, module, &truth.facts[module])
                .unwrap_or_else(|wrong| panic!("{:?}: {wrong}", recorded.workload));
            seen.add(what, weight.samples);
        }
    }
    seen
}

/// What a sample is, or what is wrong with it.
fn kind(profile: &Profile, stack: &[u32], module: &ModuleId, facts: &Facts) -> Result<&'static str, String> {
    let mut callee = None;
    let mut what = "guest";
    let mut cut = false;
    let mut functions = Vec::new();
    for (depth, &frame) in stack.iter().enumerate() {
        match &profile.frames[frame as usize] {
            Frame::Host(name) if **name == *TRUNCATED => cut = true,
            Frame::Host(name) => {
                let known = HOST.into_iter().find(|known| **known == **name);
                let called = (depth == 0 && facts.leaves.contains(&**name)).then_some("called");
                what = known.or(called).ok_or_else(|| format!("a frame is called {name}"))?;
                callee = None;
            }
            Frame::Guest { module: index, offset } => {
                let of = &profile.modules[*index as usize];
                if of != module {
                    return Err(format!("a frame is in {of}, not in {module}"));
                }
                let function =
                    facts.function(*offset).ok_or_else(|| format!("no function is at {offset:#x}"))?;
                functions.push(function);
                if let Some(callee) = callee
                    && !facts.edges.contains(&(function, callee))
                {
                    return Err(format!("{function} never calls {callee}; leaf first: {functions:?}"));
                }
                callee = Some(function);
            }
        }
    }
    match callee {
        Some(root) if !cut && !facts.roots.contains(&root) => {
            Err(format!("{root} is no export; leaf first: {functions:?}"))
        }
        _ => Ok(what),
    }
}

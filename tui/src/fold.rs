//! Stacks with names folded into a flame graph: functions, inlined frames expanded, lines by weight.
//! Pure; runs beside the UI because it may take a moment. Where names come from is [`Names`]' business.

use std::collections::HashMap;
use std::sync::Arc;

use sandscope_model::frame::short_name;
use sandscope_model::profile::Weight;
use sandscope_model::{FlameTree, Frame, ModuleId, Profile, SampleKind, SourceFrame};

use crate::data::Shown;

/// Most nodes of a flame graph; paths beyond it end in [`Kind::Cut`].
const MAX_NODES: usize = 500_000;

/// Deepest path in frames, inlined ones included; what is deeper ends in [`Kind::Cut`].
const MAX_DEPTH: usize = 2_000;

/// Largest weight of one stack, 4 TiB allocated.
const MAX_STACK_VALUE: u64 = 1 << 42;

/// Names by module and offset.
pub trait Names {
    /// Frames of an offset, innermost first.
    fn frames(&mut self, module: &ModuleId, offset: u64) -> Arc<[SourceFrame]>;
    /// Whether the module's debug info is there.
    fn knows(&self, module: &ModuleId) -> bool;
}

/// Which end of the stacks is the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Callers above what they call.
    #[default]
    Callees,
    /// The function that was running above its callers.
    Callers,
}

impl Order {
    /// The other one.
    pub fn inverted(self) -> Self {
        match self {
            Self::Callees => Self::Callers,
            Self::Callers => Self::Callees,
        }
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A function of the guest.
    Guest,
    /// A function of the guest, inlined into its caller.
    Inlined,
    /// Host code.
    Host,
    /// Code of the guest without a name.
    Unknown,
    /// Frames that are not shown because of a bound.
    Cut,
}

/// One function of a flame graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// The whole name.
    pub name: Shown,
    /// Without type arguments, for narrow places.
    pub short: Shown,
    /// Source file.
    pub file: Option<Shown>,
    /// The line where most of the weight is: its own weight, or its callees' if it has none.
    pub line: Option<u32>,
    /// What it is.
    pub kind: Kind,
    /// Weight of stacks that end in it.
    pub own: u64,
    /// Weight of stacks that it is in; recursion counts once.
    pub total: u64,
}

impl Function {
    /// `file:line`, `file`, or nothing.
    pub fn place(&self) -> Option<String> {
        let file = self.file.as_ref()?;
        Some(self.line.map_or_else(|| file.to_string(), |line| format!("{file}:{line}")))
    }
}

/// A flame graph with all that a screen needs to draw it.
#[derive(Clone, Debug)]
pub struct Flame {
    /// Keys are indices into `functions`. Sorted, largest first.
    pub tree: FlameTree,
    /// Functions.
    pub functions: Vec<Function>,
    /// Which end is the root.
    pub order: Order,
    /// What the weights are: samples, or bytes for [`SampleKind::Alloc`].
    pub kind: SampleKind,
    /// Samples in all.
    pub samples: u64,
    /// Samples with at least one frame of a guest.
    pub guest: u64,
    /// Of those, the ones whose innermost guest frame has a name.
    pub named: u64,
    /// Of those, the ones whose innermost guest frame has a file and a line.
    pub with_line: u64,
    /// Modules that stacks go through.
    pub modules: usize,
    /// Of those, the ones with debug info.
    pub modules_known: usize,
    /// Stacks that the source left out because of a bound.
    pub truncated: u64,
}

/// Per function and line: (own, total).
type Lines = HashMap<(u32, u32), (u64, u64)>;

struct Folding<'a> {
    keys: HashMap<(&'a str, Option<&'a str>, Kind), u32>,
    functions: Vec<Function>,
    lines: Lines,
}

impl<'a> Folding<'a> {
    fn function(&mut self, name: &'a str, file: Option<&'a str>, kind: Kind) -> u32 {
        *self.keys.entry((name, file, kind)).or_insert_with(|| {
            let short = short_name(name);
            let shown = |text: &str| Shown::new(if text.trim().is_empty() { "(no name)" } else { text });
            self.functions.push(Function {
                name: shown(name),
                short: shown(&short),
                file: file.map(Shown::new),
                line: None,
                kind,
                own: 0,
                total: 0,
            });
            self.functions.len() as u32 - 1
        })
    }

    fn weigh(&mut self, path: &[(u32, u32)], value: u64, seen: &mut Vec<u32>) {
        for (i, &(key, line)) in path.iter().enumerate() {
            let sums = self.lines.entry((key, line)).or_default();
            sums.1 = sums.1.saturating_add(value);
            if i == 0 {
                sums.0 = sums.0.saturating_add(value);
            }
        }
        seen.clear();
        seen.extend(path.iter().map(|&(key, _)| key));
        seen.sort_unstable();
        seen.dedup();
        for &key in &*seen {
            if let Some(function) = self.functions.get_mut(key as usize) {
                function.total = function.total.saturating_add(value);
            }
        }
        if let Some(function) = path.first().and_then(|&(key, _)| self.functions.get_mut(key as usize)) {
            function.own = function.own.saturating_add(value);
        }
    }

    /// Gives each function its heaviest line.
    fn settle_lines(&mut self) {
        let mut best: HashMap<u32, (u64, u64, std::cmp::Reverse<u32>)> = HashMap::new();
        for (&(key, line), &(own, total)) in &self.lines {
            if line != 0 {
                let candidate = (own, total, std::cmp::Reverse(line));
                let held = best.entry(key).or_insert(candidate);
                *held = candidate.max(*held);
            }
        }
        for (key, (.., line)) in best {
            if let Some(function) = self.functions.get_mut(key as usize) {
                function.line = Some(line.0);
            }
        }
    }
}

/// Folds a profile by function. Weights are samples, or bytes for [`SampleKind::Alloc`].
pub fn fold(profile: &Profile, kind: SampleKind, order: Order, names: &mut dyn Names) -> Flame {
    let named: Vec<Option<Arc<[SourceFrame]>>> = profile
        .frames
        .iter()
        .map(|frame| match frame {
            Frame::Guest { module, offset } => {
                profile.modules.get(*module as usize).map(|id| names.frames(id, *offset))
            }
            Frame::Host(_) => None,
        })
        .collect();
    let mut folding = Folding { keys: HashMap::new(), functions: Vec::new(), lines: Lines::new() };
    let cut = folding.function("(deeper frames are not shown)", None, Kind::Cut);
    // Per frame of the profile: (function, line) innermost first; line 0 is unknown.
    let expanded: Vec<Box<[(u32, u32)]>> = profile
        .frames
        .iter()
        .zip(&named)
        .map(|(frame, named)| match (frame, named) {
            (Frame::Host(name), _) => Box::from([(folding.function(name, None, Kind::Host), 0)]),
            (Frame::Guest { .. }, Some(frames)) if !frames.is_empty() => frames
                .iter()
                .map(|f| {
                    let kind = match (f.is_named(), f.inlined) {
                        (false, _) => Kind::Unknown,
                        (true, true) => Kind::Inlined,
                        (true, false) => Kind::Guest,
                    };
                    (folding.function(&f.function, f.file.as_deref(), kind), f.line.unwrap_or(0))
                })
                .collect(),
            (Frame::Guest { .. }, _) => Box::from([(folding.function("(unknown)", None, Kind::Unknown), 0)]),
        })
        .collect();

    let mut tree = FlameTree::default();
    let (mut samples, mut guest, mut with_name, mut with_line) = (0u64, 0u64, 0u64, 0u64);
    let (mut path, mut seen) = (Vec::new(), Vec::new());
    for (stack, weight) in profile.iter() {
        samples = samples.saturating_add(weight.samples);
        // Host code that a guest called is not the guest's own, whoever called it.
        let innermost = stack.first().and_then(|&f| named.get(f as usize)?.as_ref()?.first());
        if let Some(frame) = innermost {
            guest = guest.saturating_add(weight.samples);
            let has_line = frame.file.is_some() && frame.line.is_some();
            with_name = with_name.saturating_add(if frame.is_named() { weight.samples } else { 0 });
            with_line = with_line.saturating_add(if has_line { weight.samples } else { 0 });
        }
        path.clear();
        path.extend(
            stack.iter().filter_map(|&f| expanded.get(f as usize)).flat_map(|keys| keys.iter().copied()),
        );
        let value = value_of(kind, weight);
        folding.weigh(&path, value, &mut seen);
        add(&mut tree, &path, order, cut, value);
    }
    tree.sort();
    folding.settle_lines();
    Flame {
        tree,
        functions: folding.functions,
        order,
        kind,
        samples,
        guest,
        named: with_name,
        with_line,
        modules: profile.modules.len(),
        modules_known: profile.modules.iter().filter(|id| names.knows(id)).count(),
        truncated: 0,
    }
}

/// Adds a path that is given leaf first.
fn add(tree: &mut FlameTree, path: &[(u32, u32)], order: Order, cut: u32, value: u64) {
    let full = tree.len() >= MAX_NODES;
    let keep = if full { 0 } else { path.len().min(MAX_DEPTH) };
    let end = (keep < path.len()).then_some(cut);
    match order {
        Order::Callees => {
            tree.add(path.iter().rev().take(keep).map(|&(key, _)| key).chain(end), value);
        }
        Order::Callers => tree.add(path.iter().take(keep).map(|&(key, _)| key).chain(end), value),
    }
}

fn value_of(kind: SampleKind, weight: Weight) -> u64 {
    match kind {
        SampleKind::Cpu | SampleKind::Wall => weight.samples,
        // Sums of the tree do not saturate; a peer that sends absurd sizes must not overflow them.
        SampleKind::Alloc => weight.value.min(MAX_STACK_VALUE),
    }
}

/// Names by a table, for tests of everything that folds.
#[cfg(test)]
pub mod fake {
    use sandscope_model::NameSource;

    use super::*;

    /// A table of names; offsets without one are `wasm-function[offset]`.
    #[derive(Default)]
    pub struct Table(pub HashMap<u64, Vec<SourceFrame>>);

    impl Names for Table {
        fn frames(&mut self, _: &ModuleId, offset: u64) -> Arc<[SourceFrame]> {
            match self.0.get(&offset) {
                Some(frames) => frames.clone().into(),
                None => [SourceFrame::by_index(offset as u32)].into(),
            }
        }

        fn knows(&self, _: &ModuleId) -> bool {
            !self.0.is_empty()
        }
    }

    /// A frame from DWARF.
    pub fn frame(function: &str, file: &str, line: u32, inlined: bool) -> SourceFrame {
        SourceFrame {
            function: function.into(),
            linkage: None,
            file: Some(file.into()),
            line: Some(line),
            column: None,
            inlined,
            source: NameSource::Dwarf,
        }
    }

    /// A profile of one module from stacks of offsets, leaf first; 0 is host code named `[host]`.
    pub fn profile(stacks: &[(&[u64], u64)]) -> Profile {
        let mut out = Profile::new();
        if let Some(id) = ModuleId::parse("deadbeefcafe") {
            let module = out.module(&id);
            for (offsets, samples) in stacks {
                let stack: Vec<u32> = offsets
                    .iter()
                    .map(|&offset| match offset {
                        0 => out.frame(Frame::Host("[host]".into())),
                        offset => out.frame(Frame::Guest { module, offset }),
                    })
                    .collect();
                out.add(&stack, Weight { samples: *samples, value: samples * 10 });
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::fake::{Table, frame, profile};
    use super::*;

    fn table() -> Table {
        Table(HashMap::from([
            (10, vec![frame("main", "src/main.rs", 7, false)]),
            (20, vec![frame("inner", "src/lib.rs", 30, true), frame("outer", "src/lib.rs", 12, false)]),
            (21, vec![frame("inner", "src/lib.rs", 31, true), frame("outer", "src/lib.rs", 12, false)]),
        ]))
    }

    fn names(flame: &Flame, path: &[u32]) -> Vec<String> {
        path.iter().map(|&n| flame.functions[flame.tree.node(n).key as usize].name.to_string()).collect()
    }

    /// Two offsets of one inlined function are one block under the function they were inlined into.
    #[test]
    fn inlined_frames_become_blocks() {
        let flame =
            fold(&profile(&[(&[20, 10], 3), (&[21, 10], 5)]), SampleKind::Cpu, Order::Callees, &mut table());
        let main = flame.tree.node(FlameTree::ROOT).children[0];
        let outer = flame.tree.node(main).children[0];
        let inner = flame.tree.node(outer).children[0];
        assert_eq!(names(&flame, &[main, outer, inner]), ["main", "outer", "inner"]);
        let function = &flame.functions[flame.tree.node(inner).key as usize];
        assert_eq!((function.kind, function.own, function.line), (Kind::Inlined, 8, Some(31)));
        assert_eq!((flame.samples, flame.guest, flame.named, flame.with_line), (8, 8, 8, 8));
    }

    /// Inverted, the running function is on top and its callers below.
    #[test]
    fn inverted_starts_at_leaves() {
        let flame =
            fold(&profile(&[(&[20, 10], 3), (&[10], 4)]), SampleKind::Cpu, Order::Callers, &mut table());
        let tops = &flame.tree.node(FlameTree::ROOT).children;
        assert_eq!(names(&flame, tops), ["main", "inner"]);
    }

    /// A sample in host code is none of the guest's own, whoever called it.
    #[test]
    fn shares_are_of_guest_samples() {
        let flame = fold(
            &profile(&[(&[0, 10], 3), (&[0], 4), (&[99, 10], 2), (&[10], 3)]),
            SampleKind::Cpu,
            Order::Callees,
            &mut table(),
        );
        assert_eq!((flame.samples, flame.guest, flame.named, flame.with_line), (12, 5, 3, 3));
    }

    /// A guest that recurses without end gives a graph that says where it was cut.
    #[test]
    fn deep_stacks_end_in_a_cut() {
        let stack = vec![10u64; MAX_DEPTH + 50];
        let flame = fold(&profile(&[(&stack, 1)]), SampleKind::Cpu, Order::Callees, &mut table());
        assert_eq!(flame.tree.len(), MAX_DEPTH + 2);
        let last = flame.tree.node(flame.tree.len() as u32 - 1);
        assert_eq!(flame.functions[last.key as usize].kind, Kind::Cut);
        assert_eq!(last.own, 1);
    }
}

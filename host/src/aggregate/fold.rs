//! Folding records: first by program counters, which is cheap, then by offsets once per interval.

use std::collections::HashMap;
use std::sync::Arc;

use sandscope_model::profile::Weight;
use sandscope_model::{Frame, ModuleId, Profile, SampleKind, WorkloadId};
use sandscope_proto::otlp::profiles::Link;
use sandscope_proto::recording::TrapFrame;

use super::heap::{self, Allocation};
use super::locks::Wait;
use crate::code::{CodeView, instructions};
use crate::sampler::{Drained, Kind, Rate};
use crate::span::{AMBIGUOUS, NO_SPAN};
use crate::{hooks, hostcall};

/// Distinct stacks that are kept per settling; more fold into `[other]`.
const MAX_RAW: usize = 65_536;
/// Waits, and allocations, that are kept per settling by themselves; more are counted as dropped.
const MAX_EVENTS: usize = 16_384;
/// Links of samples to spans that wait for a collector per workload; further samples stay unlinked.
const MAX_LINKS: usize = 16_384;
/// Distinct stacks that wait for a collector per workload and kind.
const MAX_PENDING: usize = 16_384;

/// Name of the frame that stands for host code without a name of its own.
const HOST: &str = "[host]";
/// Name of the root frame of a stack whose outermost frames are missing.
const TRUNCATED: &str = "[truncated]";
/// Name of the frame that stands for code that the engine made (trampolines).
const ENGINE: &str = "[engine]";
/// Name of the frame that stands for stacks beyond a bound.
const OTHER: &str = "[other]";
/// Innermost guest frames that are asked for the name of the host code: a component's call of the host may
/// pass through a small module of the linker's that has no names.
const NAMING_FRAMES: usize = 3;

/// Records of one interval by workload and program counters.
#[derive(Default)]
pub(super) struct RawFold {
    stacks: HashMap<RawStack, Weight>,
    other: HashMap<(u32, SampleKind), Weight>,
    waits: Vec<Event>,
    /// Allocations (`true`) and frees.
    heap: Vec<(bool, Event)>,
    dropped: u64,
    /// Samples of calls that run at the same time.
    unlinked: u64,
}

#[derive(PartialEq, Eq, Hash)]
struct RawStack {
    workload: u32,
    /// Of CPU samples; 0 for none.
    span: u64,
    kind: SampleKind,
    /// Whether the guest had left for the host: the leaf is a return address then.
    in_host: bool,
    truncated: bool,
    /// Number of the host function that was called; without one the call's place in the guest names it.
    function: u16,
    pcs: Box<[u64]>,
}

/// A record that is needed by itself.
struct Event {
    workload: u32,
    values: [u64; 4],
    pcs: Box<[u64]>,
}

/// A workload's samples of one kind and interval, with the functions that its frames lie in.
pub(crate) struct Settled {
    pub kind: SampleKind,
    /// How often samples of CPU time were taken, per second; 0 for other kinds.
    pub hz: f64,
    pub profile: Profile,
    /// Per (module, offset): index of the function.
    pub functions: HashMap<(ModuleId, u64), u32>,
    /// Per module: length of its file.
    pub lengths: HashMap<ModuleId, u64>,
    /// Which calls samples belong to.
    pub links: Vec<Link>,
}

/// What an interval came to.
pub(super) struct Interval {
    /// By ordinal of the workload, one per kind.
    pub profiles: Vec<(u32, Settled)>,
    pub waits: Vec<Wait>,
    pub heap: Vec<heap::Record>,
    /// Records that found no room.
    pub dropped: u64,
    /// Samples of calls in one store at the same time, of which nobody knows whose they are.
    pub unlinked: u64,
}

impl Settled {
    fn new(kind: SampleKind, hz: f64) -> Self {
        Self {
            kind,
            hz: if kind == SampleKind::Cpu { hz } else { 0.0 },
            profile: Profile::new(),
            functions: HashMap::new(),
            lengths: HashMap::new(),
            links: Vec::new(),
        }
    }

    pub(crate) fn samples(&self) -> u64 {
        self.profile.samples()
    }

    pub(super) fn value(&self) -> u64 {
        self.profile.weights.iter().map(|weight| weight.value).sum()
    }

    fn merge(&mut self, other: Self) {
        let stacks = self.profile.merge(&other.profile);
        let room = MAX_LINKS.saturating_sub(self.links.len());
        let links = other.links.into_iter().take(room);
        self.links.extend(links.map(|link| Link { stack: stacks[link.stack as usize], ..link }));
        self.functions.extend(other.functions);
        self.lengths.extend(other.lengths);
    }
}

impl RawFold {
    pub(super) fn add(&mut self, record: &Drained<'_>) {
        let (kind, weight) = match record.kind {
            Kind::Guest | Kind::Host => (SampleKind::Cpu, Weight { samples: 1, value: record.weight }),
            Kind::Grow => (SampleKind::Wall, Weight { samples: 1, value: record.values[0] }),
            Kind::Wait | Kind::Collect | Kind::Call => {
                let (_, value) = hooks::stands_for(record.values[0]);
                (SampleKind::Wall, Weight { samples: 1, value })
            }
            Kind::Alloc => {
                let (count, bytes) = hooks::alloc::stands_for(record.values[0]);
                let weight = Weight { samples: count.round() as u64, value: bytes.round() as u64 };
                (SampleKind::Alloc, weight)
            }
            Kind::Free => (SampleKind::Alloc, Weight::default()),
        };
        let event = || Event { workload: record.workload, values: record.values, pcs: record.pcs.into() };
        match record.kind {
            Kind::Wait if self.waits.len() < MAX_EVENTS => self.waits.push(event()),
            Kind::Alloc | Kind::Free if self.heap.len() < MAX_EVENTS => {
                self.heap.push((record.kind == Kind::Alloc, event()));
            }
            Kind::Wait | Kind::Alloc | Kind::Free => self.dropped += 1,
            Kind::Guest | Kind::Host | Kind::Collect | Kind::Grow | Kind::Call => {}
        }
        if record.kind == Kind::Free {
            return;
        }
        let span = match (kind, record.span) {
            (SampleKind::Cpu, AMBIGUOUS) => {
                self.unlinked += 1;
                NO_SPAN
            }
            (SampleKind::Cpu, span) => span,
            (SampleKind::Wall | SampleKind::Alloc, _) => NO_SPAN,
        };
        let stack = RawStack {
            workload: record.workload,
            span,
            kind,
            in_host: record.kind != Kind::Guest,
            truncated: record.truncated,
            function: if record.kind == Kind::Call { record.values[1] as u16 } else { hostcall::NONE },
            pcs: record.pcs.into(),
        };
        let sum = if self.stacks.len() < MAX_RAW || self.stacks.contains_key(&stack) {
            self.stacks.entry(stack).or_default()
        } else {
            self.other.entry((record.workload, kind)).or_default()
        };
        sum.samples = sum.samples.saturating_add(weight.samples);
        sum.value = sum.value.saturating_add(weight.value);
    }

    /// Empties the fold. Since it was empty, samples were taken at one rate.
    pub(super) fn settle(&mut self, codes: &CodeView, rate: &Rate) -> Interval {
        let (hz, period) = (rate.now(), rate.period_ns());
        let raw = std::mem::take(&mut self.stacks);
        let (waits, heap) = (std::mem::take(&mut self.waits), std::mem::take(&mut self.heap));
        let events = waits.iter().chain(heap.iter().map(|(_, event)| event));
        codes.prepare(
            raw.keys()
                .flat_map(|stack| instructions(&stack.pcs, stack.in_host))
                .chain(events.flat_map(|event| instructions(&event.pcs, true)))
                .chain(waits.iter().map(|wait| wait.values[3].saturating_sub(1))),
        );
        let mut settled = HashMap::new();
        for (stack, weight) in raw {
            let key = (stack.workload, stack.kind);
            let into = settled.entry(key).or_insert_with(|| Settled::new(stack.kind, hz));
            into.add(codes, &stack, scaled(weight, stack.kind, period));
        }
        for ((workload, kind), weight) in self.other.drain() {
            let into = settled.entry((workload, kind)).or_insert_with(|| Settled::new(kind, hz));
            let other = into.profile.frame(Frame::Host(OTHER.into()));
            into.profile.add(&[other], scaled(weight, kind, period));
        }
        Interval {
            profiles: settled.into_iter().map(|((workload, _), settled)| (workload, settled)).collect(),
            waits: waits.iter().map(|event| wait(codes, event)).collect(),
            heap: heap.iter().map(|(allocated, event)| heap_record(codes, *allocated, event)).collect(),
            dropped: std::mem::take(&mut self.dropped),
            unlinked: std::mem::take(&mut self.unlinked),
        }
    }
}

/// Expirations of the timer are counted; everything else comes in its unit.
fn scaled(weight: Weight, kind: SampleKind, period: u64) -> Weight {
    match kind {
        SampleKind::Cpu => Weight { samples: weight.samples, value: weight.value.saturating_mul(period) },
        SampleKind::Wall | SampleKind::Alloc => weight,
    }
}

impl Settled {
    fn add(&mut self, codes: &CodeView, stack: &RawStack, weight: Weight) {
        let mut frames = Vec::with_capacity(stack.pcs.len() + 2);
        let mut host_name = hostcall::name(stack.function);
        for (depth, address) in instructions(&stack.pcs, stack.in_host).enumerate() {
            let Some((code, place)) = codes.place(address) else { continue };
            if stack.in_host && host_name.is_none() && depth < NAMING_FRAMES {
                host_name = code.sites.get().and_then(|sites| sites.name(place.offset)).map(Arc::from);
            }
            let module = self.profile.module(&code.id);
            self.lengths.insert(code.id.clone(), code.length);
            self.functions.insert((code.id.clone(), place.offset), place.function);
            frames.push(self.profile.frame(Frame::Guest { module, offset: place.offset }));
        }
        if stack.kind == SampleKind::Alloc {
            // The leaf is the code that was added to report; what is known begins with the allocator.
        } else if stack.in_host {
            let name = host_name.as_deref().unwrap_or(HOST);
            frames.insert(0, self.profile.frame(Frame::Host(name.into())));
        } else if frames.is_empty() {
            frames.push(self.profile.frame(Frame::Host(ENGINE.into())));
        }
        if stack.truncated {
            frames.push(self.profile.frame(Frame::Host(TRUNCATED.into())));
        }
        let index = self.profile.add(&frames, weight);
        if stack.span != NO_SPAN && self.links.len() < MAX_LINKS {
            self.links.push(Link { stack: index, trace_id: 0, span_id: stack.span, value: weight.value });
        }
    }

    /// Says which traces the calls belong to; those of calls that are not kept as spans are dropped.
    pub(super) fn link(&mut self, trace: impl Fn(u64) -> Option<u128>) {
        self.links.retain_mut(|link| {
            if link.trace_id == 0 {
                link.trace_id = trace(link.span_id).unwrap_or(0);
            }
            link.trace_id != 0
        });
    }
}

pub(super) fn frame(codes: &CodeView, instruction: u64) -> Option<TrapFrame> {
    codes.place(instruction).map(|(code, place)| TrapFrame {
        module_id: code.id.as_str().to_owned(),
        offset: place.offset,
        function: place.function,
    })
}

fn stack(codes: &CodeView, event: &Event) -> Vec<TrapFrame> {
    instructions(&event.pcs, true).filter_map(|instruction| frame(codes, instruction)).collect()
}

fn wait(codes: &CodeView, event: &Event) -> Wait {
    let [ns, address, outcome, notifier] = event.values;
    Wait {
        workload: event.workload,
        address,
        ns,
        timed_out: outcome == hooks::TIMED_OUT,
        stack: stack(codes, event),
        notifier: frame(codes, notifier.saturating_sub(1)),
    }
}

fn heap_record(codes: &CodeView, allocated: bool, event: &Event) -> heap::Record {
    let workload = event.workload;
    if !allocated {
        let [pointer, instance, ..] = event.values;
        return heap::Record::Freed { workload, instance, pointer };
    }
    let [size, pointer, instance, _] = event.values;
    heap::Record::Allocated(Allocation { workload, instance, pointer, size, stack: stack(codes, event) })
}

/// Profiles that wait for their export.
#[derive(Default)]
pub(super) struct Pending(HashMap<(WorkloadId, SampleKind), Settled>);

impl Pending {
    /// Adds a workload's samples; returns how many had to be dropped.
    pub(super) fn add(&mut self, workload: &WorkloadId, settled: Settled) -> u64 {
        let key = (workload.clone(), settled.kind);
        match self.0.get_mut(&key) {
            Some(known) if known.profile.stacks.len() + settled.profile.stacks.len() > MAX_PENDING => {
                settled.samples()
            }
            Some(known) => {
                known.merge(settled);
                0
            }
            None => {
                self.0.insert(key, settled);
                0
            }
        }
    }

    pub(super) fn take(&mut self) -> Vec<(WorkloadId, Settled)> {
        self.0.drain().map(|((workload, _), settled)| (workload, settled)).collect()
    }
}

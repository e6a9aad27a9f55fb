//! Folding samples: first by program counters, which is cheap, then by offsets once per interval.

use std::collections::HashMap;

use sandscope_model::profile::Weight;
use sandscope_model::{Frame, ModuleId, Profile, WorkloadId};

use crate::code::CodeView;
use crate::sampler::Drained;

/// Distinct stacks that are kept per settling; more fold into `[other]`.
const MAX_RAW: usize = 65_536;
/// Distinct stacks that wait for a collector per workload.
const MAX_PENDING: usize = 16_384;

/// Name of the frame that stands for host code without a name of its own.
const HOST: &str = "[host]";
/// Name of the root frame of a stack whose outermost frames are missing.
const TRUNCATED: &str = "[truncated]";
/// Name of the frame that stands for code that the engine made (trampolines).
const ENGINE: &str = "[engine]";
/// Name of the frame that stands for stacks beyond a bound.
const OTHER: &str = "[other]";

/// Samples of one interval by workload and program counters.
#[derive(Default)]
pub(super) struct RawFold {
    stacks: HashMap<RawStack, Weight>,
    other: HashMap<u32, Weight>,
}

#[derive(PartialEq, Eq, Hash)]
struct RawStack {
    workload: u32,
    truncated: bool,
    pcs: Box<[u64]>,
}

/// A workload's samples of one interval, with the functions that its frames lie in.
#[derive(Default)]
pub(crate) struct Settled {
    pub profile: Profile,
    /// Per (module, offset): index of the function.
    pub functions: HashMap<(ModuleId, u64), u32>,
    /// Per module: length of its file.
    pub lengths: HashMap<ModuleId, u64>,
}

impl Settled {
    pub(super) fn samples(&self) -> u64 {
        self.profile.samples()
    }

    pub(super) fn value(&self) -> u64 {
        self.profile.weights.iter().map(|weight| weight.value).sum()
    }

    fn merge(&mut self, other: Self) {
        self.profile.merge(&other.profile);
        self.functions.extend(other.functions);
        self.lengths.extend(other.lengths);
    }
}

impl RawFold {
    pub(super) fn add(&mut self, sample: &Drained<'_>) {
        let add = |sum: &mut Weight| {
            sum.samples += 1;
            sum.value += sample.weight;
        };
        let stack =
            RawStack { workload: sample.workload, truncated: sample.truncated, pcs: sample.pcs.into() };
        if self.stacks.len() < MAX_RAW || self.stacks.contains_key(&stack) {
            add(self.stacks.entry(stack).or_default());
        } else {
            add(self.other.entry(sample.workload).or_default());
        }
    }

    /// Empties the fold into one profile per workload ordinal. `period` is the value of one expiration.
    pub(super) fn settle(&mut self, codes: &CodeView, period: u64) -> HashMap<u32, Settled> {
        let raw = std::mem::take(&mut self.stacks);
        codes.prepare(raw.keys().map(|stack| &*stack.pcs));
        let mut out: HashMap<u32, Settled> = HashMap::new();
        let mut frames = Vec::new();
        let scaled = |weight: Weight| Weight { samples: weight.samples, value: weight.value * period };
        for (stack, weight) in raw {
            let settled = out.entry(stack.workload).or_default();
            frames.clear();
            for (depth, &pc) in stack.pcs.iter().enumerate() {
                let Some((code, place)) = codes.place(pc, depth) else { continue };
                let module = settled.profile.module(&code.id);
                settled.lengths.insert(code.id.clone(), code.length);
                settled.functions.insert((code.id.clone(), place.offset), place.function);
                frames.push(settled.profile.frame(Frame::Guest { module, offset: place.offset }));
            }
            if frames.is_empty() {
                let name = if stack.pcs.is_empty() { HOST } else { ENGINE };
                frames.push(settled.profile.frame(Frame::Host(name.into())));
            }
            if stack.truncated {
                frames.push(settled.profile.frame(Frame::Host(TRUNCATED.into())));
            }
            settled.profile.add(&frames, scaled(weight));
        }
        for (workload, weight) in self.other.drain() {
            let settled = out.entry(workload).or_default();
            let other = settled.profile.frame(Frame::Host(OTHER.into()));
            settled.profile.add(&[other], scaled(weight));
        }
        out
    }
}

/// Profiles that wait for their export.
#[derive(Default)]
pub(super) struct Pending(HashMap<WorkloadId, Settled>);

impl Pending {
    /// Adds a workload's samples; returns how many had to be dropped.
    pub(super) fn add(&mut self, workload: &WorkloadId, settled: Settled) -> u64 {
        match self.0.get_mut(workload) {
            Some(known) if known.profile.stacks.len() + settled.profile.stacks.len() > MAX_PENDING => {
                settled.samples()
            }
            Some(known) => {
                known.merge(settled);
                0
            }
            None => {
                self.0.insert(workload.clone(), settled);
                0
            }
        }
    }

    pub(super) fn take(&mut self) -> Vec<(WorkloadId, Settled)> {
        self.0.drain().collect()
    }

    /// Takes back what could not be sent; returns how many samples had to be dropped.
    pub(super) fn put_back(&mut self, profiles: Vec<(WorkloadId, Settled)>) -> u64 {
        profiles.into_iter().map(|(workload, settled)| self.add(&workload, settled)).sum()
    }
}

//! Stacks with weights, before anyone looked up a name: what samplers make and flame graphs are made of.

use std::collections::HashMap;

use crate::ModuleId;

/// What a sample's value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SampleKind {
    /// Nanoseconds of thread CPU time.
    Cpu,
    /// Nanoseconds of wall time.
    Wall,
    /// Bytes allocated.
    Alloc,
}

impl SampleKind {
    /// OTLP and pprof name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wall => "wall",
            Self::Alloc => "alloc",
        }
    }

    /// UCUM unit of a value.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Cpu | Self::Wall => "ns",
            Self::Alloc => "By",
        }
    }

    /// The inverse of [`Self::name`].
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Cpu, Self::Wall, Self::Alloc].into_iter().find(|kind| kind.name() == name)
    }
}

/// A raw frame: an instruction of a guest, or a named piece of the host under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Frame {
    /// An instruction of a guest.
    Guest {
        /// Index into [`Profile::modules`].
        module: u32,
        /// Whole-file byte offset of the instruction.
        offset: u64,
    },
    /// Host code, by the name that the host gave it (`[host]`, `wasi:filesystem…read`, `gc`).
    Host(Box<str>),
}

/// Weighted stacks over a time span, deduplicated. Stacks are leaf first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Modules that frames refer to.
    pub modules: Vec<ModuleId>,
    /// Distinct frames.
    pub frames: Vec<Frame>,
    /// Distinct stacks: indices into `frames`, leaf first.
    pub stacks: Vec<Box<[u32]>>,
    /// Per stack: (samples, sum of values), same length as `stacks`.
    pub weights: Vec<Weight>,
    module_index: HashMap<ModuleId, u32>,
    frame_index: HashMap<Frame, u32>,
    stack_index: HashMap<Box<[u32]>, u32>,
}

/// How often a stack was seen and what that stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// Number of samples.
    pub samples: u64,
    /// Sum of the samples' values in the unit of the [`SampleKind`].
    pub value: u64,
}

impl Profile {
    /// An empty profile.
    pub fn new() -> Self {
        Self::default()
    }

    /// Index of a module, added if it is new.
    pub fn module(&mut self, id: &ModuleId) -> u32 {
        if let Some(&index) = self.module_index.get(id) {
            return index;
        }
        let index = self.modules.len() as u32;
        self.modules.push(id.clone());
        self.module_index.insert(id.clone(), index);
        index
    }

    /// Index of a frame, added if it is new. A guest frame's module must be an index of this profile.
    pub fn frame(&mut self, frame: Frame) -> u32 {
        if let Some(&index) = self.frame_index.get(&frame) {
            return index;
        }
        let index = self.frames.len() as u32;
        self.frames.push(frame.clone());
        self.frame_index.insert(frame, index);
        index
    }

    /// Adds weight to a stack given as frame indices of this profile, leaf first; returns the stack's index.
    pub fn add(&mut self, stack: &[u32], weight: Weight) -> u32 {
        let index = match self.stack_index.get(stack) {
            Some(&index) => index as usize,
            None => {
                let index = self.stacks.len();
                self.stacks.push(stack.into());
                self.weights.push(Weight::default());
                self.stack_index.insert(stack.into(), index as u32);
                index
            }
        };
        let sum = &mut self.weights[index];
        sum.samples = sum.samples.saturating_add(weight.samples);
        sum.value = sum.value.saturating_add(weight.value);
        index as u32
    }

    /// Adds everything of another profile; returns the index here of each of its stacks.
    pub fn merge(&mut self, other: &Self) -> Vec<u32> {
        let modules: Vec<u32> = other.modules.iter().map(|id| self.module(id)).collect();
        let frames: Vec<u32> = other
            .frames
            .iter()
            .map(|frame| {
                self.frame(match frame {
                    Frame::Guest { module, offset } => {
                        Frame::Guest { module: modules[*module as usize], offset: *offset }
                    }
                    host @ Frame::Host(_) => host.clone(),
                })
            })
            .collect();
        let stacks = other.iter().map(|(stack, weight)| {
            let stack: Vec<u32> = stack.iter().map(|&f| frames[f as usize]).collect();
            self.add(&stack, weight)
        });
        stacks.collect()
    }

    /// Stacks (leaf first) with their weights.
    pub fn iter(&self) -> impl Iterator<Item = (&[u32], Weight)> {
        self.stacks.iter().zip(&self.weights).map(|(stack, weight)| (&**stack, *weight))
    }

    /// Samples in all.
    pub fn samples(&self) -> u64 {
        self.weights.iter().fold(0, |sum, weight| sum.saturating_add(weight.samples))
    }

    /// Whether there is no stack.
    pub fn is_empty(&self) -> bool {
        self.stacks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(module: &str, stacks: &[(&[u64], u64)]) -> Profile {
        let mut out = Profile::new();
        let module = out.module(&ModuleId::parse(module).unwrap());
        for (offsets, samples) in stacks {
            let stack: Vec<u32> =
                offsets.iter().map(|&offset| out.frame(Frame::Guest { module, offset })).collect();
            out.add(&stack, Weight { samples: *samples, value: samples * 10 });
        }
        out
    }

    /// Equal stacks fold into one, and a merge of halves is the whole.
    #[test]
    fn merging_adds_weights_of_equal_stacks() {
        let mut a = profile("aa", &[(&[1, 2], 3), (&[1], 1)]);
        a.merge(&profile("bb", &[(&[1, 2], 5)]));
        a.merge(&profile("aa", &[(&[1, 2], 4)]));
        assert_eq!(a.modules.len(), 2);
        assert_eq!(a.stacks.len(), 3);
        assert_eq!(a.samples(), 13);
        assert_eq!(a.weights[0], Weight { samples: 7, value: 70 });
    }
}

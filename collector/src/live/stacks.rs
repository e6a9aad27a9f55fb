//! A dictionary of stacks as a tree, shared by all rows: 50 regions that run the same module hold its stacks
//! once. Weights live elsewhere.

use std::collections::HashMap;

use sandscope_model::{Frame, ModuleId, Profile};

/// Estimated bytes of a frame, its two index entries included.
const FRAME_BYTES: usize = 160;
/// Estimated bytes of a module's id, its index entry included.
const MODULE_BYTES: usize = 320;
/// Estimated bytes of a node, its index entry included.
const NODE_BYTES: usize = 40;

/// Interned stacks. Node 0 is the empty stack.
#[derive(Default)]
pub(super) struct Dictionary {
    modules: Vec<ModuleId>,
    module_index: HashMap<ModuleId, u32>,
    frames: Vec<Frame>,
    frame_index: HashMap<Frame, u32>,
    /// Caller's node and frame of nodes 1...
    nodes: Vec<(u32, u32)>,
    index: HashMap<(u32, u32), u32>,
    /// Bytes of names of host frames.
    text: usize,
}

impl Dictionary {
    /// Index here of a frame of a profile. A new one is added if it may be; `None` if it is new and may not.
    pub(super) fn frame_of(&mut self, profile: &Profile, frame: &Frame, may_add: bool) -> Option<u32> {
        let frame = match frame {
            Frame::Guest { module, offset } => {
                let module = self.module(profile.modules.get(*module as usize)?, may_add)?;
                Frame::Guest { module, offset: *offset }
            }
            Frame::Host(name) => Frame::Host(name.clone()),
        };
        if let Some(&index) = self.frame_index.get(&frame) {
            return Some(index);
        }
        if !may_add {
            return None;
        }
        if let Frame::Host(name) = &frame {
            self.text += 2 * name.len();
        }
        let index = self.frames.len() as u32;
        self.frames.push(frame.clone());
        self.frame_index.insert(frame, index);
        Some(index)
    }

    fn module(&mut self, id: &ModuleId, may_add: bool) -> Option<u32> {
        if let Some(&index) = self.module_index.get(id) {
            return Some(index);
        }
        may_add.then(|| {
            let index = self.modules.len() as u32;
            self.modules.push(id.clone());
            self.module_index.insert(id.clone(), index);
            index
        })
    }

    /// The node of a stack given leaf first as indices of this dictionary; `None` if it is not known.
    pub(super) fn find(&self, stack: &[u32]) -> Option<u32> {
        stack.iter().rev().try_fold(0, |parent, &frame| self.index.get(&(parent, frame)).copied())
    }

    /// The node of a stack given leaf first, added if it is new.
    pub(super) fn add(&mut self, stack: &[u32]) -> u32 {
        stack.iter().rev().fold(0, |parent, &frame| self.node(parent, frame))
    }

    fn node(&mut self, parent: u32, frame: u32) -> u32 {
        let next = self.nodes.len() as u32 + 1;
        *self.index.entry((parent, frame)).or_insert_with(|| {
            self.nodes.push((parent, frame));
            next
        })
    }

    /// Frames of a node as indices of `out`, leaf first.
    pub(super) fn frames_of(&self, node: u32, out: &mut Profile) -> Vec<u32> {
        let mut stack = Vec::new();
        let mut at = node;
        // Parents are older than their children, so this ends at 0.
        while let Some(&(parent, frame)) = (at as usize).checked_sub(1).and_then(|i| self.nodes.get(i)) {
            match self.frames.get(frame as usize) {
                Some(Frame::Guest { module, offset }) => {
                    if let Some(id) = self.modules.get(*module as usize) {
                        let module = out.module(id);
                        stack.push(out.frame(Frame::Guest { module, offset: *offset }));
                    }
                }
                Some(host) => stack.push(out.frame(host.clone())),
                None => {}
            }
            at = parent;
        }
        stack
    }

    /// Estimated size in memory.
    pub(super) fn bytes(&self) -> usize {
        self.frames.len() * FRAME_BYTES
            + self.modules.len() * MODULE_BYTES
            + self.text
            + self.nodes.len() * NODE_BYTES
    }

    /// A dictionary of only these nodes and their callers, and where each of them is now.
    pub(super) fn rebuilt(&self, nodes: impl Iterator<Item = u32>) -> (Self, HashMap<u32, u32>) {
        let mut out = Self::default();
        let mut moved = HashMap::new();
        let mut scratch = Profile::new();
        for node in nodes {
            if moved.contains_key(&node) {
                continue;
            }
            let stack = self.frames_of(node, &mut scratch);
            let frames: Vec<u32> = stack
                .iter()
                .filter_map(|&frame| scratch.frames.get(frame as usize))
                .filter_map(|frame| out.frame_of(&scratch, frame, true))
                .collect();
            moved.insert(node, out.add(&frames));
        }
        (out, moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(profile: &mut Profile, offsets: &[u64]) -> Vec<u32> {
        let module = profile.module(&ModuleId::parse("ab").unwrap());
        offsets.iter().map(|&offset| profile.frame(Frame::Guest { module, offset })).collect()
    }

    /// What goes in comes out, also after entries that nobody needs were left out.
    #[test]
    fn stacks_survive_a_rebuild() {
        let mut profile = Profile::new();
        let (kept, gone) = (stack(&mut profile, &[1, 2, 3]), stack(&mut profile, &[7, 8, 9, 3]));
        let mut dictionary = Dictionary::default();
        let mut add = |stack: &[u32]| {
            let frames = stack.iter().map(|&f| &profile.frames[f as usize]);
            let frames: Vec<u32> =
                frames.map(|frame| dictionary.frame_of(&profile, frame, true).unwrap()).collect();
            dictionary.add(&frames)
        };
        let (kept_node, gone_node) = (add(&kept), add(&gone));
        assert_ne!(kept_node, gone_node);
        let before = dictionary.bytes();

        let (dictionary, moved) = dictionary.rebuilt([kept_node, kept_node].into_iter());
        assert!(dictionary.bytes() < before);
        let mut out = Profile::new();
        let found = dictionary.frames_of(moved[&kept_node], &mut out);
        let offsets: Vec<_> = found.iter().map(|&f| out.frames[f as usize].clone()).collect();
        let want: Vec<_> = kept.iter().map(|&f| profile.frames[f as usize].clone()).collect();
        assert_eq!(offsets, want);
    }
}

//! The `Samples` message: stacks with incremental dictionaries, for recordings and answers.

use std::collections::HashMap;

use sandscope_model::profile::Weight;
use sandscope_model::{Frame, ModuleId, Profile};

use crate::recording as wire;

/// Format version that this code writes and the largest that it reads.
pub const VERSION: u32 = 1;

/// Deepest stack that is read, in frames.
const MAX_DEPTH: usize = 1024;

/// Why a batch of samples could not be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StackError {
    /// Written by a later release.
    #[error("samples have format version {found}, this release reads up to {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// An index that points past its dictionary.
    #[error("a {what} refers to entry {index} of a dictionary of {len}")]
    Index {
        /// What held the index.
        what: &'static str,
        /// The index.
        index: u64,
        /// Entries there are.
        len: usize,
    },
    /// A module id that is none.
    #[error("a module id is malformed")]
    ModuleId,
}

/// Writes stacks as a tree, each distinct one once per stream.
#[derive(Debug, Default)]
pub struct StackEncoder {
    modules: HashMap<ModuleId, u32>,
    frames: HashMap<(u32, u64, Box<str>), u32>,
    nodes: HashMap<(u32, u32), u32>,
}

impl StackEncoder {
    /// Index of a stack (leaf first), its new entries put into `out`.
    pub fn stack(&mut self, profile: &Profile, stack: &[u32], out: &mut wire::Samples) -> u32 {
        let mut node = 0;
        for &frame in stack.iter().rev() {
            let frame = self.frame(profile, &profile.frames[frame as usize], out);
            let next = self.nodes.len() as u32 + 1;
            node = *self.nodes.entry((node, frame)).or_insert_with(|| {
                out.new_stacks.push(wire::Stack { parent: node, frame });
                next
            });
        }
        node
    }

    fn frame(&mut self, profile: &Profile, frame: &Frame, out: &mut wire::Samples) -> u32 {
        let key = match frame {
            Frame::Host(name) => (0, 0, name.clone()),
            Frame::Guest { module, offset } => {
                let id = &profile.modules[*module as usize];
                let next = self.modules.len() as u32 + 1;
                let module = *self.modules.entry(id.clone()).or_insert_with(|| {
                    out.new_modules.push(id.as_str().to_owned());
                    next
                });
                (module, *offset, Box::default())
            }
        };
        let next = self.frames.len() as u32;
        *self.frames.entry(key).or_insert_with_key(|(module, offset, host)| {
            out.new_frames.push(wire::Frame { module: *module, offset: *offset, host: host.to_string() });
            next
        })
    }

    /// A whole profile as one message: one entry per stack.
    pub fn profile(&mut self, profile: &Profile) -> wire::Samples {
        let mut out = wire::Samples { version: VERSION, ..wire::Samples::default() };
        for (stack, weight) in profile.iter() {
            let index = self.stack(profile, stack, &mut out);
            out.stack.push(index);
            out.value.push(weight.value);
            out.count.push(u32::try_from(weight.samples).unwrap_or(u32::MAX));
        }
        out
    }
}

/// Reads what [`StackEncoder`] wrote. Keeps the dictionaries of one stream.
#[derive(Debug, Default)]
pub struct StackDecoder {
    modules: Vec<ModuleId>,
    frames: Vec<wire::Frame>,
    nodes: Vec<wire::Stack>,
}

impl StackDecoder {
    /// Takes a batch's dictionary entries. Call once per batch, in order, before [`Self::add_to`].
    ///
    /// # Errors
    /// A later version, or indices outside the dictionaries; the batch is then not usable.
    pub fn learn(&mut self, samples: &wire::Samples) -> Result<(), StackError> {
        if samples.version > VERSION {
            return Err(StackError::Version { found: samples.version });
        }
        for id in &samples.new_modules {
            self.modules.push(ModuleId::parse(id).ok_or(StackError::ModuleId)?);
        }
        for frame in &samples.new_frames {
            check("frame", u64::from(frame.module), self.modules.len() + 1)?;
            self.frames.push(frame.clone());
        }
        for node in &samples.new_stacks {
            // A parent comes before its child, so that walks end.
            check("stack", u64::from(node.parent), self.nodes.len() + 1)?;
            check("stack", u64::from(node.frame), self.frames.len())?;
            self.nodes.push(*node);
        }
        Ok(())
    }

    /// Adds the batch's samples to a profile.
    ///
    /// # Errors
    /// A sample that refers to no stack.
    pub fn add_to(&self, profile: &mut Profile, samples: &wire::Samples) -> Result<(), StackError> {
        for (i, &stack) in samples.stack.iter().enumerate() {
            let frames = self.frames_of(stack, profile)?;
            let weight = Weight {
                samples: samples.count.get(i).map_or(1, |&n| u64::from(n)),
                value: samples.value.get(i).copied().unwrap_or(0),
            };
            profile.add(&frames, weight);
        }
        Ok(())
    }

    /// Frames of a stack as indices of `profile`, leaf first.
    ///
    /// # Errors
    /// An index that refers to no stack.
    pub fn frames_of(&self, stack: u32, profile: &mut Profile) -> Result<Vec<u32>, StackError> {
        check("sample", u64::from(stack), self.nodes.len() + 1)?;
        let mut out = Vec::new();
        let mut at = stack;
        while at != 0 && out.len() < MAX_DEPTH {
            let node = self.nodes[at as usize - 1];
            let frame = &self.frames[node.frame as usize];
            let frame = match frame.module {
                0 => Frame::Host(frame.host.as_str().into()),
                module => {
                    let module = profile.module(&self.modules[module as usize - 1]);
                    Frame::Guest { module, offset: frame.offset }
                }
            };
            out.push(profile.frame(frame));
            at = node.parent;
        }
        Ok(out)
    }
}

fn check(what: &'static str, index: u64, len: usize) -> Result<(), StackError> {
    if index < len as u64 { Ok(()) } else { Err(StackError::Index { what, index, len }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(stacks: &[&[u64]]) -> Profile {
        let mut out = Profile::new();
        let module = out.module(&ModuleId::parse("ab").unwrap());
        for stack in stacks {
            let frames: Vec<u32> =
                stack.iter().map(|&offset| out.frame(Frame::Guest { module, offset })).collect();
            out.add(&frames, Weight { samples: 1, value: 10 });
        }
        out
    }

    /// Later batches refer to entries of earlier ones, and everything adds up.
    #[test]
    fn dictionaries_are_incremental() {
        let (first, second) = (profile(&[&[1, 2, 3], &[2, 3]]), profile(&[&[1, 2, 3], &[9, 3]]));
        let mut encoder = StackEncoder::default();
        let batches = [encoder.profile(&first), encoder.profile(&second)];
        assert_eq!(batches[1].new_modules.len(), 0);
        assert_eq!(batches[1].new_frames.len(), 1);
        assert_eq!(batches[1].new_stacks.len(), 1);

        let mut decoder = StackDecoder::default();
        let mut got = Profile::new();
        for batch in &batches {
            decoder.learn(batch).unwrap();
            decoder.add_to(&mut got, batch).unwrap();
        }
        let mut want = first;
        want.merge(&second);
        let sorted = |p: &Profile| {
            let mut all: Vec<_> = p
                .iter()
                .map(|(s, w)| (s.iter().map(|&f| p.frames[f as usize].clone()).collect::<Vec<_>>(), w.value))
                .collect();
            all.sort_by_key(|(frames, _)| format!("{frames:?}"));
            all
        };
        assert_eq!(sorted(&got), sorted(&want));
    }

    /// A cyclic or dangling dictionary of a hostile file is refused, not walked.
    #[test]
    fn bad_indices_are_refused() {
        let mut samples = StackEncoder::default().profile(&profile(&[&[1, 2]]));
        samples.new_stacks[0].parent = 2;
        assert!(matches!(StackDecoder::default().learn(&samples), Err(StackError::Index { .. })));
        let mut later = wire::Samples { version: VERSION + 1, ..Default::default() };
        assert!(matches!(StackDecoder::default().learn(&later), Err(StackError::Version { .. })));
        later = wire::Samples { version: VERSION, stack: vec![7], ..Default::default() };
        assert!(StackDecoder::default().add_to(&mut Profile::new(), &later).is_err());
    }
}

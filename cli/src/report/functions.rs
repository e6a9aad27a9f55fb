//! Stacks folded by function: who spends the time itself, and who is responsible for it.

use std::collections::HashMap;

use sandscope_model::{Frame, ModuleId, Profile};

use super::json::Function;
use super::symbols::{Symbols, UNKNOWN};

/// What makes a function one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    name: String,
    file: Option<String>,
    module: Option<ModuleId>,
}

#[derive(Default)]
struct Sums {
    own: u64,
    total: u64,
    /// Samples by line: (ended there, passed through).
    lines: HashMap<u32, (u64, u64)>,
    /// The last stack that was counted into `total`, for recursion.
    stack: u64,
}

/// Functions of several profiles of one kind.
#[derive(Default)]
pub(super) struct Functions {
    index: HashMap<Key, usize>,
    keys: Vec<Key>,
    sums: Vec<Sums>,
    stacks: u64,
    samples: u64,
}

impl Functions {
    /// Adds a profile.
    pub(super) fn add(&mut self, profile: &Profile, symbols: &Symbols) {
        // Per frame of the profile: its functions with their lines, innermost first.
        let frames: Vec<Vec<(usize, Option<u32>)>> =
            profile.frames.iter().map(|frame| self.expand(frame, profile, symbols)).collect();
        for (stack, weight) in profile.iter() {
            self.stacks += 1;
            self.samples += weight.samples;
            let functions = stack.iter().filter_map(|&frame| frames.get(frame as usize)).flatten();
            for (depth, &(function, line)) in functions.enumerate() {
                let Some(sums) = self.sums.get_mut(function) else { continue };
                let first = sums.stack != self.stacks;
                let leaf = depth == 0;
                if leaf {
                    sums.own += weight.samples;
                }
                if first {
                    sums.stack = self.stacks;
                    sums.total += weight.samples;
                }
                if let Some(line) = line {
                    let (own, total) = sums.lines.entry(line).or_default();
                    *own += if leaf { weight.samples } else { 0 };
                    *total += weight.samples;
                }
            }
        }
    }

    fn expand(&mut self, frame: &Frame, profile: &Profile, symbols: &Symbols) -> Vec<(usize, Option<u32>)> {
        let (module, offset) = match frame {
            Frame::Host(name) => {
                return vec![(self.function(Key { name: name.to_string(), file: None, module: None }), None)];
            }
            Frame::Guest { module, offset } => (profile.modules.get(*module as usize), *offset),
        };
        match module.and_then(|module| symbols.at(module, offset)) {
            Some(sources) => sources
                .iter()
                .map(|source| {
                    let key = Key {
                        name: source.function.clone(),
                        file: source.file.clone(),
                        module: module.cloned(),
                    };
                    (self.function(key), source.line)
                })
                .collect(),
            None => {
                let key = Key { name: UNKNOWN.to_owned(), file: None, module: module.cloned() };
                vec![(self.function(key), None)]
            }
        }
    }

    fn function(&mut self, key: Key) -> usize {
        if let Some(&known) = self.index.get(&key) {
            return known;
        }
        let index = self.keys.len();
        self.keys.push(key.clone());
        self.sums.push(Sums::default());
        self.index.insert(key, index);
        index
    }

    /// The functions with the most samples of their own, at most `top`; ties by total, then by name.
    pub(super) fn top(self, top: usize) -> Vec<Function> {
        let mut all: Vec<(Key, Sums)> = self.keys.into_iter().zip(self.sums).collect();
        all.sort_by(|(a_key, a), (b_key, b)| {
            (b.own, b.total).cmp(&(a.own, a.total)).then_with(|| a_key.cmp(b_key))
        });
        all.truncate(top);
        let share = |samples: u64| if self.samples == 0 { 0.0 } else { samples as f64 / self.samples as f64 };
        all.into_iter()
            .map(|(key, sums)| Function {
                name: key.name,
                file: key.file,
                // The smaller line wins a tie, so that reports of one file are equal.
                line: sums
                    .lines
                    .iter()
                    .max_by_key(|(line, sums)| (**sums, std::cmp::Reverse(**line)))
                    .map(|l| *l.0),
                module: key.module.map(|id| id.to_string()),
                own: share(sums.own),
                total: share(sums.total),
                self_samples: sums.own,
                total_samples: sums.total,
            })
            .collect()
    }
}

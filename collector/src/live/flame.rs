//! Stacks of the last quarter of an hour: weights per row and kind in buckets of 10 s, within a byte bound.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use sandscope_model::profile::Weight;
use sandscope_model::{Frame, Profile, SampleKind};
use sandscope_proto::otlp::ProfileBatch;

use super::hosts::Source;
use super::stacks::Dictionary;
use super::window::slot_of;
use super::{Key, Selected};

/// Seconds of a bucket: the window's slots, so that both speak of the same time.
const BUCKET_S: f64 = 10.0;
/// Estimated bytes of a stack's weight in a bucket.
const WEIGHT_BYTES: usize = 48;
/// Estimated bytes of a row's part of a bucket without its stacks.
const PART_BYTES: usize = 2048;
/// Name of the frame that stands for stacks beyond a bound.
const OTHER: &str = "[other]";

#[derive(Default)]
struct Part {
    stacks: HashMap<u32, Weight>,
    other: Weight,
    hz: f64,
}

/// What is held apart: rows, kinds, and what the code ran on, as the first host that had it says it.
#[derive(Clone)]
struct PartKey {
    key: Key,
    kind: SampleKind,
    platform: Arc<Source>,
}

impl PartKey {
    fn parts(&self) -> (&Key, SampleKind, &str, &str, &str) {
        let (engine, version) = self.platform.engine_parts();
        (&self.key, self.kind, &self.platform.arch, engine, version)
    }
}

impl PartialEq for PartKey {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for PartKey {}

impl Hash for PartKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

struct Bucket {
    slot: u64,
    parts: HashMap<PartKey, Part>,
}

/// A span of time: so many seconds (0: all that is held) that ended so many seconds ago.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    pub seconds: f64,
    pub age: f64,
}

impl Bucket {
    fn samples(&self) -> u64 {
        let part = |part: &Part| {
            part.stacks.values().fold(part.other.samples, |sum, weight| sum.saturating_add(weight.samples))
        };
        self.parts.values().map(part).fold(0, u64::saturating_add)
    }

    fn bytes(&self) -> usize {
        self.parts.values().map(|part| PART_BYTES + part.stacks.len() * WEIGHT_BYTES).sum()
    }
}

/// All stacks that are held.
pub(super) struct Flames {
    dictionary: Dictionary,
    /// Oldest first.
    buckets: VecDeque<Bucket>,
    /// Estimated bytes of all buckets, without the dictionary.
    weights: usize,
    /// Bytes of the dictionary when nothing in it was stale.
    settled: usize,
    max_bytes: usize,
    max_stacks: usize,
    retention: Duration,
}

/// Stacks of a selection.
pub(crate) struct Folded {
    pub profile: Profile,
    /// 0 if the senders do not agree, or samples do not come at a rate.
    pub hz: f64,
}

impl Flames {
    pub(super) fn new(max_bytes: usize, max_stacks: usize, retention: Duration) -> Self {
        Self {
            dictionary: Dictionary::default(),
            buckets: VecDeque::new(),
            weights: 0,
            settled: 0,
            max_bytes,
            max_stacks,
            retention,
        }
    }

    /// Estimated size in memory.
    pub(super) fn bytes(&self) -> usize {
        self.dictionary.bytes() + self.weights
    }

    /// Adds a profile; returns how many older samples had to go.
    pub(super) fn add(
        &mut self,
        now: Duration,
        key: &Key,
        source: &Arc<Source>,
        batch: &ProfileBatch,
    ) -> u64 {
        let slot = slot_of(now);
        self.expire(now);
        if self.buckets.back().is_none_or(|newest| newest.slot < slot) {
            self.buckets.push_back(Bucket { slot, parts: HashMap::new() });
        }
        let mut evicted = 0;
        let own = PartKey { key: key.clone(), kind: batch.kind, platform: source.clone() };
        for (stack, weight) in batch.profile.iter() {
            // Checked per stack: one profile can be as large as the bound.
            if self.bytes() > self.max_bytes {
                evicted += self.make_room();
            }
            let full = self.bytes() > self.max_bytes;
            let Some(bucket) = self.buckets.back_mut() else { break };
            let part = bucket.parts.entry(own.clone()).or_insert_with(|| {
                self.weights += PART_BYTES;
                Part::default()
            });
            part.hz = match (batch.kind, batch.period) {
                (SampleKind::Cpu | SampleKind::Wall, 1..) => 1e9 / batch.period as f64,
                _ => 0.0,
            };
            let may_add = !full && part.stacks.len() < self.max_stacks;
            let frames: Option<Vec<u32>> = stack
                .iter()
                .map(|&frame| {
                    let frame = batch.profile.frames.get(frame as usize)?;
                    self.dictionary.frame_of(&batch.profile, frame, may_add)
                })
                .collect();
            let node = frames.and_then(|frames| match self.dictionary.find(&frames) {
                Some(node) => (may_add || part.stacks.contains_key(&node)).then_some(node),
                None => may_add.then(|| self.dictionary.add(&frames)),
            });
            let sum = match node {
                Some(node) => part.stacks.entry(node).or_insert_with(|| {
                    self.weights += WEIGHT_BYTES;
                    Weight::default()
                }),
                None => &mut part.other,
            };
            add(sum, weight);
        }
        evicted
    }

    fn expire(&mut self, now: Duration) {
        let first = slot_of(now.saturating_sub(self.retention));
        while self.buckets.front().is_some_and(|bucket| bucket.slot < first) {
            self.drop_oldest();
        }
        // Stacks that only the dropped buckets had are still in the dictionary; twice its size is the time.
        if self.dictionary.bytes() > 2 * self.settled.max(1 << 20) {
            self.compact();
        }
    }

    fn drop_oldest(&mut self) -> u64 {
        let Some(bucket) = self.buckets.pop_front() else { return 0 };
        self.weights = self.weights.saturating_sub(bucket.bytes());
        bucket.samples()
    }

    /// Drops the oldest buckets until a quarter is free, so that this is not done for every stack.
    fn make_room(&mut self) -> u64 {
        let mut evicted = 0;
        while self.buckets.len() > 1 && self.bytes() > self.max_bytes / 4 * 3 {
            // Several at a time: compacting costs as much as all that is held.
            for _ in 0..(self.buckets.len() / 4).max(1) {
                evicted += self.drop_oldest();
            }
            self.compact();
        }
        evicted
    }

    fn compact(&mut self) {
        let nodes = self.buckets.iter().flat_map(|b| b.parts.values()).flat_map(|p| p.stacks.keys().copied());
        let (dictionary, moved) = self.dictionary.rebuilt(nodes);
        for part in self.buckets.iter_mut().flat_map(|bucket| bucket.parts.values_mut()) {
            let old = std::mem::take(&mut part.stacks);
            part.stacks =
                old.into_iter().filter_map(|(node, weight)| Some((*moved.get(&node)?, weight))).collect();
        }
        self.dictionary = dictionary;
        self.settled = self.dictionary.bytes();
    }

    /// Stacks of a kind and a span of time. Buckets are counted whole.
    pub(super) fn fold(&self, now: Duration, selected: &Selected, kind: SampleKind, span: Span) -> Folded {
        let end = now.as_secs_f64() - span.age.max(0.0);
        let slot = |seconds: f64| (seconds / BUCKET_S).floor().max(0.0) as u64;
        let first = if span.seconds > 0.0 { slot(end - span.seconds) } else { 0 };
        let mut sums: HashMap<u32, Weight> = HashMap::new();
        let mut other = Weight::default();
        let mut rates: Vec<f64> = Vec::new();
        for bucket in self.buckets.iter().filter(|bucket| (first..=slot(end)).contains(&bucket.slot)) {
            for (of, part) in &bucket.parts {
                if of.kind != kind || !selected.matches(&of.key) || !selected.is_platform(&of.platform) {
                    continue;
                }
                if !rates.contains(&part.hz) && rates.len() < 2 {
                    rates.push(part.hz);
                }
                add(&mut other, part.other);
                for (&node, &weight) in &part.stacks {
                    add(sums.entry(node).or_default(), weight);
                }
            }
        }
        let mut profile = Profile::new();
        let mut sums: Vec<(u32, Weight)> = sums.into_iter().collect();
        sums.sort_unstable_by_key(|(node, weight)| (std::cmp::Reverse(weight.value), *node));
        for (node, weight) in sums {
            let frames = self.dictionary.frames_of(node, &mut profile);
            profile.add(&frames, weight);
        }
        if other.samples > 0 {
            let frame = profile.frame(Frame::Host(OTHER.into()));
            profile.add(&[frame], other);
        }
        let hz = if let [hz] = rates.as_slice() { *hz } else { 0.0 };
        Folded { profile, hz }
    }
}

fn add(sum: &mut Weight, weight: Weight) {
    sum.samples = sum.samples.saturating_add(weight.samples);
    sum.value = sum.value.saturating_add(weight.value);
}

//! Streams of samples back to profiles: dictionaries in order, and what to do when a part of one is lost.

use std::collections::HashMap;

use sandscope_model::profile::Weight;
use sandscope_model::{Profile, SampleKind, WorkloadId};
use sandscope_proto::recording as wire;
use sandscope_proto::stacks::StackDecoder;

use crate::fold::{Lost, RecordedProfile, cut};

/// Dictionaries that are kept. The writer has one at a time.
const MAX_STREAMS: usize = 8;

/// Entries of one dictionary, the sum of its modules, frames and stacks. The writer stops far below.
const MAX_ENTRIES: usize = 1 << 22;

/// Bytes of names in one dictionary.
const MAX_NAMES: usize = 64 << 20;

/// Pairs of workload and kind.
const MAX_PROFILES: usize = 1000;

/// Frames of all distinct stacks of all profiles: 256 MiB of indices.
const MAX_CELLS: usize = 64 << 20;

/// Dictionaries and what they led to.
#[derive(Default)]
pub(crate) struct SampleFold {
    streams: Streams,
    profiles: Vec<RecordedProfile>,
    index: HashMap<(WorkloadId, SampleKind), usize>,
    cells: usize,
}

/// Samples of one workload that were written together.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedBatch {
    /// The workload.
    pub workload: WorkloadId,
    /// What values count.
    pub kind: SampleKind,
    /// Samples per second and thread; 0 if unknown or if they do not come at a rate.
    pub hz: f64,
    /// Samples that the host could not keep since the batch before.
    pub dropped: u64,
    /// When the batch began, in nanoseconds since 1970.
    pub start_unix_nano: u64,
    /// The samples, folded.
    pub profile: Profile,
}

/// Dictionaries, as far as the file was read.
#[derive(Default)]
pub(crate) struct Streams {
    streams: HashMap<u16, Stream>,
    clock: u64,
}

#[derive(Default)]
struct Stream {
    decoder: StackDecoder,
    next: u32,
    broken: bool,
    entries: usize,
    names: usize,
    used: u64,
}

impl SampleFold {
    pub(crate) fn into_profiles(self) -> Vec<RecordedProfile> {
        self.profiles
    }

    /// Takes a batch: the `sequence`th message of a channel.
    pub(crate) fn add(&mut self, channel: u16, sequence: u32, batch: &wire::Samples, lost: &mut Lost) {
        let usable = self.streams.learn(channel, sequence, batch);
        let count = |i: usize| batch.count.get(i).map_or(1, |&n| u64::from(n));
        let all = (0..batch.stack.len()).map(count).fold(0u64, u64::saturating_add);
        let Some(at) = self.profile_of(batch) else {
            lost.unreadable += 1;
            return;
        };
        let (Some(profile), Some(stream)) = (self.profiles.get_mut(at), self.streams.streams.get(&channel))
        else {
            return;
        };
        profile.dropped = profile.dropped.saturating_add(batch.dropped);
        if batch.hz.is_finite() && batch.hz > 0.0 {
            profile.hz = batch.hz;
        }
        if !usable {
            profile.lost = profile.lost.saturating_add(all);
            lost.samples = lost.samples.saturating_add(all);
            return;
        }
        for (i, &stack) in batch.stack.iter().enumerate() {
            let weight = Weight { samples: count(i), value: batch.value.get(i).copied().unwrap_or(0) };
            let known = profile.profile.stacks.len();
            match stream.decoder.frames_of(stack, &mut profile.profile) {
                Ok(frames) if self.cells + frames.len() <= MAX_CELLS => {
                    profile.profile.add(&frames, weight);
                    if profile.profile.stacks.len() > known {
                        self.cells += frames.len();
                    }
                }
                _ => {
                    profile.lost = profile.lost.saturating_add(weight.samples);
                    lost.samples = lost.samples.saturating_add(weight.samples);
                }
            }
        }
    }

    fn profile_of(&mut self, batch: &wire::Samples) -> Option<usize> {
        let kind = SampleKind::parse(&batch.kind)?;
        let workload = WorkloadId::new(cut(&batch.workload), cut(&batch.workload_version));
        let key = (workload, kind);
        if let Some(&at) = self.index.get(&key) {
            return Some(at);
        }
        let at = self.profiles.len();
        (at < MAX_PROFILES).then(|| {
            self.profiles.push(RecordedProfile::new(key.0.clone(), kind));
            self.index.insert(key, at);
            at
        })
    }
}

impl Streams {
    /// The next message of a channel by itself; `None` if its stacks cannot be told.
    pub(crate) fn batch(
        &mut self,
        channel: u16,
        sequence: u32,
        batch: &wire::Samples,
    ) -> Option<RecordedBatch> {
        if !self.learn(channel, sequence, batch) {
            return None;
        }
        let mut profile = Profile::new();
        self.streams.get(&channel)?.decoder.add_to(&mut profile, batch).ok()?;
        Some(RecordedBatch {
            workload: WorkloadId::new(cut(&batch.workload), cut(&batch.workload_version)),
            kind: SampleKind::parse(&batch.kind)?,
            hz: if batch.hz.is_finite() && batch.hz > 0.0 { batch.hz } else { 0.0 },
            dropped: batch.dropped,
            start_unix_nano: batch.start_unix_nano,
            profile,
        })
    }

    /// Whether the batch's stacks can be told, its dictionary entries taken.
    fn learn(&mut self, channel: u16, sequence: u32, batch: &wire::Samples) -> bool {
        self.clock += 1;
        if !self.streams.contains_key(&channel) && self.streams.len() >= MAX_STREAMS {
            let oldest = self.streams.iter().min_by_key(|(_, stream)| stream.used).map(|(&number, _)| number);
            self.streams.retain(|number, _| Some(*number) != oldest);
        }
        let stream = self.streams.entry(channel).or_default();
        stream.used = self.clock;
        stream.entries += batch.new_modules.len() + batch.new_frames.len() + batch.new_stacks.len();
        stream.names += batch.new_frames.iter().map(|frame| frame.host.len()).sum::<usize>();
        // A gap shifts every index after it, so what follows in this channel cannot be told any more.
        let gap = sequence != stream.next;
        stream.broken |= gap
            || stream.entries > MAX_ENTRIES
            || stream.names > MAX_NAMES
            || stream.decoder.learn(batch).is_err();
        stream.next = sequence.wrapping_add(1);
        !stream.broken
    }
}

impl RecordedProfile {
    fn new(workload: WorkloadId, kind: SampleKind) -> Self {
        Self { workload, kind, hz: 0.0, dropped: 0, lost: 0, profile: Profile::new() }
    }
}

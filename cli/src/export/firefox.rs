//! The Firefox Profiler's processed profile (<https://profiler.firefox.com>), by the crate that its own
//! importers use. A track per workload and kind of sample.
//!
//! Samples have no time of their own: those of one batch, about a second, are spread evenly over it. Frames are
//! labels, so files and lines are not in it; pprof has them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use fxprof_processed_profile::{
    CategoryColor, CategoryHandle, CpuDelta, Frame, FrameFlags, FrameInfo, Profile, SamplingInterval,
    StackHandle, ThreadHandle, Timestamp, WeightType,
};
use sandscope_model::text::visible;
use sandscope_model::{Frame as RawFrame, SampleKind, WorkloadId};
use sandscope_recording::{RecordedBatch, Recording};

use crate::report::Symbols;

/// Time that a batch is taken to last.
const BATCH_NS: u64 = 1_000_000_000;

/// Samples of a batch that are drawn one by one; of more, several are one with a weight.
const MOST: u64 = 2000;

/// The profile as JSON.
pub fn profile(recording: &Recording, symbols: &Symbols) -> std::io::Result<Vec<u8>> {
    let head = recording.head();
    let started = SystemTime::UNIX_EPOCH + Duration::from_nanos(head.started_unix_nano);
    let hz = if head.hz > 0.0 { head.hz as f32 } else { 99.0 };
    let product = visible(recording.name()).into_owned();
    let mut profile = Profile::new(&product, started.into(), SamplingInterval::from_hz(hz));
    let mut out = Builder {
        guest: profile.add_category("Guest", CategoryColor::Yellow),
        host: profile.add_category("Host", CategoryColor::Blue),
        collector: profile.add_category("Garbage collection", CategoryColor::Orange),
        profile,
        threads: BTreeMap::new(),
        started: head.started_unix_nano,
    };
    // In this order, whatever comes first in the file.
    let mut tracks: Vec<_> =
        recording.profiles().iter().map(|profile| (profile.workload.clone(), profile.kind)).collect();
    tracks.sort();
    for (workload, kind) in tracks {
        out.thread(&workload, kind);
    }
    recording.each_sample_batch(|batch| out.batch(&batch, symbols))?;
    out.profile.set_symbolicated(true);
    Ok(serde_json::to_vec(&out.profile)?)
}

struct Builder {
    profile: Profile,
    guest: CategoryHandle,
    host: CategoryHandle,
    collector: CategoryHandle,
    threads: BTreeMap<(WorkloadId, SampleKind), ThreadHandle>,
    /// When the recording began.
    started: u64,
}

impl Builder {
    fn thread(&mut self, workload: &WorkloadId, kind: SampleKind) -> ThreadHandle {
        let key = (workload.clone(), kind);
        if let Some(&thread) = self.threads.get(&key) {
            return thread;
        }
        let zero = Timestamp::from_nanos_since_reference(0);
        let number = self.threads.len() as u32 + 1;
        let process = self.profile.add_process(&visible(&workload.name), number, zero);
        let thread = self.profile.add_thread(process, number, zero, false);
        let (what, weights) = match kind {
            SampleKind::Cpu => ("CPU", WeightType::Samples),
            SampleKind::Wall => ("waits and host calls", WeightType::TracingMs),
            SampleKind::Alloc => ("allocations", WeightType::Bytes),
        };
        self.profile.set_thread_name(thread, what);
        self.profile.set_thread_samples_weight_type(thread, weights);
        self.threads.insert(key, thread);
        thread
    }

    fn batch(&mut self, batch: &RecordedBatch, symbols: &Symbols) {
        let thread = self.thread(&batch.workload, batch.kind);
        let begin = batch.start_unix_nano.saturating_sub(self.started);
        let stacks: Vec<_> = batch
            .profile
            .iter()
            .map(|(stack, weight)| (self.stack(thread, stack, batch, symbols), weight))
            .collect();
        let together = batch.profile.samples().div_ceil(MOST).max(1);
        let drawn: u64 = stacks.iter().map(|(_, weight)| weight.samples.div_ceil(together)).sum();
        let mut at = 0;
        for (stack, weight) in stacks {
            let mut left = weight.samples;
            while left > 0 {
                let samples = left.min(together);
                left -= samples;
                let each = weight.value / weight.samples.max(1) * samples;
                let (cpu, weight) = match batch.kind {
                    SampleKind::Cpu => (CpuDelta::from_nanos(each), samples),
                    SampleKind::Wall => (CpuDelta::ZERO, (each / 1_000_000).max(1)),
                    SampleKind::Alloc => (CpuDelta::ZERO, each),
                };
                let time = begin + BATCH_NS / drawn.max(1) * at;
                let time = Timestamp::from_nanos_since_reference(time);
                let weight = i32::try_from(weight).unwrap_or(i32::MAX);
                self.profile.add_sample(thread, time, stack, cpu, weight);
                at += 1;
            }
        }
    }

    fn stack(
        &mut self,
        thread: ThreadHandle,
        stack: &[u32],
        batch: &RecordedBatch,
        symbols: &Symbols,
    ) -> Option<StackHandle> {
        let mut frames = Vec::with_capacity(stack.len());
        for frame in stack.iter().rev().filter_map(|&frame| batch.profile.frames.get(frame as usize)) {
            let category = match frame {
                RawFrame::Host(name) if **name == *"gc" => self.collector,
                RawFrame::Host(_) => self.host,
                RawFrame::Guest { .. } => self.guest,
            };
            let functions = symbols.functions(frame, &batch.profile);
            frames.extend(functions.iter().rev().map(|name| (visible(name).into_owned(), category)));
        }
        let frames: Vec<FrameInfo> = frames
            .into_iter()
            .map(|(name, category)| FrameInfo {
                frame: Frame::Label(self.profile.intern_string(&name)),
                category_pair: category.into(),
                flags: FrameFlags::empty(),
            })
            .collect();
        self.profile.intern_stack_frames(thread, frames.into_iter())
    }
}

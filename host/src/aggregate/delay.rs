//! How long guests were ready to run and waited for a free CPU: what the kernel counts of their threads, shared
//! out to the workloads that ran on them.
//!
//! # Accuracy
//! The kernel's count per thread is exact (second number of `/proc/self/task/TID/schedstat`). Of it a workload
//! gets the share that its samples have in the thread's CPU time (first number) since the reading before: what a
//! thread does besides guests costs guests nothing here. A thread is read once it has samples; one that ends
//! takes what it waited since its last reading with it. Absent where the kernel tells nothing, or nothing is
//! sampled.
//!
//! # Cost
//! A small file of the kernel per thread and settling, on the aggregator's thread; nothing on guests' threads.
//!
//! # Security
//! A workload's delay says how busy everybody else on the machine is, in sum; its own latency says as much.

use std::collections::HashMap;
use std::sync::Arc;

use crate::sampler::{Drained, Kind};
use crate::workload::Figures;

/// Threads that are read per settling; the others have their turn at the next.
const MAX_READ: usize = 64;
/// Threads that are followed.
const MAX_THREADS: usize = 4096;

/// Threads with samples.
#[derive(Default)]
pub(super) struct Delays {
    threads: HashMap<u32, Thread>,
    /// The thread that was read last.
    last: u32,
}

/// A thread as it was read before, and its samples since then.
#[derive(Default)]
struct Thread {
    ran_ns: u64,
    waited_ns: u64,
    /// Expirations of the sampler's timer, by ordinal of the workload.
    samples: HashMap<u32, u64>,
}

impl Delays {
    /// Takes note of a record of a thread.
    pub(super) fn add(&mut self, thread: u32, record: &Drained<'_>) {
        let is_sample = matches!(record.kind, Kind::Guest | Kind::Host);
        if !is_sample || (self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&thread)) {
            return;
        }
        let samples = &mut self.threads.entry(thread).or_default().samples;
        *samples.entry(record.workload).or_default() += record.weight;
    }

    /// Reads threads and shares out what they waited. `period_ns` is what an expiration stands for.
    pub(super) fn share_out(&mut self, period_ns: u64, figures: &[Arc<Figures>]) {
        self.share_out_by(period_ns, figures, schedstat);
    }

    fn share_out_by(
        &mut self,
        period_ns: u64,
        figures: &[Arc<Figures>],
        read: impl Fn(u32) -> Option<(u64, u64)>,
    ) {
        let sampled = self.threads.iter().filter(|(_, thread)| !thread.samples.is_empty());
        let mut due: Vec<u32> = sampled.map(|(id, _)| *id).collect();
        due.sort_unstable_by_key(|id| id.wrapping_sub(self.last.wrapping_add(1)));
        due.truncate(MAX_READ);
        self.last = due.last().copied().unwrap_or(self.last);
        for id in due {
            let (Some((ran_ns, waited_ns)), Some(thread)) = (read(id), self.threads.get_mut(&id)) else {
                self.threads.remove(&id);
                continue;
            };
            if ran_ns < thread.ran_ns || waited_ns < thread.waited_ns {
                // Another thread by now, with the number of one that ended.
                (thread.ran_ns, thread.waited_ns) = (0, 0);
            }
            let sampled_ns = thread.samples.values().sum::<u64>().saturating_mul(period_ns);
            // Samples come in whole periods and may be a few too many.
            let whole = (ran_ns - thread.ran_ns).max(sampled_ns).max(1) as f64;
            let waited = (waited_ns - thread.waited_ns) as f64;
            for (workload, weight) in thread.samples.drain() {
                if let Some(figures) = figures.get(workload as usize) {
                    let share = weight.saturating_mul(period_ns) as f64 / whole;
                    figures.delayed((waited * share) as u64);
                }
            }
            (thread.ran_ns, thread.waited_ns) = (ran_ns, waited_ns);
        }
    }
}

/// Nanoseconds that a thread of this process ran, and waited on a run queue. `None` once it ended, and where the
/// kernel does not tell.
fn schedstat(thread: u32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let mut numbers = text.split_ascii_whitespace().map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next())
}

#[cfg(test)]
mod tests {
    use sandscope_model::WorkloadId;

    use super::*;

    const PERIOD: u64 = 10_000_000;

    fn figures() -> Vec<Arc<Figures>> {
        (0..2).map(|n| Arc::new(Figures::new(WorkloadId::new("w", &n.to_string()), n))).collect()
    }

    fn sample(delays: &mut Delays, thread: u32, workload: u32, weight: u64) {
        let record = Drained {
            kind: Kind::Guest,
            workload,
            span: 0,
            weight,
            truncated: false,
            values: [0; 4],
            pcs: &[],
        };
        delays.add(thread, &record);
    }

    fn delays(figures: &[Arc<Figures>]) -> Vec<Option<u64>> {
        figures.iter().map(|figures| figures.delay_ns()).collect()
    }

    /// A thread that ran two workloads and the host for a third each: each workload gets a third of its wait, and
    /// of later readings what was new.
    #[test]
    fn waits_go_where_samples_are() {
        let (figures, mut all) = (figures(), Delays::default());
        assert_eq!(delays(&figures), [None, None]);
        sample(&mut all, 7, 0, 10);
        sample(&mut all, 7, 1, 10);
        all.share_out_by(PERIOD, &figures, |_| Some((300_000_000, 900)));
        assert_eq!(delays(&figures), [Some(300), Some(300)]);
        all.share_out_by(PERIOD, &figures, |_| panic!("no samples, so nothing to share out"));
        sample(&mut all, 7, 1, 10);
        all.share_out_by(PERIOD, &figures, |_| Some((400_000_000, 1900)));
        assert_eq!(delays(&figures), [Some(300), Some(1300)]);
        // A number that is used again.
        sample(&mut all, 7, 0, 1);
        all.share_out_by(PERIOD, &figures, |_| Some((10_000_000, 50)));
        assert_eq!(delays(&figures), [Some(350), Some(1300)]);
    }

    /// However many threads there are, each is read in its turn; those that ended are forgotten.
    #[test]
    fn every_thread_has_its_turn() {
        let (figures, mut all) = (figures(), Delays::default());
        (0..200).for_each(|thread| sample(&mut all, thread, 0, 1));
        for turn in 1..=4 {
            all.share_out_by(PERIOD, &figures, |_| Some((PERIOD, 1000)));
            assert_eq!(delays(&figures)[0], Some((turn * MAX_READ as u64).min(200) * 1000));
        }
        (0..50).for_each(|thread| sample(&mut all, thread, 0, 1));
        all.share_out_by(PERIOD, &figures, |_| None);
        assert_eq!(all.threads.len(), 150);
    }
}

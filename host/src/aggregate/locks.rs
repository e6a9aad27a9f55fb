//! Where guests wait for each other: waits by workload and address, the worst ones kept.

use std::collections::HashMap;

use sandscope_proto::recording::{Lock, TrapFrame};

use crate::hooks;

/// Addresses that are kept per workload.
const MAX_LOCKS: usize = 256;
/// Addresses that are written to a recording per workload.
const MAX_WRITTEN: usize = 32;

/// A recorded wait, with its addresses resolved.
pub(super) struct Wait {
    /// Ordinal of the workload.
    pub workload: u32,
    /// Address in the guest's memory.
    pub address: u64,
    /// How long it took.
    pub ns: u64,
    /// Whether it ended by its own time limit.
    pub timed_out: bool,
    /// Where it was, innermost first.
    pub stack: Vec<TrapFrame>,
    /// The call that ended it, if known.
    pub notifier: Option<TrapFrame>,
}

/// All of a host.
#[derive(Default)]
pub(super) struct Locks(HashMap<u32, Workload>);

#[derive(Default)]
struct Workload {
    locks: HashMap<u64, Lock>,
    changed: bool,
}

impl Locks {
    /// Counts a wait. Beyond the bound the address with the least waiting makes room.
    pub(super) fn add(&mut self, wait: Wait) {
        let workload = self.0.entry(wait.workload).or_default();
        workload.changed = true;
        if workload.locks.len() >= MAX_LOCKS && !workload.locks.contains_key(&wait.address) {
            let least = workload.locks.values().min_by_key(|lock| lock.wait_ns).map(|lock| lock.address);
            least.map(|address| workload.locks.remove(&address));
        }
        let (count, ns) = hooks::stands_for(wait.ns);
        let lock = workload
            .locks
            .entry(wait.address)
            .or_insert_with(|| Lock { address: wait.address, ..Lock::default() });
        lock.contentions += count;
        lock.timed_out += if wait.timed_out { count } else { 0.0 };
        lock.wait_ns = lock.wait_ns.saturating_add(ns);
        if wait.ns >= lock.max_wait_ns {
            lock.max_wait_ns = wait.ns;
            lock.stack = wait.stack;
            lock.notifier = wait.notifier;
        }
    }

    /// The worst locks of each workload that had waits since the last call, most waiting first.
    pub(super) fn changed(&mut self) -> Vec<(u32, Vec<Lock>)> {
        let changed = self.0.iter_mut().filter(|(_, workload)| workload.changed);
        changed
            .map(|(&ordinal, workload)| {
                workload.changed = false;
                (ordinal, workload.worst())
            })
            .collect()
    }

    /// The worst locks of a workload, most waiting first.
    pub(super) fn of(&self, ordinal: u32) -> Vec<Lock> {
        self.0.get(&ordinal).map_or_else(Vec::new, Workload::worst)
    }
}

impl Workload {
    fn worst(&self) -> Vec<Lock> {
        let mut locks: Vec<Lock> = self.locks.values().cloned().collect();
        locks.sort_by_key(|lock| std::cmp::Reverse(lock.wait_ns));
        locks.truncate(MAX_WRITTEN);
        locks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(address: u64, ns: u64) -> Wait {
        Wait { workload: 0, address, ns, timed_out: false, stack: Vec::new(), notifier: None }
    }

    /// The most waited for comes first, short waits count for those that were not recorded, and the table
    /// stays bounded.
    #[test]
    fn worst_first_and_bounded() {
        let mut locks = Locks::default();
        locks.add(wait(8, 2_000_000));
        locks.add(wait(8, 100_000));
        locks.add(wait(16, 5_000_000));
        let worst = locks.changed().remove(0).1;
        assert_eq!((worst[0].address, worst[0].wait_ns), (16, 5_000_000));
        let second = &worst[1];
        assert_eq!((second.contentions, second.wait_ns, second.max_wait_ns), (11.0, 3_000_000, 2_000_000));
        assert!(locks.changed().is_empty());
        for address in 100..10_000 {
            locks.add(wait(address, 1_000_000));
        }
        let worst = locks.changed().remove(0).1;
        assert_eq!((worst.len(), worst[0].address), (MAX_WRITTEN, 16));
    }
}

//! What guests allocated and hold, by stack: sums over sampled allocations.

use std::collections::{HashMap, HashSet};

use sandscope_proto::recording::{AllocationSite, TrapFrame};

use crate::hooks;

/// Stacks that are kept per workload; more fold into one without frames.
const MAX_SITES: usize = 4096;
/// Sampled allocations that are followed per workload.
const MAX_LIVE: usize = 1 << 20;
/// How much more than before makes a new highest point.
const PEAK_STEP: f64 = 1.01;
/// Stacks that are written per workload by what they hold, and as many by what they allocated.
const MAX_WRITTEN: usize = 64;

/// A sampled allocation, with its addresses resolved.
pub(super) struct Allocation {
    /// Ordinal of the workload.
    pub workload: u32,
    /// Number of the instance; 0 if its frees are not seen.
    pub instance: u64,
    /// Address in the guest's memory.
    pub pointer: u64,
    /// Bytes asked for.
    pub size: u64,
    /// Innermost first.
    pub stack: Vec<TrapFrame>,
}

/// A record of a guest's heap, in the order of its thread.
pub(super) enum Record {
    Allocated(Allocation),
    /// The end of a sampled allocation.
    Freed {
        workload: u32,
        instance: u64,
        pointer: u64,
    },
}

/// All of a host.
#[derive(Default)]
pub(super) struct Heap(HashMap<u32, Workload>);

/// Module ids and offsets of a stack's frames.
type Stack = Box<[(Box<str>, u64)]>;

#[derive(Default)]
struct Workload {
    sites: Vec<Site>,
    by_stack: HashMap<Stack, usize>,
    /// By instance and pointer: the site, and what it stands for.
    live: HashMap<(u64, u64), (usize, f64, f64)>,
    /// Frees that came before their allocation, of this interval and the one before: the two were on different
    /// threads. Older ones belong to allocations whose record was lost.
    early: [HashSet<(u64, u64)>; 2],
    /// Instances that ended; what they held is kept until another begins.
    ended: HashSet<u64>,
    newest: u64,
    /// Bytes held by all sites, and what that was at its highest.
    held: f64,
    peak: f64,
    live_known: bool,
    changed: bool,
}

#[derive(Default)]
struct Site {
    stack: Vec<TrapFrame>,
    allocated: (f64, f64),
    live: (f64, f64),
    /// Bytes held when the workload held most.
    at_peak: f64,
}

impl Heap {
    /// Takes an interval's records of all threads.
    pub(super) fn add(&mut self, records: Vec<Record>) {
        for record in records {
            match record {
                Record::Allocated(allocation) => {
                    self.0.entry(allocation.workload).or_default().allocated(allocation);
                }
                Record::Freed { workload, instance, pointer } => {
                    self.0.entry(workload).or_default().freed((instance, pointer));
                }
            }
        }
        for workload in self.0.values_mut() {
            workload.early[1] = std::mem::take(&mut workload.early[0]);
        }
    }

    /// Tells that an instance's store ended.
    pub(super) fn ended(&mut self, workload: u32, instance: u64) {
        self.0.entry(workload).or_default().ended.insert(instance);
    }

    /// The sites of each workload that changed since the last call, those that hold most first.
    pub(super) fn changed(&mut self) -> Vec<(u32, Vec<AllocationSite>, bool)> {
        let changed = self.0.iter_mut().filter(|(_, workload)| workload.changed);
        changed
            .map(|(&ordinal, workload)| {
                workload.changed = false;
                (ordinal, workload.worst(), workload.live_known)
            })
            .collect()
    }

    /// The sites of a workload, those that hold most first, and whether it is known what they hold.
    pub(super) fn of(&self, ordinal: u32) -> Option<(Vec<AllocationSite>, bool)> {
        self.0.get(&ordinal).map(|workload| (workload.worst(), workload.live_known))
    }
}

impl Workload {
    fn allocated(&mut self, allocation: Allocation) {
        self.changed = true;
        let Allocation { instance, pointer, size, stack, .. } = allocation;
        if instance > self.newest {
            self.newest = instance;
            self.forget_ended();
        }
        let (count, bytes) = hooks::alloc::stands_for(size);
        let site = self.site(stack);
        let sums = &mut self.sites[site].allocated;
        *sums = (sums.0 + bytes, sums.1 + count);
        if instance == 0 {
            return;
        }
        self.live_known = true;
        let key = (instance, pointer);
        if self.early.iter_mut().any(|early| early.remove(&key)) || self.live.len() >= MAX_LIVE {
            return;
        }
        if let Some(before) = self.live.insert(key, (site, bytes, count)) {
            self.take(before);
        }
        let sums = &mut self.sites[site].live;
        *sums = (sums.0 + bytes, sums.1 + count);
        self.held += bytes;
        // Every step costs a pass over the sites, so small ones are not taken.
        if self.held > self.peak * PEAK_STEP {
            self.peak = self.held;
            self.sites.iter_mut().for_each(|site| site.at_peak = site.live.0.max(0.0));
        }
    }

    fn freed(&mut self, key: (u64, u64)) {
        self.changed = true;
        match self.live.remove(&key) {
            Some(sample) => self.take(sample),
            None if self.early[0].len() < MAX_SITES => drop(self.early[0].insert(key)),
            None => {}
        }
    }

    fn take(&mut self, (site, bytes, count): (usize, f64, f64)) {
        let sums = &mut self.sites[site].live;
        *sums = (sums.0 - bytes, sums.1 - count);
        self.held -= bytes;
    }

    fn forget_ended(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let ended = std::mem::take(&mut self.ended);
        let gone: Vec<_> = self.live.extract_if(|(instance, _), _| ended.contains(instance)).collect();
        gone.into_iter().for_each(|(_, sample)| self.take(sample));
    }

    fn site(&mut self, stack: Vec<TrapFrame>) -> usize {
        let known = self.by_stack.len() < MAX_SITES;
        let key: Stack = stack.iter().map(|frame| (frame.module_id.as_str().into(), frame.offset)).collect();
        match self.by_stack.get(&key) {
            Some(&site) => site,
            None if !known && !key.is_empty() => self.site(Vec::new()),
            None => {
                self.sites.push(Site { stack, ..Site::default() });
                self.by_stack.insert(key, self.sites.len() - 1);
                self.sites.len() - 1
            }
        }
    }

    fn worst(&self) -> Vec<AllocationSite> {
        let mut order: Vec<usize> = (0..self.sites.len()).collect();
        let mut written: HashSet<usize> = HashSet::new();
        order.sort_by(|&a, &b| self.sites[b].allocated.0.total_cmp(&self.sites[a].allocated.0));
        written.extend(order.iter().take(MAX_WRITTEN));
        let held =
            |site: usize| (self.sites[site].live.0.max(0.0).round() as u64, self.sites[site].at_peak as u64);
        order.sort_by_key(|&site| std::cmp::Reverse(held(site)));
        written.extend(order.iter().take(MAX_WRITTEN));
        let sites = order.iter().filter(|site| written.contains(site)).map(|&site| &self.sites[site]);
        sites
            .map(|site| AllocationSite {
                stack: site.stack.clone(),
                allocated_bytes: site.allocated.0.round() as u64,
                allocated_count: site.allocated.1.round() as u64,
                live_bytes: site.live.0.max(0.0).round() as u64,
                live_count: site.live.1.max(0.0).round() as u64,
                peak_bytes: site.at_peak.round() as u64,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocation(instance: u64, pointer: u64, offset: u64) -> Record {
        let frame = TrapFrame { module_id: "m".to_owned(), offset, function: 0 };
        Record::Allocated(Allocation { workload: 0, instance, pointer, size: 1 << 30, stack: vec![frame] })
    }

    fn freed(instance: u64, pointer: u64) -> Record {
        Record::Freed { workload: 0, instance, pointer }
    }

    /// A guest with more stacks than are kept is told as far as they go, and the rest together.
    #[test]
    fn stacks_are_bounded() {
        let mut heap = Heap::default();
        let many = (0..MAX_SITES as u64 + 500).map(|offset| allocation(1, offset * 8 + 8, offset));
        heap.add(many.collect());
        let (_, sites, _) = heap.changed().remove(0);
        assert_eq!(
            sites
                .iter()
                .filter(|site| site.stack.is_empty())
                .map(|site| site.allocated_bytes >> 30)
                .sum::<u64>(),
            500
        );
    }

    /// What is freed is no longer held, in whichever order the two are heard of; what an instance held at its
    /// end is told until the next one begins.
    #[test]
    fn live_follows_frees_and_ends() {
        let mut heap = Heap::default();
        heap.add(vec![allocation(1, 8, 10), allocation(1, 16, 20), freed(1, 8), freed(1, 24)]);
        heap.add(vec![allocation(1, 24, 10)]);
        let (_, sites, known) = heap.changed().remove(0);
        assert!(known);
        let live: Vec<(u64, u64)> =
            sites.iter().map(|site| (site.stack[0].offset, site.live_bytes >> 30)).collect();
        assert_eq!(live, [(20, 1), (10, 0)]);
        assert_eq!(sites.iter().map(|site| site.peak_bytes >> 30).collect::<Vec<_>>(), [1, 1]);
        heap.ended(0, 1);
        assert!(heap.changed().is_empty(), "what it held is still told");
        heap.add(vec![allocation(2, 8, 30)]);
        let (_, sites, _) = heap.changed().remove(0);
        assert_eq!((sites[0].stack[0].offset, sites[0].live_bytes >> 30, sites[1].live_bytes), (30, 1, 0));
        assert_eq!(sites.iter().map(|site| site.allocated_bytes >> 30).sum::<u64>(), 4);
    }
}

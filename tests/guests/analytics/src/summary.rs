//! What is kept of the events: per key the latencies, and counts per user and tag.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Write};

use crate::Event;

#[derive(Default)]
pub struct Summary {
    groups: HashMap<String, Group>,
    users: HashMap<String, u64>,
    tags: HashMap<String, u64>,
    events: u64,
    rejected: u64,
}

/// All latencies are kept: the percentiles are exact, and memory is what they cost.
#[derive(Default)]
struct Group {
    latencies_ms: Vec<f64>,
    bytes: u64,
    errors: u64,
}

impl Summary {
    #[inline(never)]
    pub fn add(&mut self, event: &Event) {
        self.events += 1;
        let group = self.groups.entry(event.key.clone()).or_default();
        group.latencies_ms.push(event.latency_ms);
        group.bytes += event.bytes;
        group.errors += u64::from(event.status >= 500);
        *self.users.entry(event.user.clone()).or_default() += 1;
        for tag in &event.tags {
            // One count per kind of tag: "region:fra" as it is, "trace:…" as "trace".
            let kind = tag.strip_prefix("trace:").map_or(tag.as_str(), |_| "trace");
            *self.tags.entry(kind.to_owned()).or_default() += 1;
        }
    }

    pub fn reject(&mut self) {
        self.rejected += 1;
    }

    /// Keys by name, users and tags by count: the same events print the same text.
    pub fn print(&mut self, out: &mut impl Write, top: usize) -> io::Result<()> {
        writeln!(out, "{} events, {} rejected", self.events, self.rejected)?;
        writeln!(
            out,
            "{:<12} {:>9} {:>7} {:>12} {:>9} {:>9} {:>9}",
            "key", "events", "errors", "bytes", "p50 ms", "p95 ms", "p99 ms"
        )?;
        let mut groups: Vec<_> = self.groups.iter_mut().collect();
        groups.sort_by(|a, b| a.0.cmp(b.0));
        for (key, group) in groups {
            group.sort();
            writeln!(
                out,
                "{key:<12} {:>9} {:>7} {:>12} {:>9.2} {:>9.2} {:>9.2}",
                group.latencies_ms.len(),
                group.errors,
                group.bytes,
                group.percentile(50),
                group.percentile(95),
                group.percentile(99),
            )?;
        }
        print_top(out, "users", &self.users, top)?;
        print_top(out, "tags", &self.tags, top)
    }
}

impl Group {
    #[inline(never)]
    fn sort(&mut self) {
        self.latencies_ms.sort_by(f64::total_cmp);
    }

    /// Nearest rank, over sorted latencies.
    fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.latencies_ms.len() * percent).div_ceil(100);
        self.latencies_ms.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

fn print_top(out: &mut impl Write, what: &str, counts: &HashMap<String, u64>, top: usize) -> io::Result<()> {
    write!(out, "top {what}:")?;
    for (count, name) in top_k(counts, top) {
        write!(out, " {name}={count}")?;
    }
    writeln!(out)
}

/// The `k` largest counts, larger first and then by name, through a heap of `k`.
#[inline(never)]
fn top_k(counts: &HashMap<String, u64>, k: usize) -> Vec<(u64, &str)> {
    let mut heap = BinaryHeap::with_capacity(k + 1);
    for (name, &count) in counts {
        heap.push(Reverse((count, Reverse(name.as_str()))));
        if heap.len() > k {
            heap.pop();
        }
    }
    let smallest_first = heap.into_sorted_vec();
    smallest_first.into_iter().map(|Reverse((count, Reverse(name)))| (count, name)).collect()
}

//! Overlapping ranges flattened into disjoint ones, so that a lookup is one binary search. Knows nothing of DWARF.

use std::collections::BinaryHeap;

use super::budget::Budget;

/// Stands for "nothing here".
pub(crate) const NONE: u32 = u32::MAX;

/// A half-open range of addresses that wants to be found as `id`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub begin: u32,
    pub end: u32,
    /// Where ranges overlap, the highest rank is found.
    pub rank: u32,
    pub id: u32,
}

impl Interval {
    /// Appends and pays for the interval and for what [`Segments::new`] makes of it; `false` if the budget is spent.
    pub fn add(self, list: &mut Vec<Self>, retained: &Budget) -> bool {
        let paid = retained.take(2 * size_of::<Self>());
        if paid {
            list.push(self);
        }
        paid
    }
}

/// Disjoint segments: each begins at its address and ends where the next begins.
#[derive(Default)]
pub(crate) struct Segments(Box<[(u32, u32)]>);

impl Segments {
    /// Flattens, in O(n log n) whatever the overlaps.
    pub fn new(mut intervals: Vec<Interval>) -> Self {
        intervals.retain(|interval| interval.begin < interval.end);
        intervals.sort_unstable_by_key(|interval| (interval.begin, interval.rank));
        let mut out: Vec<(u32, u32)> = Vec::with_capacity(intervals.len() + 1);
        let mut open: BinaryHeap<(u32, u32, u32)> = BinaryHeap::new();
        let mut waiting = intervals.iter().peekable();
        let mut at = 0;
        loop {
            while open.peek().is_some_and(|&(_, end, _)| end <= at) {
                open.pop();
            }
            if open.is_empty() {
                let Some(next) = waiting.peek() else { break };
                if next.begin > at && !out.is_empty() {
                    out.push((at, NONE));
                }
                at = next.begin;
            }
            while let Some(next) = waiting.next_if(|next| next.begin <= at) {
                open.push((next.rank, next.end, next.id));
            }
            let Some(&(_, end, id)) = open.peek() else { break };
            if out.last().is_none_or(|&(_, last)| last != id) {
                out.push((at, id));
            }
            at = waiting.peek().map_or(end, |next| end.min(next.begin));
        }
        out.push((at, NONE));
        Self(out.into_boxed_slice())
    }

    /// The id at an address.
    pub fn find(&self, address: u32) -> Option<u32> {
        let at = self.0.partition_point(|(begin, _)| *begin <= address).checked_sub(1)?;
        self.0.get(at).map(|(_, id)| *id).filter(|id| *id != NONE)
    }

    /// All ranges where something is found.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let ends = self.0.iter().skip(1).map(|(end, _)| *end);
        self.0.iter().zip(ends).filter(|((_, id), _)| *id != NONE).map(|((begin, _), end)| (*begin, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the obvious: the highest rank among the intervals around each address.
    #[test]
    fn the_highest_rank_wins_at_every_address() {
        let mut seed = 7u32;
        let mut random = |below: u32| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) % below
        };
        for _ in 0..300 {
            let intervals: Vec<Interval> = (0..random(12))
                .map(|id| {
                    let begin = random(40);
                    Interval { begin, end: begin + random(12), rank: id, id: id * 10 }
                })
                .collect();
            let segments = Segments::new(intervals.clone());
            for address in 0..60 {
                let expected = intervals
                    .iter()
                    .filter(|i| i.begin <= address && address < i.end)
                    .max_by_key(|i| i.rank)
                    .map(|i| i.id);
                assert_eq!(segments.find(address), expected, "{address} in {intervals:?}");
            }
        }
    }
}

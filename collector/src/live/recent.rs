//! What came last, by workload, within a number of bytes: when there is no room, whoever has most makes it, and in
//! there what is notable stays longest. So a flood of one workload costs the others nothing.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{Key, overflow};

/// Estimated bytes of a key's places in two indices and of its empty queues, without its texts.
const KEY_BYTES: usize = 768;

/// Bytes that every key can count on, however many there are.
const SHARE: usize = 4 << 10;
/// One service of a region may have one of so many parts of the keys: whoever comes later finds room too.
const SERVICES: usize = 4;

/// One item.
pub(super) struct Entry<T> {
    /// When it arrived.
    pub received: Duration,
    bytes: usize,
    pub item: T,
}

struct Queue<T> {
    usual: VecDeque<Entry<T>>,
    notable: VecDeque<Entry<T>>,
    bytes: usize,
    notable_bytes: usize,
}

/// Items of all keys.
pub(super) struct Recent<T> {
    queues: HashMap<Key, Queue<T>>,
    /// Who has how much, the largest last.
    sizes: BTreeSet<(usize, Key)>,
    /// Keys of each service of a region.
    services: HashMap<(Arc<str>, Arc<str>), usize>,
    used: usize,
    max_bytes: usize,
    max_keys: usize,
    evicted: u64,
}

impl<T> Queue<T> {
    fn new() -> Self {
        Self { usual: VecDeque::new(), notable: VecDeque::new(), bytes: 0, notable_bytes: 0 }
    }

    /// Removes what is least worth keeping; its bytes.
    fn pop(&mut self) -> Option<usize> {
        // Three quarters may be notable before it has to give way to the usual.
        let from_notable = self.usual.is_empty() || self.notable_bytes > self.bytes / 4 * 3;
        self.pop_from(from_notable)
    }

    fn pop_from(&mut self, notable: bool) -> Option<usize> {
        let queue = if notable { &mut self.notable } else { &mut self.usual };
        let bytes = queue.pop_front()?.bytes;
        // The estimate knows of twice the length.
        if queue.len() < queue.capacity() / 4 {
            queue.shrink_to(queue.len() * 2);
        }
        self.bytes -= bytes;
        self.notable_bytes -= if notable { bytes } else { 0 };
        Some(bytes)
    }

    fn iter(&self) -> impl Iterator<Item = &Entry<T>> {
        self.usual.iter().chain(&self.notable)
    }
}

fn key_bytes(key: &Key) -> usize {
    let Key { region, service, workload, version } = key;
    KEY_BYTES + region.len() + service.len() + workload.len() + version.len()
}

fn service_of(key: &Key) -> (Arc<str>, Arc<str>) {
    (key.region.clone(), key.service.clone())
}

impl<T> Recent<T> {
    pub(super) fn new(max_bytes: usize, max_keys: usize) -> Self {
        let max_keys = max_keys.min(max_bytes / SHARE);
        Self {
            queues: HashMap::new(),
            sizes: BTreeSet::new(),
            services: HashMap::new(),
            used: 0,
            max_bytes,
            max_keys,
            evicted: 0,
        }
    }

    /// Estimated size in memory.
    pub(super) fn bytes(&self) -> usize {
        self.used
    }

    /// Items that had to make room before their time.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Whether anything is held of a key.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.queues.contains_key(key)
    }

    /// Adds an item that has so many bytes on the heap. Beyond the bound of keys it goes to the row of overflow.
    pub(super) fn push(&mut self, now: Duration, key: &Key, notable: bool, heap: usize, item: T) {
        self.extend(now, key, std::iter::once((notable, heap, item)));
    }

    /// Adds items, each with whether it is notable and its bytes on the heap.
    pub(super) fn extend(
        &mut self,
        now: Duration,
        key: &Key,
        items: impl IntoIterator<Item = (bool, usize, T)>,
    ) {
        let key = if self.admits(key) { key.clone() } else { overflow() };
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let queue = self.queues.entry(key.clone()).or_insert_with(|| {
                self.used += key_bytes(&key);
                *self.services.entry(service_of(&key)).or_default() += 1;
                Queue::new()
            });
            let before = queue.bytes;
            for (notable, heap, item) in items.by_ref() {
                // A queue has room for up to twice its entries.
                let bytes = 2 * size_of::<Entry<T>>() + heap;
                queue.bytes += bytes;
                queue.notable_bytes += if notable { bytes } else { 0 };
                let queue = if notable { &mut queue.notable } else { &mut queue.usual };
                queue.push_back(Entry { received: now, bytes, item });
                self.used += bytes;
                if self.used > self.max_bytes {
                    break;
                }
            }
            let after = queue.bytes;
            let mut booked = (before, key.clone());
            self.sizes.remove(&booked);
            booked.0 = after;
            self.sizes.insert(booked);
            while self.used > self.max_bytes && self.evict() {}
        }
    }

    /// Whether a key is known, or there is room for it.
    fn admits(&self, key: &Key) -> bool {
        let own = || self.services.get(&service_of(key)).copied().unwrap_or(0);
        let has_room = || self.queues.len() < self.max_keys && own() < (self.max_keys / SERVICES).max(1);
        self.queues.contains_key(key) || has_room()
    }

    /// Whoever has most loses one item; false if nobody has any.
    fn evict(&mut self) -> bool {
        let Some((before, key)) = self.sizes.pop_last() else { return false };
        let Some(queue) = self.queues.get_mut(&key) else { return true };
        self.evicted += u64::from(queue.pop().is_some());
        self.settle(before, key);
        true
    }

    /// Books what a queue has lost, whose entry among the sizes is taken out. One without items goes.
    fn settle(&mut self, before: usize, key: Key) {
        let Some(queue) = self.queues.get(&key) else { return };
        self.used -= before - queue.bytes;
        if queue.bytes > 0 {
            self.sizes.insert((queue.bytes, key));
        } else {
            self.used -= key_bytes(&key);
            self.queues.remove(&key);
            if let Some(keys) = self.services.get_mut(&service_of(&key)) {
                *keys -= 1;
                if *keys == 0 {
                    self.services.remove(&service_of(&key));
                }
            }
        }
    }

    /// Forgets what arrived longer ago.
    pub(super) fn forget(&mut self, now: Duration, retention: Duration) {
        let oldest = now.saturating_sub(retention);
        let sizes = std::mem::take(&mut self.sizes);
        for (before, key) in sizes {
            if let Some(queue) = self.queues.get_mut(&key) {
                for notable in [false, true] {
                    let is_old = |queue: &VecDeque<Entry<T>>| {
                        queue.front().is_some_and(|entry| entry.received < oldest)
                    };
                    while is_old(if notable { &queue.notable } else { &queue.usual }) {
                        queue.pop_from(notable);
                    }
                }
            }
            self.settle(before, key);
        }
        self.queues.shrink_to(self.queues.len() * 2);
    }

    /// All items, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Entry<T>)> {
        self.queues.iter().flat_map(|(key, queue)| queue.iter().map(move |entry| (key, entry)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(workload: &str) -> Key {
        Key { region: "eu".into(), service: "edge".into(), workload: workload.into(), version: "1".into() }
    }

    fn count(recent: &Recent<u32>, workload: &str) -> usize {
        recent.iter().filter(|(key, _)| &*key.workload == workload).count()
    }

    const NOW: Duration = Duration::from_secs(10);

    /// A flood of one workload displaces itself; what is notable in it stays while the usual goes.
    #[test]
    fn whoever_has_most_makes_room() {
        let mut recent = Recent::new(400_000, 100);
        for i in 0..50 {
            recent.push(NOW, &key("quiet"), false, 100, i);
        }
        for i in 0..100_000 {
            recent.push(NOW, &key("flood"), i % 1000 == 0, 100, i);
            assert!(recent.bytes() <= 400_000);
        }
        assert_eq!(count(&recent, "quiet"), 50);
        let notable =
            recent.iter().filter(|(key, entry)| &*key.workload == "flood" && entry.item % 1000 == 0);
        assert_eq!(notable.count(), 100, "of the usual ones only the last few hundred are left");
        assert_eq!(recent.evicted() as usize, 100_050 - recent.iter().count());
    }

    /// However many keys come, the first stay, and the others share one row.
    #[test]
    fn keys_beyond_the_bound_share_a_row() {
        let mut recent = Recent::new(1 << 20, 40);
        for i in 0..5000 {
            recent.push(NOW, &key(&i.to_string()), false, 10, i);
        }
        assert_eq!((count(&recent, "3"), count(&recent, "4000")), (1, 0));
        assert_eq!(count(&recent, super::super::OVERFLOW), 4990);
        recent.push(NOW, &Key { service: "other".into(), ..key("new") }, false, 10, 1);
        assert_eq!(count(&recent, "new"), 1, "the keys of one service are not all");
        recent.forget(NOW + Duration::from_secs(100), Duration::from_secs(60));
        assert_eq!((recent.bytes(), recent.iter().count()), (0, 0));
        recent.push(NOW, &key("later"), true, 10, 1);
        assert_eq!(count(&recent, "later"), 1, "there is room again");
    }
}

//! The one who writes: groups of records, segments, room for more. A core: time is an argument, the disk is given,
//! nothing waits here.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::disk::{Disk, DiskFile};
use super::entry::{Key, Prepared};
use super::error::AppendError;
use super::format::{FRAME, RECORDS_AT, SegmentHeader, crc};
use super::open::Opened;
use super::position::{Extent, Index, Position};
use super::seen::Seen;
use super::segment_name;
use super::settings::{Settings, WhenFull};

/// What became of a batch that the log answers for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is durable.
    Stored(Position),
    /// It came before and is durable since.
    Duplicate,
}

/// The segment that records go to.
struct Active<F> {
    file: F,
    salt: u32,
    /// When its first record arrived.
    first: Option<u64>,
}

/// The writer's half of a log.
pub(super) struct Store<D: Disk> {
    disk: Arc<D>,
    index: Arc<Index>,
    settings: Settings,
    /// The last extent of the index, if there is one; `None` until the next record needs a segment.
    active: Option<Active<D::File>>,
    next_number: u32,
    seen: Seen,
    released: Position,
    random: u64,
    dropped: u64,
}

/// What a group does with one of its batches.
enum Fate {
    Settled(Result<Appended, AppendError>),
    /// Written as the n-th of the group.
    Written(usize),
    /// The same as the n-th that is written.
    Same(usize),
}

impl<D: Disk> Store<D> {
    /// Goes on where a log was left. `above` is behind every segment that a consumer knows, `released` before what
    /// any of them needs, `seed` anything that nobody can guess.
    pub(super) fn new(
        disk: Arc<D>,
        settings: Settings,
        opened: Opened,
        above: u32,
        released: Position,
        seed: u64,
    ) -> Self {
        let Opened { extents, highest, seen, .. } = opened;
        let (index, active) = (Arc::new(Index::new(extents)), None);
        let next_number = highest.max(above).saturating_add(1);
        let (random, dropped) = (seed, 0);
        Self { disk, index, settings, active, next_number, seen, released, random, dropped }
    }

    pub(super) fn index(&self) -> Arc<Index> {
        self.index.clone()
    }

    /// Records that had to make room although a consumer had yet to read them.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Nobody needs what is before this position: it goes as soon as room or its age ask for it.
    pub(super) fn release(&mut self, before: Position) {
        self.released = before;
    }

    /// Appends a group with one sync; what became of each, in order. `now` in ns since the epoch.
    pub(super) fn commit(&mut self, now: u64, group: Vec<Prepared>) -> Vec<Result<Appended, AppendError>> {
        self.expire(now);
        let mut written: Vec<Prepared> = Vec::new();
        let mut keys: HashMap<Key, usize> = HashMap::new();
        let mut bytes = 0;
        let mut fates = Vec::with_capacity(group.len());
        for batch in group {
            if let Some(key) = &batch.key {
                if self.seen.contains(key) {
                    fates.push(Fate::Settled(Ok(Appended::Duplicate)));
                    continue;
                }
                if let Some(same) = keys.get(key) {
                    fates.push(Fate::Same(*same));
                    continue;
                }
            }
            let size = u64::from(FRAME) + batch.body.len() as u64;
            let limit = self.settings.max_bytes;
            if size + u64::from(RECORDS_AT) > limit {
                // It would never fit: whoever sent it shall not come again with it.
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let error = AppendError::TooLarge { size: batch.body.len(), limit };
                fates.push(Fate::Settled(Err(error)));
                continue;
            }
            if !self.make_room(bytes + size) {
                fates.push(Fate::Settled(Err(AppendError::Full { limit })));
                continue;
            }
            bytes += size;
            if let Some(key) = &batch.key {
                keys.insert(key.clone(), written.len());
            }
            fates.push(Fate::Written(written.len()));
            written.push(batch);
        }
        let result = if written.is_empty() { Ok(Vec::new()) } else { self.write(now, &written) };
        if result.is_ok() {
            written.iter().filter_map(|batch| batch.key.as_ref()).for_each(|key| self.seen.insert(key));
        }
        let of = |at: usize| match &result {
            Ok(positions) => Ok(positions.get(at).copied().unwrap_or_default()),
            Err(source) => Err(AppendError::Disk { source: source.clone() }),
        };
        let fates = fates.into_iter().map(|fate| match fate {
            Fate::Settled(result) => result,
            Fate::Written(at) => of(at).map(Appended::Stored),
            Fate::Same(at) => of(at).map(|_| Appended::Duplicate),
        });
        fates.collect()
    }

    /// Forgets what is older than it may be, and begins a new segment if the present one holds old records: only
    /// whole segments go.
    pub(super) fn expire(&mut self, now: u64) {
        let age = u64::try_from(self.settings.max_age.as_nanos()).unwrap_or(u64::MAX);
        let old = |active: &Active<D::File>| active.first.is_some_and(|at| now.saturating_sub(at) > age / 4);
        if self.active.as_ref().is_some_and(old) {
            self.active = None;
        }
        while let Some(oldest) = self.oldest()
            && now.saturating_sub(oldest.latest) > age
            && self.may_go(&oldest)
            && self.remove(&oldest)
        {}
    }

    /// The oldest segment, if it is not the last: that one keeps the number from which others go on.
    fn oldest(&self) -> Option<Extent> {
        let extents = self.index.lock();
        extents.front().copied().filter(|_| extents.len() > 1)
    }

    fn may_go(&self, extent: &Extent) -> bool {
        extent.end() <= self.released || self.settings.when_full == WhenFull::DropOldest
    }

    fn remove(&mut self, extent: &Extent) -> bool {
        match self.disk.remove(&segment_name(extent.number)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return false,
            Ok(()) | Err(_) => {}
        }
        // Not synced: the worst that a power cut does is to bring it back.
        self.index.lock().retain(|known| known.number != extent.number);
        let read = if self.released.segment == extent.number { self.released.ordinal } else { 0 };
        if extent.end() > self.released {
            self.dropped += u64::from(extent.records.saturating_sub(read));
        }
        true
    }

    fn make_room(&mut self, bytes: u64) -> bool {
        loop {
            let held: u64 = self.index.lock().iter().map(|extent| u64::from(extent.end)).sum();
            let header = if self.active.is_some() { 0 } else { u64::from(RECORDS_AT) };
            if held + header + bytes <= self.settings.max_bytes {
                return true;
            }
            match self.oldest() {
                Some(oldest) if self.may_go(&oldest) && self.remove(&oldest) => {}
                Some(_) | None => return false,
            }
        }
    }

    fn write(&mut self, now: u64, group: &[Prepared]) -> Result<Vec<Position>, Arc<io::Error>> {
        let full = self.index.lock().back().is_some_and(|last| last.end >= self.settings.segment_bytes);
        if full {
            self.active = None;
        }
        let mut active = match self.active.take() {
            Some(active) => active,
            None => self.create(now).map_err(Arc::new)?,
        };
        let mut extent = self.index.lock().back().copied().unwrap_or_else(|| Extent::new(0, 0));
        let (from, mut block) = (extent.end, Vec::new());
        let mut positions = Vec::with_capacity(group.len());
        for batch in group {
            positions.push(extent.end());
            let mut frame = batch.frame;
            frame.segment = extent.number;
            frame.ordinal = extent.records;
            frame.body_crc = crc(active.salt, &batch.body);
            block.extend(frame.encode(active.salt));
            block.extend(&batch.body);
            extent.end = extent.end.saturating_add(FRAME + frame.body);
            extent.records += 1;
            extent.latest = extent.latest.max(frame.received);
            active.first.get_or_insert(frame.received);
        }
        let written = active.file.write_at(from.into(), &block).and_then(|()| active.file.sync());
        if let Err(error) = written {
            // Nobody knows what of the group is on the disk, and asking again would get a wrong answer. The segment
            // ends before the group: for whoever opens the file next, and in the header of the next segment.
            let _ = active.file.truncate(from.into());
            self.remove_if_empty();
            return Err(Arc::new(error));
        }
        if let Some(last) = self.index.lock().back_mut() {
            *last = extent;
        }
        self.active = Some(active);
        Ok(positions)
    }

    /// A segment that got no record goes at once, or stays to be sealed by the next. That it is gone is durable before
    /// anything else is written: the next segment's name is.
    fn remove_if_empty(&mut self) {
        let Some(last) = self.index.lock().back().copied().filter(|last| last.records == 0) else { return };
        if self.disk.remove(&segment_name(last.number)).is_ok() {
            self.index.lock().pop_back();
        }
    }

    /// A new segment; durable, name and header, when this returns: where the one before ends has to be known also if
    /// this one gets no record and stays.
    fn create(&mut self, now: u64) -> io::Result<Active<D::File>> {
        let number = self.next_number;
        let name = segment_name(number);
        // Also after a failure: a number is never used twice.
        self.next_number = number.checked_add(1).ok_or(io::ErrorKind::StorageFull)?;
        let salt = self.salt();
        // One whose header cannot be read has nothing to seal, and seals nothing: the one before it still has to be.
        let previous = self.index.lock().iter().rev().find(|extent| extent.salt.is_some()).map(Extent::seal);
        let header = SegmentHeader { number, salt, created: now, previous };
        let make = || -> io::Result<D::File> {
            let mut file = self.disk.create(&name)?;
            file.write_at(0, &header.encode())?;
            file.sync()?;
            self.disk.sync()?;
            Ok(file)
        };
        let file = make().inspect_err(|_| {
            // An empty segment that stays is one more to be trimmed.
            let _ = self.disk.remove(&name);
        })?;
        self.index.lock().push_back(Extent::new(number, salt));
        Ok(Active { file, salt, first: None })
    }

    /// SplitMix64.
    fn salt(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }
}

impl Extent {
    fn new(number: u32, salt: u32) -> Self {
        Self { number, salt: Some(salt), records: 0, end: RECORDS_AT, latest: 0 }
    }
}

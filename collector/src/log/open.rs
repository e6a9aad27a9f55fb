//! Opening: every record of every segment is read and checked once, so that what is damaged is known and counted
//! from the start, and which requests are held.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use super::disk::{Disk, DiskFile};
use super::entry;
use super::error::OpenError;
use super::format::{Parsed, RECORDS_AT, Seal, SegmentHeader};
use super::position::{Extent, Lost};
use super::scan::Scan;
use super::seen::Seen;
use super::{segment_name, segment_number};

/// Bytes that are read and written again at once.
const CHUNK: usize = 1 << 20;

/// What opening found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that can be read.
    pub records: u64,
    /// Records, and bytes, that are damaged. A power cut may add some that were never acknowledged.
    pub lost: Lost,
    /// Bytes at the end that are no record, and are cut off: what was being written when the process ended. Damage to
    /// the very last record looks the same.
    pub torn: u64,
}

/// What a log consists of.
pub(super) struct Opened {
    pub extents: VecDeque<Extent>,
    /// The highest number of a segment.
    pub highest: u32,
    pub seen: Seen,
    pub recovery: Recovery,
}

/// Reads all of it.
pub(super) fn open<D: Disk>(disk: &D, boots: usize) -> Result<Opened, OpenError> {
    let names = disk.list().map_err(|source| OpenError::List { source })?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| segment_number(name)).collect();
    numbers.sort_unstable();
    let mut headers = Vec::new();
    let mut seals: BTreeMap<u32, Seal> = BTreeMap::new();
    for &number in &numbers {
        let mut block = vec![0; RECORDS_AT as usize];
        let file = disk.open(&segment_name(number));
        file.and_then(|file| file.read_at(0, &mut block))
            .map_err(|source| OpenError::Disk { segment: number, source })?;
        let header = match SegmentHeader::parse(&block) {
            Parsed::Header(header) if header.number == number => Some(header),
            Parsed::Newer(version) => return Err(OpenError::Newer { segment: number, version }),
            Parsed::Header(_) | Parsed::Damaged => None,
        };
        if let Some(seal) = header.and_then(|header| header.previous) {
            seals.entry(seal.number).or_insert(seal);
        }
        headers.push((number, header));
    }
    let mut opened = Opened {
        extents: VecDeque::new(),
        highest: numbers.last().copied().unwrap_or(0),
        seen: Seen::new(boots),
        recovery: Recovery::default(),
    };
    for (number, header) in headers {
        let seal = seals.get(&number).copied();
        let extent = segment(disk, &mut opened, number, header, seal)
            .map_err(|source| OpenError::Disk { segment: number, source })?;
        opened.extents.push_back(extent);
    }
    Ok(opened)
}

fn segment<D: Disk>(
    disk: &D,
    opened: &mut Opened,
    number: u32,
    header: Option<SegmentHeader>,
    seal: Option<Seal>,
) -> io::Result<Extent> {
    let recovery = &mut opened.recovery;
    let mut file = disk.open(&segment_name(number))?;
    let size = u32::try_from(file.size()?).unwrap_or(u32::MAX);
    let end = seal.map_or(size, |seal| seal.end.min(size)).max(RECORDS_AT);
    let written = seal.map_or(0, |seal| seal.records);
    let Some(header) = header else {
        // Nothing in it can be checked without the salt.
        recovery.lost.add(Lost { records: written.into(), bytes: (end - RECORDS_AT).into() });
        return Ok(Extent { number, salt: None, records: written, end, latest: 0 });
    };
    let mut scan = Scan::new(&file, number, header.salt, (RECORDS_AT, 0), end);
    let mut latest = 0;
    while let Some(found) = scan.next()? {
        recovery.records += 1;
        latest = latest.max(found.frame.received);
        if let Some(key) = entry::key(&found.frame, &found.body) {
            opened.seen.insert(&key);
        }
    }
    recovery.lost.add(scan.lost);
    let (ordinal, intact_to) = (scan.ordinal, scan.intact_to);
    let behind = u64::from(end.saturating_sub(intact_to));
    let (records, end) = match seal {
        Some(seal) => {
            recovery.lost.records += u64::from(seal.records.saturating_sub(ordinal));
            recovery.lost.bytes += behind + u64::from(seal.end.saturating_sub(end));
            (seal.records, seal.end.max(end))
        }
        None => {
            recovery.torn += behind;
            // Also without records: its header says where the segment before it ends.
            settle(&mut file, intact_to)?;
            (ordinal, intact_to)
        }
    };
    Ok(Extent { number, salt: Some(header.salt), records, end, latest })
}

/// Makes durable what a process before may have written and not synced. Written again first: after a sync that
/// failed, a system may hold pages that it believes to be on the disk.
fn settle<F: DiskFile>(file: &mut F, end: u32) -> io::Result<()> {
    let mut at = 0;
    let end = u64::from(end);
    while at < end {
        let mut chunk = vec![0; usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK)];
        let read = file.read_at(at, &mut chunk)?;
        if read == 0 {
            break;
        }
        chunk.truncate(read);
        file.write_at(at, &chunk)?;
        at += read as u64;
    }
    file.sync()
}

//! Reading from a position on, beside the writer: what is durable and nothing else.

use std::io;

use super::disk::Disk;
use super::entry::{Entry, entry};
use super::position::{Index, Lost, Position};
use super::scan::Scan;
use super::segment_name;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it stands.
    pub position: Position,
    /// What was appended.
    pub entry: Entry,
}

/// Some records in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Empty at the end of the log.
    pub records: Vec<Stored>,
    /// Where to read on.
    pub next: Position,
    /// What was skipped on the way: damage, not what was dropped to make room.
    pub lost: Lost,
}

/// Why the log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk failed.
    #[error("read segment {segment} of the log")]
    Disk {
        /// Number of the segment.
        segment: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The log was stopped, or its threads were.
    #[error("read from a log that is closed")]
    Closed,
}

/// Records from a position on, until their payloads have `bytes` bytes or there are no more.
pub(super) fn read<D: Disk>(
    disk: &D,
    index: &Index,
    from: Position,
    bytes: usize,
) -> Result<Page, ReadError> {
    let extents: Vec<_> = index.lock().iter().filter(|extent| extent.end() > from).copied().collect();
    let mut page = Page { records: Vec::new(), next: from, lost: Lost::default() };
    let mut held = 0;
    for extent in extents {
        let start = page.next.max(extent.start());
        let lose_all = |page: &mut Page| {
            page.lost.records += u64::from(extent.records.saturating_sub(start.ordinal));
            page.lost.bytes += u64::from(extent.end.saturating_sub(start.offset));
            page.next = extent.end();
        };
        let Some(salt) = extent.salt else {
            lose_all(&mut page);
            continue;
        };
        let error = |source| ReadError::Disk { segment: extent.number, source };
        let file = match disk.open(&segment_name(extent.number)) {
            Ok(file) => file,
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {
                // Dropped in the meantime, and counted there; or taken away by somebody else.
                if index.lock().iter().any(|known| known.number == extent.number) {
                    lose_all(&mut page);
                }
                continue;
            }
            Err(source) => return Err(error(source)),
        };
        let mut scan = Scan::new(&file, extent.number, salt, (start.offset, start.ordinal), extent.end);
        while held < bytes {
            let Some(found) = scan.next().map_err(error)? else {
                scan.lost.records += u64::from(extent.records.saturating_sub(scan.ordinal));
                scan.lost.bytes += u64::from(extent.end.saturating_sub(scan.intact_to));
                break;
            };
            let position =
                Position { segment: extent.number, offset: found.at, ordinal: found.frame.ordinal };
            match entry(&found.frame, &found.body) {
                Some(entry) => {
                    held += entry.payload.len().max(1);
                    page.records.push(Stored { position, entry });
                }
                None => scan.lost.records += 1,
            }
        }
        page.lost.add(scan.lost);
        if held >= bytes {
            page.next = Position { segment: extent.number, offset: scan.at, ordinal: scan.ordinal };
            break;
        }
        page.next = extent.end();
    }
    Ok(page)
}

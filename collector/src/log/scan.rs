//! One walk over the records of a segment, which goes on at the next intact record after damage.

use std::io;

use super::disk::DiskFile;
use super::format::{FRAME, Frame, MAGIC, crc};
use super::position::Lost;

/// Bytes that are read at once, unless a record is larger.
const CHUNK: u32 = 256 << 10;
/// What a disk that cannot read a chunk is asked for instead: one bad sector costs no more than this.
const SECTOR: usize = 4096;

/// A record that is intact.
pub(super) struct Found {
    pub at: u32,
    pub frame: Frame,
    pub body: Vec<u8>,
}

/// The walk.
pub(super) struct Scan<'a, F> {
    file: &'a F,
    number: u32,
    salt: u32,
    end: u32,
    /// Where the next record should begin, and its ordinal.
    pub at: u32,
    pub ordinal: u32,
    /// Behind the last intact record.
    pub intact_to: u32,
    /// Damage that an intact record follows.
    pub lost: Lost,
    window: Vec<u8>,
    window_at: u32,
}

impl<'a, F: DiskFile> Scan<'a, F> {
    /// Over the bytes `from..end` of a segment. The record at `from` has this ordinal.
    pub(super) fn new(file: &'a F, number: u32, salt: u32, (from, ordinal): (u32, u32), end: u32) -> Self {
        let (at, intact_to) = (from, from);
        let (lost, window, window_at) = (Lost::default(), Vec::new(), 0);
        Self { file, number, salt, end, at, ordinal, intact_to, lost, window, window_at }
    }

    /// The next record that is intact.
    pub(super) fn next(&mut self) -> io::Result<Option<Found>> {
        while self.end.saturating_sub(self.at) >= FRAME {
            let salt = self.salt;
            let Some(frame) = Frame::parse(self.load(self.at, FRAME)?, salt).filter(|frame| self.fits(frame))
            else {
                self.search()?;
                continue;
            };
            let at = self.at;
            let body = self.load(at + FRAME, frame.body)?;
            let body = (crc(salt, body) == frame.body_crc).then(|| body.to_vec());
            self.lost.records += u64::from(frame.ordinal - self.ordinal);
            self.lost.bytes += u64::from(at - self.intact_to);
            self.ordinal = frame.ordinal.saturating_add(1);
            self.at = at + FRAME + frame.body;
            self.intact_to = self.at;
            match body {
                Some(body) => return Ok(Some(Found { at, frame, body })),
                None => {
                    self.lost.records += 1;
                    self.lost.bytes += u64::from(FRAME + frame.body);
                }
            }
        }
        self.at = self.end;
        Ok(None)
    }

    fn fits(&self, frame: &Frame) -> bool {
        let room = self.end - self.at - FRAME;
        frame.segment == self.number && frame.ordinal >= self.ordinal && frame.body <= room
    }

    /// Goes to the next place that a frame may begin at.
    fn search(&mut self) -> io::Result<()> {
        self.at += 1;
        while self.end.saturating_sub(self.at) >= FRAME {
            let window = self.load(self.at, CHUNK)?;
            let length = window.len() as u32;
            if let Some(found) = window.windows(MAGIC.len()).position(|bytes| bytes == MAGIC) {
                self.at += found as u32;
                return Ok(());
            }
            // A magic may begin in the last bytes.
            self.at += length.saturating_sub(MAGIC.len() as u32 - 1).max(1);
        }
        Ok(())
    }

    /// Bytes from an offset: as many as asked for, or to the end.
    fn load(&mut self, at: u32, length: u32) -> io::Result<&[u8]> {
        let length = length.min(self.end.saturating_sub(at));
        let held = self.window_at..self.window_at + self.window.len() as u32;
        if !(held.contains(&at) && at + length <= held.end) {
            let wanted = length.max(CHUNK.min(self.end.saturating_sub(at)));
            self.window.resize(wanted as usize, 0);
            self.window_at = at;
            if let Err(error) = read(self.file, at, &mut self.window) {
                self.window.clear();
                return Err(error);
            }
        }
        let from = (at - self.window_at) as usize;
        Ok(self.window.get(from..from + length as usize).unwrap_or_default())
    }
}

/// Reads what can be read; the rest is zeros, which no record survives.
fn read<F: DiskFile>(file: &F, at: u32, buffer: &mut [u8]) -> io::Result<()> {
    match file.read_at(at.into(), buffer) {
        Ok(read) => {
            buffer.iter_mut().skip(read).for_each(|byte| *byte = 0);
            Ok(())
        }
        Err(first) => {
            let mut any = false;
            let mut offset = u64::from(at);
            for sector in buffer.chunks_mut(SECTOR) {
                let read = file.read_at(offset, sector);
                any |= read.is_ok();
                sector.iter_mut().skip(read.unwrap_or(0)).for_each(|byte| *byte = 0);
                offset += sector.len() as u64;
            }
            // A disk that reads nothing at all is gone, and not damaged.
            if any { Ok(()) } else { Err(first) }
        }
    }
}

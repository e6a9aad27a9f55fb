//! The new file as it is written, and where its bytes came from.

use std::ops::Range;

use super::{MAX_GROWTH, NotInstrumented};

/// From offsets in a rewritten file to offsets in the author's: sorted runs of bytes that were copied.
#[derive(Clone, Debug, Default)]
pub(crate) struct OffsetMap {
    runs: Vec<Run>,
}

/// Bytes of the new file that stand in the original, in the same order.
#[derive(Clone, Copy, Debug)]
struct Run {
    new: u32,
    original: u32,
    length: u32,
}

impl OffsetMap {
    /// Where a byte of the new file stood in the original. `None` for what was added, and past the end.
    pub(crate) fn original_offset(&self, new_offset: u64) -> Option<u64> {
        let new = u32::try_from(new_offset).ok()?;
        let run = self.runs[..self.runs.partition_point(|run| run.new <= new)].last()?;
        let within = new - run.new;
        (within < run.length).then(|| u64::from(run.original) + u64::from(within))
    }

    fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last)
                if last.new + last.length == run.new && last.original + last.length == run.original =>
            {
                last.length += run.length;
            }
            _ if run.length > 0 => self.runs.push(run),
            _ => {}
        }
    }
}

/// A section or body whose size is written when it is complete.
#[derive(Clone, Copy)]
#[must_use]
pub(super) struct Open {
    size_at: usize,
}

/// Bytes of a `u32` in LEB128 at its longest: what sizes take that are filled in afterwards.
const PADDED: usize = 5;

/// The new file so far.
pub(super) struct Output<'a> {
    /// The author's file.
    pub(super) input: &'a [u8],
    bytes: Vec<u8>,
    map: OffsetMap,
}

impl<'a> Output<'a> {
    /// `input` has at most 1 GiB.
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { input, bytes: Vec::with_capacity(input.len() + input.len() / 64), map: OffsetMap::default() }
    }

    /// Bytes written so far.
    pub(super) fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Copies a range of the original, which lies within it.
    pub(super) fn copy(&mut self, range: Range<usize>) {
        // Below 2^32 both: the input is limited, and so is what is added to it.
        self.map.push(Run {
            new: self.bytes.len() as u32,
            original: range.start as u32,
            length: range.len() as u32,
        });
        self.bytes.extend_from_slice(&self.input[range]);
    }

    /// Adds bytes of our own.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds an unsigned LEB128.
    pub(super) fn leb(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Begins a section.
    pub(super) fn open_section(&mut self, id: u8) -> Open {
        self.bytes.push(id);
        self.open()
    }

    /// Begins what is preceded by its size, a function's body for one.
    pub(super) fn open(&mut self) -> Open {
        let size_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; PADDED]);
        Open { size_at }
    }

    /// Ends it.
    ///
    /// # Errors
    /// The file has grown beyond its limit.
    pub(super) fn close(&mut self, open: Open) -> Result<(), NotInstrumented> {
        let limit = self.input.len() + MAX_GROWTH;
        if self.bytes.len() > limit {
            return Err(NotInstrumented::TooLarge { length: self.bytes.len(), limit });
        }
        let mut size = self.bytes.len() - open.size_at - PADDED;
        for (at, byte) in self.bytes[open.size_at..][..PADDED].iter_mut().enumerate() {
            *byte = (size & 0x7f) as u8 | if at + 1 < PADDED { 0x80 } else { 0 };
            size >>= 7;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> (Vec<u8>, OffsetMap) {
        (self.bytes, self.map)
    }
}

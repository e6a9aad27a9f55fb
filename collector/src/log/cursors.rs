//! How far each consumer has read, kept beside the log.
//!
//! ```text
//! file `cursors`: two slots of 4096 bytes, written in turn, so that one is whole whatever happens
//!   0 magic "SSCURSOR"   8 version   12 CRC of what follows   16 turn   24 consumers
//!   then for each: length of the name (1 byte), name, position (3 x 4 bytes)
//! ```
//! A slot is overwritten in place: a full disk keeps nobody from saying that data is no longer needed. A lost slot
//! costs what was read since the one before, which is then read again.

use std::collections::BTreeMap;
use std::io;

use bytes::Buf;

use super::disk::{Disk, DiskFile};
use super::format::crc;
use super::position::Position;

const FILE: &str = "cursors";
const MAGIC: &[u8; 8] = b"SSCURSOR";
const VERSION: u32 = 1;
const SLOT: usize = 4096;
const HEAD: usize = 16;
/// Longest name of a consumer, in bytes.
const MAX_NAME: usize = 64;
/// Most consumers: as many as a slot holds with the longest names.
const MAX_CONSUMERS: usize = (SLOT - HEAD - 12) / (1 + MAX_NAME + 12);

/// Why a cursor did not move.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// A name that is empty or longer than 64 bytes.
    #[error("name a consumer {name:?}: it may have 1 to 64 bytes")]
    Name {
        /// The name.
        name: String,
    },
    /// There are too many consumers.
    #[error("add consumer {name:?} to {MAX_CONSUMERS}, the most that a log has")]
    TooMany {
        /// The name.
        name: String,
    },
    /// The disk failed; the cursor stays where it was.
    #[error("store the position of consumer {name:?}")]
    Disk {
        /// The consumer.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The log was stopped, or has too much to do.
    #[error("reach the log: it is closed or busy")]
    Closed,
}

/// The cursors of all consumers.
pub(super) struct Cursors<F> {
    file: F,
    positions: BTreeMap<String, Position>,
    turn: u64,
}

impl<F: DiskFile> Cursors<F> {
    /// Reads them, or makes the file. A file that cannot be understood has no cursors: its consumers read again.
    pub(super) fn open<D: Disk<File = F>>(disk: &D) -> io::Result<Self> {
        let file = match disk.open(FILE) {
            Err(none) if none.kind() == io::ErrorKind::NotFound => {
                let mut file = disk.create(FILE)?;
                // Both slots have their place on the disk from now on.
                file.write_at(0, &[0; 2 * SLOT])?;
                file
            }
            file => file?,
        };
        // Also of one that is there: who made it may have been killed before this.
        disk.sync()?;
        let mut block = vec![0; 2 * SLOT];
        file.read_at(0, &mut block)?;
        let slots = block.chunks(SLOT).filter_map(parse);
        let (turn, positions) = slots.max_by_key(|(turn, _)| *turn).unwrap_or_default();
        Ok(Self { file, positions, turn })
    }

    /// Where a consumer reads on.
    pub(super) fn get(&self, name: &str) -> Option<Position> {
        self.positions.get(name).copied()
    }

    /// All of them, by name.
    pub(super) fn all(&self) -> Vec<(String, Position)> {
        self.positions.iter().map(|(name, position)| (name.clone(), *position)).collect()
    }

    /// Before this, no consumer needs anything.
    pub(super) fn slowest(&self) -> Position {
        self.positions.values().min().copied().unwrap_or(Position::END)
    }

    /// Behind every position that a consumer was ever given.
    pub(super) fn last_segment(&self) -> u32 {
        let segments = self.positions.values().filter(|position| **position != Position::END);
        segments.map(|position| position.segment).max().unwrap_or(0)
    }

    /// Moves a cursor; durable when it returns.
    pub(super) fn set(&mut self, name: &str, position: Position) -> Result<(), CursorError> {
        if !(1..=MAX_NAME).contains(&name.len()) {
            return Err(CursorError::Name { name: name.to_owned() });
        }
        if self.positions.len() >= MAX_CONSUMERS && !self.positions.contains_key(name) {
            return Err(CursorError::TooMany { name: name.to_owned() });
        }
        let before = self.positions.insert(name.to_owned(), position);
        self.store().map_err(|source| {
            match before {
                Some(before) => self.positions.insert(name.to_owned(), before),
                None => self.positions.remove(name),
            };
            CursorError::Disk { name: name.to_owned(), source }
        })
    }

    fn store(&mut self) -> io::Result<()> {
        let turn = self.turn + 1;
        let mut rest = Vec::with_capacity(SLOT);
        rest.extend(turn.to_le_bytes());
        rest.extend((self.positions.len() as u32).to_le_bytes());
        for (name, position) in &self.positions {
            rest.push(name.len() as u8);
            rest.extend(name.as_bytes());
            for word in [position.segment, position.offset, position.ordinal] {
                rest.extend(word.to_le_bytes());
            }
        }
        rest.resize(SLOT - HEAD, 0);
        let mut slot = MAGIC.to_vec();
        slot.extend(VERSION.to_le_bytes());
        slot.extend(crc(VERSION, &rest).to_le_bytes());
        slot.extend(rest);
        self.file.write_at(turn % 2 * SLOT as u64, &slot)?;
        self.file.sync()?;
        // Not before: the slot that a failure may have torn is the one to write next, not the whole one.
        self.turn = turn;
        Ok(())
    }
}

fn parse(slot: &[u8]) -> Option<(u64, BTreeMap<String, Position>)> {
    let mut rest = slot.strip_prefix(MAGIC)?;
    let (version, sum) = (rest.try_get_u32_le().ok()?, rest.try_get_u32_le().ok()?);
    if version != VERSION || sum != crc(VERSION, rest) {
        return None;
    }
    let turn = rest.try_get_u64_le().ok()?;
    let mut positions = BTreeMap::new();
    for _ in 0..rest.try_get_u32_le().ok()? {
        let length = rest.try_get_u8().ok()?;
        let (name, after) = rest.split_at_checked(length.into())?;
        rest = after;
        let mut word = || rest.try_get_u32_le().ok();
        let position = Position { segment: word()?, offset: word()?, ordinal: word()? };
        positions.insert(String::from_utf8(name.to_vec()).ok()?, position);
    }
    Some((turn, positions))
}

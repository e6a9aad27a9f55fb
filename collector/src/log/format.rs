//! The bytes of a segment: its header, and the frame around each record. Little-endian throughout.
//!
//! ```text
//! segment header, 56 bytes, twice: at 0 and at 4040, so that no single bad sector takes both
//!   0 magic "SSCOPLOG"   8 version   12 number   16 salt   20 reserved   24 created, ns since the epoch
//!  32 previous: number, records, end   44 reserved   52 CRC of bytes 0..52
//! records, from 4096, back to back; a frame is 64 bytes and the body follows
//!   0 magic   4 CRC of bytes 8..64   8 CRC of the body   12 length of the body
//!  16 segment   20 ordinal in the segment   24 kind   25 coding (0 plain, 1 zstd)   26 reserved
//!  28 length of the payload as received   32 received, ns since the epoch   40 sequence
//!  48 lengths of host, boot, region, tenant   56 reserved
//!   body: host, boot, region, tenant, payload
//! ```
//! CRCs are CRC-32 (IEEE) that begin with the segment's salt: whoever sends a payload that looks like a frame does not
//! know the salt, so a search through damage takes no payload for a record. The frame has a CRC of its own, so that
//! a damaged body costs one record and no search, and a false magic costs 64 bytes of checking.

use bytes::Buf;
use crc32fast::Hasher;

/// Where records begin in a segment.
pub(super) const RECORDS_AT: u32 = 4096;
/// Size of a record's frame.
pub(super) const FRAME: u32 = 64;
/// What a frame begins with.
pub(super) const MAGIC: [u8; 4] = [0xD1, b'r', b'e', b'c'];
/// The version that this release writes. It reads this and all before.
pub(super) const VERSION: u32 = 1;

const SEGMENT_MAGIC: &[u8; 8] = b"SSCOPLOG";
const HEADER: usize = 56;
const SECOND_HEADER: usize = RECORDS_AT as usize - HEADER;

/// What a segment says of the one before it: what lies behind that end was never acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub number: u32,
    pub records: u32,
    pub end: u32,
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub number: u32,
    pub salt: u32,
    pub created: u64,
    pub previous: Option<Seal>,
}

/// What the first bytes of a segment are.
pub(super) enum Parsed {
    Header(SegmentHeader),
    /// A later release wrote it.
    Newer(u32),
    Damaged,
}

impl SegmentHeader {
    /// Both copies, with what lies between.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER);
        header.extend(SEGMENT_MAGIC);
        for word in [VERSION, self.number, self.salt, 0] {
            header.extend(word.to_le_bytes());
        }
        header.extend(self.created.to_le_bytes());
        let previous = self.previous.map_or([0; 3], |seal| [seal.number, seal.records, seal.end]);
        for word in previous.into_iter().chain([0, 0]) {
            header.extend(word.to_le_bytes());
        }
        header.extend(crc(0, &header).to_le_bytes());
        let mut block = header.clone();
        block.resize(SECOND_HEADER, 0);
        block.extend(header);
        block
    }

    /// Reads whichever copy is intact.
    pub(super) fn parse(block: &[u8]) -> Parsed {
        let copies = [block, block.get(SECOND_HEADER..).unwrap_or_default()];
        copies.into_iter().find_map(Self::parse_one).unwrap_or(Parsed::Damaged)
    }

    fn parse_one(bytes: &[u8]) -> Option<Parsed> {
        let (header, mut sum) = bytes.get(..HEADER)?.split_at_checked(HEADER - 4)?;
        let mut rest = header.strip_prefix(SEGMENT_MAGIC)?;
        if sum.try_get_u32_le().ok()? != crc(0, header) {
            return None;
        }
        let mut word = || rest.try_get_u32_le().ok();
        let (version, number, salt, _) = (word()?, word()?, word()?, word()?);
        let created = u64::from(word()?) | u64::from(word()?) << 32;
        let seal = Seal { number: word()?, records: word()?, end: word()? };
        if version > VERSION {
            return Some(Parsed::Newer(version));
        }
        let previous = (seal.number != 0).then_some(seal);
        Some(Parsed::Header(Self { number, salt, created, previous }))
    }
}

/// A record's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub body_crc: u32,
    pub body: u32,
    pub segment: u32,
    pub ordinal: u32,
    pub kind: u8,
    pub coding: u8,
    /// Bytes of the payload before compression.
    pub plain: u32,
    pub received: u64,
    pub sequence: u64,
    /// Lengths of host, boot, region and tenant.
    pub names: [u16; 4],
}

impl Frame {
    pub(super) fn encode(&self, salt: u32) -> [u8; FRAME as usize] {
        let mut rest = Vec::with_capacity(FRAME as usize);
        for word in [self.body_crc, self.body, self.segment, self.ordinal] {
            rest.extend(word.to_le_bytes());
        }
        rest.extend([self.kind, self.coding, 0, 0]);
        rest.extend(self.plain.to_le_bytes());
        rest.extend(self.received.to_le_bytes());
        rest.extend(self.sequence.to_le_bytes());
        rest.extend(self.names.iter().flat_map(|length| length.to_le_bytes()));
        rest.resize(FRAME as usize - 8, 0);
        let mut frame = [0; FRAME as usize];
        let bytes = MAGIC.into_iter().chain(crc(salt, &rest).to_le_bytes()).chain(rest);
        for (to, from) in frame.iter_mut().zip(bytes) {
            *to = from;
        }
        frame
    }

    /// `None` for what is no intact frame of a segment with this salt.
    pub(super) fn parse(bytes: &[u8], salt: u32) -> Option<Self> {
        let mut rest = bytes.get(..FRAME as usize)?.strip_prefix(&MAGIC)?;
        if rest.try_get_u32_le().ok()? != crc(salt, rest) {
            return None;
        }
        let mut word = || rest.try_get_u32_le().ok();
        let (body_crc, body, segment, ordinal) = (word()?, word()?, word()?, word()?);
        let [kind, coding, _, _] = word()?.to_le_bytes();
        let plain = word()?;
        let mut long = || rest.try_get_u64_le().ok();
        let (received, sequence) = (long()?, long()?);
        let mut names = [0; 4];
        for length in &mut names {
            *length = rest.try_get_u16_le().ok()?;
        }
        Some(Self { body_crc, body, segment, ordinal, kind, coding, plain, received, sequence, names })
    }
}

/// CRC-32 that begins with a salt.
pub(super) fn crc(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

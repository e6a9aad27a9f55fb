//! The records of a recording from its first byte to its last, past whatever damage lies between: framing,
//! CRCs, and finding the way back. What records mean is for the layers above.
//!
//! A record whose own lengths agree with each other is believed to end where it says. Anything else is
//! damage, and the search for the next chunk, attachment or metadata of ours begins right behind the last
//! record that was believed. So a flipped bit costs the record that it is in.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};

use mcap::records::op;

use crate::fields::Fields;

/// Largest chunk that is unpacked, in bytes, packed and unpacked. The writer closes chunks at a MiB.
pub(crate) const MAX_CHUNK: u64 = 64 << 20;

/// Largest record of other kinds that is read into memory, in bytes.
const MAX_SMALL: u64 = 1 << 20;

/// Opcode and length.
const FRAME: u64 = 9;

/// What is needed to judge a chunk or an attachment: frame, and the fields before the data.
const PROBE: usize = 1024;

/// Bytes searched at a time, and how far apart a needle and the start of its record are at most.
const WINDOW: usize = 64 << 10;
const OVERLAP: usize = 64;

/// Marks by which a record is found again, and their distance from the start of the record.
const NEEDLES: [(&[u8], u64); 4] = [
    (b"\x04\0\0\0zstd", FRAME + 28),
    (b"debug/", FRAME + 20),
    (b"coredump/", FRAME + 20),
    (b"\x09\0\0\0sandscope", FRAME),
];

/// Something that can be used.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The header's profile.
    Header(String),
    /// A metadata record named as ours.
    Metadata(BTreeMap<String, String>),
    /// The records of a chunk, CRC checked.
    Chunk(Vec<u8>),
    /// An attachment, CRC checked.
    Attachment {
        name: String,
        /// Where its data is in the file.
        offset: u64,
        len: u64,
    },
    /// A record of ours that is where it should be but damaged.
    Damaged,
}

/// What was lost on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// Places.
    pub places: u64,
    /// Bytes that nothing was read from.
    pub bytes: u64,
    /// Bytes of them behind the last record that is whole.
    pub tail: u64,
}

/// Walks over the records of a file.
pub(crate) struct Scanner<R> {
    file: R,
    /// Where records end.
    end: u64,
    at: u64,
    /// End of the last record that is believed to end where it says.
    trusted: u64,
    /// Whether the end is as a writer leaves it.
    closed: bool,
    /// Whether the record that ends the data was found.
    data_ended: bool,
    damage: Damage,
}

/// A record's place, and what it is.
struct Found {
    kind: Kind,
    next: u64,
}

enum Kind {
    Header,
    Metadata,
    Chunk {
        uncompressed: u64,
        crc: u32,
        packed: bool,
        data: u64,
        len: u64,
    },
    Attachment {
        name: String,
        data: u64,
        len: u64,
    },
    DataEnd,
    /// Of no use here; `checked` if its lengths agree.
    Other {
        checked: bool,
    },
}

impl<R: Read + Seek> Scanner<R> {
    /// Starts behind the magic. Returns `None` when neither magic nor header is one of MCAP.
    pub(crate) fn new(mut file: R) -> io::Result<Option<Self>> {
        let end = file.seek(SeekFrom::End(0))?;
        let mut scanner = Self {
            file,
            end,
            at: 0,
            trusted: 0,
            closed: false,
            data_ended: false,
            damage: Damage::default(),
        };
        let magic = mcap::MAGIC.len() as u64;
        let start = scanner.read_up_to(0, mcap::MAGIC.len())?;
        if start != mcap::MAGIC {
            // One wrong bit in the magic must not take the file; our header tells it from other files.
            let Some(Found { kind: Kind::Header, next }) = scanner.probe(magic)? else { return Ok(None) };
            let header = scanner.read_up_to(magic + FRAME, (next - magic - FRAME) as usize)?;
            if Fields(&header).text() != Some(crate::channel::PROFILE) {
                return Ok(None);
            }
            scanner.damage = Damage { places: 1, bytes: magic, tail: 0 };
        }
        scanner.at = magic;
        scanner.trusted = magic;
        scanner.find_end()?;
        Ok(Some(scanner))
    }

    /// Whether the file ends as a writer leaves it.
    pub(crate) fn closed(&self) -> bool {
        self.closed
    }

    /// Whether nothing can have followed what was read, even if the index behind it is cut or broken.
    pub(crate) fn data_ended(&self) -> bool {
        self.closed || self.data_ended
    }

    pub(crate) fn damage(&self) -> Damage {
        self.damage
    }

    /// Counts a record that only its reader found to be damaged.
    pub(crate) fn note_damage(&mut self) {
        self.damage.places += 1;
    }

    /// The next piece, or `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece>> {
        while self.at < self.end {
            let at = self.at;
            let Some(found) = self.probe(at)? else {
                let found = self.search(self.trusted + 1)?;
                let next = found.unwrap_or(self.end);
                let skipped = next.saturating_sub(at);
                self.damage.places += 1;
                self.damage.bytes += skipped;
                self.damage.tail = if found.is_none() { skipped } else { 0 };
                self.at = next;
                self.trusted = next;
                continue;
            };
            self.at = found.next;
            if !matches!(found.kind, Kind::Other { checked: false }) {
                self.trusted = found.next;
            }
            if matches!(found.kind, Kind::DataEnd) {
                self.data_ended = true;
                self.end = found.next;
            }
            let len = found.next - at - FRAME;
            let piece = match found.kind {
                Kind::Other { .. } | Kind::DataEnd => continue,
                Kind::Header => self.header(at, len)?,
                Kind::Metadata => match self.metadata(at, len)? {
                    Some((name, entries)) if name == crate::head::METADATA => Some(Piece::Metadata(entries)),
                    Some(_) => continue,
                    None => None,
                },
                Kind::Chunk { uncompressed, crc, packed, data, len } => {
                    self.chunk(uncompressed, crc, packed, (data, len))?.map(Piece::Chunk)
                }
                Kind::Attachment { name, data, len } => self
                    .attachment_is_whole(at, found.next)?
                    .then_some(Piece::Attachment { name, offset: data, len }),
            };
            return Ok(Some(piece.unwrap_or_else(|| {
                self.damage.places += 1;
                self.damage.bytes += found.next - at;
                Piece::Damaged
            })));
        }
        Ok(None)
    }

    /// Finds where data ends and the summary begins, so that a whole summary is not walked and a broken
    /// one is no loss.
    fn find_end(&mut self) -> io::Result<()> {
        let footer = FRAME + 20 + mcap::MAGIC.len() as u64;
        let Some(at) = self.end.checked_sub(footer).filter(|at| *at >= self.at) else { return Ok(()) };
        let bytes = self.read_up_to(at, footer as usize)?;
        let mut fields = Fields(&bytes);
        let framed = fields.u8() == Some(op::FOOTER) && fields.u64() == Some(20);
        let summary = fields.u64().unwrap_or(0);
        self.closed = framed && bytes.ends_with(mcap::MAGIC);
        // The data end record stands right before the summary: believe the footer only if it does.
        let data_end = FRAME + 4;
        if let Some(before) = summary.checked_sub(data_end).filter(|at| self.closed && *at < self.end) {
            let bytes = self.read_up_to(before, FRAME as usize)?;
            let mut fields = Fields(&bytes);
            if fields.u8() == Some(op::DATA_END) && fields.u64() == Some(4) {
                self.end = before;
            }
        }
        Ok(())
    }

    /// Judges the record at a place by its lengths; `None` if they cannot be.
    fn probe(&mut self, at: u64) -> io::Result<Option<Found>> {
        let bytes = self.read_up_to(at, PROBE)?;
        Ok(judge(&bytes, at, self.end))
    }

    /// The place of the next record that carries one of our marks, from a place on.
    fn search(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut base = from;
        while base < self.end {
            let window = self.read_up_to(base, WINDOW)?;
            let mut candidates: Vec<u64> = Vec::new();
            for (needle, distance) in NEEDLES {
                let hits = window.windows(needle.len()).enumerate().filter(|(_, bytes)| *bytes == needle);
                candidates.extend(hits.filter_map(|(i, _)| (base + i as u64).checked_sub(distance)));
            }
            candidates.sort_unstable();
            for at in candidates.into_iter().filter(|at| *at >= from) {
                let kind = self.probe(at)?.map(|found| found.kind);
                if matches!(kind, Some(Kind::Chunk { .. } | Kind::Attachment { .. } | Kind::Metadata)) {
                    return Ok(Some(at));
                }
            }
            if window.len() < WINDOW {
                break;
            }
            base += (WINDOW - OVERLAP) as u64;
        }
        Ok(None)
    }

    fn header(&mut self, at: u64, len: u64) -> io::Result<Option<Piece>> {
        let bytes = self.read_up_to(at + FRAME, len as usize)?;
        Ok(Fields(&bytes).text().map(|profile| Piece::Header(profile.to_owned())))
    }

    fn metadata(&mut self, at: u64, len: u64) -> io::Result<Option<(String, BTreeMap<String, String>)>> {
        let bytes = self.read_up_to(at + FRAME, len as usize)?;
        let mut fields = Fields(&bytes);
        let Some(name) = fields.text() else { return Ok(None) };
        let Some(_len) = fields.u32() else { return Ok(None) };
        let mut entries = BTreeMap::new();
        while !fields.is_empty() {
            let (Some(key), Some(value)) = (fields.text(), fields.text()) else { return Ok(None) };
            entries.insert(key.to_owned(), value.to_owned());
        }
        Ok(Some((name.to_owned(), entries)))
    }

    /// The records of a chunk; `None` if they are not what was written.
    fn chunk(
        &mut self,
        uncompressed: u64,
        crc: u32,
        packed: bool,
        (at, len): (u64, u64),
    ) -> io::Result<Option<Vec<u8>>> {
        if len > MAX_CHUNK || uncompressed > MAX_CHUNK {
            return Ok(None);
        }
        let mut bytes = self.read_up_to(at, len as usize)?;
        if packed {
            let Ok(unpacked) = zstd::bulk::decompress(&bytes, uncompressed as usize) else { return Ok(None) };
            bytes = unpacked;
        }
        let whole = bytes.len() as u64 == uncompressed && (crc == 0 || crc32fast::hash(&bytes) == crc);
        Ok(whole.then_some(bytes))
    }

    fn attachment_is_whole(&mut self, at: u64, next: u64) -> io::Result<bool> {
        self.file.seek(SeekFrom::Start(at + FRAME))?;
        let mut hasher = crc32fast::Hasher::new();
        let mut left = next - at - FRAME - 4;
        let mut buffer = vec![0; WINDOW];
        while left > 0 {
            let part = left.min(WINDOW as u64) as usize;
            let Some(buffer) = buffer.get_mut(..part) else { return Ok(false) };
            match self.file.read_exact(buffer) {
                // The file became shorter while it was read.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                done => done?,
            }
            hasher.update(buffer);
            left -= part as u64;
        }
        let crc = self.read_up_to(next - 4, 4)?;
        let crc = Fields(&crc).u32();
        Ok(crc == Some(0) || crc == Some(hasher.finalize()))
    }

    /// Bytes of the file, fewer at its end.
    fn read_up_to(&mut self, at: u64, len: usize) -> io::Result<Vec<u8>> {
        self.file.seek(SeekFrom::Start(at))?;
        let mut out = Vec::with_capacity(len.min(WINDOW));
        self.file.by_ref().take(len as u64).read_to_end(&mut out)?;
        Ok(out)
    }
}

/// Judges a record by its first bytes; `at` is where they are, `end` where records end.
fn judge(bytes: &[u8], at: u64, end: u64) -> Option<Found> {
    let mut fields = Fields(bytes);
    let opcode = fields.u8()?;
    let len = fields.u64()?;
    let data = at.checked_add(FRAME)?;
    let next = data.checked_add(len).filter(|next| *next <= end)?;
    let kind = match opcode {
        op::HEADER => {
            let (profile, library) = (fields.text()?.len() as u64, fields.text()?.len() as u64);
            (len == 8 + profile + library).then_some(Kind::Header)?
        }
        op::METADATA if len <= MAX_SMALL => {
            let name = fields.text()?.len() as u64;
            (len == 8 + name + u64::from(fields.u32()?)).then_some(Kind::Metadata)?
        }
        op::CHUNK => {
            let (start, finish) = (fields.u64()?, fields.u64()?);
            let (uncompressed, crc) = (fields.u64()?, fields.u32()?);
            let compression = fields.text()?;
            let before = 40 + compression.len() as u64;
            let records = fields.u64()?;
            if before.checked_add(records)? != len || start > finish {
                return None;
            }
            let packed = match compression {
                "zstd" => true,
                "" => false,
                _ => return None,
            };
            Kind::Chunk { uncompressed, crc, packed, data: data + before, len: records }
        }
        op::ATTACHMENT => {
            let (_logged, _created) = (fields.u64()?, fields.u64()?);
            let name = fields.text()?;
            let before = 32 + name.len() as u64 + fields.text()?.len() as u64;
            let attached = fields.u64()?;
            if before.checked_add(attached)?.checked_add(4)? != len {
                return None;
            }
            Kind::Attachment { name: name.to_owned(), data: data + before, len: attached }
        }
        op::MESSAGE_INDEX => {
            let _channel = fields.u16()?;
            (len == 6 + u64::from(fields.u32()?)).then_some(Kind::Other { checked: true })?
        }
        op::DATA_END => (len == 4).then_some(Kind::DataEnd)?,
        op::FOOTER..=op::DATA_END | 0x80.. => Kind::Other { checked: false },
        _ => return None,
    };
    Some(Found { kind, next })
}

//! Whether an upload is what it claims to be, before it is held and handed out. Reads it as a stream: nothing is
//! decompressed into memory.
//!
//! # Security
//! An id that is a build id is compared with the file's own. A hash (`sha256:…`) is of the file as its author
//! shipped it and cannot be computed from a scrubbed copy: it is compared with what the copy says that it was, or, of
//! hosts that do not write that yet, taken at their word. Whoever may send OTLP can therefore give wrong names to
//! modules that no host has offered yet.

use std::io::{self, BufRead, BufReader, Read};

use sandscope_model::ModuleId;
use sandscope_model::file_ids::ORIGIN_SECTION;

/// Most bytes of an id or an origin section that are read: two ids, each with a line's end.
const MAX_IDS: u64 = 2 * (ModuleId::MAX_LEN as u64 + 1);

/// Why an upload is not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Flaw {
    /// The compressed stream is damaged, cut or followed by something else.
    #[error("read the zstd frame")]
    Frame(#[from] io::Error),
    /// Larger or smaller than it was offered.
    #[error("match the offered size of {offered} bytes")]
    Size {
        /// Bytes that were announced.
        offered: u64,
    },
    /// No module or component.
    #[error("find wasm in it")]
    NotWasm,
    /// It says that it is another module.
    #[error("match its build id with {wanted}")]
    OtherId {
        /// The id that it was offered by.
        wanted: ModuleId,
    },
}

/// Checks the compressed debug info of a module that was offered as `size` bytes.
///
/// # Errors
/// The first flaw found. Runs for as long as decompressing takes: not for an async thread.
pub(crate) fn verify(id: &ModuleId, compressed: &[u8], size: u64) -> Result<(), Flaw> {
    let mut rest = compressed;
    let decoder = zstd::stream::read::Decoder::with_buffer(&mut rest)?.single_frame();
    // One byte more than was offered tells a file that is too long.
    let mut file = BufReader::new(decoder.take(size.saturating_add(1)));
    let found = claims(&mut file, size)?;
    let read = size.saturating_add(1) - file.get_ref().limit();
    drop(file);
    if read != size {
        return Err(Flaw::Size { offered: size });
    }
    if !rest.is_empty() {
        return Err(io::Error::from(io::ErrorKind::InvalidData).into());
    }
    // A prefix and a colon mark ids that are not from the file itself.
    let matches = if id.as_str().contains(':') {
        found.origin.is_none_or(|origin| origin.lines().any(|line| line == id.as_str()))
    } else {
        found.build_id.is_some_and(|found| found == id.as_str())
    };
    if matches { Ok(()) } else { Err(Flaw::OtherId { wanted: id.clone() }) }
}

/// What a file says that it is.
#[derive(Default)]
struct Claims {
    /// In hex.
    build_id: Option<String>,
    /// Ids of the file that this is a scrubbed copy of, one a line.
    origin: Option<String>,
}

/// Walks the top-level sections to the end.
fn claims(file: &mut impl BufRead, size: u64) -> Result<Claims, Flaw> {
    let mut header = [0; 8];
    match file.read_exact(&mut header) {
        Ok(()) if header.starts_with(b"\0asm") => {}
        Ok(()) => return Err(Flaw::NotWasm),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(Flaw::NotWasm),
        Err(error) => return Err(error.into()),
    }
    let mut out = Claims::default();
    let mut at = header.len() as u64;
    loop {
        let Some(&section) = file.fill_buf()?.first() else { return Ok(out) };
        if at >= size {
            // Longer than offered: whoever asked sees that.
            return Ok(out);
        }
        file.consume(1);
        let (len, len_bytes) = leb(file)?;
        at += 1 + len_bytes + len;
        let mut payload = file.by_ref().take(len);
        if section == 0 {
            out.take(&mut payload)?;
        }
        io::copy(&mut payload, &mut io::sink())?;
        if payload.limit() != 0 {
            return Err(Flaw::NotWasm);
        }
    }
}

impl Claims {
    /// Reads a custom section, if it is the first one that says an id.
    fn take(&mut self, section: &mut impl Read) -> Result<(), Flaw> {
        let (name_len, _) = leb(section)?;
        if name_len > ORIGIN_SECTION.len() as u64 {
            return Ok(());
        }
        let mut name = Vec::new();
        section.take(name_len).read_to_end(&mut name)?;
        let mut content = Vec::new();
        if name == b"build_id" && self.build_id.is_none() {
            let (id_len, _) = leb(section)?;
            section.take(id_len.min(64)).read_to_end(&mut content)?;
            let id = content.iter().map(|byte| format!("{byte:02x}")).collect();
            self.build_id = (!content.is_empty()).then_some(id);
        } else if name == ORIGIN_SECTION.as_bytes() && self.origin.is_none() {
            section.take(MAX_IDS).read_to_end(&mut content)?;
            self.origin = Some(String::from_utf8_lossy(&content).into_owned());
        }
        Ok(())
    }
}

/// An unsigned LEB128 of at most 32 bits, and its length.
fn leb(file: &mut impl Read) -> Result<(u64, u64), Flaw> {
    let mut value = 0u64;
    for i in 0..5 {
        let mut byte = [0];
        file.read_exact(&mut byte).map_err(|_| Flaw::NotWasm)?;
        value |= u64::from(byte[0] & 0x7f) << (7 * i);
        if byte[0] & 0x80 == 0 {
            return Ok((value, i + 1));
        }
    }
    Err(Flaw::NotWasm)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITH_ID: &[u8] = b"\0asm\x01\0\0\0\x01\x01\0\0\x0e\x08build_id\x04\xde\xad\xbe\xef\0\x03\x02hi";

    fn check(id: &str, file: &[u8], size: usize) -> Result<(), Flaw> {
        let compressed = zstd::bulk::compress(file, 1).unwrap();
        verify(&ModuleId::parse(id).unwrap(), &compressed, size as u64)
    }

    #[test]
    fn an_id_that_can_be_checked_is_checked() {
        assert_eq!(ModuleId::of(WITH_ID).as_str(), "deadbeef");
        check("deadbeef", WITH_ID, WITH_ID.len()).unwrap();
        check("sha256:00ff", WITH_ID, WITH_ID.len()).unwrap();
        assert!(matches!(check("deadbeee", WITH_ID, WITH_ID.len()), Err(Flaw::OtherId { .. })));
        let scrubbed = [WITH_ID, b"\0\x1d\x10sandscope.originsha256:00ff\n"].concat();
        check("sha256:00ff", &scrubbed, scrubbed.len()).unwrap();
        check("deadbeef", &scrubbed, scrubbed.len()).unwrap();
        assert!(matches!(check("sha256:00fe", &scrubbed, scrubbed.len()), Err(Flaw::OtherId { .. })));
        assert!(matches!(check("deadbeef", b"\0asm\x01\0\0\0", 8), Err(Flaw::OtherId { .. })));
    }

    /// A bomb is not unpacked beyond what was offered.
    #[test]
    fn the_size_must_be_the_offered_one() {
        for size in [0, 8, WITH_ID.len() - 1, WITH_ID.len() + 1, 1 << 30] {
            assert!(check("deadbeef", WITH_ID, size).is_err(), "{size}");
        }
        let mut bomb = b"\0asm\x01\0\0\0\0\xff\xff\xff\x1f\x01x".to_vec();
        bomb.resize(64 << 20, 0);
        assert!(check("sha256:00", &bomb, 1000).is_err());
    }

    /// Whatever is cut off or put behind, it is refused and nothing panics.
    #[test]
    fn damaged_uploads_are_refused() {
        let id = ModuleId::parse("deadbeef").unwrap();
        let whole = zstd::bulk::compress(WITH_ID, 1).unwrap();
        for end in 0..whole.len() {
            assert!(verify(&id, &whole[..end], WITH_ID.len() as u64).is_err(), "cut at {end}");
        }
        let twice = [whole.clone(), whole].concat();
        assert!(verify(&id, &twice, WITH_ID.len() as u64).is_err());
        for end in 0..WITH_ID.len() {
            let _ = check("deadbeef", &WITH_ID[..end], end);
        }
        assert!(matches!(check("ab", b"#!/bin/sh", 9), Err(Flaw::NotWasm)));
    }
}

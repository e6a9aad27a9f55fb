//! What is left of a recording and what is lost, in figures and in one sentence.

use std::io::{self, BufRead, Read, Seek, SeekFrom};

use mcap::records::op;
use sandscope_model::units::bytes as human_bytes;

use crate::fields::Fields;
use crate::fold::Lost;
use crate::scan::{Damage, Scanner};

/// Length of the record that ends the data, of the footer with the magic behind it, and of what follows the sum in it.
const DATA_END: u64 = 9 + 4;
const FOOTER: u64 = 9 + 20 + 8;
const AFTER_SUM: u64 = 4 + 8;

/// What one pass over a file found. Everything that is counted as read was as its writer wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Integrity {
    /// Size of the file.
    pub bytes: u64,
    /// Chunks that are whole.
    pub chunks: u64,
    /// Messages in them.
    pub messages: u64,
    /// Attachments that are whole.
    pub attachments: u64,
    /// Bytes of these.
    pub attached: u64,
    /// Places where bytes are not what was written.
    pub damaged: u64,
    /// Bytes that nothing could be read from.
    pub bytes_lost: u64,
    /// Samples in whole chunks whose stacks were in a lost one.
    pub samples_lost: u64,
    /// Messages in whole chunks of a kind or size that this release does not read.
    pub unreadable: u64,
    /// Whether the writer ended it.
    pub closed: bool,
    /// What is missing, as the end of a sentence; `None` if nothing is.
    pub missing: Option<String>,
}

impl Integrity {
    /// Whether the file is as its writer left it at the end.
    pub fn whole(&self) -> bool {
        self.missing.is_none()
    }

    /// Takes what a pass found besides counts of what is whole.
    pub(crate) fn finish<R: Read + Seek>(&mut self, scanner: &Scanner<R>, has_head: bool, lost: Lost) {
        let Damage { places, bytes, .. } = scanner.damage();
        (self.damaged, self.bytes_lost) = (places, bytes);
        (self.samples_lost, self.unreadable) = (lost.samples, lost.unreadable);
        self.closed = scanner.data_ended();
        self.missing = missing(scanner, has_head, lost);
    }
}

/// Whether a file that was closed adds up to the two checksums at its end, of its data and of its index. `None` if it
/// has no end.
pub(crate) fn sums_agree(mut file: impl Read + Seek) -> io::Result<Option<bool>> {
    let size = file.seek(SeekFrom::End(0))?;
    let Some(footer) = size.checked_sub(FOOTER) else { return Ok(None) };
    let end = read(&mut file, footer, FOOTER)?;
    let mut fields = Fields(&end);
    let framed = (fields.u8(), fields.u64()) == (Some(op::FOOTER), Some(20)) && end.ends_with(mcap::MAGIC);
    let (summary, _offsets, index_sum) = (fields.u64(), fields.u64(), fields.u32());
    if !framed {
        return Ok(None);
    }
    // An end that leads nowhere is not as it was written.
    let Some(data_end) = summary.and_then(|at| at.checked_sub(DATA_END)).filter(|at| *at < footer) else {
        return Ok(Some(false));
    };
    let record = read(&mut file, data_end, DATA_END)?;
    let mut fields = Fields(&record);
    if (fields.u8(), fields.u64()) != (Some(op::DATA_END), Some(4)) {
        return Ok(Some(false));
    }
    let data_sum = fields.u32();
    let data_agrees = data_sum == Some(0) || data_sum == Some(sum(&mut file, 0, data_end)?);
    let (from, to) = (data_end + DATA_END, size - AFTER_SUM);
    Ok(Some(data_agrees && (index_sum == Some(0) || index_sum == Some(sum(&mut file, from, to)?))))
}

fn read(file: &mut (impl Read + Seek), at: u64, len: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut out = Vec::new();
    file.take(len).read_to_end(&mut out)?;
    Ok(out)
}

fn sum(file: &mut (impl Read + Seek), from: u64, to: u64) -> io::Result<u32> {
    file.seek(SeekFrom::Start(from))?;
    let mut hasher = crc32fast::Hasher::new();
    let mut bytes = io::BufReader::with_capacity(1 << 16, file.take(to - from));
    loop {
        let part = bytes.fill_buf()?;
        if part.is_empty() {
            return Ok(hasher.finalize());
        }
        hasher.update(part);
        let len = part.len();
        bytes.consume(len);
    }
}

/// What is missing, as the end of a sentence.
fn missing<R: Read + Seek>(scanner: &Scanner<R>, has_head: bool, lost: Lost) -> Option<String> {
    let mut parts = Vec::new();
    let mut damage = scanner.damage();
    if scanner.data_ended() {
        if !scanner.closed() {
            parts.push("the index at its end is damaged, but nothing else".to_owned());
        }
    } else if damage.tail > 0 {
        parts.push("it was cut off in the middle of a record, so its end is missing".to_owned());
        damage.places -= 1;
        damage.bytes -= damage.tail;
    } else {
        parts.push("it was not closed, so its end is missing".to_owned());
    }
    if damage.places > 0 {
        let places = plural(damage.places, "place is", "places are");
        parts.push(format!("{places} damaged and {} could not be used", human_bytes(damage.bytes)));
    }
    if !has_head {
        parts.push("host, region and start are lost".to_owned());
    }
    if lost.samples > 0 {
        parts.push(format!("{} without their stacks", plural(lost.samples, "sample is", "samples are")));
    }
    if lost.unreadable > 0 {
        let records = plural(lost.unreadable, "record is", "records are");
        parts.push(format!("{records} of a kind or size that this release does not read"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

//! What is left of a recording and what is lost, in figures and in one sentence.

use std::io::{Read, Seek};

use sandscope_model::units::bytes as human_bytes;

use crate::fold::Lost;
use crate::scan::{Damage, Scanner};

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

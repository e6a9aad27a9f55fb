//! Who a signal is about: modules by content, workloads by name and version.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::file_ids::origin;

/// Identity of a module or component: what its debug info is found by.
///
/// The bytes of the `build_id` custom section in lower-case hex if there is one (tool-conventions,
/// "Build ID"), else `sha256:` and 40 hex digits of the hash of the file as its author shipped it,
/// before any rewriting. A module that arrived precompiled without its sidecar is `text:<hash>`. A copy with its
/// code blanked says itself which file it was, see [`crate::file_ids::ORIGIN_SECTION`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModuleId(Arc<str>);

impl ModuleId {
    /// The longest id that is accepted, in bytes: a build id of 64 bytes in hex, with room for a prefix.
    pub const MAX_LEN: usize = 160;

    /// The id of a core module or component from its bytes. Bytes that are no wasm get a hash too.
    pub fn of(bytes: &[u8]) -> Self {
        if let Some(id) = build_id(bytes) {
            return Self(hex(id).into());
        }
        origin(bytes, "sha256:")
            .unwrap_or_else(|| Self(format!("sha256:{}", &hex(&Sha256::digest(bytes))[..40]).into()))
    }

    /// The id of a precompiled artifact whose original bytes are unknown.
    pub fn of_text(artifact: &[u8]) -> Self {
        Self(format!("text:{}", &hex(&Sha256::digest(artifact))[..40]).into())
    }

    /// Accepts an id from a peer or a file: hex digits with an optional lower-case prefix and a colon.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.split_once(':').map_or(text, |(prefix, rest)| {
            if prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) { rest } else { "" }
        });
        let valid = !digits.is_empty()
            && text.len() <= Self::MAX_LEN
            && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        valid.then(|| Self(text.into()))
    }

    /// The id as it is printed and sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, for a version or a column.
    pub fn short(&self) -> &str {
        let digits = self.0.split_once(':').map_or(&*self.0, |(_, rest)| rest);
        &digits[..digits.len().min(12)]
    }
}

impl fmt::Display for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ModuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModuleId({})", self.0)
    }
}

/// A workload: what a team deploys and compares, across hosts and regions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadId {
    /// `wasm.workload.name`.
    pub name: Arc<str>,
    /// `wasm.workload.version`.
    pub version: Arc<str>,
}

impl WorkloadId {
    /// A workload by name and version, as given.
    pub fn new(name: &str, version: &str) -> Self {
        Self { name: name.into(), version: version.into() }
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

/// 32 hexadecimal digits that stand for some bytes: the start of their SHA-256.
pub fn content_id(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..16])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// The payload of the top-level `build_id` section, if it has a length that ids have.
pub(crate) fn build_id(bytes: &[u8]) -> Option<&[u8]> {
    let section = Sections::of(bytes)?.find_map(|section| section.custom("build_id"))?;
    let (len, id) = leb(section)?;
    id.get(..len).filter(|id| !id.is_empty() && id.len() <= 64)
}

/// The top-level sections of a file, up to the first broken one. Modules and components frame them alike.
pub(crate) struct Sections<'a>(&'a [u8]);

/// One of them.
pub(crate) struct Section<'a> {
    pub id: u8,
    pub payload: &'a [u8],
}

impl<'a> Sections<'a> {
    /// `None` if there is no preamble.
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        bytes.strip_prefix(b"\0asm")?.get(4..).map(Self)
    }
}

impl<'a> Iterator for Sections<'a> {
    type Item = Section<'a>;

    fn next(&mut self) -> Option<Section<'a>> {
        let (&id, after) = self.0.split_first()?;
        let (len, after) = leb(after)?;
        let (payload, rest) = after.split_at_checked(len)?;
        self.0 = rest;
        Some(Section { id, payload })
    }
}

impl<'a> Section<'a> {
    /// The content, if it is the custom section of this name.
    pub fn custom(&self, name: &str) -> Option<&'a [u8]> {
        let (len, rest) = leb(self.payload)?;
        let (own, content) = rest.split_at_checked(len)?;
        (self.id == 0 && own == name.as_bytes()).then_some(content)
    }
}

fn leb(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0usize;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(i + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(sections: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = b"\0asm\x01\0\0\0".to_vec();
        for (id, payload) in sections {
            out.push(*id);
            out.push(payload.len() as u8);
            out.extend_from_slice(payload);
        }
        out
    }

    /// The linker's build id is the identity, so a stripped file and its debug file meet.
    #[test]
    fn build_id_section_wins_over_the_hash() {
        let with_id = module(&[(1, b"\0"), (0, b"\x08build_id\x04\xde\xad\xbe\xef")]);
        assert_eq!(ModuleId::of(&with_id).as_str(), "deadbeef");
        let without = module(&[(1, b"\0")]);
        assert!(ModuleId::of(&without).as_str().starts_with("sha256:"));
    }

    /// A file cut anywhere has an id and never panics.
    #[test]
    fn truncated_files_still_have_an_id() {
        let whole = module(&[(0, b"\x08build_id\x04\xde\xad\xbe\xef")]);
        for end in 0..whole.len() {
            assert!(ModuleId::of(&whole[..end]).as_str().starts_with("sha256:"));
        }
    }

    #[test]
    fn ids_of_peers_are_checked() {
        for good in ["deadbeef", "sha256:00ff", "text:ab"] {
            assert_eq!(ModuleId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "sha256:", "../../etc", "DEAD", "a b", "x:y:z", "\u{1b}[2J"] {
            assert!(ModuleId::parse(bad).is_none(), "{bad:?}");
        }
    }
}

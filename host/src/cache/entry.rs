//! The format of a cached module, bytes in and bytes out. Nothing here touches files.
//!
//! ```text
//! magic "sscache\n"  8   key  32   sidecar's length  8   artifact's length  8   (little-endian)
//! sidecar            sandscope.module.v1.Sidecar
//! artifact           what the engine serialized
//! SHA-256            32, over everything before it
//! ```
//! The format's version is part of the key, so an entry of another version is never looked at.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::key::Key;
use crate::sidecar::Sidecar;

const MAGIC: &[u8; 8] = b"sscache\n";
const HEAD: usize = 8 + 32 + 8 + 8;
const HASH: usize = 32;

/// A cached module, verified.
pub(crate) struct Entry {
    bytes: Vec<u8>,
    artifact: Range<usize>,
    pub(crate) sidecar: Sidecar,
}

impl Entry {
    /// What the engine serialized.
    pub(crate) fn artifact(&self) -> &[u8] {
        &self.bytes[self.artifact.clone()]
    }

    /// Verifies an entry. `None` for what is cut, damaged, or was stored for another key.
    pub(super) fn read(key: &Key, bytes: Vec<u8>) -> Option<Self> {
        let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH)?)?;
        if Sha256::digest(body).as_slice() != hash {
            return None;
        }
        let (magic, rest) = body.split_first_chunk::<8>()?;
        let (stored_for, rest) = rest.split_first_chunk::<32>()?;
        let (sidecar_len, rest) = rest.split_first_chunk::<8>()?;
        let (artifact_len, rest) = rest.split_first_chunk::<8>()?;
        let sidecar_len = usize::try_from(u64::from_le_bytes(*sidecar_len)).ok()?;
        let artifact_len = usize::try_from(u64::from_le_bytes(*artifact_len)).ok()?;
        if magic != MAGIC || stored_for != key.bytes() || sidecar_len.checked_add(artifact_len)? != rest.len()
        {
            return None;
        }
        let sidecar = Sidecar::from_bytes(&rest[..sidecar_len]).ok()?;
        let start = HEAD + sidecar_len;
        Some(Self { bytes, artifact: start..start + artifact_len, sidecar })
    }
}

/// Bytes of an entry.
pub(super) fn length(sidecar: &[u8], artifact: &[u8]) -> u64 {
    (HEAD + sidecar.len() + artifact.len() + HASH) as u64
}

/// The parts of an entry, in order.
pub(super) fn write(
    key: &Key,
    sidecar: &[u8],
    artifact: &[u8],
    mut out: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let (sidecar_len, artifact_len) = (sidecar.len() as u64, artifact.len() as u64);
    let mut hash = Sha256::new();
    let parts: [&[u8]; 6] =
        [MAGIC, key.bytes(), &sidecar_len.to_le_bytes(), &artifact_len.to_le_bytes(), sidecar, artifact];
    for part in parts {
        hash.update(part);
        out(part)?;
    }
    out(&hash.finalize())
}

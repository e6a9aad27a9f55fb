//! Parts of a file that are kept: copies, or ranges of bytes that somebody else owns.

use std::ops::{Deref, Range};
use std::sync::Arc;

/// The bytes of a file, shared: a vector, or a mapping of the caller's.
pub type Shared = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A part of a file.
#[derive(Clone)]
pub(crate) enum Bytes {
    Copied(Box<[u8]>),
    Shared(Shared, Range<usize>),
}

impl Bytes {
    /// A range of a file: shared if it is, else copied.
    pub fn of(file: &[u8], shared: Option<&Shared>, range: Range<usize>) -> Self {
        match shared {
            Some(shared) => Self::Shared(Arc::clone(shared), range),
            None => Self::Copied(file.get(range).unwrap_or_default().into()),
        }
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Copied(Box::default())
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Copied(bytes) => bytes,
            // An owner that shrinks leaves nothing to read.
            Self::Shared(owner, range) => owner.as_ref().as_ref().get(range.clone()).unwrap_or_default(),
        }
    }
}

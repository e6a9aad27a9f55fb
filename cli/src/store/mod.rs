//! Debug info by id, in a directory or at a collector, in the layout of debuginfod: `buildid/<id>/debuginfo`.
//! A file is found under its build id, or the hash of the file if it has none, and under the hash of its code. What
//! goes in or comes out under an id is checked to have that id; see [`FileIds`].

mod connection;
mod directory;
mod remote;

use std::path::PathBuf;

use sandscope_host::Credentials;
use sandscope_model::{FileIds, ModuleId};
use sandscope_proto::MAX_DEBUG_INFO;

pub use directory::Directory;
pub use remote::Remote;

/// Why debug info could not be stored or had. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk did not do it.
    #[error("{what} {path}", path = path.display())]
    Disk {
        /// Verb and preposition.
        what: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What was found or given is another file.
    #[error("use the debug info at {place}: {wanted} is wanted, it is of {found}")]
    OtherId {
        /// File or URL.
        place: String,
        /// The id that was asked for.
        wanted: ModuleId,
        /// The id that the file has.
        found: ModuleId,
    },
    /// Larger than what is taken.
    #[error("take the debug info at {place}: {size} bytes are more than the limit of {MAX_DEBUG_INFO}")]
    TooLarge {
        /// File or URL.
        place: String,
        /// Its size in bytes.
        size: u64,
    },
    /// No module or component.
    #[error("find a WebAssembly module or component in {place}")]
    NotWasm {
        /// File or URL.
        place: String,
    },
    /// Nobody could ask for it: split files, for example, are found beside their module.
    #[error("find an id in {place}: it has neither a build id nor code")]
    Nameless {
        /// File or URL.
        place: String,
    },
    /// The address is none of ours.
    #[error("understand the address {url}: http:// or https:// and a host are known")]
    Address {
        /// As it was given.
        url: String,
    },
    /// The collector cannot be reached, or the connection broke.
    #[error("talk to {url}: {reason}")]
    Connection {
        /// The collector's address.
        url: String,
        /// What went wrong.
        reason: String,
    },
    /// The collector did not take it or does not have it.
    #[error("get an answer from {url}: {status} {body}")]
    Refused {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The first line of the answer.
        body: String,
    },
}

/// Something that is held.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    /// The best id that it is found by.
    pub id: ModuleId,
    /// In bytes.
    pub size: u64,
}

/// Where debug info is kept.
#[derive(Debug)]
pub enum Store {
    /// On this machine.
    Directory(Directory),
    /// At a collector.
    Remote(Remote),
}

impl Store {
    /// A collector if it looks like a URL, which is shown the credentials, else a directory; by default the user's.
    ///
    /// # Errors
    /// A URL that is not understood.
    pub fn at(place: Option<&str>, credentials: Credentials) -> Result<Self, StoreError> {
        Ok(match place {
            Some(url) if url.contains("://") => Self::Remote(Remote::new(url, credentials)?),
            Some(path) => Self::Directory(Directory::new(path.into())),
            None => Self::Directory(Directory::of_user()),
        })
    }

    /// Stores a file under its ids.
    ///
    /// # Errors
    /// A file that is no wasm, too large or without an id, or a store that did not take it.
    pub fn push(&self, place: &str, bytes: &[u8]) -> Result<FileIds, StoreError> {
        let place = || place.to_owned();
        if !bytes.starts_with(b"\0asm") {
            return Err(StoreError::NotWasm { place: place() });
        }
        if bytes.len() as u64 > MAX_DEBUG_INFO {
            return Err(StoreError::TooLarge { place: place(), size: bytes.len() as u64 });
        }
        let ids = FileIds::of(bytes);
        if !ids.has_build_id && ids.code.is_none() {
            return Err(StoreError::Nameless { place: place() });
        }
        match self {
            Self::Directory(directory) => directory.push(&ids, bytes)?,
            Self::Remote(remote) => remote.push(&ids, bytes)?,
        }
        Ok(ids)
    }

    /// The debug info of an id; `None` if the store does not have it.
    ///
    /// # Errors
    /// A store that cannot be read, or that holds something else under this id.
    pub fn fetch(&self, id: &ModuleId) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Directory(directory) => directory.fetch(id),
            Self::Remote(remote) => remote.fetch(id),
        }
    }

    /// All that it holds, by id.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn list(&self) -> Result<Vec<Held>, StoreError> {
        match self {
            Self::Directory(directory) => directory.list(),
            Self::Remote(remote) => remote.list(),
        }
    }
}

/// Whether what was found under an id is of that id.
fn check(place: String, wanted: &ModuleId, bytes: &[u8]) -> Result<(), StoreError> {
    let ids = FileIds::of(bytes);
    if ids.has(wanted) {
        return Ok(());
    }
    let found = ids.code.filter(|_| wanted.as_str().starts_with("code:")).unwrap_or(ids.module);
    Err(StoreError::OtherId { place, wanted: wanted.clone(), found })
}

//! Requests that wait for a collector, bounded in bytes: in memory, or in a directory where they outlive the process.
//!
//! What is least missed is shed first: profiles, then spans of calls that went well, then those of calls that failed;
//! of one class the oldest. Metrics are not here, for they are cumulative: the next ones say what these would have.
//!
//! # Accuracy
//! What is shed is counted, and the counts are metrics: they arrive when the collector is back. A request keeps its
//! number, so that a collector of ours knows one that had arrived although its answer had not.
//!
//! # Cost
//! Memory as far as [`Builder::spool`](crate::Builder::spool) says, and encoding once, on the aggregator's thread. In a
//! directory each request is a file that is written once and never synced: what the kernel has not written when the power
//! fails is lost, and is not counted.
//!
//! # Security
//! Requests are what was going to be sent anyway, in files of this user alone. What is found in the directory is believed
//! to be of this user; a file that is not as it was written is removed and counted as shed.

mod directory;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use directory::Directory;
pub(crate) use directory::SpoolError;

/// Bytes of a spool in memory, unless said otherwise.
pub(crate) const IN_MEMORY: u64 = 32 << 20;

/// What a request carries, by what is shed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Stacks.
    Profiles,
    /// Calls that went well.
    Spans,
    /// Calls that failed.
    Errors,
}

impl Class {
    pub(crate) const ALL: [Self; 3] = [Self::Profiles, Self::Spans, Self::Errors];

    fn name(self) -> &'static str {
        match self {
            Self::Profiles => "profiles",
            Self::Spans => "spans",
            Self::Errors => "errors",
        }
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    pub class: Class,
    /// The boot that made it, and its number there.
    pub boot: Arc<str>,
    pub sequence: u64,
    /// Samples or spans.
    pub items: u64,
    /// An `Export…ServiceRequest`.
    pub payload: Bytes,
}

/// A parcel that waits. With a file, its payload is there.
struct Waiting {
    parcel: Parcel,
    size: u64,
    file: Option<String>,
}

/// Where requests are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// A directory, made for this user alone; without one it is memory.
    pub directory: Option<PathBuf>,
    /// Most bytes.
    pub limit: u64,
}

impl Default for SpoolSettings {
    /// 32 MiB in memory.
    fn default() -> Self {
        Self { directory: None, limit: IN_MEMORY }
    }
}

/// Requests that wait, oldest first.
pub(crate) struct Spool {
    waiting: VecDeque<Waiting>,
    bytes: u64,
    /// Of them in memory: all without a directory.
    held: u64,
    limit: u64,
    directory: Option<Directory>,
    shed: [u64; Class::ALL.len()],
}

impl Spool {
    /// In memory.
    pub(crate) fn in_memory(limit: u64) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes: 0,
            held: 0,
            limit,
            directory: None,
            shed: [0; Class::ALL.len()],
        }
    }

    /// As the settings say, with what an earlier process left in the directory.
    ///
    /// # Errors
    /// A directory that cannot be used, or that another process uses.
    pub(crate) fn open(settings: &SpoolSettings) -> Result<Self, SpoolError> {
        let mut spool = Self::in_memory(settings.limit);
        if let Some(path) = &settings.directory {
            let (directory, found) = Directory::take(path)?;
            spool.directory = Some(directory);
            spool.bytes = found.iter().map(|waiting| waiting.size).sum();
            spool.waiting = found.into();
            spool.make_room(0, Class::Errors);
        }
        Ok(spool)
    }

    /// Takes a request, and sheds until there is room for it.
    pub(crate) fn push(&mut self, mut parcel: Parcel) {
        let size = parcel.payload.len() as u64;
        if !self.make_room(size, parcel.class) {
            self.shed[parcel.class as usize] += parcel.items;
            return;
        }
        // On a full disk it waits in memory, if that is not too much.
        let file = self.directory.as_ref().and_then(|directory| directory.write(&parcel).ok());
        if file.is_some() {
            parcel.payload = Bytes::new();
        } else if self.held + size > self.limit.min(IN_MEMORY) {
            self.shed[parcel.class as usize] += parcel.items;
            return;
        } else {
            self.held += size;
        }
        self.bytes += size;
        self.waiting.push_back(Waiting { parcel, size, file });
    }

    /// Sheds until so many bytes fit; `false` if what would have to go is worth more.
    fn make_room(&mut self, size: u64, class: Class) -> bool {
        if size > self.limit {
            return false;
        }
        while self.bytes + size > self.limit {
            let least = self.waiting.iter().map(|waiting| waiting.parcel.class).min();
            let Some(least) = least.filter(|least| *least <= class) else { return false };
            let at = self.waiting.iter().position(|waiting| waiting.parcel.class == least);
            let Some(gone) = at.and_then(|at| self.take(at)) else { return false };
            self.shed[gone.class as usize] += gone.items;
        }
        true
    }

    fn take(&mut self, at: usize) -> Option<Parcel> {
        let Waiting { parcel, size, file } = self.waiting.remove(at)?;
        self.bytes -= size;
        match (&self.directory, file) {
            (Some(directory), Some(file)) => directory.remove(&file),
            _ => self.held -= size,
        }
        Some(parcel)
    }

    /// The oldest requests, up to about so many bytes and at least one. They stay until [`Self::done`].
    pub(crate) fn oldest(&mut self, bytes: u64) -> Vec<Parcel> {
        let mut out = Vec::new();
        let (mut at, mut sum) = (0, 0);
        while let Some(Waiting { parcel, size, file }) = self.waiting.get(at) {
            if sum > 0 && sum + size > bytes {
                break;
            }
            let payload = match (&self.directory, file) {
                (Some(directory), Some(file)) => directory.read(file),
                _ => Some(parcel.payload.clone()),
            };
            match payload {
                Some(payload) => {
                    out.push(Parcel { payload, ..parcel.clone() });
                    sum += size;
                    at += 1;
                }
                // Not as it was written.
                None => {
                    if let Some(gone) = self.take(at) {
                        self.shed[gone.class as usize] += gone.items;
                    }
                }
            }
        }
        out
    }

    /// A request arrived, or never will: `refused` then.
    pub(crate) fn done(&mut self, boot: &str, sequence: u64, refused: bool) {
        let is = |waiting: &Waiting| *waiting.parcel.boot == *boot && waiting.parcel.sequence == sequence;
        // It may have been shed while it was under way.
        let Some(parcel) = self.waiting.iter().position(is).and_then(|at| self.take(at)) else { return };
        if refused {
            self.shed[parcel.class as usize] += parcel.items;
        }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Samples or spans that were shed or refused, by class.
    pub(crate) fn shed(&self, class: Class) -> u64 {
        self.shed[class as usize]
    }
}

#[cfg(test)]
mod tests;

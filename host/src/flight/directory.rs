//! The directory of recordings: private, bounded, and never with half a file under a name that somebody opens.
//!
//! ```text
//! <workload>-<UTC time>-<signature>.mcap     a recording, mode 0600
//! .<process>-<number>.part                   one that is being written
//! ```
//!
//! Beyond the limit goes the oldest of those that a newer one of the same signature repeats, then the oldest of
//! all. Several processes may share a directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sandscope_model::units::utc;

use super::limits::Signature;
use crate::cache::{CacheError, private};

/// Age at which the remains of a process that died while writing are removed.
const ABANDONED: Duration = Duration::from_secs(3600);
/// Longest part of a file's name that tells the workload, in bytes.
const MAX_NAME: usize = 64;

/// An open directory.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    path: PathBuf,
    limit: u64,
}

/// A recording in it.
struct Found {
    path: PathBuf,
    signature: Signature,
    size: u64,
    modified: SystemTime,
}

impl Directory {
    /// Creates it with mode 0700 if it is not there, and refuses one that others can write to.
    pub(super) fn open(path: &Path, limit: u64) -> Result<Self, CacheError> {
        private::directory(path)?;
        let directory = Self { path: path.to_owned(), limit };
        directory.remove_abandoned();
        Ok(directory)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Age and signature of what is in it.
    pub(super) fn ages(&self) -> Vec<(Signature, Duration)> {
        let found = self.recordings().unwrap_or_default();
        found.iter().map(|found| (found.signature, found.modified.elapsed().unwrap_or_default())).collect()
    }

    /// A new empty file to write to.
    pub(super) fn temporary(&self) -> io::Result<PathBuf> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!(".{}-{number}.part", std::process::id()));
        // Of an earlier process with the same number.
        let _ = fs::remove_file(&path);
        private::create(&path)?;
        Ok(path)
    }

    /// Gives a finished file its name, and removes others until all are within the limit; how many were removed.
    pub(super) fn keep(&self, temporary: &Path, name: &str) -> io::Result<(PathBuf, u64)> {
        let new = fs::metadata(temporary)?.len();
        let mut found = self.recordings()?;
        let mut used = found.iter().fold(new, |sum, found| sum.saturating_add(found.size));
        let path = self.path.join(name);
        let mut evicted = 0;
        if new > self.limit {
            return Err(io::Error::other(format!("it takes {new} bytes of {} that are allowed", self.limit)));
        }
        while used > self.limit && !found.is_empty() {
            let gone = found.remove(first_to_go(&found, signature(name)));
            fs::remove_file(&gone.path)?;
            used = used.saturating_sub(gone.size);
            evicted += 1;
        }
        fs::rename(temporary, &path)?;
        // Without it a power cut may take the name; the recording itself is on the device.
        let _ = File::open(&self.path).and_then(|directory| directory.sync_all());
        Ok((path, evicted))
    }

    /// What is in it, oldest first.
    fn recordings(&self) -> io::Result<Vec<Found>> {
        let mut found: Vec<Found> = fs::read_dir(&self.path)?
            .flatten()
            .filter_map(|entry| {
                let signature = signature(entry.file_name().to_str()?)?;
                let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                let modified = metadata.modified().ok()?;
                Some(Found { path: entry.path(), signature, size: metadata.len(), modified })
            })
            .collect();
        found.sort_by_key(|found| found.modified);
        Ok(found)
    }

    fn remove_abandoned(&self) {
        let Ok(entries) = fs::read_dir(&self.path) else { return };
        for entry in entries.flatten().filter(|entry| entry.path().extension() == Some(OsStr::new("part"))) {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            if modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED)) {
                // Another process may have been faster.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Which of some recordings, oldest first, makes room for a new one: the oldest with a newer repeat, else the oldest.
fn first_to_go(found: &[Found], new: Option<Signature>) -> usize {
    let newest: HashMap<Signature, usize> =
        found.iter().enumerate().map(|(at, found)| (found.signature, at)).collect();
    let is_repeated = |(at, found): (usize, &Found)| {
        Some(found.signature) == new || newest.get(&found.signature).is_some_and(|&newest| newest > at)
    };
    found.iter().enumerate().position(is_repeated).unwrap_or(0)
}

/// The signature in a recording's name; `None` for other files.
fn signature(name: &str) -> Option<Signature> {
    let (_, digits) = name.strip_suffix(".mcap")?.rsplit_once('-')?;
    if digits.len() != 8 {
        return None;
    }
    u32::from_str_radix(digits, 16).ok().map(Signature)
}

/// A recording's name.
pub(super) fn name(workload: &str, time: SystemTime, signature: Signature) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    let workload: String = workload.chars().take(MAX_NAME).map(plain).collect();
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // The basic format of ISO 8601, since not every file system takes a colon.
    let time = utc(seconds).replace(['-', ':'], "");
    format!("{workload}-{time}-{:08x}.mcap", signature.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directory stays within its limit: repeats go first, oldest first, and strangers' files stay.
    #[test]
    fn repeats_make_room_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recordings");
        let directory = Directory::open(&path, 3500).unwrap();
        fs::write(path.join("notes.txt"), vec![0; 10_000]).unwrap();
        let mut age = 100;
        let mut keep = |signature: u32| {
            let temporary = directory.temporary().unwrap();
            fs::write(&temporary, [0; 1000]).unwrap();
            age -= 1;
            let time = SystemTime::now() - Duration::from_secs(age);
            File::options().write(true).open(&temporary).unwrap().set_modified(time).unwrap();
            directory.keep(&temporary, &name("w/../x", time, Signature(signature))).unwrap().1
        };
        let signatures = || {
            let found = directory.recordings().unwrap();
            found.iter().map(|found| found.signature.0).collect::<Vec<u32>>()
        };
        assert_eq!([keep(1), keep(2), keep(2)], [0, 0, 0]);
        assert_eq!(keep(3), 1);
        assert_eq!(signatures(), [1, 2, 3], "the first of the two that are alike went");
        assert_eq!(keep(3), 1);
        assert_eq!(signatures(), [1, 2, 3], "the one that the new one repeats went");
        assert_eq!(keep(4), 1);
        assert_eq!(signatures(), [2, 3, 4], "the oldest went");
        assert!(path.join("notes.txt").exists());
        let temporary = directory.temporary().unwrap();
        fs::write(&temporary, [0; 4000]).unwrap();
        assert!(directory.keep(&temporary, "w-x-00000007.mcap").is_err());
        assert_eq!(signatures(), [2, 3, 4], "what is too large takes nothing with it");
    }
}

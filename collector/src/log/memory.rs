//! A disk in memory, for a collector without a data directory: the same log, with the same bounds and the same
//! push-back, for as long as the process lives. So consumers need not know whether there is a disk.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Disk, DiskFile};

type Contents = Arc<Mutex<Vec<u8>>>;

/// Files in memory.
#[derive(Default)]
pub(crate) struct Memory {
    files: Mutex<BTreeMap<String, Contents>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is one assignment: a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for Memory {
    type File = Contents;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.files).keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Contents> {
        let mut files = lock(&self.files);
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(files.entry(name.to_owned()).or_default().clone())
    }

    fn open(&self, name: &str) -> io::Result<Contents> {
        lock(&self.files).get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        lock(&self.files).remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Contents {
    fn size(&self) -> io::Result<u64> {
        Ok(lock(self).len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let held = lock(self);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(held.len());
        let found = held.get(from..).unwrap_or_default();
        let length = found.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(found) {
            *to = *from;
        }
        Ok(length)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut held = lock(self);
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let to = from.checked_add(bytes.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        if held.len() < to {
            held.resize(to, 0);
        }
        if let Some(place) = held.get_mut(from..to) {
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        lock(self).truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

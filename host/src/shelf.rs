//! Debug info that waits until a collector asks for it, which may be never: in a file without a name, so that
//! it takes no memory and is gone with the process.
//!
//! # Security
//! The file is the user's alone and has no path. Where the temporary folder takes no such file, debug info is
//! kept in memory, and less of it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use sandscope_model::ModuleId;

/// Bytes of the file.
const MAX_FILE: u64 = 256 << 20;
/// Bytes in memory, where there is no file.
const MAX_MEMORY: u64 = 32 << 20;

/// What is kept, in the order in which it came.
#[derive(Default)]
pub(crate) struct Shelf {
    file: Option<Arc<File>>,
    opened: bool,
    used: u64,
    /// `None` for what found no room.
    known: HashMap<ModuleId, Option<Kept>>,
}

/// Something on the shelf.
#[derive(Clone)]
pub(crate) struct Kept {
    place: Place,
    len: usize,
}

#[derive(Clone)]
enum Place {
    File(Arc<File>, u64),
    Memory(Bytes),
}

impl Shelf {
    /// Whether a module was put here, or found no room.
    pub(crate) fn knows(&self, id: &ModuleId) -> bool {
        self.known.contains_key(id)
    }

    /// A module's debug info, if it was put here and found room.
    pub(crate) fn get(&self, id: &ModuleId) -> Option<&Kept> {
        self.known.get(id)?.as_ref()
    }

    /// Keeps a module's debug info; `None` if there is no room for it.
    pub(crate) fn put(&mut self, id: &ModuleId, data: &Bytes) -> Option<Kept> {
        let kept = self.place(data);
        self.known.insert(id.clone(), kept.clone());
        kept
    }

    fn place(&mut self, data: &Bytes) -> Option<Kept> {
        if !std::mem::replace(&mut self.opened, true) {
            self.file = unnamed().ok().map(Arc::new);
        }
        let end = self.used + data.len() as u64;
        let written = self.file.as_ref().filter(|_| end <= MAX_FILE).and_then(|file| {
            let place = Place::File(Arc::clone(file), self.used);
            write_at(file, data, self.used).is_ok().then_some(place)
        });
        let in_memory = || (self.file.is_none() && end <= MAX_MEMORY).then(|| Place::Memory(data.clone()));
        let place = written.or_else(in_memory)?;
        self.used = end;
        Some(Kept { place, len: data.len() })
    }
}

impl Kept {
    /// Bytes of it.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A part of it.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn part(&self, at: usize, len: usize) -> io::Result<Bytes> {
        let len = len.min(self.len.saturating_sub(at));
        match &self.place {
            Place::Memory(data) => Ok(data.slice(at..at + len)),
            Place::File(file, offset) => {
                let mut out = vec![0; len];
                read_at(file, &mut out, offset + at as u64)?;
                Ok(out.into())
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn unnamed() -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
    options.open(std::env::temp_dir())
}

#[cfg(not(target_os = "linux"))]
fn unnamed() -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(unix)]
fn write_at(file: &File, data: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, data, at)
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, at)
}

#[cfg(not(unix))]
fn write_at(_: &File, _: &[u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(unix))]
fn read_at(_: &File, _: &mut [u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was put can be read in parts, wherever it is kept, and too much is refused.
    #[test]
    fn what_is_kept_is_read_back() {
        let in_memory = Shelf { opened: true, ..Shelf::default() };
        for (mut shelf, most) in [(Shelf::default(), MAX_FILE), (in_memory, MAX_MEMORY)] {
            let id = |n: u32| ModuleId::parse(&format!("{n:08x}")).unwrap();
            let [first, second] = [vec![1; 1000], vec![2; 3000]].map(Bytes::from);
            let kept = [(1, &first), (2, &second)].map(|(n, data)| shelf.put(&id(n), data).unwrap());
            assert!(shelf.knows(&id(1)) && !shelf.knows(&id(3)));
            for (kept, data) in kept.iter().zip([&first, &second]) {
                assert_eq!(kept.len(), data.len());
                assert_eq!(kept.part(10, 500).unwrap(), data[10..510]);
                assert_eq!(kept.part(900, 1 << 20).unwrap(), data[900..]);
            }
            let large = Bytes::from(vec![0; 16 << 20]);
            let taken = (3..).take_while(|&n| shelf.put(&id(n), &large).is_some()).count() as u64;
            if shelf.file.is_some() || most == MAX_MEMORY {
                assert_eq!(taken, (most >> 24) - 1);
            }
        }
    }
}

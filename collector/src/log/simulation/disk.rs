//! A disk that keeps what was synced, and of the rest whatever a seed decides.
//!
//! Writes, truncations and names are pending until a sync of their file or of the directory. A power cut makes any
//! subset of what is pending durable, in sectors of 512 bytes and in any order. A sync that fails forgets what was
//! pending, as Linux does: readers still see it, a later sync says that all is well, and it is on no disk.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::log::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// SplitMix64.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// A kind of sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    File,
    Directory,
}

enum Change {
    Write(usize, Vec<u8>),
    Cut(usize),
}

#[derive(Default)]
struct Contents {
    /// As processes see it.
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

fn write(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if to.len() < at + bytes.len() {
        to.resize(at + bytes.len(), 0);
    }
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Contents {
    fn change(&mut self, change: Change) {
        match &change {
            Change::Write(at, bytes) => write(&mut self.now, *at, bytes),
            Change::Cut(size) => self.now.truncate(*size),
        }
        self.pending.push(change);
    }

    /// Makes all that is pending durable, or what chance takes of it.
    fn settle(&mut self, mut chance: Option<&mut Random>) {
        for change in self.pending.drain(..) {
            if chance.as_mut().is_some_and(|random| random.one_in(2)) {
                continue;
            }
            match change {
                Change::Cut(size) => self.durable.truncate(size),
                Change::Write(at, bytes) => {
                    let torn = chance.as_mut().is_some_and(|random| random.one_in(2));
                    let mut from = 0;
                    while from < bytes.len() {
                        let to = ((at + from) / SECTOR * SECTOR + SECTOR - at).min(bytes.len());
                        let lost = torn && chance.as_mut().is_some_and(|random| random.one_in(3));
                        if !lost {
                            write(&mut self.durable, at + from, &bytes[from..to]);
                        }
                        from = to;
                    }
                }
            }
        }
    }
}

struct State {
    files: BTreeMap<u64, Contents>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending_names: Vec<(String, Option<u64>)>,
    next: u64,
    random: Random,
    capacity: usize,
    /// Operations until the process is killed or the power fails.
    fuse: Option<u64>,
    fail_sync: Option<Sync>,
    fail_write: bool,
    ignore: Option<Sync>,
    syncs: u32,
    dead: bool,
}

/// The disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

/// A file of it.
pub struct SimFile {
    disk: SimDisk,
    id: u64,
}

impl SimDisk {
    /// `ignore` is a kind of sync that says that it was done, and does nothing.
    pub fn new(seed: u64, ignore: Option<Sync>) -> Self {
        Self(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            next: 0,
            random: Random(seed),
            capacity: usize::MAX,
            fuse: None,
            fail_sync: None,
            fail_write: false,
            ignore,
            syncs: 0,
            dead: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if let Some(fuse) = &mut state.fuse {
            *fuse = fuse.saturating_sub(1);
            state.dead |= *fuse == 0;
        }
        if state.dead { Err(io::Error::other("the process is gone")) } else { Ok(state) }
    }

    /// Syncs of files so far.
    pub fn syncs(&self) -> u32 {
        self.state().syncs
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    pub fn stop_after(&self, operations: u64) {
        self.state().fuse = Some(operations);
    }

    pub fn fail_next_sync(&self, kind: Sync) {
        self.state().fail_sync = Some(kind);
    }

    pub fn fail_next_write(&self) {
        self.state().fail_write = true;
    }

    /// Leaves so many bytes free, or all the space there is.
    pub fn leave(&self, free: Option<usize>) {
        let mut state = self.state();
        let used = state.used();
        state.capacity = free.map_or(usize::MAX, |free| used + free);
    }

    /// The process is gone and the machine is not: another one sees all that was written.
    pub fn go_on(&self) {
        let mut state = self.state();
        (state.fuse, state.dead) = (None, false);
    }

    /// What is pending becomes durable or is lost, as chance has it, and the machine comes up again.
    pub fn cut_power(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        for (name, change) in std::mem::take(&mut state.pending_names) {
            if state.random.one_in(2) {
                continue;
            }
            match change {
                Some(id) => state.durable_names.insert(name, id),
                None => state.durable_names.remove(&name),
            };
        }
        for contents in state.files.values_mut() {
            contents.settle(Some(&mut state.random));
            contents.now = contents.durable.clone();
        }
        state.names = state.durable_names.clone();
        let held: Vec<u64> = state.names.values().copied().collect();
        state.files.retain(|id, _| held.contains(id));
        (state.fuse, state.dead) = (None, false);
    }

    /// Flips bits or zeroes a sector somewhere in a segment, on the disk and in the page cache.
    pub fn damage(&self) {
        let mut guard = self.state();
        let state = &mut *guard;
        let ids: Vec<u64> =
            state.names.iter().filter(|(name, _)| name.ends_with(".segment")).map(|(_, id)| *id).collect();
        let Some(id) = ids.get(state.random.below(ids.len() as u64) as usize) else { return };
        let Some(contents) = state.files.get_mut(id).filter(|contents| !contents.now.is_empty()) else {
            return;
        };
        let at = state.random.below(contents.now.len() as u64) as usize;
        let to = if state.random.one_in(2) { at + 1 } else { (at + SECTOR).min(contents.now.len()) };
        let flip = 1 << state.random.below(8);
        for bytes in [&mut contents.now, &mut contents.durable] {
            for byte in bytes.iter_mut().take(to).skip(at) {
                *byte = if to == at + 1 { *byte ^ flip } else { 0 };
            }
        }
    }
}

impl State {
    fn used(&self) -> usize {
        self.files.values().map(|contents| contents.now.len()).sum()
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.step()?.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut state = self.step()?;
        if state.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.next += 1;
        let id = state.next;
        state.files.insert(id, Contents::default());
        state.names.insert(name.to_owned(), id);
        state.pending_names.push((name.to_owned(), Some(id)));
        Ok(SimFile { disk: self.clone(), id })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let id = *self.step()?.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(SimFile { disk: self.clone(), id })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.step()?;
        state.names.remove(name).ok_or(ErrorKind::NotFound)?;
        state.pending_names.push((name.to_owned(), None));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut guard = self.step()?;
        let state = &mut *guard;
        if state.fail_sync == Some(Sync::Directory) {
            state.fail_sync = None;
            return Err(io::Error::other("the directory was not synced"));
        }
        if state.ignore != Some(Sync::Directory) {
            state.durable_names = state.names.clone();
            state.pending_names.clear();
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.step()?.files[&self.id].now.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.step()?;
        let found = state.files[&self.id].now.get(offset as usize..).unwrap_or_default();
        let length = found.len().min(buffer.len());
        buffer[..length].copy_from_slice(&found[..length]);
        Ok(length)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let was_dead = self.disk.is_dead();
        let stepped = self.disk.step().map(drop);
        let mut guard = self.disk.state();
        let state = &mut *guard;
        // What is there already can be written over on a full disk.
        let held = state.files[&self.id].now.len().saturating_sub(offset as usize);
        let room = held + state.capacity.saturating_sub(state.used());
        let mut length = bytes.len();
        let result = if stepped.is_err() || std::mem::take(&mut state.fail_write) {
            // The part before the failure is written.
            length = if was_dead { 0 } else { state.random.below(bytes.len() as u64) as usize };
            Err(io::Error::other("the write failed"))
        } else if length > room {
            length = room;
            Err(ErrorKind::StorageFull.into())
        } else {
            Ok(())
        };
        let contents = state.files.get_mut(&self.id).unwrap();
        contents.change(Change::Write(offset as usize, bytes[..length.min(room)].to_vec()));
        result
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        let mut state = self.disk.step()?;
        state.files.get_mut(&self.id).unwrap().change(Change::Cut(size as usize));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut guard = self.disk.step()?;
        let state = &mut *guard;
        state.syncs += 1;
        let contents = state.files.get_mut(&self.id).unwrap();
        if state.fail_sync == Some(Sync::File) {
            state.fail_sync = None;
            contents.settle(Some(&mut state.random));
            return Err(io::Error::other("the file was not synced"));
        }
        if state.ignore != Some(Sync::File) {
            contents.settle(None);
        }
        Ok(())
    }
}

//! Where a value's bytes are, and why they are not: memory of a stopped guest, bytes that the debug info has, and parts
//! of both.

use std::rc::Rc;

use super::stopped::Stopped;
use crate::limits::MAX_VALUE;

/// Why a value is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The debug info says that it is nowhere, or nothing about it.
    OptimizedOut,
    /// It is where the guest's state was not recorded.
    NotRecorded,
}

impl Missing {
    /// As it is written in place of a value.
    pub fn text(self) -> &'static str {
        match self {
            Self::OptimizedOut => "<optimized out>",
            Self::NotRecorded => "<not recorded>",
        }
    }
}

/// Where a value's bytes are: in parts, of which this is the rest from some byte on.
#[derive(Clone, Debug)]
pub(super) struct Object {
    parts: Rc<[Part]>,
    start: u64,
}

/// A part of an object.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub len: u64,
    pub content: Content,
}

/// Where a part's bytes are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Memory(u64),
    Bytes(Vec<u8>),
    Missing(Missing),
}

impl Object {
    /// In linear memory.
    pub fn memory(address: u64) -> Self {
        Self::whole(u64::MAX, Content::Memory(address))
    }

    /// Known without memory.
    pub fn bytes(bytes: Vec<u8>) -> Self {
        Self::whole(bytes.len() as u64, Content::Bytes(bytes))
    }

    /// Put together from parts.
    pub fn parts(parts: Vec<Part>) -> Self {
        Self { parts: parts.into(), start: 0 }
    }

    fn whole(len: u64, content: Content) -> Self {
        Self { parts: Rc::from([Part { len, content }]), start: 0 }
    }

    /// What is inside, so many bytes on.
    pub fn at(&self, offset: u64) -> Self {
        Self { parts: Rc::clone(&self.parts), start: self.start.saturating_add(offset) }
    }

    /// Its address, if it is all in linear memory.
    pub fn address(&self) -> Option<u64> {
        match &*self.parts {
            [Part { content: Content::Memory(address), .. }] => address.checked_add(self.start),
            _ => None,
        }
    }

    /// Its first bytes.
    pub fn read(&self, len: u64, memory: &Memory<'_>) -> Result<Vec<u8>, Missing> {
        let len =
            usize::try_from(len).ok().filter(|len| *len <= 16 * MAX_VALUE).ok_or(Missing::NotRecorded)?;
        let mut out = Vec::with_capacity(len);
        let mut skip = self.start;
        for part in &*self.parts {
            if out.len() == len {
                break;
            }
            if skip >= part.len {
                skip -= part.len;
                continue;
            }
            let want = (part.len - skip).min((len - out.len()) as u64);
            let end = out.len() + usize::try_from(want).unwrap_or(0);
            match &part.content {
                Content::Memory(address) => {
                    let address = address.checked_add(skip).ok_or(Missing::NotRecorded)?;
                    let from = out.len();
                    out.resize(end, 0);
                    let into = out.get_mut(from..).unwrap_or_default();
                    if !memory.read(address, into) {
                        return Err(Missing::NotRecorded);
                    }
                }
                Content::Bytes(bytes) => {
                    let from = usize::try_from(skip).unwrap_or(usize::MAX);
                    out.extend(bytes.iter().skip(from).take(end - out.len()));
                    out.resize(end, 0);
                }
                Content::Missing(missing) => return Err(*missing),
            }
            skip = 0;
        }
        if out.len() == len { Ok(out) } else { Err(Missing::OptimizedOut) }
    }

    /// Why nothing of its first bytes is there; `None` if some byte is.
    pub fn missing(&self, len: u64, memory: &Memory<'_>) -> Option<Missing> {
        let mut missing = None;
        let mut begin = 0u64;
        for part in &*self.parts {
            let end = begin.saturating_add(part.len);
            let overlaps = end > self.start && begin < self.start.saturating_add(len.max(1));
            match &part.content {
                _ if !overlaps => {}
                Content::Memory(address) => {
                    let inside = self.start.saturating_sub(begin);
                    if address.checked_add(inside).is_some_and(|at| memory.read(at, &mut [0])) {
                        return None;
                    }
                    missing = missing.or(Some(Missing::NotRecorded));
                }
                Content::Bytes(_) => return None,
                Content::Missing(why) => missing = missing.or(Some(*why)),
            }
            begin = end;
        }
        missing.or(Some(Missing::OptimizedOut))
    }
}

/// The linear memory of one instance.
#[derive(Clone, Copy)]
pub(super) struct Memory<'s> {
    pub stopped: &'s dyn Stopped,
    pub instance: u32,
    /// There is none that could be trusted.
    pub is_missing: bool,
}

impl Memory<'_> {
    /// Fills `into`; `false` if not all of it is known.
    pub fn read(&self, address: u64, into: &mut [u8]) -> bool {
        !self.is_missing && self.stopped.memory(self.instance, 0, address, into)
    }
}

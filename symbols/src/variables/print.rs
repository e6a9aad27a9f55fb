//! Values as their language writes them: pointers, arrays, and the way to what else there is. Everything is bounded: depth, elements, pointers followed, bytes of text.

use std::fmt::Write as _;

use super::entries::{Entries, Entry};
use super::object::{Memory, Missing, Object};
use super::types::Language;
use crate::limits::{MAX_ELEMENTS, MAX_STRING, MAX_VALUE, MAX_VALUE_DEPTH};

/// Pointers followed inside of each other.
const MAX_FOLLOWED: usize = 4;

/// Writes one value.
pub(super) struct Printer<'p, 'a> {
    pub entries: &'p Entries<'a>,
    pub memory: Memory<'p>,
    pub language: Language,
    pub out: String,
    depth: usize,
    /// Addresses and types that are being written, from the outermost.
    following: Vec<(u64, u32)>,
}

impl<'p, 'a> Printer<'p, 'a> {
    pub fn new(entries: &'p Entries<'a>, memory: Memory<'p>, language: Language) -> Self {
        Self { entries, memory, language, out: String::new(), depth: 0, following: Vec::new() }
    }

    /// Writes a value; nothing is written if it is missing as a whole.
    pub fn print(&mut self, ty: u32, object: &Object) -> Result<(), Missing> {
        if self.depth >= MAX_VALUE_DEPTH || self.is_full() {
            self.cut();
            return Ok(());
        }
        self.depth += 1;
        let result = self.value(ty, object);
        self.depth -= 1;
        // What could not be read because nothing more is read is cut, not missing.
        if result.is_err() && self.entries.is_exhausted() {
            self.cut();
            return Ok(());
        }
        result
    }

    /// [`Printer::print`] inside of something: what is missing is said.
    pub fn print_inside(&mut self, ty: Option<u32>, object: Result<Object, Missing>) {
        let printed = match (ty, object) {
            (Some(ty), Ok(object)) => self.print(ty, &object),
            (_, Err(missing)) => Err(missing),
            (None, _) => Err(Missing::OptimizedOut),
        };
        if let Err(missing) = printed {
            self.out.push_str(missing.text());
        }
    }

    /// Whether enough was written.
    pub fn is_full(&self) -> bool {
        self.out.len() >= MAX_VALUE || self.entries.is_exhausted()
    }

    /// Says that something is left out.
    pub fn cut(&mut self) {
        if !self.out.ends_with('…') {
            self.out.push('…');
        }
    }

    fn value(&mut self, ty: u32, object: &Object) -> Result<(), Missing> {
        let entry = self.entries.strip(ty).ok_or(Missing::OptimizedOut)?;
        match entry.tag {
            gimli::DW_TAG_base_type => self.base(&entry, object),
            gimli::DW_TAG_enumeration_type => self.enumeration(&entry, object),
            gimli::DW_TAG_pointer_type
            | gimli::DW_TAG_reference_type
            | gimli::DW_TAG_rvalue_reference_type => self.pointer(&entry, object),
            gimli::DW_TAG_array_type => self.array(&entry, object),
            gimli::DW_TAG_structure_type | gimli::DW_TAG_class_type | gimli::DW_TAG_union_type => {
                self.aggregate(&entry, object)
            }
            _ => Err(Missing::OptimizedOut),
        }
    }

    /// Appends; a string takes anything.
    pub fn put(&mut self, text: impl std::fmt::Display) {
        let _ = write!(self.out, "{text}");
    }

    fn pointer(&mut self, ty: &Entry<'a>, object: &Object) -> Result<(), Missing> {
        let size = u64::from(ty.unit.header.address_size());
        let address = self.number(object, ty.number(gimli::DW_AT_byte_size).unwrap_or(size))?;
        let address = u64::try_from(address).map_err(|_| Missing::NotRecorded)?;
        let name = self.entries.name(ty).unwrap_or_default();
        let pointee = ty.reference(gimli::DW_AT_type);
        let stripped = pointee.and_then(|pointee| self.entries.strip(pointee));
        if stripped.as_ref().is_some_and(|pointee| pointee.tag == gimli::DW_TAG_subroutine_type) {
            // A function's address is its place in the table.
            self.put(format_args!("table[{address}]"));
            return Ok(());
        }
        let is_transparent = ty.tag != gimli::DW_TAG_pointer_type
            || name.starts_with('&')
            || name.strip_prefix("alloc::boxed::").unwrap_or(&name).starts_with("Box<");
        if address == 0 && !is_transparent {
            self.put(match self.language {
                Language::Rust => "0x0",
                Language::Cpp => "nullptr",
                Language::C => "NULL",
            });
            return Ok(());
        }
        let Some((pointee, stripped)) = pointee.zip(stripped) else {
            self.put(format_args!("{address:#x}"));
            return Ok(());
        };
        if !is_transparent {
            self.put(format_args!("{address:#x}"));
            let is_text = self.language != Language::Rust
                && stripped.tag == gimli::DW_TAG_base_type
                && self.entries.name(&stripped).is_some_and(|name| name == "char");
            if is_text {
                let before = self.out.len();
                self.out.push(' ');
                if self.c_string(address).is_err() {
                    self.out.truncate(before);
                }
                return Ok(());
            }
        }
        self.follow(pointee, address, is_transparent)
    }

    /// Writes what is at an address. Of what is not there, or is already being written, the address is enough.
    pub fn follow(&mut self, ty: u32, address: u64, is_transparent: bool) -> Result<(), Missing> {
        let place = (address, ty);
        let is_open = self.following.contains(&place) || self.following.len() >= MAX_FOLLOWED;
        if is_open || !self.memory.read(address, &mut [0]) {
            if is_transparent {
                self.put(format_args!("{address:#x}"));
            }
            if is_open {
                self.out.push_str(" -> …");
            }
            return Ok(());
        }
        let before = self.out.len();
        if !is_transparent {
            self.out.push_str(" -> ");
        }
        self.following.push(place);
        let result = self.print(ty, &Object::memory(address));
        self.following.pop();
        if result.is_err() {
            // A type that says nothing of its values.
            self.out.truncate(before);
            if is_transparent {
                self.put(format_args!("{address:#x}"));
            }
        }
        Ok(())
    }

    fn array(&mut self, ty: &Entry<'a>, object: &Object) -> Result<(), Missing> {
        let element = ty.reference(gimli::DW_AT_type).ok_or(Missing::OptimizedOut)?;
        let lengths: Option<Vec<u64>> = self.entries.dimensions(ty).into_iter().collect();
        if let Some(lengths) = lengths {
            return self.dimension(element, &lengths, object);
        }
        // An array without an end, behind the struct that says its length.
        self.put("{…}");
        Ok(())
    }

    fn dimension(&mut self, element: u32, lengths: &[u64], object: &Object) -> Result<(), Missing> {
        let Some((count, inner)) = lengths.split_first() else { return self.print(element, object) };
        let size = self.entries.size(element).ok_or(Missing::OptimizedOut)?;
        let step =
            inner.iter().try_fold(size, |size, len| size.checked_mul(*len)).ok_or(Missing::OptimizedOut)?;
        if inner.is_empty() && self.language != Language::Rust && self.is_char(element) {
            let bytes = object.read((*count).min(MAX_STRING as u64), &self.memory)?;
            let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
            self.quote(text);
            return Ok(());
        }
        self.list(*count, step, object, |printer, object| {
            let printed = printer.dimension(element, inner, object);
            if let Err(missing) = printed {
                printer.out.push_str(missing.text());
            }
        })
    }

    fn is_char(&self, ty: u32) -> bool {
        let ty = self.entries.strip(ty).filter(|ty| ty.tag == gimli::DW_TAG_base_type);
        ty.and_then(|ty| self.entries.name(&ty)).is_some_and(|name| name == "char")
    }

    /// Elements one after the other.
    pub fn elements(&mut self, element: u32, count: u64, object: &Object) -> Result<(), Missing> {
        let size = self.entries.size(element).ok_or(Missing::OptimizedOut)?;
        // Bytes that are not there mean that the count is none.
        if let Some(last) = count.checked_mul(size).and_then(|len| len.checked_sub(1)) {
            object.at(last).read(1, &self.memory)?;
        }
        self.list(count, size, object, |printer, object| {
            printer.print_inside(Some(element), Ok(object.clone()));
        })
    }

    fn list(
        &mut self,
        count: u64,
        step: u64,
        object: &Object,
        mut print: impl FnMut(&mut Self, &Object),
    ) -> Result<(), Missing> {
        if let (1.., Some(missing)) = (count, object.missing(step, &self.memory)) {
            return Err(missing);
        }
        let (open, close) = if self.language == Language::Rust { ('[', ']') } else { ('{', '}') };
        self.out.push(open);
        for index in 0..count {
            if index > 0 {
                self.out.push_str(", ");
            }
            if index >= MAX_ELEMENTS as u64 || self.is_full() {
                self.put(format_args!("… {} more", count - index));
                break;
            }
            print(self, &object.at(index.saturating_mul(step)));
        }
        self.out.push(close);
        Ok(())
    }
}

//! Values as their language writes them. Everything is bounded: depth, elements, pointers followed, bytes of text.

use std::fmt::Write as _;

use gimli::AttributeValue;

use super::entries::{Entries, Entry};
use super::location::{Memory, Missing, Object};
use super::types::{Language, member, parts};
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

    /// A little-endian number.
    pub fn number(&self, object: &Object, size: u64) -> Result<u128, Missing> {
        let bytes = object.read(size.min(16), &self.memory)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }

    fn base(&mut self, ty: &Entry<'a>, object: &Object) -> Result<(), Missing> {
        let name = self.entries.name(ty).unwrap_or_default();
        let size = ty.number(gimli::DW_AT_byte_size).ok_or(Missing::OptimizedOut)?;
        if size == 0 {
            self.out.push_str(&name);
            return Ok(());
        }
        let encoding = match ty.value(gimli::DW_AT_encoding) {
            Some(AttributeValue::Encoding(encoding)) => encoding,
            _ => gimli::DW_ATE_unsigned,
        };
        let bits = self.number(object, size)?;
        let unused = 128 - 8 * u32::try_from(size.min(16)).unwrap_or(16);
        let signed = (bits << unused).cast_signed() >> unused;
        match (encoding, size) {
            (gimli::DW_ATE_boolean, _) if bits <= 1 => self.put(if bits == 1 { "true" } else { "false" }),
            (gimli::DW_ATE_float, 4) => self.put(format_args!("{:?}", f32::from_bits(bits as u32))),
            (gimli::DW_ATE_float, 8) => self.put(format_args!("{:?}", f64::from_bits(bits as u64))),
            (gimli::DW_ATE_float, _) => self.put(format_args!("{bits:#x}")),
            (gimli::DW_ATE_UTF, _) => self.character(bits),
            (gimli::DW_ATE_signed_char | gimli::DW_ATE_unsigned_char, 1) if name == "char" => {
                self.character(bits);
            }
            (gimli::DW_ATE_signed | gimli::DW_ATE_signed_char, _) => self.put(signed),
            (gimli::DW_ATE_address, _) => self.put(format_args!("{bits:#x}")),
            _ => self.put(bits),
        }
        Ok(())
    }

    /// Appends; a string takes anything.
    pub fn put(&mut self, text: impl std::fmt::Display) {
        let _ = write!(self.out, "{text}");
    }

    fn character(&mut self, bits: u128) {
        match u32::try_from(bits).ok().and_then(char::from_u32) {
            Some(character) if bits < 128 || self.language == Language::Rust => {
                self.put(format_args!("{character:?}"));
            }
            _ => self.put(format_args!("'\\u{{{bits:x}}}'")),
        }
    }

    /// Text of so many bytes, in quotes.
    pub fn string(&mut self, object: &Object, len: u64) -> Result<(), Missing> {
        if let Some(last) = len.checked_sub(1) {
            object.at(last).read(1, &self.memory)?;
        }
        let shown = object.read(len.min(MAX_STRING as u64), &self.memory)?;
        self.entries.spend(shown.len() / 16);
        self.quote(&shown);
        if len > MAX_STRING as u64 {
            self.cut();
        }
        Ok(())
    }

    fn quote(&mut self, bytes: &[u8]) {
        self.put(format_args!("{:?}", String::from_utf8_lossy(bytes)));
    }

    /// Text that ends with a zero, in quotes.
    fn c_string(&mut self, address: u64) -> Result<(), Missing> {
        let mut bytes = Vec::new();
        let mut is_cut = true;
        while bytes.len() < MAX_STRING {
            if bytes.len().is_multiple_of(16) && !self.entries.spend(1) {
                break;
            }
            let mut byte = [0];
            if !self.memory.read(address.saturating_add(bytes.len() as u64), &mut byte) {
                return Err(Missing::NotRecorded);
            }
            let [byte] = byte;
            if byte == 0 {
                is_cut = false;
                break;
            }
            bytes.push(byte);
        }
        self.quote(&bytes);
        if is_cut {
            self.cut();
        }
        Ok(())
    }

    fn enumeration(&mut self, ty: &Entry<'a>, object: &Object) -> Result<(), Missing> {
        let underlying = ty.reference(gimli::DW_AT_type).and_then(|ty| self.entries.size(ty));
        let size = ty.number(gimli::DW_AT_byte_size).or(underlying).ok_or(Missing::OptimizedOut)?;
        let bits = self.number(object, size)?;
        let mut found = None;
        self.entries.walk(ty, |entry| {
            let value = entry.bits(gimli::DW_AT_const_value).map(|value| mask(value, size));
            if entry.tag == gimli::DW_TAG_enumerator && value == Some(bits) {
                found = self.entries.name(&entry);
                return super::entries::Next::Stop;
            }
            super::entries::Next::Over
        });
        let name = self.entries.name(ty).unwrap_or_default();
        match found {
            Some(found) if self.language == Language::Cpp && ty.flag(gimli::DW_AT_enum_class) => {
                self.put(format_args!("{name}::{found}"));
            }
            Some(found) => self.put(found),
            None if self.entries.is_exhausted() => self.cut(),
            None if self.language == Language::Rust => self.put(format_args!("{name}({bits})")),
            None => self.put(format_args!("({name}){bits}")),
        }
        Ok(())
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

    fn aggregate(&mut self, ty: &Entry<'a>, object: &Object) -> Result<(), Missing> {
        let name = self.entries.name(ty).unwrap_or_default().into_owned();
        if ty.flag(gimli::DW_AT_declaration) {
            return Err(Missing::OptimizedOut);
        }
        let size = ty.number(gimli::DW_AT_byte_size).unwrap_or(0);
        if let (1.., Some(missing)) = (size, object.missing(size, &self.memory)) {
            return Err(missing);
        }
        let parts = parts(self.entries, ty);
        if let Some(known) = self.well_known(&name, ty, &parts, object) {
            return known;
        }
        if let Some(variants) = parts.iter().find(|part| part.tag == gimli::DW_TAG_variant_part) {
            return self.variant(variants, object);
        }
        self.fields(&name, &parts, object);
        Ok(())
    }

    /// The variant that an enum of Rust is in.
    fn variant(&mut self, variants: &Entry<'a>, object: &Object) -> Result<(), Missing> {
        let tag = match self.entries.follow(variants, gimli::DW_AT_discr) {
            None => None,
            Some(discriminant) => {
                let size = discriminant.reference(gimli::DW_AT_type).and_then(|ty| self.entries.size(ty));
                let size = size.ok_or(Missing::OptimizedOut)?;
                let place = member(self.entries, &discriminant, object, &self.memory)?;
                Some((self.number(&place, size)?, size))
            }
        };
        let (mut chosen, mut default) = (None, None);
        for entry in self.entries.children(variants, 16 * MAX_ELEMENTS) {
            if entry.tag != gimli::DW_TAG_variant {
                continue;
            }
            match (entry.bits(gimli::DW_AT_discr_value), tag) {
                (Some(value), Some((tag, size))) if mask(value, size) == tag => chosen = Some(entry),
                (Some(_), _) => {}
                (None, _) => default = Some(entry),
            }
        }
        let variant = chosen.or(default).ok_or(Missing::OptimizedOut)?;
        let inside = self.entries.children(&variant, 1).into_iter().next().ok_or(Missing::OptimizedOut)?;
        let place = member(self.entries, &inside, object, &self.memory)?;
        let ty = inside.reference(gimli::DW_AT_type).and_then(|ty| self.entries.strip(ty));
        let ty = ty.ok_or(Missing::OptimizedOut)?;
        let name =
            self.entries.name(&ty).or_else(|| self.entries.name(&inside)).unwrap_or_default().into_owned();
        let parts = parts(self.entries, &ty);
        self.fields(&name, &parts, &place);
        Ok(())
    }

    fn fields(&mut self, name: &str, parts: &[Entry<'a>], object: &Object) {
        let is_field = |part: &&Entry<'a>| {
            matches!(part.tag, gimli::DW_TAG_member | gimli::DW_TAG_inheritance) && !self.is_phantom(part)
        };
        let fields: Vec<&Entry<'a>> = parts.iter().filter(is_field).collect();
        let is_rust = self.language == Language::Rust;
        let field_name = |field: &Entry<'a>| self.entries.name(field).unwrap_or_default();
        let is_tuple = is_rust
            && fields
                .iter()
                .all(|field| field_name(field).strip_prefix("__").is_some_and(|n| n.parse::<u32>().is_ok()));
        let (open, close) = match (is_rust, is_tuple) {
            (true, _) if fields.is_empty() => ("", ""),
            (true, true) => ("(", ")"),
            (true, false) => (" { ", " }"),
            (false, _) => ("{", "}"),
        };
        if is_rust {
            let head = if name.starts_with('(') { "" } else { name.split('<').next().unwrap_or(name) };
            self.out.push_str(head);
        }
        self.out.push_str(open);
        let start = self.out.len();
        for field in &fields {
            let before = self.out.len();
            if before > start {
                self.out.push_str(", ");
            }
            if self.is_full() {
                self.cut();
                break;
            }
            let name = self.entries.name(field);
            let inside = self.out.len();
            match &name {
                _ if is_tuple => {}
                Some(name) if is_rust => self.put(format_args!("{name}: ")),
                Some(name) => self.put(format_args!(".{name} = ")),
                None => {}
            }
            let ty = field.reference(gimli::DW_AT_type);
            self.print_inside(ty, member(self.entries, field, object, &self.memory));
            // Bases that hold nothing.
            let is_empty = |text: &str| text.bytes().all(|byte| matches!(byte, b'{' | b'}'));
            if name.is_none() && self.out.get(inside..).is_some_and(is_empty) {
                self.out.truncate(before);
            }
        }
        // A tuple of one.
        if is_tuple && name.starts_with('(') && fields.len() == 1 {
            self.out.push(',');
        }
        self.out.push_str(close);
    }

    /// Rust's markers, which hold nothing.
    fn is_phantom(&self, field: &Entry<'a>) -> bool {
        self.language == Language::Rust
            && self
                .entries
                .follow(field, gimli::DW_AT_type)
                .and_then(|ty| self.entries.name(&ty))
                .is_some_and(|name| name.starts_with("PhantomData"))
    }
}

/// The low bytes.
fn mask(value: u64, size: u64) -> u128 {
    let unused = 64 - 8 * u32::try_from(size.clamp(1, 8)).unwrap_or(8);
    u128::from(value << unused >> unused)
}

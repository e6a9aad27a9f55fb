//! Structs, unions and enums as text: fields by name, tuples, and the variant that an enum of Rust is in.

use super::entries::{Entry, Next};
use super::object::{Missing, Object};
use super::print::Printer;
use super::types::{Language, member, parts};
use crate::limits::MAX_ELEMENTS;

impl<'a> Printer<'_, 'a> {
    pub(super) fn aggregate(&mut self, ty: &Entry<'a>, object: &Object) -> Result<(), Missing> {
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

    pub(super) fn enumeration(&mut self, ty: &Entry<'a>, object: &Object) -> Result<(), Missing> {
        let underlying = ty.reference(gimli::DW_AT_type).and_then(|ty| self.entries.size(ty));
        let size = ty.number(gimli::DW_AT_byte_size).or(underlying).ok_or(Missing::OptimizedOut)?;
        let bits = self.number(object, size)?;
        let mut found = None;
        self.entries.walk(ty, |entry| {
            let value = entry.bits(gimli::DW_AT_const_value).map(|value| mask(value, size));
            if entry.tag == gimli::DW_TAG_enumerator && value == Some(bits) {
                found = self.entries.name(&entry);
                return Next::Stop;
            }
            Next::Over
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
}

/// The low bytes.
fn mask(value: u64, size: u64) -> u128 {
    let unused = 64 - 8 * u32::try_from(size.clamp(1, 8)).unwrap_or(8);
    u128::from(value << unused >> unused)
}

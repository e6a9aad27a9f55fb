//! Types of standard libraries that are written as what they stand for: strings, vectors, slices, shared pointers. They
//! are known by name and by the members that are looked for, so another layout is written member by member.

use super::entries::Entry;
use super::object::{Missing, Object};
use super::print::Printer;
use super::types::{Language, find, find_direct, find_pointer};

impl<'a> Printer<'_, 'a> {
    /// Writes the value; `None`, and nothing written, if it is none that is known.
    pub(super) fn well_known(
        &mut self,
        name: &str,
        ty: &Entry<'a>,
        parts: &[Entry<'a>],
        object: &Object,
    ) -> Option<Result<(), Missing>> {
        let base = name.split('<').next().unwrap_or(name);
        match self.language {
            Language::Rust => match base {
                "String" => self.rust_string(ty, object),
                "Vec" => self.rust_vec(ty, parts, object),
                "Rc" | "Arc" => self.rust_shared(ty, object),
                _ => self.rust_slice(name, parts, ty, object),
            },
            Language::Cpp => match base {
                "basic_string" => self.cpp_string(ty, object),
                "basic_string_view" => self.cpp_view(ty, object),
                "vector" => self.cpp_vector(ty, object),
                "optional" => self.cpp_optional(ty, object),
                _ => None,
            },
            Language::C => None,
        }
    }

    /// A member somewhere inside of the type.
    fn find(&self, ty: u32, name: &str, object: &Object) -> Option<(u32, Object)> {
        find(self.entries, ty, name, object, &self.memory)
    }

    /// A number in a member somewhere inside of the type.
    fn find_number(&self, ty: u32, name: &str, object: &Object) -> Option<Result<u64, Missing>> {
        let (ty, place) = self.find(ty, name, object)?;
        let size = self.entries.size(ty)?;
        let number = self.number(&place, size);
        Some(number.and_then(|number| u64::try_from(number).map_err(|_| Missing::NotRecorded)))
    }

    /// What a pointer points to: its type and the address.
    fn pointee(&self, (ty, place): (u32, Object)) -> Option<Result<(u32, u64), Missing>> {
        let pointer = self.entries.strip(ty)?;
        let pointee = pointer.reference(gimli::DW_AT_type)?;
        let size = self.entries.size(pointer.at)?;
        Some(self.number(&place, size).map(|address| (pointee, u64::try_from(address).unwrap_or(u64::MAX))))
    }

    fn rust_string(&mut self, ty: &Entry<'a>, object: &Object) -> Option<Result<(), Missing>> {
        let (vec, place) = self.find(ty.at, "vec", object)?;
        let len = self.find_number(vec, "len", &place)?;
        let pointer = find_pointer(self.entries, vec, &place, &self.memory)?;
        let text = self.pointee(pointer)?;
        Some(len.and_then(|len| {
            let (_, address) = text?;
            self.string(&Object::memory(address), len)
        }))
    }

    fn rust_vec(
        &mut self,
        ty: &Entry<'a>,
        parts: &[Entry<'a>],
        object: &Object,
    ) -> Option<Result<(), Missing>> {
        let element = parts.iter().find(|part| {
            part.tag == gimli::DW_TAG_template_type_parameter
                && self.entries.name(part).is_some_and(|name| name == "T")
        })?;
        let element = element.reference(gimli::DW_AT_type)?;
        let len = self.find_number(ty.at, "len", object)?;
        let (buffer, place) = self.find(ty.at, "buf", object)?;
        let first = self.pointee(find_pointer(self.entries, buffer, &place, &self.memory)?)?;
        Some(len.and_then(|len| {
            let (_, address) = first?;
            self.elements(element, len, &Object::memory(address))
        }))
    }

    /// `&str`, `&[T]`, and the boxes of both: a pointer beside a length.
    fn rust_slice(
        &mut self,
        name: &str,
        parts: &[Entry<'a>],
        ty: &Entry<'a>,
        object: &Object,
    ) -> Option<Result<(), Missing>> {
        let has = |wanted: &str| {
            parts.iter().any(|part| self.entries.name(part).is_some_and(|name| name == wanted))
        };
        if !has("data_ptr") || !has("length") {
            return None;
        }
        let (element, address) = match self.pointee(self.find(ty.at, "data_ptr", object)?)? {
            Ok(known) => known,
            Err(missing) => return Some(Err(missing)),
        };
        let len = match self.find_number(ty.at, "length", object)? {
            Ok(known) => known,
            Err(missing) => return Some(Err(missing)),
        };
        let bare = name.trim_start_matches(['&', '*']);
        let bare = bare.strip_prefix("mut ").or_else(|| bare.strip_prefix("const ")).unwrap_or(bare);
        let slice = Object::memory(address);
        if bare == "str" || name.contains("Box<str") {
            return Some(self.string(&slice, len));
        }
        Some(self.elements(element, len, &slice))
    }

    /// The value behind the counts of `Rc` and `Arc`.
    fn rust_shared(&mut self, ty: &Entry<'a>, object: &Object) -> Option<Result<(), Missing>> {
        let (shared, address) =
            match self.pointee(find_pointer(self.entries, ty.at, object, &self.memory)?)? {
                Ok(known) => known,
                Err(missing) => return Some(Err(missing)),
            };
        let inside = Object::memory(address);
        let direct = |name| find_direct(self.entries, shared, name, &inside, &self.memory);
        let (value, place) = direct("value").or_else(|| direct("data"))?;
        Some(self.follow(value, place.address()?, true))
    }

    /// libc++: short ones are inside of the object, a bit says which it is.
    fn cpp_string(&mut self, ty: &Entry<'a>, object: &Object) -> Option<Result<(), Missing>> {
        let (long, long_place) = self.find(ty.at, "__l", object)?;
        let (short, short_place) = self.find(ty.at, "__s", object)?;
        let is_long = self.find_number(short, "__is_long_", &short_place)?;
        let read = |printer: &Self, is_long: u64| {
            if is_long == 0 {
                let len = printer.find_number(short, "__size_", &short_place)?;
                let (_, data) = printer.find(short, "__data_", &short_place)?;
                return Some(len.map(|len| (data, len)));
            }
            let len = printer.find_number(long, "__size_", &long_place)?;
            let text = printer.pointee(printer.find(long, "__data_", &long_place)?)?;
            Some(len.and_then(|len| Ok((Object::memory(text?.1), len))))
        };
        let text = match is_long {
            Ok(is_long) => read(self, is_long)?,
            Err(missing) => Err(missing),
        };
        Some(text.and_then(|(text, len)| self.string(&text, len)))
    }

    fn cpp_view(&mut self, ty: &Entry<'a>, object: &Object) -> Option<Result<(), Missing>> {
        let text = self
            .pointee(self.find(ty.at, "__data_", object).or_else(|| self.find(ty.at, "__data", object))?)?;
        let len = self
            .find_number(ty.at, "__size_", object)
            .or_else(|| self.find_number(ty.at, "__size", object))?;
        Some(len.and_then(|len| self.string(&Object::memory(text?.1), len)))
    }

    fn cpp_vector(&mut self, ty: &Entry<'a>, object: &Object) -> Option<Result<(), Missing>> {
        let begin = self.pointee(self.find(ty.at, "__begin_", object)?)?;
        let end = self.pointee(self.find(ty.at, "__end_", object)?)?;
        let ((element, begin), (_, end)) = match (begin, end) {
            (Ok(begin), Ok(end)) => (begin, end),
            (Err(missing), _) | (_, Err(missing)) => return Some(Err(missing)),
        };
        let size = self.entries.size(element).filter(|size| *size > 0)?;
        let count = end.checked_sub(begin).map(|len| len / size);
        Some(
            count
                .ok_or(Missing::NotRecorded)
                .and_then(|count| self.elements(element, count, &Object::memory(begin))),
        )
    }

    fn cpp_optional(&mut self, ty: &Entry<'a>, object: &Object) -> Option<Result<(), Missing>> {
        let is_engaged = self.find_number(ty.at, "__engaged_", object)?;
        let (value, place) = self.find(ty.at, "__val_", object)?;
        Some(is_engaged.and_then(|is_engaged| {
            if is_engaged == 0 {
                self.put("nullopt");
                return Ok(());
            }
            self.print(value, &place)
        }))
    }
}

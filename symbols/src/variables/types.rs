//! Types as their language spells them, and where their members lie.

use gimli::AttributeValue;

use super::entries::{Entries, Entry, is_qualifier};
use super::object::{Memory, Missing, Object};
use crate::limits::{MAX_ELEMENTS, MAX_NAME, MAX_VALUE_DEPTH};

/// How values and types are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Rust,
    Cpp,
    /// C, and whatever else says nothing of its own.
    C,
}

impl Language {
    /// The language of an entry's unit.
    pub fn of<'a>(entries: &Entries<'a>, entry: &Entry<'a>) -> Self {
        match entries.language(entry) {
            Some(gimli::DW_LANG_Rust) => Self::Rust,
            Some(
                gimli::DW_LANG_C_plus_plus
                | gimli::DW_LANG_C_plus_plus_03
                | gimli::DW_LANG_C_plus_plus_11
                | gimli::DW_LANG_C_plus_plus_14
                | gimli::DW_LANG_C_plus_plus_17
                | gimli::DW_LANG_C_plus_plus_20,
            ) => Self::Cpp,
            _ => Self::C,
        }
    }
}

/// A type's name; `None` is what C calls `void`.
pub(super) fn type_name(entries: &Entries<'_>, ty: Option<u32>, language: Language) -> String {
    let mut name = spell(entries, ty, language, 0);
    name.truncate(name.floor_char_boundary(MAX_NAME));
    name
}

fn spell(entries: &Entries<'_>, ty: Option<u32>, language: Language, depth: usize) -> String {
    let Some(ty) = ty else { return if language == Language::Rust { "()" } else { "void" }.to_owned() };
    let Some(entry) = entries.read(ty).filter(|_| depth < MAX_VALUE_DEPTH) else { return "?".to_owned() };
    if let Some(name) = entries.name(&entry) {
        return name.into_owned();
    }
    let inner = || spell(entries, entry.reference(gimli::DW_AT_type), language, depth + 1);
    match entry.tag {
        gimli::DW_TAG_pointer_type if language == Language::Rust => format!("*{}", inner()),
        gimli::DW_TAG_pointer_type => format!("{}*", inner()),
        gimli::DW_TAG_reference_type => format!("{}&", inner()),
        gimli::DW_TAG_rvalue_reference_type => format!("{}&&", inner()),
        gimli::DW_TAG_const_type => match inner() {
            pointer if pointer.ends_with('*') => format!("{pointer} const"),
            other => format!("const {other}"),
        },
        gimli::DW_TAG_volatile_type => format!("volatile {}", inner()),
        tag if is_qualifier(tag) => inner(),
        gimli::DW_TAG_array_type => {
            let lengths = entries
                .dimensions(&entry)
                .into_iter()
                .map(|len| len.map_or(String::new(), |len| len.to_string()));
            if language == Language::Rust {
                lengths.rev().fold(inner(), |inner, len| format!("[{inner}; {len}]"))
            } else {
                lengths.fold(inner(), |name, len| format!("{name}[{len}]"))
            }
        }
        gimli::DW_TAG_subroutine_type => "function".to_owned(),
        gimli::DW_TAG_structure_type | gimli::DW_TAG_class_type => "struct".to_owned(),
        gimli::DW_TAG_union_type => "union".to_owned(),
        gimli::DW_TAG_enumeration_type => "enum".to_owned(),
        _ => "?".to_owned(),
    }
}

/// Where a member of an object is: its bits alone, if it is a bit field.
pub(super) fn member<'a>(
    entries: &Entries<'a>,
    member: &Entry<'a>,
    object: &Object,
    memory: &Memory<'_>,
) -> Result<Object, Missing> {
    let offset = match member.value(gimli::DW_AT_data_member_location) {
        None => 0,
        // Computed places are those of virtual bases.
        Some(AttributeValue::Exprloc(_)) => return Err(Missing::OptimizedOut),
        Some(value) => value.udata_value().ok_or(Missing::OptimizedOut)?,
    };
    let Some(bits) = member.number(gimli::DW_AT_bit_size) else { return Ok(object.at(offset)) };
    let ty = member.reference(gimli::DW_AT_type);
    let ty = ty.and_then(|ty| entries.strip(ty)).ok_or(Missing::OptimizedOut)?;
    let ty_size = ty.number(gimli::DW_AT_byte_size).unwrap_or(8);
    let first = match (member.number(gimli::DW_AT_data_bit_offset), member.number(gimli::DW_AT_bit_offset)) {
        (Some(first), _) => Some(first),
        // The older form counts from the most significant bit of a storage unit.
        (None, Some(from_top)) => {
            let storage = member.number(gimli::DW_AT_byte_size).unwrap_or(ty_size);
            let in_storage =
                storage.checked_mul(8).and_then(|all| all.checked_sub(from_top)?.checked_sub(bits));
            in_storage.and_then(|first| offset.checked_mul(8)?.checked_add(first))
        }
        (None, None) => offset.checked_mul(8),
    };
    let first = first.filter(|_| (1..=64).contains(&bits)).ok_or(Missing::OptimizedOut)?;
    let read = object.at(first / 8).read((first % 8 + bits).div_ceil(8), memory)?;
    let whole = read.iter().rev().fold(0u128, |whole, byte| whole << 8 | u128::from(*byte)) >> (first % 8);
    let unused = 128 - bits as u32;
    let is_signed = matches!(
        ty.value(gimli::DW_AT_encoding),
        Some(AttributeValue::Encoding(gimli::DW_ATE_signed | gimli::DW_ATE_signed_char))
    );
    let value = if is_signed {
        ((whole << unused).cast_signed() >> unused).cast_unsigned()
    } else {
        whole << unused >> unused
    };
    Ok(Object::bytes(value.to_le_bytes().to_vec()))
}

/// What is directly in a type: members, bases, variants, type parameters.
pub(super) fn parts<'a>(entries: &Entries<'a>, ty: &Entry<'a>) -> Vec<Entry<'a>> {
    let mut parts = entries.children(ty, 16 * MAX_ELEMENTS);
    parts.retain(|part| match part.tag {
        // Static members are somewhere else.
        gimli::DW_TAG_member => !part.flag(gimli::DW_AT_external) && !part.flag(gimli::DW_AT_declaration),
        gimli::DW_TAG_inheritance | gimli::DW_TAG_variant_part | gimli::DW_TAG_template_type_parameter => {
            true
        }
        _ => false,
    });
    parts
}

/// A member by name, wherever in the type it is: its type, and where it is in the object.
pub(super) fn find<'a>(
    entries: &Entries<'a>,
    ty: u32,
    name: &str,
    object: &Object,
    memory: &Memory<'_>,
) -> Option<(u32, Object)> {
    search(entries, ty, object, memory, 0, &mut |part, _| {
        entries.name(part).is_some_and(|found| found == name)
    })
}

/// A member by name, directly in the type.
pub(super) fn find_direct<'a>(
    entries: &Entries<'a>,
    ty: u32,
    name: &str,
    object: &Object,
    memory: &Memory<'_>,
) -> Option<(u32, Object)> {
    search(entries, ty, object, memory, MAX_VALUE_DEPTH - 1, &mut |part, _| {
        entries.name(part).is_some_and(|found| found == name)
    })
}

/// The first pointer in a type, which for owners is the one to what they own: its type and where it is.
pub(super) fn find_pointer<'a>(
    entries: &Entries<'a>,
    ty: u32,
    object: &Object,
    memory: &Memory<'_>,
) -> Option<(u32, Object)> {
    search(entries, ty, object, memory, 0, &mut |_, ty| ty.tag == gimli::DW_TAG_pointer_type)
}

fn search<'a>(
    entries: &Entries<'a>,
    ty: u32,
    object: &Object,
    memory: &Memory<'_>,
    depth: usize,
    is_it: &mut dyn FnMut(&Entry<'a>, &Entry<'a>) -> bool,
) -> Option<(u32, Object)> {
    let ty = entries.strip(ty).filter(|_| depth < MAX_VALUE_DEPTH)?;
    let mut aggregates = Vec::new();
    for part in parts(entries, &ty) {
        if !matches!(part.tag, gimli::DW_TAG_member | gimli::DW_TAG_inheritance) {
            continue;
        }
        let Some(part_ty) = part.reference(gimli::DW_AT_type) else { continue };
        let Ok(inside) = member(entries, &part, object, memory) else { continue };
        let Some(stripped) = entries.strip(part_ty) else { continue };
        if is_it(&part, &stripped) {
            return Some((part_ty, inside));
        }
        if matches!(
            stripped.tag,
            gimli::DW_TAG_structure_type | gimli::DW_TAG_class_type | gimli::DW_TAG_union_type
        ) {
            aggregates.push((part_ty, inside));
        }
    }
    // What is directly in the type comes before what is deeper.
    aggregates.into_iter().find_map(|(ty, inside)| search(entries, ty, &inside, memory, depth + 1, is_it))
}

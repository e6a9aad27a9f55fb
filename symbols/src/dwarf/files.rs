//! The files of a line table, and their paths as the compiler saw them. Rows are in `lines.rs`.
//!
//! Up to DWARF 4 files count from 1 and directory 0 is the compilation directory; in DWARF 5 both count from 0 and
//! entry 0 of each is the unit's own.

use std::borrow::Cow;
use std::sync::OnceLock;

use gimli::Reader as _;

use super::budget::Budget;
use super::sections::{Sections, Slice, StrRef};
use crate::limits::{MAX_FILES, MAX_PATH};

/// The files of one line table.
#[derive(Default)]
pub(crate) struct Files {
    version: u16,
    directories: Vec<StrRef>,
    files: Vec<File>,
    comp_dir: StrRef,
}

struct File {
    name: StrRef,
    directory: u32,
    path: OnceLock<Box<str>>,
}

/// Most files and directories that fit an index; whether some did not.
type Cut = bool;

impl Files {
    /// Reads the tables of a line table header, `header` ending where the header ends; `at` tells where in
    /// `.debug_line` a slice of it starts.
    pub fn read<'a>(
        header: &mut Slice<'a>,
        version: u16,
        format: gimli::Format,
        comp_dir: StrRef,
        at: &dyn Fn(&Slice<'a>) -> u64,
    ) -> gimli::Result<(Self, Cut)> {
        let mut out = Self { version, comp_dir, ..Self::default() };
        let cut = if version >= 5 { out.read_v5(header, format, at)? } else { out.read_v4(header, at)? };
        Ok((out, cut))
    }

    fn read_v4<'a>(&mut self, header: &mut Slice<'a>, at: &dyn Fn(&Slice<'a>) -> u64) -> gimli::Result<Cut> {
        loop {
            let name = StrRef::in_line(at(header));
            if header.read_null_terminated_slice()?.is_empty() {
                break;
            }
            if self.directories.len() >= MAX_FILES {
                return Ok(true);
            }
            self.directories.push(name);
        }
        loop {
            let name = StrRef::in_line(at(header));
            if header.read_null_terminated_slice()?.is_empty() {
                return Ok(false);
            }
            let directory = u32::try_from(header.read_uleb128()?).unwrap_or(u32::MAX);
            header.read_uleb128()?;
            header.read_uleb128()?;
            if self.files.len() >= MAX_FILES {
                return Ok(true);
            }
            self.files.push(File { name, directory, path: OnceLock::new() });
        }
    }

    fn read_v5<'a>(
        &mut self,
        header: &mut Slice<'a>,
        format: gimli::Format,
        at: &dyn Fn(&Slice<'a>) -> u64,
    ) -> gimli::Result<Cut> {
        let layout = entry_format(header)?;
        for _ in 0..header.read_uleb128()? {
            if self.directories.len() >= MAX_FILES {
                return Ok(true);
            }
            self.directories.push(entry(header, &layout, format, at)?.0);
        }
        let layout = entry_format(header)?;
        for _ in 0..header.read_uleb128()? {
            if self.files.len() >= MAX_FILES {
                return Ok(true);
            }
            let (name, directory) = entry(header, &layout, format, at)?;
            self.files.push(File { name, directory, path: OnceLock::new() });
        }
        Ok(false)
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        self.directories.capacity() * size_of::<StrRef>() + self.files.capacity() * size_of::<File>()
    }

    /// The path of a file by the number that rows and call sites have for it.
    pub fn path<'s>(
        &'s self,
        number: u16,
        sections: &'s Sections,
        retained: &Budget,
    ) -> Option<Cow<'s, str>> {
        let index = if self.version >= 5 { Some(number) } else { number.checked_sub(1) };
        let file = self.files.get(usize::from(index?))?;
        if let Some(path) = file.path.get() {
            return Some(Cow::Borrowed(path));
        }
        let path = self.join(file, sections)?;
        if retained.take(path.len()) {
            return Some(Cow::Borrowed(file.path.get_or_init(|| path.into())));
        }
        Some(Cow::Owned(path))
    }

    fn join(&self, file: &File, sections: &Sections) -> Option<String> {
        let index = if self.version >= 5 { Some(file.directory) } else { file.directory.checked_sub(1) };
        let directory = index.and_then(|index| self.directories.get(index as usize));
        // In DWARF 5, directory 0 is the compilation directory.
        let is_unit_dir = self.version >= 5 && file.directory == 0 && directory.is_some();
        let comp_dir = (!is_unit_dir).then_some(&self.comp_dir);
        let mut out = String::new();
        for part in [comp_dir, directory, Some(&file.name)].into_iter().flatten() {
            if let Some(part) = sections.text(*part, MAX_PATH) {
                push(&mut out, &part);
            }
        }
        (!out.is_empty()).then_some(out)
    }
}

/// Appends a part of a path; an absolute one starts again.
fn push(path: &mut String, part: &str) {
    let bytes = part.as_bytes();
    let has_drive = matches!(bytes, [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic());
    if part.starts_with('/') || has_drive {
        path.clear();
    } else if !path.is_empty() && !path.ends_with(['/', '\\']) {
        path.push('/');
    }
    path.push_str(part);
}

/// What each entry of a DWARF 5 table consists of: content type and form.
fn entry_format(header: &mut Slice<'_>) -> gimli::Result<Vec<(u64, u64)>> {
    let count = header.read_u8()?;
    (0..count).map(|_| Ok((header.read_uleb128()?, header.read_uleb128()?))).collect()
}

/// One entry of a DWARF 5 table: its path and directory. Every form that is read here takes at least a byte, so
/// the number of entries is bounded by the header's length.
fn entry<'a>(
    header: &mut Slice<'a>,
    layout: &[(u64, u64)],
    format: gimli::Format,
    at: &dyn Fn(&Slice<'a>) -> u64,
) -> gimli::Result<(StrRef, u32)> {
    if layout.is_empty() {
        return Err(gimli::Error::MissingFileEntryFormatPath);
    }
    let (mut path, mut directory) = (StrRef::NONE, 0);
    for &(content, form) in layout {
        let form = gimli::DwForm(u16::try_from(form).unwrap_or(0));
        let (mut text, mut value) = (StrRef::NONE, 0);
        match form {
            gimli::DW_FORM_string => {
                text = StrRef::in_line(at(header));
                header.read_null_terminated_slice()?;
            }
            gimli::DW_FORM_line_strp => text = StrRef::in_line_str(header.read_offset(format)? as u64),
            gimli::DW_FORM_strp => text = StrRef::in_str(header.read_offset(format)? as u64),
            gimli::DW_FORM_udata | gimli::DW_FORM_strx => value = header.read_uleb128()?,
            gimli::DW_FORM_data1 | gimli::DW_FORM_strx1 => value = u64::from(header.read_u8()?),
            gimli::DW_FORM_data2 | gimli::DW_FORM_strx2 => value = u64::from(header.read_u16()?),
            gimli::DW_FORM_data4 | gimli::DW_FORM_strx4 => value = u64::from(header.read_u32()?),
            gimli::DW_FORM_data8 => value = header.read_u64()?,
            gimli::DW_FORM_data16 => header.skip(16)?,
            gimli::DW_FORM_block => {
                let len = header.read_uleb128()?;
                header.skip(usize::try_from(len).unwrap_or(usize::MAX))?;
            }
            form => return Err(gimli::Error::UnknownForm(form)),
        }
        if content == u64::from(gimli::DW_LNCT_path.0) {
            path = text;
        } else if content == u64::from(gimli::DW_LNCT_directory_index.0) {
            directory = u32::try_from(value).unwrap_or(u32::MAX);
        }
    }
    Ok((path, directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_join_as_the_compiler_meant() {
        let join = |parts: &[&str]| {
            let mut out = String::new();
            parts.iter().for_each(|part| push(&mut out, part));
            out
        };
        assert_eq!(join(&["/work", "src", "main.rs"]), "/work/src/main.rs");
        assert_eq!(join(&["/work/", "/rustc/lib", "alloc.rs"]), "/rustc/lib/alloc.rs");
        assert_eq!(join(&["tests/guests", "src/main.rs"]), "tests/guests/src/main.rs");
        assert_eq!(join(&["/work", "C:\\src", "a.c"]), "C:\\src/a.c");
    }
}

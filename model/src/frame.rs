//! A frame as a person reads it, and where its name came from.

use std::borrow::Cow;
use std::fmt;

/// Where a function's name was found, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NameSource {
    /// DWARF inside the module.
    Dwarf,
    /// DWARF in a `.dwo` or `.dwp` file beside the module.
    SplitDwarf,
    /// A separate debug module, found by build id.
    DebugFile,
    /// A source map.
    SourceMap,
    /// The `name` section.
    Names,
    /// An export's name.
    Exports,
    /// Nothing but the function's index.
    Index,
}

impl NameSource {
    /// The name used in JSON and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dwarf => "dwarf",
            Self::SplitDwarf => "split-dwarf",
            Self::DebugFile => "debug-file",
            Self::SourceMap => "source-map",
            Self::Names => "names",
            Self::Exports => "exports",
            Self::Index => "index",
        }
    }
}

impl fmt::Display for NameSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One frame of source code at an offset. An offset inside inlined code has several, innermost first.
///
/// Text comes from the guest and is not safe to print: see [`crate::text::visible`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceFrame {
    /// Demangled, with generics.
    pub function: String,
    /// As the linker saw it, if the source of the name has it.
    pub linkage: Option<String>,
    /// As the debug info spells it, compilation directory prepended to a relative path.
    pub file: Option<String>,
    /// From 1.
    pub line: Option<u32>,
    /// From 1.
    pub column: Option<u32>,
    /// Whether this frame was inlined into the next one.
    pub inlined: bool,
    /// Where the function's name came from.
    pub source: NameSource,
}

impl SourceFrame {
    /// A frame of which nothing but the function's index is known.
    pub fn by_index(index: u32) -> Self {
        Self {
            function: format!("wasm-function[{index}]"),
            linkage: None,
            file: None,
            line: None,
            column: None,
            inlined: false,
            source: NameSource::Index,
        }
    }

    /// Whether the function has a name that a person gave it.
    pub fn is_named(&self) -> bool {
        self.source != NameSource::Index
    }

    /// `file:line` for a status line, if known.
    pub fn place(&self) -> Option<String> {
        let file = self.file.as_deref()?;
        Some(self.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}")))
    }
}

/// A function's name without what people skip: type arguments, and the hashes that Rust's manglings add to a name
/// (`::h0123…`) and to a crate (`[0123…]`), and the tags of C++ (`[abi:…]`).
///
/// `alloc::vec::Vec<T,A>::push` becomes `alloc::vec::Vec::push`; operators of C++ stay whole.
pub fn short_name(function: &str) -> Cow<'_, str> {
    if !function.contains(['<', '[']) {
        return Cow::Borrowed(without_hash(function));
    }
    let function = without_hash(function);
    let mut out = String::with_capacity(function.len());
    let mut depth = 0usize;
    let mut skip_to = 0;
    // Of brackets that stay open, the rest is looked through once.
    let mut is_balanced = true;
    for (at, c) in function.char_indices() {
        if at < skip_to {
            continue;
        }
        let starts_impl = c == '<' && (at == 0 || function[..at].ends_with([' ', '(', '&', '<']));
        match c {
            '<' if function[..at].ends_with("operator") || function[..at].ends_with("operator<") => {
                out.push(c);
            }
            '<' if depth == 0 && starts_impl => out.push(c),
            '<' => {
                depth += 1;
                if depth == 1 && out.ends_with("::") {
                    out.truncate(out.len() - 2);
                }
            }
            '>' if depth > 0 && !function[..at].ends_with('-') => depth -= 1,
            '[' if depth == 0 && is_balanced && names(&function[..at]) => {
                let len = bracketed(&function[at..]);
                is_balanced = len.is_some();
                match len {
                    Some(len) => skip_to = at + len,
                    None => out.push(c),
                }
            }
            _ if depth == 0 => out.push(c),
            _ => {}
        }
    }
    Cow::Owned(out)
}

/// Without `::h` and 16 hex digits at the end.
fn without_hash(function: &str) -> &str {
    match function.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => path,
        _ => function,
    }
}

/// Whether brackets behind this are no part of the name: the hash of a crate, a tag of C++, type arguments of MoonBit.
/// Arrays and slices follow no name; `operator[]` and `wasm-function[0]` are names.
fn names(text: &str) -> bool {
    let is_part = text.ends_with("operator") || text.ends_with("wasm-function");
    text.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !is_part
}

/// Length up to the bracket that closes the first, which is at the start.
fn bracketed(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let end = text.find(|c: char| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    })?;
    Some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_drop_type_arguments() {
        for (full, short) in [
            ("main", "main"),
            ("alloc::vec::Vec<T,A>::push", "alloc::vec::Vec::push"),
            ("core::ops::FnOnce::call_once::<fn(u8) -> u8>", "core::ops::FnOnce::call_once"),
            ("std::map<int, std::pair<a, b>>::find(int)", "std::map::find(int)"),
            ("a::operator<(b)", "a::operator<(b)"),
            ("a::operator<<(b)", "a::operator<<(b)"),
            ("<image::Rgb<u8> as core::fmt::Debug>::fmt", "<image::Rgb as core::fmt::Debug>::fmt"),
            ("core[846817f741e54dfd]::slice::index", "core::slice::index"),
            ("std::__2::min[abi:nn190107]<int>(int const&)", "std::__2::min(int const&)"),
            ("core::fmt::write::h0123456789abcdef", "core::fmt::write"),
            ("<[u8] as core::fmt::Debug>::fmt", "<[u8] as core::fmt::Debug>::fmt"),
            ("~lib/array/Array<i32>#push", "~lib/array/Array#push"),
            ("start:assembly/index~anonymous|0", "start:assembly/index~anonymous|0"),
            ("@sandscope/gc.Cache::put", "@sandscope/gc.Cache::put"),
            ("@my/app.keep[@my/app.Pair[Int, (Int) -> Int]]", "@my/app.keep"),
            ("impl @a.B for @c.D[Int] with area", "impl @a.B for @c.D with area"),
            ("std::vector<int>::operator[](unsigned long)", "std::vector::operator[](unsigned long)"),
            ("a::cut[", "a::cut["),
            ("wasm-function[7]", "wasm-function[7]"),
        ] {
            assert_eq!(short_name(full), short, "{full}");
        }
    }
}

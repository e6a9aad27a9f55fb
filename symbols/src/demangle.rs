//! Linker names as people wrote them: Rust's two manglings, the Itanium one of C++, and MoonBit's. Where names come
//! from is decided elsewhere.

use std::borrow::Cow;
use std::fmt::{self, Write};

use crate::limits::{MAX_DEMANGLED, MAX_MANGLED};
use crate::moonbit;

/// Nesting of one mangled C++ name, small enough for the stack of any thread.
const MAX_CPP_DEPTH: u32 = 96;

/// The name as its author wrote it, with generics and without Rust's hashes; the same text if it is not mangled,
/// or expands beyond reason.
pub fn demangle(name: &str) -> Cow<'_, str> {
    try_demangle(name).map_or_else(|| Cow::Borrowed(without_hash(name)), Cow::Owned)
}

/// [`demangle`], but `None` for a name that is not mangled.
pub(crate) fn try_demangle(name: &str) -> Option<String> {
    if name.len() > MAX_MANGLED {
        return None;
    }
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        let mut out = Bounded::default();
        return write!(out, "{rust:#}").ok().map(|()| out.text);
    }
    // Of all C++ names only those with the prefix; anything else would parse `i` as `int`.
    if name.starts_with("_Z") || name.starts_with("__Z") {
        let options = cpp_demangle::ParseOptions::default().recursion_limit(MAX_CPP_DEPTH);
        let symbol = cpp_demangle::Symbol::new_with_options(name, &options).ok()?;
        let options = cpp_demangle::DemangleOptions::new().recursion_limit(MAX_CPP_DEPTH);
        let mut out = Bounded::default();
        return symbol.structured_demangle(&mut out, &options).ok().map(|()| out.text);
    }
    moonbit::demangle(name)
}

/// Drops `::h0123456789abcdef`: linkers write name sections already demangled, but with the hash.
fn without_hash(name: &str) -> &str {
    match name.rsplit_once("::h") {
        Some((path, hash)) if hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => path,
        _ => name,
    }
}

/// A string that refuses to grow past the limit, which ends the demangler.
#[derive(Default)]
struct Bounded {
    text: String,
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.text.len() + part.len() > MAX_DEMANGLED {
            return Err(fmt::Error);
        }
        self.text.push_str(part);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_as_written() {
        for (linker, written) in [
            ("_ZN5image6codecs4jpeg7decoder17h0123456789abcdefE", "image::codecs::jpeg::decoder"),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_ZN5space3fooEii", "space::foo(int, int)"),
            (
                "_ZNSt6vectorIiSaIiEE9push_backERKi",
                "std::vector<int, std::allocator<int> >::push_back(int const&)",
            ),
            ("_M0FP29sandscope2gc3run", "@sandscope/gc.run"),
            ("~lib/rt/itcms/__new", "~lib/rt/itcms/__new"),
            ("main", "main"),
            ("i", "i"),
            ("core::fmt::write::h0123456789abcdef", "core::fmt::write"),
            ("a::b::hello", "a::b::hello"),
            ("", ""),
        ] {
            assert_eq!(demangle(linker), written, "{linker}");
        }
    }

    /// Names that expand exponentially, nest endlessly or are simply long come back as they were, from a thread
    /// with a small stack too.
    #[test]
    fn hostile_names_stay_mangled() {
        let test = || {
            let pointers = format!("_Z3foo{}i", "P".repeat(7_000));
            let nested = format!("_Z3foo{}i{}", "1AI".repeat(2_000), "E".repeat(2_000));
            let doubling = format!("_Z1fI{}E", "1AIS0_S0_E".repeat(400));
            let rust = format!("_R{}", "NvC".repeat(2_000));
            let long = format!("_ZN{}E", "3foo".repeat(100_000));
            for name in [pointers, nested, doubling, rust, long] {
                assert!(demangle(&name).len() <= MAX_DEMANGLED.max(name.len()));
            }
        };
        std::thread::Builder::new().stack_size(512 * 1024).spawn(test).unwrap().join().unwrap();
    }
}

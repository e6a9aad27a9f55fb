//! What a guest calls where: the names of host functions and of the engine's runtime, by the offset of the
//! instruction that leaves the guest. A sample in host code is named by the instruction that it left with.
//!
//! # Accuracy
//! Calls of imports and of the engine's runtime are named; calls through tables and references are not, even if
//! they lead to the host. Files beyond the bounds below lose names, never samples.
//!
//! # Cost
//! One pass over the file by the aggregator after loading, and 6 bytes per site; nothing on a guest's thread.
//!
//! # Security
//! Names of imports as the guest's author wrote them: they may hold any text.

use std::collections::HashMap;

use wasmparser::{BinaryReaderError, Operator, Parser, Payload, TypeRef};

/// Most sites that are kept per file; further ones have no name, nor have names beyond 65,536.
const MAX_SITES: usize = 1 << 22;
/// Longest name, in bytes.
pub(crate) const MAX_NAME: usize = 200;
/// Most modules inside each other.
const MAX_DEPTH: usize = 16;

/// Name of everything that allocates or collects objects.
const GC: &str = "gc";

/// Sites of one file, sorted by offset.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    sites: Vec<(u32, u16)>,
    names: Vec<Box<str>>,
}

impl Sites {
    /// The sites of a core module or component. What cannot be parsed has none: the engine has the last word
    /// on what is valid.
    pub(crate) fn of(wasm: &[u8]) -> Self {
        let mut scan = Scan::default();
        let _ = scan.scan(wasm);
        let Scan { mut sites, .. } = scan;
        sites.sites.sort_unstable();
        sites.sites.shrink_to_fit();
        sites
    }

    /// What the guest left for at the instruction at a whole-file offset; `None` if it is no such
    /// instruction or leads to another guest function.
    pub(crate) fn name(&self, offset: u64) -> Option<&str> {
        let offset = u32::try_from(offset).ok()?;
        let at = self.sites.binary_search_by_key(&offset, |(at, _)| *at).ok()?;
        self.names.get(usize::from(self.sites[at].1)).map(AsRef::as_ref)
    }
}

/// Sites of a file that is being read.
#[derive(Default)]
struct Scan {
    sites: Sites,
    known: HashMap<Box<str>, u16>,
}

impl Scan {
    fn scan(&mut self, wasm: &[u8]) -> Result<(), BinaryReaderError> {
        // Names of imported functions, per module that is open.
        let mut open: Vec<Vec<Option<u16>>> = Vec::new();
        for payload in Parser::new(0).parse_all(wasm) {
            match payload? {
                Payload::Version { .. } if open.len() >= MAX_DEPTH => return Ok(()),
                Payload::Version { .. } => open.push(Vec::new()),
                Payload::End(_) => {
                    open.pop();
                }
                Payload::ImportSection(section) => {
                    let Some(imported) = open.last_mut() else { continue };
                    for import in section.into_imports() {
                        let import = import?;
                        if let TypeRef::Func(_) | TypeRef::FuncExact(_) = import.ty {
                            imported.push(self.intern(&import_name(import.module, import.name)));
                        }
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    let imported = open.last().map_or(&[][..], Vec::as_slice);
                    let mut operators = body.get_operators_reader()?;
                    while !operators.eof() && self.sites.sites.len() < MAX_SITES {
                        let (operator, offset) = operators.read_with_offset()?;
                        let name = match operator {
                            Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                                imported.get(function_index as usize).copied().flatten()
                            }
                            ref other => runtime(other).and_then(|name| self.intern(name)),
                        };
                        if let (Some(name), Ok(offset)) = (name, u32::try_from(offset)) {
                            self.sites.sites.push((offset, name));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn intern(&mut self, name: &str) -> Option<u16> {
        let name = &name[..name.floor_char_boundary(MAX_NAME)];
        if let Some(&known) = self.known.get(name) {
            return Some(known);
        }
        let index = u16::try_from(self.sites.names.len()).ok()?;
        self.sites.names.push(name.into());
        self.known.insert(name.into(), index);
        Some(index)
    }
}

/// The name of an imported function. Tools for async components write before a name that the call does not block;
/// and under a function's name stand the streams and futures of its types, which are the engine's, whatever they
/// are used for.
fn import_name(module: &str, name: &str) -> String {
    let name = name.strip_prefix("[async-lower]").unwrap_or(name);
    let operation = name.strip_prefix('[').and_then(|name| name.split_once(']')?.0.split_once('-'));
    match operation {
        Some((what @ ("stream" | "future"), operation)) => {
            let number = |part: char| part == '-' || part.is_ascii_digit();
            format!("{what}.{}", operation.trim_end_matches(number))
        }
        _ => format!("{module}#{name}"),
    }
}

/// The name of the engine's part behind an instruction, if it may leave compiled code.
fn runtime(operator: &Operator<'_>) -> Option<&'static str> {
    Some(match operator {
        Operator::MemoryGrow { .. } => "memory.grow",
        Operator::MemoryCopy { .. } => "memory.copy",
        Operator::MemoryFill { .. } => "memory.fill",
        Operator::MemoryInit { .. } => "memory.init",
        Operator::MemoryAtomicWait32 { .. } => "memory.atomic.wait32",
        Operator::MemoryAtomicWait64 { .. } => "memory.atomic.wait64",
        Operator::MemoryAtomicNotify { .. } => "memory.atomic.notify",
        Operator::TableGrow { .. } => "table.grow",
        Operator::TableFill { .. } => "table.fill",
        Operator::TableCopy { .. } => "table.copy",
        Operator::TableInit { .. } => "table.init",
        Operator::Throw { .. } | Operator::ThrowRef => "throw",
        Operator::StructNew { .. }
        | Operator::StructNewDefault { .. }
        | Operator::ArrayNew { .. }
        | Operator::ArrayNewDefault { .. }
        | Operator::ArrayNewFixed { .. }
        | Operator::ArrayNewData { .. }
        | Operator::ArrayNewElem { .. } => GC,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls of imports and of the runtime have names at their own offsets; other calls have none.
    #[test]
    fn sites_have_names() {
        let wasm = wat::parse_str(
            r#"(module
                (import "host" "one" (func $one))
                (import "host" "memory" (memory 1))
                (import "host" "two" (func $two))
                (func $own)
                (func (call $two) (call $own) (drop (memory.grow (i32.const 1))) (call $one)))"#,
        )
        .unwrap();
        let sites = Sites::of(&wasm);
        let names: Vec<&str> =
            sites.sites.iter().map(|(_, name)| &*sites.names[usize::from(*name)]).collect();
        assert_eq!(names, ["host#two", "memory.grow", "host#one"]);
        let (first, _) = sites.sites[0];
        assert_eq!(sites.name(u64::from(first)), Some("host#two"));
        assert_eq!(sites.name(u64::from(first) + 2), None);
    }

    /// What async components import is called by what it does.
    #[test]
    fn operations_of_async_components_have_plain_names() {
        let check = |name: &str, want: &str| assert_eq!(import_name("a:b/c@0.3.0", name), want);
        check("[async-lower]wait-for", "a:b/c@0.3.0#wait-for");
        check("[async-lower][stream-write-0]read", "stream.write");
        check("[stream-drop-writable-12]read", "stream.drop-writable");
        check("[future-new-1][static]response.new", "future.new");
        check("[task-return]handle", "a:b/c@0.3.0#[task-return]handle");
        check("[stream", "a:b/c@0.3.0#[stream");
    }

    /// Files that are no WebAssembly have no sites and do no harm.
    #[test]
    fn anything_is_survived() {
        for wasm in [&b""[..], b"\0asm\x01\0\0\0\x0a\xff\xff\xff\xff\x0f", b"\0asm\x0d\0\x01\0\x01\x05\0asm"]
        {
            assert_eq!(Sites::of(wasm).sites.len(), 0);
        }
    }
}

//! Builds small modules with DWARF by hand, byte by byte: a test says exactly what is in the file.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::PathBuf;

/// Bytes that are being put together, little-endian.
#[derive(Clone, Default)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }
    pub fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
    pub fn uleb(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }
    pub fn text(mut self, text: &str) -> Self {
        self.0.extend(text.as_bytes());
        self.u8(0)
    }
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    /// With its own length, in 32 bits, before it.
    pub fn sized(self) -> Vec<u8> {
        Self::default().u32(self.0.len() as u32).bytes(&self.0).0
    }
    pub fn len(&self) -> u32 {
        self.0.len() as u32
    }
}

pub fn bytes() -> Bytes {
    Bytes::default()
}

/// A module, and where its functions are.
pub struct Built {
    pub bytes: Vec<u8>,
    /// Offset in the file of the Code section's content.
    pub code: u64,
    /// Body of each function, relative to that.
    pub functions: Vec<u32>,
}

/// Where functions with bodies of these lengths start, relative to the Code section's content.
pub fn function_starts(bodies: &[u32]) -> Vec<u32> {
    let mut at = bytes().uleb(bodies.len() as u64).len();
    let mut starts = Vec::new();
    for len in bodies {
        at += bytes().uleb(u64::from(*len)).len();
        starts.push(at);
        at += len;
    }
    starts
}

/// A module with one imported function, functions of these lengths, and custom sections.
pub fn module(bodies: &[u32], export: Option<(&str, u32)>, customs: &[(&str, &[u8])]) -> Built {
    let count = bodies.len() as u64;
    let section = |id: u8, content: Bytes| bytes().u8(id).uleb(content.0.len() as u64).bytes(&content.0).0;
    let mut out = b"\0asm\x01\0\0\0".to_vec();
    out.extend(section(1, bytes().bytes(&[1, 0x60, 0, 0])));
    out.extend(section(2, bytes().bytes(&[1, 1, b'm', 1, b'f', 0, 0])));
    out.extend(section(3, bytes().uleb(count).bytes(&vec![0; bodies.len()])));
    if let Some((name, index)) = export {
        let entry = bytes().u8(1).uleb(name.len() as u64).bytes(name.as_bytes()).u8(0).uleb(u64::from(index));
        out.extend(section(7, entry));
    }
    let mut code = bytes().uleb(count);
    for len in bodies {
        // No locals, `nop`s, `end`.
        let mut body = vec![1; *len as usize];
        body[0] = 0;
        body[*len as usize - 1] = 0x0b;
        code = code.uleb(u64::from(*len)).bytes(&body);
    }
    let len = code.0.len();
    out.extend(section(10, code));
    let code = (out.len() - len) as u64;
    for (name, data) in customs {
        let content = bytes().uleb(name.len() as u64).bytes(name.as_bytes()).bytes(data);
        out.extend(section(0, content));
    }
    Built { bytes: out, code, functions: function_starts(bodies) }
}

/// A `name` section with function names.
pub fn names(functions: &[(u32, &str)]) -> Vec<u8> {
    let mut map = bytes().uleb(functions.len() as u64);
    for (index, name) in functions {
        map = map.uleb(u64::from(*index)).uleb(name.len() as u64).bytes(name.as_bytes());
    }
    bytes().u8(1).uleb(map.0.len() as u64).bytes(&map.0).0
}

/// A component around core modules. The second value has where each module starts in the file.
pub fn component(modules: &[&[u8]]) -> (Vec<u8>, Vec<u64>) {
    let mut out = b"\0asm\x0d\0\x01\0".to_vec();
    let mut starts = Vec::new();
    for module in modules {
        out.extend(bytes().u8(1).uleb(module.len() as u64).0);
        starts.push(out.len() as u64);
        out.extend(*module);
    }
    (out, starts)
}

/// An abbreviation: (code, tag, has children, [(attribute, form)]).
pub type Abbreviation<'a> = (u64, u16, bool, &'a [(u16, u16)]);

/// An abbreviation table.
pub fn abbreviations(table: &[Abbreviation<'_>]) -> Vec<u8> {
    let mut out = bytes();
    for (code, tag, children, attributes) in table {
        out = out.uleb(*code).uleb(u64::from(*tag)).u8(u8::from(*children));
        for (name, form) in *attributes {
            out = out.uleb(u64::from(*name)).uleb(u64::from(*form));
        }
        out = out.bytes(&[0, 0]);
    }
    out.u8(0).0
}

/// A DWARF 4 compilation unit around entries. Offsets in the unit count from its length field: entries start at 11.
pub fn unit4(entries: &Bytes) -> Vec<u8> {
    bytes().u16(4).u32(0).u8(4).bytes(&entries.0).sized()
}

/// A committed guest.
pub fn guest(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/guests").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A custom section.
pub fn custom(name: &str, data: &[u8]) -> Vec<u8> {
    section(0, &bytes().uleb(name.len() as u64).bytes(name.as_bytes()).bytes(data).0)
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    bytes().u8(id).uleb(content.len() as u64).bytes(content).0
}

/// A core dump: a page of memory in which 4 bytes at 8 and one at 20 are not zero, a global that is 16, one frame.
pub fn core_dump() -> Vec<u8> {
    // Two runs, and one that overlaps the first.
    let data = [3, 0, 0x41, 8, 0x0b, 4, 1, 2, 3, 4, 0, 0x41, 20, 0x0b, 1, 9, 0, 0x41, 9, 0x0b, 1, 7];
    let frames = bytes().bytes(&[0, 4]).bytes(b"main").bytes(&[1, 0, 0, 3, 5, 2, 0x7f, 0x7e, 1, 0]);
    [
        b"\0asm\x01\0\0\0".to_vec(),
        custom("core", b"\0\x01p"),
        section(5, &[1, 0, 1]),
        section(6, &[1, 0x7f, 1, 0x41, 16, 0x0b]),
        section(11, &data),
        custom("coremodules", &[1, 0, 1, b'm']),
        custom("coreinstances", &[1, 0, 0, 1, 0, 1, 0]),
        custom("corestack", &frames.0),
    ]
    .concat()
}

/// The offset in the file of every instruction of every function, in order.
pub fn instructions(module: &[u8]) -> Vec<u64> {
    let mut out = Vec::new();
    for payload in wasmparser::Parser::new(0).parse_all(module) {
        if let wasmparser::Payload::CodeSectionEntry(body) = payload.unwrap() {
            let operators = body.get_operators_reader().unwrap().into_iter_with_offsets();
            out.extend(operators.map(|operator| operator.unwrap().1 as u64));
        }
    }
    out
}

/// The sections of a module or component: number and content.
pub fn sections(file: &[u8]) -> Vec<(u8, &[u8])> {
    let mut reader = wasmparser::BinaryReader::new(&file[8..], 0);
    let mut out = Vec::new();
    while !reader.eof() {
        let id = reader.read_u8().unwrap();
        let len = reader.read_var_u32().unwrap() as usize;
        out.push((id, reader.read_bytes(len).unwrap()));
    }
    out
}

/// A file with these sections after the preamble of another.
pub fn with_sections<'a>(file: &[u8], sections: impl IntoIterator<Item = (u8, &'a [u8])>) -> Vec<u8> {
    let start = bytes().bytes(&file[..8]);
    sections
        .into_iter()
        .fold(start, |out, (id, content)| out.u8(id).uleb(content.len() as u64).bytes(content))
        .0
}

/// The name of a custom section.
pub fn custom_name(content: &[u8]) -> &str {
    wasmparser::BinaryReader::new(content, 0).read_string().unwrap()
}

/// Without custom sections but those named, in nested modules too, as tools strip files.
pub fn strip(file: &[u8], keep: &[&str]) -> Vec<u8> {
    let is_component = file[6..8] == [1, 0];
    let stripped: Vec<(u8, Vec<u8>)> = sections(file)
        .into_iter()
        .filter(|(id, content)| *id != 0 || keep.contains(&custom_name(content)))
        .map(|(id, content)| match id {
            1 | 4 if is_component => (id, strip(content, keep)),
            _ => (id, content.to_vec()),
        })
        .collect();
    with_sections(file, stripped.iter().map(|(id, content)| (*id, content.as_slice())))
}

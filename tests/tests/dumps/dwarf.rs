//! Debug info for small modules of text, written by hand: functions whose variables lie at offsets in their frames.

use wasmparser::{Parser, Payload};

/// The operation of an offset from the frame's base, below 64.
pub const FBREG: u8 = 0x91;
/// The value of wasm local 0.
pub const LOCAL_0: &[u8] = &[0xed, 0, 0, 0x9f];

/// A function with a body, in the module's order.
pub struct Function {
    pub name: &'static str,
    /// The wasm local that holds its frame's base.
    pub base: u8,
    /// `int` variables and the expressions that say where they are.
    pub variables: &'static [(&'static str, &'static [u8])],
}

/// Where the function bodies of the one core module in a file are: start and length, from the start of the Code
/// section's content.
fn bodies(bytes: &[u8]) -> Vec<(u32, u32)> {
    let (mut code, mut out) = (0, Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::CodeSectionStart { range, .. } => code = range.start,
            Payload::CodeSectionEntry(body) => {
                let range = body.range();
                out.push(((range.start - code) as u32, range.len() as u32));
            }
            _ => {}
        }
    }
    out
}

/// Assembles a module or component in which `DEBUG_INFO`, at the end of its core module, stands for debug info.
pub fn assemble(text: &str, functions: &[Function]) -> Vec<u8> {
    let places = bodies(&wat::parse_str(text.replace("DEBUG_INFO", "")).unwrap());
    assert_eq!(places.len(), functions.len());
    // Tags, attributes and forms by their numbers in the standard.
    let abbreviations: &[u8] = &[
        1, 0x11, 1, 0x13, 0x05, 0, 0, // unit: language, data2
        2, 0x2e, 1, 0x03, 0x08, 0x11, 0x01, 0x12, 0x06, 0x40, 0x18, 0,
        0, // function: name, range, frame base
        3, 0x34, 0, 0x03, 0x08, 0x49, 0x13, 0x02, 0x18, 0, 0, // variable: name, type, location
        4, 0x24, 0, 0x03, 0x08, 0x3e, 0x0b, 0x0b, 0x0b, 0, 0, // base type: name, encoding, size
        0,
    ];
    let mut entries = vec![1, 0x0c, 0];
    // The header of 11 bytes, and the unit.
    let int = 11 + entries.len() as u32;
    entries.extend(b"\x04int\0\x05\x04");
    for (function, (start, len)) in functions.iter().zip(places) {
        entries.push(2);
        entries.extend(function.name.as_bytes());
        entries.push(0);
        entries.extend(start.to_le_bytes());
        entries.extend(len.to_le_bytes());
        // The value of a wasm local.
        entries.extend([4, 0xed, 0, function.base, 0x9f]);
        for (name, location) in function.variables {
            entries.push(3);
            entries.extend(name.as_bytes());
            entries.push(0);
            entries.extend(int.to_le_bytes());
            entries.push(location.len() as u8);
            entries.extend(*location);
        }
        entries.push(0);
    }
    entries.push(0);
    let mut info = (entries.len() as u32 + 7).to_le_bytes().to_vec();
    info.extend([4, 0, 0, 0, 0, 0, 4]);
    info.extend(entries);
    let section = |name: &str, data: &[u8]| {
        let bytes: String = data.iter().map(|byte| format!("\\{byte:02x}")).collect();
        format!("(@custom \"{name}\" \"{bytes}\")")
    };
    let sections = section(".debug_abbrev", abbreviations) + &section(".debug_info", &info);
    wat::parse_str(text.replace("DEBUG_INFO", &sections)).unwrap()
}

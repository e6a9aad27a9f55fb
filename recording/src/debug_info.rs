//! What of a module's file may leave the process: names and debug info, at their places, without code and
//! data.
//!
//! Code bodies and data are zeroed in place instead of cut out, so every offset stays true and any reader
//! of wasm modules can read the result; zeroes compress to nothing.
//!
//! # Security
//! Function bodies, data segments and unknown custom sections (which may hold anything) do not leave. The hash of the
//! code does: who has the same code can tell that it is the same.

use sandscope_model::FileIds;
use sandscope_model::file_ids::ORIGIN_SECTION;
use wasmparser::{Parser, Payload};

/// Custom sections that symbolizers read.
fn is_kept(name: &str) -> bool {
    matches!(name, "name" | "producers" | "build_id" | "external_debug_info" | "sourceMappingURL" | "version")
        || matches!(name, "component-name" | ORIGIN_SECTION)
        || name.starts_with(".debug_")
}

/// The file with code bodies, data and unknown custom sections zeroed: same layout, and a section at the end that
/// says which file it was, unless it has one. `None` if the bytes are no well-formed module or component.
pub fn scrub(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = bytes.to_vec();
    for payload in Parser::new(0).parse_all(bytes) {
        let range = match payload.ok()? {
            Payload::CodeSectionEntry(body) => body.range(),
            // The count stays: parsers compare it with the data count section. Segments are not read: they may be
            // zeroes already.
            Payload::DataSection(data) => {
                let content = bytes.get(data.range())?;
                let count = content.iter().take_while(|byte| **byte >= 0x80).count() + 1;
                data.range().start + count..data.range().end
            }
            Payload::CustomSection(custom) if !is_kept(custom.name()) => {
                custom.data_offset()..custom.range().end
            }
            _ => continue,
        };
        out.get_mut(range)?.fill(0);
    }
    if !FileIds::are_said_by(bytes) {
        append_origin(&mut out, &FileIds::of(bytes));
    }
    Some(out)
}

/// A custom section that says which file it was.
fn append_origin(out: &mut Vec<u8>, ids: &FileIds) {
    let text = ids.origin();
    let len = 1 + ORIGIN_SECTION.len() + text.len();
    out.push(0);
    // LEB128 with a byte to spare is allowed: ids are at most 160 bytes each.
    out.extend([(len & 0x7f) as u8 | 0x80, (len >> 7) as u8]);
    out.push(ORIGIN_SECTION.len() as u8);
    out.extend(ORIGIN_SECTION.as_bytes());
    out.extend(text.as_bytes());
}

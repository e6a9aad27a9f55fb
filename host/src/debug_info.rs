//! What of a module's file may leave the process: names and debug info, at their places, without code and
//! data.
//!
//! Code bodies and data are zeroed in place instead of cut out, so every offset stays true and any reader
//! of wasm modules can read the result; zeroes compress to nothing.
//!
//! # Security
//! Function bodies, data segments and unknown custom sections (which may hold anything) do not leave.

use wasmparser::{Parser, Payload};

/// Custom sections that symbolizers read.
fn is_kept(name: &str) -> bool {
    matches!(name, "name" | "producers" | "build_id" | "external_debug_info" | "sourceMappingURL" | "version")
        || name == "component-name"
        || name.starts_with(".debug_")
}

/// The file with code bodies, data and unknown custom sections zeroed: same length, same layout.
/// `None` if the bytes are no well-formed module or component.
pub(crate) fn scrub(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = bytes.to_vec();
    for payload in Parser::new(0).parse_all(bytes) {
        let range = match payload.ok()? {
            Payload::CodeSectionEntry(body) => body.range(),
            // The count stays: parsers compare it with the data count section.
            Payload::DataSection(data) => {
                let end = data.range().end;
                match data.into_iter_with_offsets().next() {
                    Some(first) => first.ok()?.0..end,
                    None => continue,
                }
            }
            Payload::CustomSection(custom) if !is_kept(custom.name()) => {
                custom.data_offset()..custom.range().end
            }
            _ => continue,
        };
        out.get_mut(range)?.fill(0);
    }
    Some(out)
}

/// [`scrub`], then zstd.
pub(crate) fn compress(bytes: &[u8]) -> Option<Compressed> {
    let scrubbed = scrub(bytes)?;
    // Level 1: the host pays for this once per module, and most of the size is zeroes.
    let data = zstd::bulk::compress(&scrubbed, 1).ok()?;
    Some(Compressed { data: data.into(), size: scrubbed.len() as u64 })
}

/// Debug info ready to be sent or stored.
#[derive(Clone)]
pub(crate) struct Compressed {
    /// One zstd frame.
    pub data: bytes::Bytes,
    /// Bytes after decompression.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use sandscope_symbols::SymbolFile;

    use super::*;

    const SECRET: &str = "hunter2-in-a-data-segment";

    /// Nothing of data or code is left, everything else stands where it stood.
    #[test]
    fn code_and_data_do_not_leave() {
        let wat = format!(
            r#"(module (memory 1) (data (i32.const 8) "{SECRET}")
                (func $answer (export "answer") (result i32) i32.const 123456789)
                (@custom "config" "token=abc"))"#
        );
        let bytes = wat::parse_str(wat).unwrap();
        let scrubbed = scrub(&bytes).unwrap();
        assert_eq!(scrubbed.len(), bytes.len());
        let holds = |hay: &[u8], needle: &str| hay.windows(needle.len()).any(|w| w == needle.as_bytes());
        assert!(holds(&bytes, SECRET) && !holds(&scrubbed, SECRET));
        assert!(holds(&bytes, "token=abc") && !holds(&scrubbed, "token=abc"));
        assert!(holds(&scrubbed, "answer"));
        assert!(scrub(b"not wasm").is_none());
    }

    /// Every guest's debug info says the same after the journey as in the file.
    #[test]
    fn scrubbed_guests_symbolize_alike() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests");
        for name in ["image", "session", "analytics", "inference", "parallel", "crash", "pricing", "gc"] {
            let bytes = std::fs::read(format!("{folder}/{name}.wasm")).unwrap();
            let scrubbed = scrub(&bytes).unwrap_or_else(|| panic!("{name} is not scrubbed"));
            let whole = SymbolFile::parse(&bytes).unwrap();
            let file = SymbolFile::parse(&scrubbed).unwrap_or_else(|error| panic!("{name}: {error}"));
            for offset in (0..bytes.len() as u64).step_by(97) {
                assert_eq!(
                    file.lookup(offset).to_frames(),
                    whole.lookup(offset).to_frames(),
                    "{name} {offset:#x}"
                );
            }
        }
    }
}

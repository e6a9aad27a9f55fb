//! A module's debug info on its way out of the process. What of a file may leave is decided in
//! [`sandscope_recording::scrub`].

use sandscope_recording::scrub;

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
    use sandscope_model::FileIds;
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
        assert!(scrubbed.starts_with(&bytes[..8]) && scrubbed.len() > bytes.len());
        assert_eq!(FileIds::of(&scrubbed), FileIds::of(&bytes));
        assert_eq!(scrub(&scrubbed).unwrap(), scrubbed, "once is enough");
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

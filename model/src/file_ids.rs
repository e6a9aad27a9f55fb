//! What a file's debug info is found by: its build id, and the hash of its code, which survives every tool that
//! only takes custom sections away.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use crate::id::{ModuleId, Sections, build_id, hex};

/// The custom section in which a file with its code blanked says what it was: ids, one a line.
pub const ORIGIN_SECTION: &str = "sandscope.origin";
/// Components inside components that are looked into.
const MAX_NESTING: usize = 32;

/// The ids of one module or component. A file with its code blanked has those of the original, if the original
/// had a build id or the blanked file an origin section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIds {
    /// What samples and recordings name it by, see [`ModuleId::of`].
    pub module: ModuleId,
    /// Whether that is a build id.
    pub has_build_id: bool,
    /// `code:` and 40 hex digits of the SHA-256 of its code sections, each with its length (8 bytes,
    /// little-endian) before it; `None` if it has no code.
    pub code: Option<ModuleId>,
}

impl FileIds {
    /// Of a file's bytes. Bytes that are no wasm have an id too, as for [`ModuleId::of`].
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            module: ModuleId::of(bytes),
            has_build_id: build_id(bytes).is_some(),
            code: origin(bytes, "code:").or_else(|| code_id(bytes)),
        }
    }

    /// Whether a file has an origin section that says its ids.
    pub fn are_said_by(bytes: &[u8]) -> bool {
        origin(bytes, "code:").is_some()
    }

    /// Whether debug info of this file may be handed out under an id.
    pub fn has(&self, id: &ModuleId) -> bool {
        self.all().any(|own| own == id)
    }

    /// All ids, the best first.
    pub fn all(&self) -> impl Iterator<Item = &ModuleId> {
        std::iter::once(&self.module).chain(&self.code)
    }

    /// Whether both are of one build: equal build ids, or equal code if one of them has none.
    pub fn same_build(&self, other: &Self) -> bool {
        if self.has_build_id && other.has_build_id {
            return self.module == other.module;
        }
        self.code.is_some() && self.code == other.code
    }

    /// The content of an origin section with these ids.
    pub fn origin(&self) -> String {
        self.all().fold(String::new(), |mut text, id| {
            let _ = writeln!(text, "{id}");
            text
        })
    }
}

/// The id with a prefix in a file's origin section.
pub(crate) fn origin(bytes: &[u8], prefix: &str) -> Option<ModuleId> {
    let section = Sections::of(bytes)?.find_map(|section| section.custom(ORIGIN_SECTION))?;
    let ids = std::str::from_utf8(section).ok()?;
    ids.lines().take(8).filter(|id| id.starts_with(prefix)).find_map(ModuleId::parse)
}

fn code_id(bytes: &[u8]) -> Option<ModuleId> {
    let mut hasher = Sha256::new();
    let found = add_code(bytes, &mut hasher, 0);
    let digits = hex(&hasher.finalize());
    found.then(|| ModuleId::parse(&format!("code:{}", digits.get(..40)?))).flatten()
}

/// Adds every code section, nested ones included; whether there was one.
fn add_code(bytes: &[u8], hasher: &mut Sha256, depth: usize) -> bool {
    const CODE: u8 = 10;
    const CORE_MODULE: u8 = 1;
    const COMPONENT: u8 = 4;
    let is_component = bytes.get(6..8) == Some(&[1, 0]);
    let mut found = false;
    for section in Sections::of(bytes).into_iter().flatten() {
        match section.id {
            CODE if !is_component => {
                hasher.update((section.payload.len() as u64).to_le_bytes());
                hasher.update(section.payload);
                found = true;
            }
            CORE_MODULE | COMPONENT if is_component && depth < MAX_NESTING => {
                found |= add_code(section.payload, hasher, depth + 1);
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULE: &[u8] = b"\0asm\x01\0\0\0\x0a\x04\x01\x02\0\x0b";

    fn with_custom(bytes: &[u8], name: &str, data: &[u8]) -> Vec<u8> {
        let mut payload = vec![name.len() as u8];
        payload.extend(name.as_bytes());
        payload.extend(data);
        [bytes, &[0, payload.len() as u8], &payload].concat()
    }

    /// Stripping custom sections changes the file's hash and not that of its code; a file with a build id and one
    /// without meet by their code, two build ids only by themselves.
    #[test]
    fn code_survives_stripping() {
        let (stripped, named) = (FileIds::of(MODULE), FileIds::of(&with_custom(MODULE, "name", b"")));
        assert_ne!(stripped.module, named.module);
        assert!(stripped.code.is_some() && stripped.same_build(&named));
        let one = FileIds::of(&with_custom(MODULE, "build_id", b"\x02\xab\xcd"));
        let two = FileIds::of(&with_custom(MODULE, "build_id", b"\x02\xab\xce"));
        assert_eq!((one.module.as_str(), one.has_build_id), ("abcd", true));
        assert!(one.same_build(&stripped) && !one.same_build(&two));
        let component = [b"\0asm\x0d\0\x01\0\x01\x0e".as_slice(), MODULE].concat();
        assert_eq!(FileIds::of(&component).code, stripped.code);
        assert_eq!(FileIds::of(b"\0asm\x01\0\0\0").code, None);
        for end in 0..component.len() {
            FileIds::of(&component[..end]);
        }
    }

    /// A blanked file is found by what the original was found by.
    #[test]
    fn blanked_files_keep_their_ids() {
        let ids = FileIds::of(MODULE);
        let mut blank = MODULE.to_vec();
        blank[12..].fill(0);
        assert!(!FileIds::of(&blank).same_build(&ids));
        let blank = with_custom(&blank, ORIGIN_SECTION, ids.origin().as_bytes());
        assert_eq!(FileIds::of(&blank), ids);
        assert_eq!(ModuleId::of(&blank), ids.module);
        assert!(ids.has(&ids.module) && ids.all().all(|id| ids.has(id)));
        let lies = with_custom(MODULE, ORIGIN_SECTION, b"code:../../etc\ntext:00\n");
        assert_eq!(FileIds::of(&lies).code, ids.code, "what is no id is ignored");
    }
}

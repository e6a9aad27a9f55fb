//! Source maps of wasm modules: from an offset in the file to a file and a line, for compilers that write no DWARF
//! (AssemblyScript, MoonBit). The format is ECMA-426; a module is one generated line whose columns are byte offsets
//! in the whole file.
//!
//! ```text
//! "mappings": "uUAQA,CAAC,…"      a segment: 1, 4 or 5 numbers, each the difference to the one before, in base64
//!              |||||              of 5 bits a digit with the sign in the lowest bit
//!              column, source, line, column, name
//! ```

use std::borrow::Cow;
use std::fmt;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::dwarf::Budget;
use crate::error::{Note, Notes};
use crate::limits::{MAX_PATH, MAX_SEGMENTS, MAX_SOURCES};

/// What notes call this file.
const WHAT: &str = "source map";
/// Stands for "no source" and "no name".
const NONE: u32 = u32::MAX;

/// A source map, ready to be asked.
pub(crate) struct SourceMap {
    /// By ascending offset.
    segments: Vec<Segment>,
    sources: Vec<String>,
    names: Vec<String>,
}

/// Holds from its offset to that of the next.
#[derive(Clone, Copy)]
struct Segment {
    /// In the file, in bytes.
    offset: u32,
    /// Position in `sources`, or [`NONE`].
    source: u32,
    /// From 0.
    line: u32,
    /// From 0.
    column: u32,
    /// Position in `names`, or [`NONE`].
    name: u32,
}

/// A place in the source.
#[derive(Clone, Copy)]
pub(crate) struct Mapped<'a> {
    pub file: Option<&'a str>,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// The function's name, from compilers that write it there.
    pub name: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw<'a> {
    version: u32,
    #[serde(default)]
    source_root: Option<String>,
    #[serde(default)]
    sources: Strings,
    #[serde(default)]
    names: Strings,
    #[serde(borrow)]
    mappings: Cow<'a, str>,
}

impl SourceMap {
    /// Reads a source map; `None` and a note if it is none.
    pub fn parse(bytes: &[u8], retained: &Budget, notes: &Notes) -> Option<Self> {
        // A line that keeps browsers from running the file as a script.
        let json = match bytes.strip_prefix(b")]}'") {
            Some(rest) => rest.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or_default(),
            None => bytes,
        };
        let unreadable = |reason: String| notes.add(Note::Unreadable { what: WHAT, reason });
        let raw: Raw<'_> =
            serde_json::from_slice(json).map_err(|error| unreadable(error.to_string())).ok()?;
        if raw.version != 3 {
            unreadable(format!("version {} is unknown", raw.version));
            return None;
        }
        for strings in [&raw.sources, &raw.names] {
            if strings.cut {
                notes.add(Note::Limit { what: "sources or names of a source map", limit: MAX_SOURCES });
            }
        }
        let mut sources = raw.sources.kept;
        if let Some(root) = raw.source_root.filter(|root| !root.is_empty()) {
            for source in sources.iter_mut().filter(|source| !source.is_empty() && !source.starts_with('/')) {
                *source = cut(&format!("{}/{source}", root.trim_end_matches('/')));
            }
        }
        // Another generated line would belong to another file.
        let mappings = raw.mappings.split(';').next().unwrap_or_default();
        let most = mappings.bytes().filter(|byte| *byte == b',').count() + 1;
        if most > MAX_SEGMENTS {
            notes.add(Note::Limit { what: "segments of a source map", limit: MAX_SEGMENTS });
        }
        let most = most.min(MAX_SEGMENTS);
        if !retained.take(most * size_of::<Segment>()) {
            notes.add(Note::Memory);
            return None;
        }
        let mut segments = Vec::with_capacity(most);
        let mut state = [0i64; 5];
        for text in mappings.split(',').take(most).filter(|text| !text.is_empty()) {
            let Some(segment) = read_segment(text, &mut state) else {
                unreadable(format!("the segment {:?} is malformed", text.get(..20).unwrap_or(text)));
                break;
            };
            segments.push(segment);
        }
        segments.sort_by_key(|segment| segment.offset);
        Some(Self { segments, sources, names: raw.names.kept })
    }

    /// What an offset in the file was compiled from, if that is said within the function from `start` on.
    pub fn find(&self, offset: u64, start: u64) -> Option<Mapped<'_>> {
        let at =
            self.segments.partition_point(|segment| u64::from(segment.offset) <= offset).checked_sub(1)?;
        let segment = self.segments.get(at).filter(|segment| u64::from(segment.offset) >= start)?;
        if segment.source == NONE {
            return None;
        }
        Some(Mapped {
            file: self
                .sources
                .get(segment.source as usize)
                .map(String::as_str)
                .filter(|file| !file.is_empty()),
            line: segment.line.saturating_add(1),
            column: segment.column.saturating_add(1),
            name: self.names.get(segment.name as usize).map(String::as_str).filter(|name| !name.is_empty()),
        })
    }

    /// How many segments there are, and how many of them begin in the given code.
    pub fn fit(&self, in_code: impl Fn(u64) -> bool) -> (usize, usize) {
        let fitting = self.segments.iter().filter(|segment| in_code(u64::from(segment.offset)));
        (self.segments.len(), fitting.count())
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        let text: usize =
            self.sources.iter().chain(&self.names).map(|text| text.len() + size_of::<String>()).sum();
        text + self.segments.capacity() * size_of::<Segment>()
    }
}

/// Adds a segment's differences to the state.
fn read_segment(text: &str, state: &mut [i64; 5]) -> Option<Segment> {
    let mut digits = text.bytes();
    let mut count = 0;
    while digits.len() > 0 {
        let sum = state.get_mut(count)?;
        *sum = sum.checked_add(vlq(&mut digits)?)?;
        count += 1;
    }
    let [offset, source, line, column, name] = state.map(u32::try_from);
    let mut segment = Segment { offset: offset.ok()?, source: NONE, line: 0, column: 0, name: NONE };
    match count {
        1 => {}
        4 | 5 => {
            (segment.source, segment.line, segment.column) = (source.ok()?, line.ok()?, column.ok()?);
            if count == 5 {
                segment.name = name.ok()?;
            }
        }
        _ => return None,
    }
    Some(segment)
}

/// One number of at most 32 bits.
fn vlq(digits: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..35).step_by(5) {
        let digit = match digits.next()? {
            c @ b'A'..=b'Z' => c - b'A',
            c @ b'a'..=b'z' => c - b'a' + 26,
            c @ b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        value |= u64::from(digit & 31) << shift;
        if digit & 32 == 0 {
            let magnitude = i64::try_from(value >> 1).ok()?;
            return Some(if value & 1 == 1 { -magnitude } else { magnitude });
        }
    }
    None
}

/// A list of strings of which so many are kept; what is no string is an empty one.
#[derive(Default)]
struct Strings {
    kept: Vec<String>,
    cut: bool,
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Collect)
    }
}

struct Collect;

impl<'de> Visitor<'de> for Collect {
    type Value = Strings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of strings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Strings, A::Error> {
        let mut out = Strings::default();
        while out.kept.len() < MAX_SOURCES {
            let Some(text) = list.next_element::<Option<Cow<'_, str>>>()? else { return Ok(out) };
            out.kept.push(cut(&text.unwrap_or_default()));
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            out.cut = true;
        }
        Ok(out)
    }
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_PATH)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> (Option<SourceMap>, Vec<Note>) {
        let notes = Notes::default();
        let map = SourceMap::parse(json.as_bytes(), &Budget::new(1 << 20), &notes);
        (map, notes.list())
    }

    /// Lines and columns count from 1 for people; a segment holds until the next, and not beyond its function.
    #[test]
    fn offsets_lead_to_lines() {
        let json = r#"{"version":3,"sourceRoot":"src/","sources":["a.ts",null,"/b.ts"],"names":["run"],
            "sourcesContent":["x"],"mappings":"gBAACA,IAEE,E,EECA,gCAA"}"#;
        let (map, notes) = parse(json);
        let map = map.unwrap();
        let at = |offset, start| {
            map.find(offset, start).map(|m| (m.file.unwrap_or("?"), m.line, m.column, m.name.unwrap_or("")))
        };
        assert_eq!(at(15, 0), None);
        assert_eq!(at(16, 0), Some(("src/a.ts", 1, 2, "run")));
        assert_eq!(at(19, 16), Some(("src/a.ts", 1, 2, "run")));
        assert_eq!(at(20, 16), Some(("src/a.ts", 3, 4, "")));
        assert_eq!(at(23, 16), None, "a segment without a source");
        assert_eq!(at(24, 16), Some(("/b.ts", 4, 4, "")));
        assert_eq!(at(24, 25), None, "said of the function before");
        assert_eq!(notes.len(), 1, "the last segment has three numbers: {notes:?}");
    }

    /// Whatever is in it, it is a note and nothing worse.
    #[test]
    fn hostile_maps_are_notes() {
        let deep = format!(r#"{{"version":3,"x":{}"#, "[".repeat(100_000));
        let huge = r#"{"version":3,"sources":[],"mappings":"ggggggggggggggB"}"#;
        let many = format!(r#"{{"version":3,"mappings":"{}"}}"#, "A,".repeat(200_000));
        for json in ["", "{", "[]", r#"{"version":4,"mappings":""}"#, &deep, huge, &many] {
            let (_, notes) = parse(json);
            assert_eq!(notes.len(), 1, "{}", &json[..json.len().min(60)]);
        }
        let sources =
            format!(r#"{{"version":3,"mappings":"AAAA","sources":[{}""]}}"#, "\"a\",".repeat(70_000));
        let (map, notes) = parse(&sources);
        assert!(matches!(notes[..], [Note::Limit { .. }]) && map.unwrap().find(5, 0).is_some());
    }
}

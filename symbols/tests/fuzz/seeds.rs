//! Where fuzzing starts: small files, and parts of the guests' debug info that are as real as they are small.

use std::path::Path;

use wasmparser::{Parser, Payload};

use crate::common::{component, core_dump, guest, module, names};
use crate::targets::{SECTIONS, input};

/// Guests whose debug info is a seed.
const GUESTS: [&str; 4] = ["crash.wasm", "crash-debug.wasm", "inference.wasm", "pricing.wasm"];
/// Bytes of each section, of all units, and of each.
const BYTES: usize = 160 << 10;
const UNITS: usize = 32 << 10;
const UNIT: usize = 8 << 10;
/// Bytes of the unit that a guest's own sources are.
const OWN_UNIT: usize = 40 << 10;

/// Whole files.
pub fn modules() -> Vec<Vec<u8>> {
    let named =
        module(&[5, 200, 3], Some(("run", 2)), &[("name", &names(&[(1, "_ZN1a1bE"), (2, "main")]))]).bytes;
    let both = component(&[&named, &module(&[5], None, &[]).bytes]).0;
    let from_guests = sections().iter().map(|seed| crate::targets::build(seed)).collect::<Vec<_>>();
    let frames = sample("split", "whole5.wasm");
    [vec![guest("gc.wasm"), named, both, frames, core_dump()], from_guests].concat()
}

/// Inputs of the target `sections`.
pub fn sections() -> Vec<Vec<u8>> {
    GUESTS.iter().map(|name| slim(&guest(name), UNIT)).collect()
}

/// Inputs of the target `variables`: units that have some, of each version of DWARF.
pub fn variables() -> Vec<Vec<u8>> {
    let guests = ["crash.wasm", "crash-debug.wasm"].map(|name| slim(&guest(name), OWN_UNIT));
    let samples = ["whole4.wasm", "whole5.wasm"].map(|name| slim(&sample("split", name), OWN_UNIT));
    guests.into_iter().chain(samples).collect()
}

/// Source maps of two compilers, whole and their mappings alone.
pub fn source_maps() -> Vec<Vec<u8>> {
    let whole = [guest("gc.wasm.map"), sample("assemblyscript", "sum.wasm.map")];
    let mappings = whole.clone().map(|map| {
        let text = String::from_utf8(map).unwrap();
        let (_, mappings) = text.split_once("\"mappings\":\"").unwrap();
        mappings.split('"').next().unwrap().as_bytes().to_vec()
    });
    whole.into_iter().chain(mappings).collect()
}

fn sample(folder: &str, name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder).join(name)).unwrap()
}

/// Linkers' names of every kind.
pub fn names_of_linkers() -> Vec<Vec<u8>> {
    [
        "_ZN5image6codecs4jpeg7decoder17h0123456789abcdefE",
        "_RNvXs_NtCs1234_7mycrate3fooNtB4_3BarNtNtCs5678_4core3fmt5Debug3fmt",
        "_RINvNtCs1234_4core3mem8align_ofjEB2_",
        "_ZNSt6vectorIiSaIiEE9push_backERKi",
        "_ZZN3foo3barEvENKUlvE_clEv",
        "_ZN5space3fooIJidEEEvDpT_",
        "core::fmt::write::h0123456789abcdef",
        "_M0MP29sandscope2gc5Cache7enqueue",
        "_M0FP22my3app4keepGWibEARPB5ArrayGUijEEQRP22my3app7MyErrorEHRP07MyError",
    ]
    .map(|name| name.as_bytes().to_vec())
    .to_vec()
}

/// The functions of a guest with its units of so many bytes at most and the start of what they point to.
fn slim(bytes: &[u8], unit: usize) -> Vec<u8> {
    let (mut start, mut width, mut bodies, mut sections) = (0, None, Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.unwrap() {
            Payload::CodeSectionStart { range, .. } => start = range.start,
            Payload::CodeSectionEntry(body) => {
                let body = body.range();
                let size_field = if body.len() < 128 {
                    1
                } else if body.len() < 16_384 {
                    2
                } else {
                    3
                };
                width.get_or_insert(body.start - start - size_field);
                bodies.push(u16::try_from(body.len()).unwrap_or(u16::MAX));
            }
            Payload::CustomSection(section) => {
                let at = SECTIONS.iter().position(|name| *name == section.name());
                let Some(at) = at.filter(|_| section.name() != "name") else { continue };
                let data = match section.name() {
                    ".debug_info" => small_units(section.data(), unit),
                    _ => section.data()[..section.data().len().min(BYTES)].to_vec(),
                };
                sections.push((at as u8, data));
            }
            _ => {}
        }
    }
    let sections: Vec<(u8, &[u8])> = sections.iter().map(|(at, data)| (*at, &**data)).collect();
    input(width.unwrap() as u8, &bodies, &sections)
}

/// Units that are small, as many as fit.
fn small_units(mut section: &[u8], max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(length) = section.first_chunk::<4>() {
        let (unit, rest) = section.split_at(4 + u32::from_le_bytes(*length) as usize);
        section = rest;
        if unit.len() <= max && out.len() + unit.len() <= UNITS.max(max) {
            out.extend(unit);
        }
    }
    out
}

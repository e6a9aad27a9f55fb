//! The fuzz targets of `symbols/fuzz` on changed seeds, for some seconds, with nothing but a stable compiler. The
//! longer runs are libFuzzer's (`cargo xtask fuzz`), which takes its seeds from here. What either of them found is in
//! `hostile.rs`.

#[path = "../common/mod.rs"]
mod common;
mod seeds;
#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "the targets are shared with libFuzzer's")]
mod targets;

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use sandscope_model::NameSource;
use sandscope_symbols::{FrameTable, StoppedFrame, SymbolFile};

/// How long each target runs.
const TIME: Duration = Duration::from_secs(5);
/// What numbers in formats break at.
const NUMBERS: [u64; 8] = [0, 1, 0x7f, 0x80, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];

#[test]
fn modules_survive_changes() {
    fuzz("modules", targets::modules, &seeds::modules());
}

#[test]
fn sections_survive_changes() {
    fuzz("sections", targets::sections, &seeds::sections());
}

#[test]
fn names_survive_changes() {
    fuzz("names", targets::names, &seeds::names_of_linkers());
}

#[test]
fn source_maps_survive_changes() {
    fuzz("source_maps", targets::source_maps, &seeds::source_maps());
}

#[test]
fn variables_survive_changes() {
    fuzz("variables", targets::variables, &seeds::variables());
}

/// Fuzzing starts from files that mean something: functions by name and by line, variables with values. With
/// `SANDSCOPE_FUZZ_SEEDS` set to a folder, they are written there for libFuzzer.
#[test]
fn seeds_are_alive() {
    let (mut frames, mut notes) = (0, Vec::new());
    for seed in seeds::sections() {
        let bytes = targets::build(&seed);
        let file = SymbolFile::parse(&bytes).unwrap();
        let all = (0..bytes.len() as u64).step_by(7).flat_map(|offset| file.lookup(offset).to_frames());
        frames += all.filter(|frame| frame.source == NameSource::Dwarf && frame.line.is_some()).count();
        notes.extend(file.notes());
    }
    assert!(frames > 100, "{frames} frames in all seeds: {notes:?}");
    for (number, seed) in seeds::variables().iter().enumerate() {
        let module = targets::build(seed);
        let file = SymbolFile::parse(&module).unwrap();
        let frame = |offset| StoppedFrame { instance: 0, offset, locals: vec![Some(4_096); 8] };
        let frames: Vec<_> = (0..module.len() as u64).step_by(10).map(frame).collect();
        let found = file.variables(&FrameTable::default(), &targets::Wild, &frames);
        let known = found.iter().flatten().flat_map(|frame| &frame.variables);
        let known = known.filter(|variable| variable.value.text().is_some()).count();
        assert!(known > 20, "seed {number} has {known} variables with values: {:?}", file.notes());
    }
    let Some(folder) = std::env::var_os("SANDSCOPE_FUZZ_SEEDS") else { return };
    let all = [
        ("modules", seeds::modules()),
        ("sections", seeds::sections()),
        ("names", seeds::names_of_linkers()),
        ("source_maps", seeds::source_maps()),
        ("variables", seeds::variables()),
    ];
    for (target, seeds) in all {
        let folder = Path::new(&folder).join(target);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
    }
}

/// Runs a target on changed seeds. An input that breaks it is kept as a file, whose path is in the message.
#[track_caller]
fn fuzz(name: &str, target: fn(&[u8]), seeds: &[Vec<u8>]) {
    seeds.iter().for_each(|seed| target(seed));
    let started = Instant::now();
    let mut random = Random(std::process::id().into());
    while started.elapsed() < TIME {
        let mut input = seeds[random.below(seeds.len())].clone();
        for _ in 0..1 + random.below(6) {
            change(&mut input, &seeds[random.below(seeds.len())], &mut random);
        }
        if catch_unwind(|| target(&input)).is_err() {
            let path = std::env::temp_dir().join(format!("sandscope-fuzz-{name}-{}", random.0));
            std::fs::write(&path, &input).unwrap();
            panic!("the target {name} failed on {}", path.display());
        }
    }
}

/// One change, anywhere: of a bit, a byte or a number, or something left out, doubled or taken from another seed.
fn change(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let at = random.below(input.len());
    let longest = 1 << random.below(9);
    let len = (1 + random.below(longest)).min(input.len() - at);
    match random.below(8) {
        _ if input.is_empty() => input.push(random.below(256) as u8),
        0 => input[at] ^= 1 << random.below(8),
        1 => input[at] = random.below(256) as u8,
        2 | 3 => {
            let number = NUMBERS[random.below(NUMBERS.len())].wrapping_sub(random.below(2) as u64);
            let width = [1, 2, 4, 8][random.below(4)];
            let bytes = number.to_le_bytes();
            input.iter_mut().skip(at).take(width).zip(bytes).for_each(|(byte, new)| *byte = new);
        }
        4 => drop(input.drain(at..at + len)),
        5 => input.extend_from_within(at..at + len),
        6 => {
            let piece = input[at..at + len].to_vec();
            let to = random.below(input.len());
            input.splice(to..to, piece);
        }
        _ => {
            let from = random.below(other.len());
            let piece = other[from..other.len().min(from + len)].to_vec();
            let end = input.len().min(at + piece.len());
            input.splice(at..end, piece);
        }
    }
}

/// Small numbers without a pattern (xorshift).
struct Random(u64);

impl Random {
    /// Below `bound`; 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize % bound.max(1)
    }
}

//! One process of `bench symbols`: opens a module, answers the first address, then, if there are more, all of them
//! again and again.
//! Says four numbers on stdout: seconds to the first symbol, lookups per second, peak memory in MiB, frames per
//! address. Times are the thread's CPU time: benchmarks share their machines.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian};
use anyhow::{Context, Result, bail};
use sandscope_symbols::{Shared, SymbolFile};
use wasmparser::{Parser, Payload};

use crate::clock;

/// Warm passes are repeated for so much CPU time.
const WARM: Duration = Duration::from_secs(1);

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `sandscope_symbols::SymbolFile`.
    Ours,
    /// `addr2line::Context` over the module's bytes.
    Addr2line,
}

impl Side {
    /// For command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Addr2line => "addr2line",
        }
    }
}

/// Runs the process; `addresses` is a file of 64-bit numbers, little-endian.
pub fn run(side: &str, module: &str, addresses: &str) -> Result<()> {
    let addresses: Vec<u64> = std::fs::read(addresses)?
        .chunks_exact(8)
        .map(|bytes| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
        .collect();
    let module = Path::new(module);
    match side {
        "ours" => ours(module, &addresses),
        "addr2line" => addr2line(module, &addresses),
        side => bail!("no side {side}"),
    }
}

fn ours(module: &Path, addresses: &[u64]) -> Result<()> {
    let started = clock::thread();
    let bytes = std::fs::read(module)?;
    let bytes: Shared = Arc::new(bytes);
    let file = SymbolFile::parse_shared(&bytes)?;
    let start = file.code_starts().next().context("the module has no code")?;
    measure(started, addresses, |address| {
        let mut frames = 0;
        for frame in file.lookup(start + address).frames() {
            black_box((&frame.function, &frame.linkage, &frame.file, frame.line, frame.column));
            frames += 1;
        }
        Ok(frames)
    })
}

fn addr2line(module: &Path, addresses: &[u64]) -> Result<()> {
    let started = clock::thread();
    let bytes = std::fs::read(module)?;
    let mut sections = Vec::new();
    for payload in Parser::new(0).parse_all(&bytes) {
        if let Payload::CustomSection(section) = payload? {
            sections.push((section.name(), section.data()));
        }
    }
    let dwarf = Dwarf::load(|id| {
        let found = sections.iter().find(|(name, _)| *name == id.name());
        let data = found.map_or(&[][..], |(_, data)| *data);
        Ok::<_, std::convert::Infallible>(EndianSlice::new(data, LittleEndian))
    })?;
    let context = addr2line::Context::from_dwarf(dwarf)?;
    measure(started, addresses, |address| {
        let mut all = context.find_frames(address).skip_all_loads()?;
        let mut frames = 0;
        while let Some(frame) = all.next()? {
            let name = frame.function.as_ref().map(addr2line::FunctionName::raw_name).transpose()?;
            let place = frame.location.as_ref().map(|place| (place.file, place.line, place.column));
            black_box((&name, &place));
            frames += 1;
        }
        Ok(frames)
    })
}

/// `started` is before the module was opened.
fn measure(started: Duration, addresses: &[u64], mut lookup: impl FnMut(u64) -> Result<usize>) -> Result<()> {
    lookup(*addresses.first().context("no address")?)?;
    let first = clock::thread() - started;
    if addresses.len() == 1 {
        println!("{} 0 0 0", first.as_secs_f64());
        return Ok(());
    }
    let mut pass = || addresses.iter().map(|address| lookup(black_box(*address))).sum::<Result<usize>>();
    let frames = pass()?;
    let peak = super::peak("self")?;
    let (started, mut passes) = (clock::thread(), 0);
    while clock::thread() - started < WARM {
        pass()?;
        passes += 1;
    }
    let rate = (passes * addresses.len()) as f64 / (clock::thread() - started).as_secs_f64();
    println!("{} {rate} {peak} {}", first.as_secs_f64(), frames as f64 / addresses.len() as f64);
    Ok(())
}

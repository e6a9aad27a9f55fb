//! `cargo xtask bench symbols`: how fast an offset becomes frames, beside the crate `addr2line` and
//! `llvm-symbolizer` on the same addresses.
//!
//! Each side opens each guest in fresh processes, in turn, so that its first symbol is cold and its peak memory its
//! own; LLVM's tool is one process that is fed on stdin. Frames are read, not copied: names as each side keeps
//! them (ours demangled, the others' as the linker wrote them), paths, lines and columns, inlined calls included.

mod llvm;
pub mod side;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use wasmparser::{Parser, Payload};

use crate::stats::{Random, quantile};
use crate::verdict::Verdict;
use side::Side;

/// With debug info; the first one is the largest.
const GUESTS: &[&str] = &["image", "analytics", "inference", "pricing"];
/// Addresses of each guest.
const ADDRESSES: usize = 20_000;
/// Processes of each side and guest; each starts with another address.
const PROCESSES: usize = 15;
const QUICK_PROCESSES: usize = 3;

/// Processes of each side and guest that only answer one address: the first symbol takes milliseconds, of which a
/// shared machine adds or takes a tenth.
const COLD: usize = 151;

/// Lookups per second, warm.
const MIN_RATE: f64 = 2e6;
/// As often as LLVM's tool.
const MIN_FACTOR: f64 = 5.0;
/// Of the first symbol of the largest guest, in seconds.
const MAX_FIRST: f64 = 0.1;

/// What one process, or the median one, has shown.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// From a path to the first frames, in seconds.
    pub first: f64,
    /// Lookups per second of a warm pass over all addresses.
    pub rate: f64,
    /// Peak resident memory after all addresses, in MiB.
    pub peak: f64,
    /// Frames per address.
    pub frames: f64,
}

impl Figures {
    fn median(all: &[Self]) -> Self {
        let of = |pick: fn(&Self) -> f64| quantile(&all.iter().map(pick).collect::<Vec<_>>(), 0.5);
        Self { first: of(|f| f.first), rate: of(|f| f.rate), peak: of(|f| f.peak), frames: of(|f| f.frames) }
    }
}

/// Measures and prints; the error says which bounds are broken.
pub fn run(quick: bool) -> Result<()> {
    let mut verdict = Verdict::new();
    println!("| guest | side | frames per address | first symbol | lookups/s, warm | peak memory |");
    println!("|---|---|---|---|---|---|");
    for (index, name) in GUESTS.iter().enumerate() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests").join(format!("{name}.wasm"));
        let addresses = addresses(&path)?;
        let processes = if quick { QUICK_PROCESSES } else { PROCESSES };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for turn in 0..processes {
            for (side, all) in [(Side::Ours, &mut ours), (Side::Addr2line, &mut theirs)] {
                all.push(process(side, &path, &addresses, turn)?);
            }
        }
        let (mut ours, mut theirs) = (Figures::median(&ours), Figures::median(&theirs));
        let ratio;
        (ours.first, theirs.first, ratio) =
            cold(&path, &addresses, if quick { QUICK_PROCESSES } else { COLD })?;
        let llvm = llvm::measure(&path, &addresses)?;
        print(name, "sandscope", Some(ours));
        print(name, "addr2line 0.27", Some(theirs));
        print(name, llvm::TOOL, llvm);
        if index == 0 {
            verdict.add(ours.rate >= MIN_RATE, format!("{name}: at least {:.0} M lookups/s", MIN_RATE / 1e6));
            verdict.add(
                ours.first <= MAX_FIRST,
                format!("{name}: first symbol within {:.0} ms", MAX_FIRST * 1e3),
            );
        }
        verdict
            .add(ratio <= 1.0, format!("{name}: first symbol no later than addr2line's ({ratio:.2} of it)"));
        if let Some(llvm) = llvm {
            let factor = ours.rate / llvm.rate;
            let what = format!("{name}: {factor:.0} times llvm-symbolizer's rate, at least {MIN_FACTOR}");
            verdict.add(factor >= MIN_FACTOR, what);
        }
    }
    println!("\n{verdict}");
    match verdict.broken() {
        0 => Ok(()),
        broken => bail!("{broken} bounds are broken"),
    }
}

/// Medians of both sides' first symbols, in seconds, and of the ratio between processes that took turns.
fn cold(module: &Path, addresses: &[u64], processes: usize) -> Result<(f64, f64, f64)> {
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for (turn, address) in addresses.iter().take(processes).enumerate() {
        let one = |side| Ok::<_, anyhow::Error>(process(side, module, &[*address], 0)?.first);
        let (a, b) = if turn % 2 == 0 {
            let a = one(Side::Ours)?;
            (a, one(Side::Addr2line)?)
        } else {
            let b = one(Side::Addr2line)?;
            (one(Side::Ours)?, b)
        };
        ours.push(a);
        theirs.push(b);
        ratios.push(a / b);
    }
    Ok((quantile(&ours, 0.5), quantile(&theirs, 0.5), quantile(&ratios, 0.5)))
}

fn print(guest: &str, side: &str, figures: Option<Figures>) {
    match figures {
        None => println!("| {guest} | {side} | not installed | | | |"),
        Some(Figures { first, rate, peak, frames }) => println!(
            "| {guest} | {side} | {frames:.2} | {:.2} ms | {:.3} M | {peak:.1} MiB |",
            first * 1e3,
            rate / 1e6
        ),
    }
}

/// Random instructions of a core module, relative to its Code section's content.
fn addresses(path: &Path) -> Result<Vec<u64>> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let (mut start, mut all) = (0, Vec::new());
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload? {
            Payload::CodeSectionStart { range, .. } => start = range.start,
            Payload::CodeSectionEntry(body) => {
                for operator in body.get_operators_reader()?.into_iter_with_offsets() {
                    all.push((operator?.1 - start) as u64);
                }
            }
            _ => {}
        }
    }
    let mut random = Random(1);
    Ok((0..ADDRESSES).map(|_| all[random.below(all.len())]).collect())
}

/// One fresh process of one side.
fn process(side: Side, module: &Path, addresses: &[u64], turn: usize) -> Result<Figures> {
    let file = tempfile::NamedTempFile::new()?;
    let from = turn * addresses.len() / PROCESSES;
    let (before, after) = addresses.split_at(from);
    let bytes: Vec<u8> = after.iter().chain(before).flat_map(|address| address.to_le_bytes()).collect();
    std::fs::write(file.path(), bytes)?;
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.args(["symbols-side", side.name()]).arg(module).arg(file.path()).output()?;
    if !output.status.success() {
        bail!("{}: {}", side.name(), String::from_utf8_lossy(&output.stderr));
    }
    let text = String::from_utf8(output.stdout)?;
    let numbers: Vec<f64> =
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("read a side's figures")?;
    let [first, rate, peak, frames] = numbers[..] else { bail!("not four figures: {text}") };
    Ok(Figures { first, rate, peak, frames })
}

/// Peak resident memory of a process that still runs, in MiB.
fn peak(process: &str) -> Result<f64> {
    let status = std::fs::read_to_string(PathBuf::from("/proc").join(process).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("find VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}

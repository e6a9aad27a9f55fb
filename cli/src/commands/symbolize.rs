//! `sandscope symbolize`: addr2line for wasm. What is known of the module is gathered here; how it is printed is in
//! `addr2line.rs`.

use std::io::{BufRead, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sandscope_host::runner::GuestFile;
use sandscope_model::text::visible;
use sandscope_model::{FileIds, ModuleId};
use sandscope_symbols::{References, Sources, SymbolFile};

use super::addr2line::{Printer, Style};
use crate::args::SymbolizeArgs;
use crate::lookup::Lookup;
use crate::problem::{Problem, chain};

/// Most split files beside a module that are read.
const MAX_BESIDE: usize = 4096;

/// Prints the frames of each address.
pub fn symbolize(args: &SymbolizeArgs) -> Result<ExitCode, Problem> {
    let module = GuestFile::read(&args.module, None, None)?.bytes;
    let symbols = gather(args, &module)?;
    let start = if args.section_relative { code_start(&symbols)? } else { 0 };
    let style = if args.json {
        Style::Json
    } else if args.style.is_any() {
        Style::Addr2line(args.style)
    } else {
        Style::Everything
    };
    let out = std::io::stdout().lock();
    let mut printer = Printer::new(out, style);
    let mut each = |text: &str| -> Result<bool, Problem> {
        let address = parse(text).ok_or_else(|| {
            Problem::usage(format!("read the address {text:?}")).next("Give 0x1f3a or 8122.")
        })?;
        let lookup = symbols.lookup(address.saturating_add(start));
        written(printer.print(address, &lookup.to_frames()))
    };
    if args.addresses.is_empty() {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| Problem::usage(format!("read addresses from stdin: {error}")))?;
            if !line.trim().is_empty() && !each(line.trim())? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    } else {
        for address in &args.addresses {
            if !each(address)? {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
    written(printer.finish())?;
    Ok(ExitCode::SUCCESS)
}

/// `false` if nobody reads any more, which is how `| head` ends.
fn written(result: std::io::Result<()>) -> Result<bool, Problem> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Problem::internal(format!("write to stdout: {error}"))),
    }
}

/// The module with the files that were named, else with those beside it or in the store. What could not be used is
/// said on stderr.
fn gather(args: &SymbolizeArgs, module: &[u8]) -> Result<SymbolFile, Problem> {
    let parse = |files: &[Vec<u8>]| {
        let sources = files.iter().fold(Sources::new(module), |sources, file| sources.with(file));
        SymbolFile::parse_with(&sources).map_err(|error| Problem::usage(chain(&error)))
    };
    let say = |notes: Vec<String>| notes.iter().for_each(|note| eprintln!("sandscope: {}", visible(note)));
    if !args.debug.is_empty() {
        let read = |path: &PathBuf| {
            std::fs::read(path).map_err(|error| Problem::usage(format!("read {}: {error}", path.display())))
        };
        let files: Vec<Vec<u8>> = args.debug.iter().map(read).collect::<Result<_, _>>()?;
        let symbols = parse(&files)?;
        say(symbols.notes().iter().map(ToString::to_string).collect());
        return Ok(symbols);
    }
    let alone = parse(&[])?;
    let beside = beside(&args.module, &alone.references());
    let symbols = if beside.is_empty() { alone } else { parse(&beside)? };
    if symbols.has_lines() {
        say(symbols.notes().iter().map(ToString::to_string).collect());
        return Ok(symbols);
    }
    let found = Lookup::of_user().symbols(&ModuleId::of(module), Some(module));
    say(found.notes);
    if let Some(stored) = found.symbols.filter(SymbolFile::has_lines) {
        say(stored.notes().iter().map(ToString::to_string).collect());
        return Ok(stored);
    }
    say(symbols.notes().iter().map(ToString::to_string).collect());
    let ids = FileIds::of(module);
    let wanted: Vec<&str> = ids.all().map(ModuleId::as_str).collect();
    eprintln!(
        "sandscope: no lines are known; `sandscope symbols push` its debug file, with the id {}",
        wanted.join(" or ")
    );
    Ok(symbols)
}

/// The files that the module names and that lie beside it. Guests choose these names: of each, only what follows
/// the last slash is used, and only plain files are opened.
fn beside(module: &Path, named: &References) -> Vec<Vec<u8>> {
    let folder = module.parent().unwrap_or(Path::new(""));
    let last = |name: &str| name.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
    let mut names: Vec<String> = named.source_map.iter().map(|url| last(url)).collect();
    if !named.split.is_empty() {
        for stem in [module.file_name(), module.file_stem()].into_iter().flatten() {
            names.push(format!("{}.dwp", stem.to_string_lossy()));
        }
        names.extend(named.split.iter().take(MAX_BESIDE).map(|(name, _)| last(name)));
    }
    names.retain(|name| !matches!(name.as_str(), "" | "." | ".."));
    let paths = names.iter().map(|name| folder.join(name)).filter(|path| path.is_file());
    paths.filter_map(|path| std::fs::read(path).ok()).collect()
}

/// Where the only code section starts.
fn code_start(symbols: &SymbolFile) -> Result<u64, Problem> {
    let starts: Vec<u64> = symbols.code_starts().collect();
    match starts.as_slice() {
        [start] => Ok(*start),
        starts => Err(Problem::usage(format!("count from the code section: the file has {}", starts.len()))
            .next("Give whole-file offsets, without --section-relative.")),
    }
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

//! `sandscope symbolize`: addr2line for wasm.

use std::io::{BufRead, Write};
use std::process::ExitCode;

use sandscope_host::runner::GuestFile;
use sandscope_model::text::visible;
use sandscope_symbols::SymbolFile;
use serde::Serialize;

use crate::args::SymbolizeArgs;
use crate::problem::{Problem, chain};

#[derive(Serialize)]
struct Entry {
    address: u64,
    frames: Vec<Frame>,
}

#[derive(Serialize)]
struct Frame {
    function: String,
    file: Option<String>,
    line: Option<u32>,
    column: Option<u32>,
    inlined: bool,
    source: &'static str,
}

/// Prints the frames of each address.
pub fn symbolize(args: &SymbolizeArgs) -> Result<ExitCode, Problem> {
    let file = GuestFile::read(&args.module, None, None)?;
    let symbols = SymbolFile::parse(&file.bytes).map_err(|error| Problem::usage(chain(&error)))?;
    let mut out = std::io::stdout().lock();
    let mut entries = Vec::new();
    let mut each = |text: &str| -> Result<(), Problem> {
        let address = parse(text).ok_or_else(|| {
            Problem::usage(format!("read the address {text:?}")).next("Give 0x1f3a or 8122.")
        })?;
        let frames: Vec<Frame> = symbols
            .lookup(address)
            .to_frames()
            .iter()
            .map(|frame| Frame {
                function: frame.function.clone(),
                file: frame.file.clone(),
                line: frame.line,
                column: frame.column,
                inlined: frame.inlined,
                source: frame.source.as_str(),
            })
            .collect();
        if args.json {
            entries.push(Entry { address, frames });
            return Ok(());
        }
        let written = print(&mut out, address, &frames);
        written.map_err(|error| Problem::internal(format!("write to stdout: {error}")))
    };
    if args.addresses.is_empty() {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(|error| Problem::usage(format!("read addresses from stdin: {error}")))?;
            if !line.trim().is_empty() {
                each(line.trim())?;
            }
        }
    } else {
        args.addresses.iter().try_for_each(|address| each(address))?;
    }
    if args.json {
        let json = serde_json::to_string_pretty(&entries).map_err(Problem::internal)?;
        println!("{json}");
    }
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, address: u64, frames: &[Frame]) -> std::io::Result<()> {
    if frames.is_empty() {
        writeln!(out, "{address:#x}: ??")?;
    }
    for (depth, frame) in frames.iter().enumerate() {
        let place = match (&frame.file, frame.line) {
            (Some(file), Some(line)) => format!("{}:{line}", visible(file)),
            (Some(file), None) => format!("{}:?", visible(file)),
            _ => "??:0".to_owned(),
        };
        let lead = if depth == 0 { format!("{address:#x}: ") } else { " (inlined by) ".to_owned() };
        writeln!(out, "{lead}{} at {place} [{}]", visible(&frame.function), frame.source)?;
    }
    Ok(())
}

fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

//! `sandscope export`: a recording for other tools.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use flate2::Compression;
use flate2::write::GzEncoder;
use sandscope_model::SampleKind;
use sandscope_model::text::visible;
use sandscope_recording::{Recording, export};
use sandscope_symbols::with_locals;

use crate::args::{ExportArgs, ExportFormat, ExportKind};
use crate::export::{firefox, otlp, perfetto};
use crate::foreign;
use crate::lookup::Lookup;
use crate::problem::{Problem, chain};
use crate::report::Symbols;
use crate::stopped::Stopped;

/// Writes the recording in another format.
pub fn export(args: &ExportArgs) -> Result<ExitCode, Problem> {
    let recording = foreign::open(&args.file, args.module.as_deref())?;
    let symbols = || {
        let symbols = Symbols::of(&recording, &Lookup::of_user());
        for note in &symbols.notes {
            eprintln!("sandscope: {}", visible(note));
        }
        symbols
    };
    let bytes = match args.to {
        ExportFormat::Coredump => Ok(core_dump(&recording, args.nth)?),
        ExportFormat::Pprof => gzip(&export::pprof(&recording, &symbols())),
        ExportFormat::Folded => Ok(export::folded(&recording, kind(args.kind), &symbols()).into_bytes()),
        ExportFormat::Firefox => firefox::profile(&recording, &symbols()).and_then(|json| gzip(&json)),
        ExportFormat::Perfetto => perfetto::trace(&recording),
        ExportFormat::Otlp => otlp::lines(&recording, &symbols()),
    };
    let bytes = bytes.map_err(|error| Problem::internal(format!("convert the recording: {error}")))?;
    if args.out == Path::new("-") {
        print(&bytes, args.to)?;
    } else {
        write(&args.out, &bytes).map_err(|error| {
            Problem::usage(format!("write {}: {error}", args.out.display()))
                .next("Choose another file with -o, or - for standard output.")
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The core dump that is the `nth` from 1, with the locals that can be derived, and a word on others.
fn core_dump(recording: &Recording, nth: usize) -> Result<Vec<u8>, Problem> {
    let numbers: Vec<u32> = recording.core_dumps().collect();
    let missing = || {
        let which = if numbers.is_empty() { "core dump".to_owned() } else { format!("{nth}. core dump") };
        Problem::usage(format!("export {}: it holds no {which}", recording.name()))
            .next("`sandscope run --record FILE` writes one when the guest traps.")
    };
    let number = nth.checked_sub(1).and_then(|nth| numbers.get(nth)).ok_or_else(missing)?;
    if numbers.len() > 1 {
        let all = numbers.len();
        eprintln!("sandscope: this is core dump {nth} of {all}; --nth N names another");
    }
    let dump = recording.core_dump(*number).map_err(|error| Problem::usage(chain(&error)))?;
    let dump = dump.ok_or_else(missing)?;
    let with_locals = Stopped::of(&dump).and_then(|stopped| {
        let file = stopped.symbols(recording)?;
        let locals = file.derived_locals(&stopped.table, &stopped.dump, &stopped.frames);
        with_locals(&dump, &locals).map_err(|error| format!("failed to {error}"))
    });
    Ok(with_locals.unwrap_or_else(|why| {
        eprintln!("sandscope: no wasm locals were derived: {}", visible(&why));
        dump
    }))
}

fn kind(kind: ExportKind) -> SampleKind {
    match kind {
        ExportKind::Cpu => SampleKind::Cpu,
        ExportKind::Wall => SampleKind::Wall,
        ExportKind::Alloc => SampleKind::Alloc,
    }
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn print(bytes: &[u8], format: ExportFormat) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() && !matches!(format, ExportFormat::Folded | ExportFormat::Otlp) {
        return Err(Problem::usage("print a binary format to a terminal").next("Give a file with -o."));
    }
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // Whoever read it had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(|error| Problem::internal(format!("write to standard output: {error}"))),
    }
}

/// Whole or not at all: beside the file, then in its place.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let done = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path));
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

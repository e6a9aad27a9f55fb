//! `sandscope export`: a recording for other tools.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use flate2::Compression;
use flate2::write::GzEncoder;
use sandscope_model::SampleKind;
use sandscope_recording::{Recording, export};

use crate::args::{ExportArgs, ExportFormat, ExportKind};
use crate::export::{firefox, otlp, perfetto};
use crate::lookup::Lookup;
use crate::problem::{Problem, chain};
use crate::report::Symbols;

/// Writes the recording in another format.
pub fn export(args: &ExportArgs) -> Result<ExitCode, Problem> {
    let recording = Recording::open(&args.file).map_err(|error| Problem::usage(chain(&error)))?;
    let symbols = || {
        let symbols = Symbols::of(&recording, &Lookup::of_user());
        for note in &symbols.notes {
            eprintln!("sandscope: {}", sandscope_model::text::visible(note));
        }
        symbols
    };
    let bytes = match args.to {
        ExportFormat::Coredump => Ok(core_dump(&recording)?),
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

/// The first core dump, and a word on others.
fn core_dump(recording: &Recording) -> Result<Vec<u8>, Problem> {
    let mut numbers = recording.core_dumps();
    let missing = || {
        Problem::usage(format!("export {}: it holds no core dump", recording.name()))
            .next("`sandscope run --record FILE` writes one when the guest traps.")
    };
    let first = numbers.next().ok_or_else(missing)?;
    let more = numbers.count();
    if more > 0 {
        eprintln!("sandscope: the recording holds {more} more core dumps; this is the first");
    }
    recording.core_dump(first).map_err(|error| Problem::usage(chain(&error)))?.ok_or_else(missing)
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

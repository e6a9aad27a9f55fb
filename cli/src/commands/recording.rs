//! `sandscope recording`: whether a file is whole, and saving what one that is not still has.

use std::process::ExitCode;

use sandscope_model::units::bytes;
use sandscope_recording::{Integrity, Recording, RecoverError, recover};
use serde::Serialize;

use crate::args::{RecordingCommand, RecoverArgs, VerifyArgs};
use crate::problem::{Problem, chain};

/// What `recording verify --json` prints: a promise to scripts.
#[derive(Serialize)]
struct Verified<'a> {
    whole: bool,
    /// Whether the file adds up to the checksums at its end; null if it has none.
    checksums: Option<bool>,
    /// Whether its writer ended it.
    closed: bool,
    /// Why it is not whole, or what was missing in the recording that it was recovered from.
    missing: Option<&'a str>,
    recovered: bool,
    format_version: u32,
    bytes: u64,
    chunks: u64,
    messages: u64,
    attachments: u64,
    /// Bytes of the attachments, which hold debug info.
    attached: u64,
    /// Places with other bytes than were written.
    damaged: u64,
    bytes_lost: u64,
    /// Samples that are there without their stacks.
    samples_lost: u64,
    /// Messages that this release does not read.
    unreadable: u64,
}

pub fn recording(command: &RecordingCommand) -> Result<ExitCode, Problem> {
    match command {
        RecordingCommand::Verify(args) => verify(args),
        RecordingCommand::Recover(args) => save(args),
    }
}

/// Says whether a file is whole; exit code 1 if it is not.
fn verify(args: &VerifyArgs) -> Result<ExitCode, Problem> {
    let recording = Recording::open(&args.file).map_err(|error| Problem::usage(chain(&error)))?;
    let failed = |error| Problem::usage(format!("read {}: {error}", recording.name()));
    let sums = recording.sums_agree().map_err(failed)?;
    let whole = recording.integrity().whole() && sums != Some(false);
    if args.json {
        let json = serde_json::to_string(&verified(&recording, whole, sums)).map_err(Problem::internal)?;
        println!("{json}");
    } else {
        print!("{}", text(&recording, whole));
    }
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn verified(recording: &Recording, whole: bool, checksums: Option<bool>) -> Verified<'_> {
    let Integrity {
        closed,
        chunks,
        messages,
        attachments,
        attached,
        damaged,
        bytes_lost,
        samples_lost,
        unreadable,
        ..
    } = *recording.integrity();
    Verified {
        whole,
        checksums,
        closed,
        missing: recording.missing(),
        recovered: recording.recovered().is_some(),
        format_version: recording.format_version(),
        bytes: recording.integrity().bytes,
        chunks,
        messages,
        attachments,
        attached,
        damaged,
        bytes_lost,
        samples_lost,
        unreadable,
    }
}

fn text(recording: &Recording, whole: bool) -> String {
    let integrity = recording.integrity();
    let state = if whole {
        "whole"
    } else if integrity.damaged == 0 && !integrity.whole() {
        "incomplete"
    } else {
        "damaged"
    };
    let mut out = format!(
        "{}: {state}: {}, {} chunks, {} messages, {} attachments\n",
        recording.name(),
        bytes(integrity.bytes),
        integrity.chunks,
        integrity.messages,
        integrity.attachments,
    );
    if let Some(missing) = recording.missing() {
        out.push_str(&format!("{missing}\n"));
    }
    if !whole && integrity.whole() {
        out.push_str("everything in it can be read, but some bytes are not as they were written\n");
    }
    if !whole {
        out.push_str(
            "What is intact can be read as it is, or written to a new file: sandscope recording recover\n",
        );
    }
    out
}

/// Writes the new file and says what is not in it.
fn save(args: &RecoverArgs) -> Result<ExitCode, Problem> {
    let recovered = recover(&args.file, &args.output, args.overwrite).map_err(|error| {
        let exists = matches!(error, RecoverError::Exists { .. });
        let problem = Problem::usage(chain(&error));
        if exists { problem.next("name another file, or add --overwrite") } else { problem }
    })?;
    let output = sandscope_model::text::visible(&args.output.to_string_lossy()).into_owned();
    match recovered {
        Some(recovered) => {
            let missing = sandscope_model::text::visible(&recovered.missing).into_owned();
            eprintln!("sandscope: {output} has everything that was intact; of the original, {missing}");
        }
        None => eprintln!("sandscope: {output} has everything: nothing was missing"),
    }
    Ok(ExitCode::SUCCESS)
}

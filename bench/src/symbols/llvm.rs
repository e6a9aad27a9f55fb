//! `llvm-symbolizer` as a process that is fed on stdin: its start-up is not in its rate. Times are its CPU time.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};

use super::Figures;
use crate::clock;

/// As Debian's package `llvm-19` installs it.
pub const TOOL: &str = "llvm-symbolizer-19";

/// `None` if it is not installed.
pub fn measure(module: &Path, addresses: &[u64]) -> Result<Option<Figures>> {
    if Command::new(TOOL).arg("--version").stdout(Stdio::null()).status().is_err() {
        return Ok(None);
    }
    let mut child = Command::new(TOOL)
        .args(["--inlining", "--no-demangle", "--obj"])
        .arg(module)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut answers = BufReader::new(child.stdout.take().context("stdout is piped")?);
    let first_address = addresses.first().context("no address")?;
    pass(&mut child, &mut answers, &[*first_address])?;
    let first = clock::of_process(child.id()).as_secs_f64();
    let lines = pass(&mut child, &mut answers, addresses)?;
    let peak = super::peak(&child.id().to_string())?;
    let before = clock::of_process(child.id());
    pass(&mut child, &mut answers, addresses)?;
    let rate = addresses.len() as f64 / (clock::of_process(child.id()) - before).as_secs_f64();
    drop(child.stdin.take());
    child.wait()?;
    Ok(Some(Figures { first, rate, peak, frames: lines as f64 / 2.0 / addresses.len() as f64 }))
}

/// Asks for all addresses and reads all answers; how many lines they have. An empty line ends each.
fn pass(child: &mut Child, answers: &mut BufReader<ChildStdout>, addresses: &[u64]) -> Result<usize> {
    let input: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let stdin = child.stdin.as_mut().context("stdin is piped")?;
    std::thread::scope(|threads| {
        let writer = threads.spawn(move || stdin.write_all(input.as_bytes()).and_then(|()| stdin.flush()));
        let (mut left, mut lines, mut line) = (addresses.len(), 0, String::new());
        while left > 0 {
            line.clear();
            anyhow::ensure!(answers.read_line(&mut line)? > 0, "{TOOL} ended early");
            if line.trim().is_empty() { left -= 1 } else { lines += 1 }
        }
        writer.join().map_err(|_| anyhow::anyhow!("the thread that asks panicked"))??;
        Ok(lines)
    })
}

//! The driver's end of a worker process.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::layout;
use crate::worker::Side;
use crate::workloads::Workload;

/// A running worker; ended on drop.
pub struct Process {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// A hash of its machine code, and where that lies.
    pub text: (u64, u64),
}

impl Process {
    /// Starts one that exports every `interval`, with `padding` pages before its code.
    pub fn start(
        workload: &Workload,
        side: Side,
        otlp: &str,
        interval: Duration,
        padding: usize,
    ) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["worker", workload.name, side.name(), otlp]);
        command.args([interval.as_millis().to_string(), padding.to_string()]);
        // With it the engine captures a backtrace at each full GC heap, which is not what is measured.
        command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
        let mut child = layout::fixed(&mut command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a worker")?;
        let stdin = child.stdin.take().context("stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("stdout")?);
        let mut process = Self { child, stdin, stdout, text: (0, 0) };
        process.text = process.answer()?;
        Ok(process)
    }

    /// A request of the worker's protocol and its answer.
    pub fn ask(&mut self, request: &str, count: impl Display) -> Result<(u64, u64)> {
        writeln!(self.stdin, "{request} {count}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<(u64, u64)> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let (first, second) = line.trim().split_once(' ').context("the worker ended")?;
        Ok((first.parse()?, second.parse()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A worker that is gone already needs no ending.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! One process of a benchmark: one engine, bare or observed, that runs calls on request.
//!
//! Protocol: it says `TEXT ADDRESS`, a hash of its machine code and where that lies, and then answers each line
//! on stdin with one on stdout, numbers in nanoseconds and KiB:
//!
//! ```text
//! slice CALLS          -> WALL GUEST       GUEST: CPU time of all threads but sandscope's own
//! background MS        -> GUEST OWN        calls for so long, and the CPU time of sandscope's own threads
//! starts COUNT         -> P50 P99          of stores made and instantiated
//! ```

mod guest;
mod locks;
pub mod memory;

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::workloads::{Call, Workload};
use crate::{clock, layout, stats};
use guest::Guest;
pub use guest::plain;

/// How an engine is looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Not at all, in a process without sandscope.
    Bare,
    /// By sandscope, at 99 Hz, with OTLP to a live collector.
    Observed,
    /// By sandscope with `--alloc`.
    Allocations,
    /// By epoch interruption at 99 Hz and a backtrace at each, which is how the engine's `GuestProfiler`
    /// is driven.
    Epochs,
}

impl Side {
    /// For command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Observed => "observed",
            Self::Allocations => "allocations",
            Self::Epochs => "epochs",
        }
    }

    /// The inverse of [`Self::name`].
    pub fn parse(name: &str) -> Result<Self> {
        let all = [Self::Bare, Self::Observed, Self::Allocations, Self::Epochs];
        all.into_iter().find(|side| side.name() == name).with_context(|| format!("no side {name}"))
    }
}

/// What a worker is to be.
pub struct Arguments<'a> {
    /// Name of the workload.
    pub workload: &'a str,
    /// Name of the side.
    pub side: &'a str,
    /// The collector.
    pub otlp: &'a str,
    /// Milliseconds between exports.
    pub interval: &'a str,
    /// Pages of padding.
    pub padding: &'a str,
}

/// Serves requests until stdin ends. On a thread of its own: unnamed threads inherit the name of the one that
/// starts them, and the main thread has the program's, which begins like that of sandscope's own.
pub fn run(arguments: &Arguments<'_>) -> Result<()> {
    std::thread::scope(|threads| {
        let worker = std::thread::Builder::new().name("guest".to_owned());
        let serving = worker.spawn_scoped(threads, || serve(arguments))?;
        serving.join().unwrap_or_else(|_| bail!("the worker panicked"))
    })
}

fn serve(arguments: &Arguments<'_>) -> Result<()> {
    let workload = Workload::named(arguments.workload)?;
    let interval = Duration::from_millis(arguments.interval.parse().context("an interval")?);
    let hole = layout::Hole::reserve(arguments.padding.parse().context("pages of padding")?)?;
    let guest = Guest::new(workload, Side::parse(arguments.side)?, arguments.otlp, interval, hole)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = |calls: u32| match workload.call {
        Call::Threads(rounds) => locks::run(&guest, i64::from(calls) * i64::from(rounds)),
        _ => runtime.block_on(guest.calls(calls)),
    };
    let mut out = std::io::stdout().lock();
    let (text, address) = guest.text();
    writeln!(out, "{text} {address}")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (request, count) = line.split_once(' ').context("a request and a number")?;
        let count: u32 = count.parse().context("a number")?;
        let answer = match request {
            "slice" => slice(|| run(count))?,
            "background" => background(Duration::from_millis(count.into()), || run(1))?,
            "starts" => runtime.block_on(starts(&guest, count))?,
            other => bail!("no request {other}"),
        };
        writeln!(out, "{} {}", answer.0, answer.1)?;
        out.flush()?;
    }
    Ok(())
}

/// Wall time, and CPU time of all threads but sandscope's own.
fn slice(run: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
    let own = clock::sandscope();
    let (cpu, started) = (clock::process(), Instant::now());
    run()?;
    let (wall, cpu) = (started.elapsed(), clock::process() - cpu);
    Ok((nanos(wall), nanos(cpu.saturating_sub(clock::sandscope().saturating_sub(own)))))
}

/// CPU time of all threads but sandscope's own, and of sandscope's own.
fn background(during: Duration, run: impl Fn() -> Result<()>) -> Result<(u64, u64)> {
    let (own, cpu, started) = (clock::sandscope(), clock::process(), Instant::now());
    while started.elapsed() < during {
        run()?;
    }
    let cpu = clock::process() - cpu;
    let own = clock::sandscope().saturating_sub(own);
    Ok((nanos(cpu.saturating_sub(own)), nanos(own)))
}

/// Median and 99th percentile of making a store and an instance.
async fn starts(guest: &Guest, count: u32) -> Result<(u64, u64)> {
    let mut times = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let started = Instant::now();
        let instance = guest.start().await?;
        times.push(started.elapsed().as_nanos() as f64);
        drop(instance);
    }
    Ok((stats::quantile(&times, 0.5) as u64, stats::quantile(&times, 0.99) as u64))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

//! What instrumentation costs: each guest in a bare and an instrumented process, and in a second bare one for
//! the noise, in interleaved blocks. The instrumented one samples at 99 Hz and exports to a live collector.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use sandscope_collector::{Collector, Config};

use crate::guests;
use crate::stats::Quartiles;

/// Wall time that one block should take, nanoseconds: some tens of samples.
const BLOCK_NS: u128 = 300_000_000;

/// Runs it and prints a table for docs/BENCHMARKS.md.
pub fn run(quick: bool) -> Result<()> {
    let rounds = if quick { 10 } else { 60 };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let collector =
        runtime.block_on(Collector::bind(Config { otlp: any, query: any, ..Config::default() }))?;
    let otlp = format!("http://{}", collector.otlp_addr());
    runtime.spawn(collector.run(std::future::pending()));

    println!(
        "{rounds} rounds a guest, blocks of {} ms, 99 Hz, OTLP to a live collector; median (quartiles)",
        BLOCK_NS / 1_000_000
    );
    println!();
    println!("| guest | guest time | process CPU | noise: bare/bare time | noise: CPU | added memory |");
    println!("|---|---|---|---|---|---|");
    for guest in guests::ALL {
        let mut bare = Worker::start(guest.name, "bare", &otlp)?;
        let mut again = Worker::start(guest.name, "bare", &otlp)?;
        let mut instrumented = Worker::start(guest.name, "instrumented", &otlp)?;
        // Warm caches, and as many calls a block as fill it.
        let once = bare.block(3)?.wall / 3;
        again.block(3)?;
        instrumented.block(3)?;
        let calls = u32::try_from((BLOCK_NS / u128::from(once.max(1))).clamp(1, 100_000))?;
        let (mut time, mut cpu, mut noise_time, mut noise_cpu) = (vec![], vec![], vec![], vec![]);
        let (mut with, mut without) = (0, 0);
        for round in 0..rounds {
            // The order rotates, so that drift of the machine falls on all alike.
            let (mut a, mut b, mut c) = (None, None, None);
            for turn in 0..3 {
                match (round + turn) % 3 {
                    0 => a = Some(bare.block(calls)?),
                    1 => b = Some(instrumented.block(calls)?),
                    _ => c = Some(again.block(calls)?),
                }
            }
            let (a, b, c) = (a.context("a")?, b.context("b")?, c.context("c")?);
            time.push(b.wall as f64 / a.wall as f64);
            cpu.push(b.cpu as f64 / a.cpu as f64);
            noise_time.push(c.wall as f64 / a.wall as f64);
            noise_cpu.push(c.cpu as f64 / a.cpu as f64);
            (with, without) = (b.peak_kib, a.peak_kib);
        }
        println!(
            "| {} | {} | {} | {} | {} | {:.1} MiB |",
            guest.name,
            Quartiles::of(time),
            Quartiles::of(cpu),
            Quartiles::of(noise_time),
            Quartiles::of(noise_cpu),
            (with as f64 - without as f64) / 1024.0,
        );
    }
    Ok(())
}

struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

struct Block {
    wall: u64,
    cpu: u64,
    peak_kib: u64,
}

impl Worker {
    fn start(guest: &str, mode: &str, otlp: &str) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["worker", guest, mode, otlp])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a worker")?;
        let stdin = child.stdin.take().context("stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("stdout")?);
        Ok(Self { child, stdin, stdout })
    }

    fn block(&mut self, calls: u32) -> Result<Block> {
        writeln!(self.stdin, "{calls}")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let mut numbers = line.split_whitespace().map(str::parse);
        let mut next = || numbers.next().context("the worker ended").and_then(|n| Ok(n?));
        Ok(Block { wall: next()?, cpu: next()?, peak_kib: next()? })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A worker that is gone already needs no ending.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

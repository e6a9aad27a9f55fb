//! What instrumentation costs, beside a bare engine, beside the noise, and beside the engine's own way.
//! docs/BENCHMARKS.md explains the method to readers of the table.

mod measure;
mod process;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sandscope_collector::{Collector, Config};

use crate::layout;
use crate::stats::{Estimate, Random};
use crate::verdict::Verdict;
use crate::worker::{Side, memory::THREADS};
use crate::workloads;
use measure::{Measured, measure};

/// The widest half of a 95 % interval of bare against bare.
const NOISE: f64 = 0.0025;
/// The highest upper end of the interval of the mean over workloads.
const MEAN: f64 = 1.005;
/// The highest upper end of any workload's interval.
const WORST: f64 = 1.01;
/// The highest upper end of any workload's interval with `--alloc`.
const ALLOCATIONS: f64 = 1.02;
/// The most that an instantiation may take longer, 99th percentile, seconds.
const START: f64 = 10e-6;
/// The most that sandscope may hold beside what each thread has, MiB.
const MEMORY_MIB: f64 = 64.0;

/// How much is measured.
pub struct Plan {
    /// Fewest fresh engines a side.
    engines: usize,
    /// Most of them; reached where the noise does not become small.
    most_engines: usize,
    /// Most blocks an engine, two pairs each.
    most_blocks: u64,
    /// Time that the blocks of an engine may take, if that is at least [`FEWEST_BLOCKS`].
    per_engine: Duration,
    /// Wall time of a slice.
    slice: Duration,
    /// Between exports of an observed process.
    interval: Duration,
    /// Instantiations an engine.
    starts: u32,
    /// Workloads loaded at once for the figure of memory.
    loaded: u32,
}

const FULL: Plan = Plan {
    engines: 10,
    most_engines: 20,
    most_blocks: 100,
    per_engine: Duration::from_secs(6),
    slice: Duration::from_millis(20),
    interval: Duration::from_secs(10),
    starts: 5000,
    loaded: 200,
};

const QUICK: Plan = Plan {
    engines: 3,
    most_engines: 3,
    most_blocks: 20,
    per_engine: Duration::from_millis(500),
    slice: Duration::from_millis(5),
    interval: Duration::from_secs(1),
    starts: 500,
    loaded: 10,
};

/// Fewest blocks an engine.
const FEWEST_BLOCKS: u64 = 10;
/// Slices of a block: see [`measure`].
const SLICES: u64 = 9;

impl Plan {
    /// Blocks an engine, with slices of so many ns.
    fn blocks(&self, slice_ns: u64) -> u64 {
        let fitting = self.per_engine.as_nanos() as u64 / (slice_ns * SLICES).max(1);
        fitting.clamp(FEWEST_BLOCKS, self.most_blocks)
    }
}

/// Measures all workloads, or the one called `only`, and prints tables for docs/BENCHMARKS.md. Fails when a
/// bound is broken, unless `quick`: that is too short for verdicts.
pub fn run(quick: bool, only: Option<&str>) -> Result<()> {
    let plan = if quick { QUICK } else { FULL };
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let collector = runtime.block_on(Collector::bind(Config {
        otlp: any,
        query: any,
        http: any,
        ..Config::default()
    }))?;
    let otlp = format!("http://{}", collector.otlp_addr());
    runtime.spawn(collector.run(std::future::pending()));

    println!(
        "At least {} fresh engines a side and {} pairs of {} ms or a call, an export every {} s; ratio to the \
         bare engine (95 % interval)
",
        plan.engines,
        plan.engines as u64 * FEWEST_BLOCKS * 2,
        plan.slice.as_millis(),
        plan.interval.as_secs(),
    );
    println!(
        "| workload | guest time | all blocks | bare/bare | wall time | bare/bare | process CPU | `--alloc` | epochs, 99 Hz | engines |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut random = Random(u64::from(std::process::id()));
    let mut all = Vec::new();
    for workload in workloads::ALL.iter().filter(|workload| only.is_none_or(|only| only == workload.name)) {
        let measured = measure(workload, &plan, &otlp, &mut random).context(workload.name)?;
        row(workload.name, &measured);
        eprintln!("  {:.0} s", started.elapsed().as_secs_f64());
        all.push((workload, measured));
    }
    ensure!(!all.is_empty(), "no such workload; there are {}", names());
    let mut verdict = Verdict::new();
    let bounded: Vec<&Measured> =
        all.iter().filter(|(workload, _)| workload.bounded).map(|(_, measured)| measured).collect();
    if !bounded.is_empty() {
        mean(&bounded);
        judge(&mut verdict, &bounded);
    }
    for (workload, measured) in &all {
        if let Some(allocations) = &measured.allocations {
            let most = allocations.interval().1;
            verdict.add(most <= ALLOCATIONS, format!("{} with --alloc: at most {most:.4}", workload.name));
        }
        if let Some((median, p99)) = measured.start {
            let text = format!(
                "instantiation of {}: {:+.2} µs median, {:+.2} µs 99th percentile",
                workload.name,
                median * 1e6,
                p99 * 1e6
            );
            verdict.add(p99 <= START, text);
        }
    }
    if only.is_none() {
        let added = (resident_mib(Side::Observed, &otlp, plan.loaded)?
            - resident_mib(Side::Bare, &otlp, plan.loaded)?)
            - THREADS as f64 / 16.0;
        let text = format!("{added:.1} MiB held with {} workloads, 64 KiB a thread apart", plan.loaded);
        verdict.add(added <= MEMORY_MIB, text);
    }
    println!("\n{verdict}");
    match verdict.broken() {
        0 => Ok(()),
        _ if quick => {
            println!("\n`--quick` is too short for verdicts: its intervals are wide.");
            Ok(())
        }
        broken => bail!("{broken} bounds broken"),
    }
}

fn row(name: &str, measured: &Measured) {
    let Measured {
        time,
        untrimmed,
        noise,
        wall,
        wall_noise,
        epochs,
        background,
        engines,
        aligned,
        same_code,
        ..
    } = measured;
    let allocations = measured.allocations.as_ref().map_or_else(|| "–".to_owned(), Estimate::to_string);
    let cpu = time.times(1.0 + background);
    let other = if *same_code { "" } else { ", other code" };
    println!(
        "| {name} | {time} | {:.4} | {noise} | {wall} | {wall_noise} | {cpu} | {allocations} | {:.2} | {engines}, {aligned} aligned{other} |",
        untrimmed.ratio(),
        epochs.ratio()
    );
}

/// The geometric mean over workloads of a figure.
fn over(all: &[&Measured], pick: impl Fn(&Measured) -> Estimate) -> Estimate {
    let picked: Vec<Estimate> = all.iter().map(|measured| pick(measured)).collect();
    Estimate::mean(&picked.iter().collect::<Vec<_>>())
}

fn cpu(measured: &Measured) -> Estimate {
    measured.time.times(1.0 + measured.background)
}

fn mean(all: &[&Measured]) {
    println!(
        "| **geometric mean** (bounded ones) | {} | {:.4} | {} | {} | {} | {} | – | {:.2} | |",
        over(all, |measured| measured.time.clone()),
        over(all, |measured| measured.untrimmed.clone()).ratio(),
        over(all, |measured| measured.noise.clone()),
        over(all, |measured| measured.wall.clone()),
        over(all, |measured| measured.wall_noise.clone()),
        over(all, cpu),
        over(all, |measured| measured.epochs.clone()).ratio(),
    );
}

fn judge(verdict: &mut Verdict, all: &[&Measured]) {
    let mut bound = |name, pick: fn(&Measured) -> Estimate| {
        let (_, mean) = over(all, pick).interval();
        verdict.add(mean <= MEAN, format!("{name}, geometric mean: at most {mean:.4}"));
        let worst = all.iter().map(|measured| pick(measured).interval().1).fold(0.0, f64::max);
        verdict.add(worst <= WORST, format!("{name}, worst workload: at most {worst:.4}"));
    };
    bound("guest time", |measured| measured.time.clone());
    bound("process CPU", cpu);
    let noise = over(all, |measured| measured.noise.clone());
    let (low, high) = noise.interval();
    let text = format!("bare/bare, geometric mean: {low:.4}–{high:.4}");
    verdict.add(low <= 1.0 && high >= 1.0 && noise.half_width() <= NOISE, text);
    let widest = all.iter().map(|measured| measured.noise.half_width()).fold(0.0, f64::max);
    verdict.add(widest <= NOISE, format!("bare/bare, widest workload: ±{widest:.4}"));
}

/// Resident set of a process with many workloads loaded.
fn resident_mib(side: Side, otlp: &str, count: u32) -> Result<f64> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["memory", side.name(), otlp, &count.to_string()]);
    let output = layout::fixed(&mut command).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().parse::<f64>()? / 1024.0)
}

fn names() -> String {
    workloads::ALL.iter().map(|workload| workload.name).collect::<Vec<_>>().join("; ")
}

//! Whether samples tell the truth: guests whose CPU time and waits are known by another clock, and what sandscope
//! says.

mod planted;
mod waits;

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sandscope_host::{Sandscope, WorkloadId};
use sandscope_model::Frame;
use sandscope_recording::{RecordedProfile, Recording};
use wasmtime::{Config, Engine};

use crate::stats::Random;
use crate::verdict::Verdict;
use crate::worker::plain;
use crate::workloads;
use planted::{BLOCKS, Clocked};

/// Farthest that a share may be from the truth.
const SHARE: f64 = 0.02;
/// Farthest that a changed share's difference may be from the true difference.
const CHANGE: f64 = 0.03;
/// Least part of busy threads that is seen.
const SEEN: f64 = 0.97;

/// Farthest that the time of a function's waits may be from the truth, as a part of it.
const OFF_CPU: f64 = 0.02;

/// Time of the waits of an experiment: of the short ones only a share is recorded, so that few say little.
const WAITS: Duration = Duration::from_secs(30);
const QUICK_WAITS: Duration = Duration::from_secs(10);

/// CPU time of each thread of an experiment.
const FULL: Duration = Duration::from_secs(60);
const QUICK: Duration = Duration::from_secs(15);

/// Runs all experiments at the default rate and prints a table for docs/BENCHMARKS.md. Fails when a bound is
/// broken.
pub fn run(quick: bool) -> Result<()> {
    let cpu = if quick { QUICK } else { FULL };
    let mut table = Table::new(cpu);
    let mut random = Random(u64::from(std::process::id()));
    for (name, weights) in [("50/50", [0.5, 0.5, 0.0]), ("80/20", [0.8, 0.2, 0.0])] {
        let seen = experiment(&[(weights, cpu)], &mut random)?;
        table.misplaced += seen.misplaced;
        let (truth, sampled) = seen.threads[0].shares(0);
        table.row(&format!("one thread, {name}: first block's share"), truth, sampled, SHARE);
    }
    // The middle block takes twice as long, as after a bad change.
    let before = experiment(&[([0.3, 0.3, 0.3], cpu)], &mut random)?;
    let after = experiment(&[([0.3, 0.6, 0.3], cpu)], &mut random)?;
    table.misplaced += before.misplaced + after.misplaced;
    let ((truth0, sampled0), (truth1, sampled1)) = (before.threads[0].shares(1), after.threads[0].shares(1));
    table.row(
        "second of three blocks twice as slow: its share grows by",
        truth1 - truth0,
        sampled1 - sampled0,
        CHANGE,
    );
    for count in [2, 4] {
        // Thread k of n is busy for k parts.
        let threads: Vec<_> = (1..=count).map(|k| ([0.5, 0.5, 0.0], cpu * k / count)).collect();
        let seen = experiment(&threads, &mut random)?;
        table.misplaced += seen.misplaced;
        let clocked: f64 = seen.threads.iter().map(|thread| thread.clocked.all.as_secs_f64()).sum();
        let sampled: f64 = seen.threads.iter().map(|thread| thread.all as f64 * 1e-9).sum();
        for (index, thread) in seen.threads.iter().enumerate() {
            let name = format!("{count} threads: share of thread {}", index + 1);
            table.row(
                &name,
                thread.clocked.all.as_secs_f64() / clocked,
                thread.all as f64 * 1e-9 / sampled,
                SHARE,
            );
        }
        table.busy(count, sampled / clocked);
    }
    let waits = waits::run(if quick { QUICK_WAITS } else { WAITS }, &mut random)?;
    for (name, (clocked, recorded)) in ["first", "second"].into_iter().zip(waits.each()) {
        table.off_cpu(name, clocked, recorded);
    }
    table.finish()
}

/// One thread of an experiment: what its clock and what its samples say.
struct Thread {
    clocked: Clocked,
    /// Sampled nanoseconds of each block.
    blocks: [u64; BLOCKS],
    /// Sampled nanoseconds.
    all: u64,
}

impl Thread {
    /// True and sampled share of a block.
    fn shares(&self, block: usize) -> (f64, f64) {
        let clocked: Duration = self.clocked.blocks.iter().sum();
        let sampled: u64 = self.blocks.iter().sum();
        (
            self.clocked.blocks[block].as_secs_f64() / clocked.as_secs_f64(),
            self.blocks[block] as f64 / sampled.max(1) as f64,
        )
    }
}

struct Seen {
    threads: Vec<Thread>,
    /// Samples in a module other than the workload's own.
    misplaced: u64,
}

/// Runs each thread's module on it, beside a loaded module that never runs, and reads the recording.
fn experiment(threads: &[([f64; BLOCKS], Duration)], random: &mut Random) -> Result<Seen> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recording.mcap");
    let scope = Sandscope::builder().service("bench").record(&path).build()?;
    let mut config = Config::new();
    scope.configure(&mut config);
    let engine = Engine::new(&config).map_err(plain)?;
    let text = wat::parse_str(planted::TEXT)?;
    let places = planted::places(&text)?;
    ensure!(places.len() == BLOCKS, "the guest has {} blocks", places.len());
    // One more than threads: the last is loaded and idle.
    let modules: Vec<_> = (0..=threads.len() as u32)
        .map(|number| {
            let id = WorkloadId::new(&format!("planted {number}"), "1");
            scope.load_module(&engine, &workloads::version(&text, number), &id, "planted.wasm")
        })
        .collect::<wasmtime::Result<_>>()
        .map_err(plain)?;
    let clocked = std::thread::scope(|scope| {
        let engine = &engine;
        let running: Vec<_> = threads
            .iter()
            .zip(&modules)
            .map(|(&(weights, cpu), guest)| {
                let seed = random.draw();
                scope.spawn(move || planted::run(engine, guest, weights, cpu, seed))
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, wasmtime::Result<Clocked>>| match thread.join()
        {
            Ok(result) => result.map_err(plain),
            Err(_) => bail!("a thread panicked"),
        };
        running.into_iter().map(join).collect::<Result<Vec<Clocked>>>()
    })?;
    scope.shutdown();
    let recording = Recording::open(&path)?;
    let profile = |number: usize| {
        let own = modules.get(number).map(|module| module.workload().id());
        recording.profiles().iter().find(|recorded| Some(&recorded.workload) == own)
    };
    let threads = clocked.into_iter().enumerate().map(|(number, clocked)| {
        let recorded = profile(number).with_context(|| format!("no samples of thread {number}"))?;
        let (blocks, all) = planted::sampled(&recorded.profile, &places);
        Ok(Thread { clocked, blocks, all })
    });
    let threads = threads.collect::<Result<Vec<_>>>()?;
    let idle = profile(threads.len()).map_or(0, |recorded| recorded.profile.samples());
    let misplaced = recording.profiles().iter().map(|recorded| {
        let module = modules.iter().find(|module| module.workload().id() == &recorded.workload);
        module.map_or(recorded.profile.samples(), |module| strangers(recorded, module.workload()))
    });
    Ok(Seen { misplaced: idle + misplaced.sum::<u64>(), threads })
}

/// Samples with a frame in a module that is not the workload's.
fn strangers(recorded: &RecordedProfile, workload: &sandscope_host::Workload) -> u64 {
    let profile = &recorded.profile;
    let strange = |frame: &u32| match &profile.frames[*frame as usize] {
        Frame::Guest { module, .. } => profile.modules[*module as usize] != *workload.module(),
        Frame::Host(_) => false,
    };
    profile.iter().filter(|(stack, _)| stack.iter().any(strange)).map(|(_, weight)| weight.samples).sum()
}

/// The printed table and its bounds.
struct Table {
    verdict: Verdict,
    misplaced: u64,
}

impl Table {
    fn new(cpu: Duration) -> Self {
        println!("99 Hz, {} s of CPU time for the busiest thread of each experiment\n", cpu.as_secs());
        println!("| planted | by the thread's clock | sampled | off by | bound |");
        println!("|---|---|---|---|---|");
        Self { verdict: Verdict::new(), misplaced: 0 }
    }

    fn row(&mut self, name: &str, truth: f64, sampled: f64, bound: f64) {
        let off = (sampled - truth) * 100.0;
        println!(
            "| {name} | {:.2} % | {:.2} % | {off:+.2} points | ±{:.0} points |",
            truth * 100.0,
            sampled * 100.0,
            bound * 100.0
        );
        self.verdict.add((sampled - truth).abs() <= bound, format!("{name}: {off:+.2} points"));
    }

    fn off_cpu(&mut self, function: &str, clocked: Duration, recorded: Duration) {
        let (truth, recorded) = (clocked.as_secs_f64(), recorded.as_secs_f64());
        let off = recorded / truth - 1.0;
        let bound = OFF_CPU * 100.0;
        println!(
            "| waits of 0.2 to 30 ms: off-CPU time of the {function} function | {truth:.3} s | {recorded:.3} s \
             | {:+.2} % | ±{bound:.0} % |",
            off * 100.0
        );
        let what = format!("off-CPU time of the {function} function: {:+.2} %", off * 100.0);
        self.verdict.add(off.abs() <= OFF_CPU, what);
    }

    fn busy(&mut self, count: u32, seen: f64) {
        println!(
            "| {count} threads: CPU time | 100.00 % | {:.2} % | | ≥ {:.0} % |",
            seen * 100.0,
            SEEN * 100.0
        );
        self.verdict.add(seen >= SEEN, format!("{count} busy threads: seen as {seen:.3} of them each"));
    }

    fn finish(mut self) -> Result<()> {
        println!("| samples in a module that was not running | 0 | {} | | 0 |", self.misplaced);
        self.verdict.add(self.misplaced == 0, format!("{} samples in a wrong module", self.misplaced));
        println!("\n{}", self.verdict);
        match self.verdict.broken() {
            0 => Ok(()),
            broken => bail!("{broken} bounds broken"),
        }
    }
}

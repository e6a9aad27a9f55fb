//! `cargo xtask bench storm`: a guest that traps a thousand times a second beside one that behaves, in one host with the
//! flight recorder on. Blocks with the storm alternate with quiet ones; how much quiet blocks differ among themselves
//! stands beside how much the storm changes.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sandscope_host::{Loaded, Recordings, Sandscope, WorkloadId};
use wasmtime::{Config, Engine, Instance, Module, Store};

use crate::stats::quantile;
use crate::verdict::Verdict;

/// `work` computes for some tens of microseconds, `bad` traps.
const GUEST: &str = r#"(module
    (func (export "bad") unreachable)
    (func (export "work") (local $n i32)
        (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 50000))))))"#;

/// Time between two calls of the neighbour, and between two traps.
const CALL: Duration = Duration::from_millis(2);
const TRAP: Duration = Duration::from_millis(1);

/// How blocks are laid out: quiet and storm in turn.
struct Plan {
    block: Duration,
    pairs: usize,
}

/// Measures and prints; the error says which bounds are broken.
pub fn run(quick: bool) -> Result<()> {
    let plan = if quick {
        Plan { block: Duration::from_secs(2), pairs: 3 }
    } else {
        Plan { block: Duration::from_secs(5), pairs: 12 }
    };
    let folder = tempfile::tempdir()?;
    let directory = folder.path().join("recordings");
    let scope = Sandscope::builder().recordings(Recordings::to(&directory)).build()?;
    let guest = |name| load(&scope, name).map_err(|error| anyhow::Error::msg(error.to_string()));
    let (neighbour, noisy) = (guest("neighbour")?, guest("noisy")?);
    let (is_storm, is_over, traps) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let (quiet, storm) = std::thread::scope(|threads| {
        threads.spawn(|| trap(&noisy, &is_storm, &is_over, &traps));
        let measured = measure(&plan, &neighbour, &is_storm);
        is_over.store(true, Relaxed);
        measured
    })?;
    scope.shutdown();
    report(&plan, &quiet, &storm, traps.into_inner(), &directory)
}

fn load(scope: &Sandscope, name: &str) -> wasmtime::Result<Loaded<Module>> {
    let mut config = Config::new();
    scope.configure(&mut config);
    let engine = Engine::new(&config)?;
    let bytes = wat::parse_str(GUEST)?;
    scope.load_module(&engine, &bytes, &WorkloadId::new(name, "1"), "guest.wasm")
}

/// One call in an instance of its own, dump of a failure included.
fn call(guest: &Loaded<Module>, function: &str) -> wasmtime::Result<()> {
    let mut store = Store::new(guest.engine(), guest.workload().store_probe());
    store.limiter(|probe| probe);
    let instance = guest.workload().instantiate(|| Instance::new(&mut store, guest, &[]))?;
    let function = instance.get_typed_func::<(), ()>(&mut store, function)?;
    let result = guest.workload().call(|| function.call(&mut store, ()));
    if let Err(error) = &result {
        guest.workload().core_dump(&mut store, error, "main", &[]);
    }
    result
}

fn trap(noisy: &Loaded<Module>, is_storm: &AtomicBool, is_over: &AtomicBool, traps: &AtomicU64) {
    let mut next = Instant::now();
    while !is_over.load(Relaxed) {
        next = (next + TRAP).max(Instant::now() - TRAP);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        if is_storm.load(Relaxed) && call(noisy, "bad").is_err() {
            traps.fetch_add(1, Relaxed);
        }
    }
}

/// The neighbour's 99th percentile in each block, in seconds: quiet ones, and those with the storm.
fn measure(plan: &Plan, guest: &Loaded<Module>, is_storm: &AtomicBool) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut quiet, mut storm) = (Vec::new(), Vec::new());
    for nth in 0..2 * plan.pairs {
        is_storm.store(nth % 2 == 1, Relaxed);
        let (start, mut times) = (Instant::now(), Vec::new());
        while start.elapsed() < plan.block {
            let called = Instant::now();
            call(guest, "work").map_err(|error| anyhow::Error::msg(error.to_string()))?;
            times.push(called.elapsed().as_secs_f64());
            std::thread::sleep(CALL.saturating_sub(called.elapsed()));
        }
        let p99 = quantile(&times, 0.99);
        if nth % 2 == 1 { storm.push(p99) } else { quiet.push(p99) }
    }
    Ok((quiet, storm))
}

fn report(plan: &Plan, quiet: &[f64], storm: &[f64], traps: u64, directory: &Path) -> Result<()> {
    let files = std::fs::read_dir(directory).context("look into the directory of recordings")?;
    let sizes: Vec<u64> = files.flatten().filter_map(|entry| Some(entry.metadata().ok()?.len())).collect();
    let ratios: Vec<f64> = storm.iter().zip(quiet).map(|(storm, quiet)| storm / quiet).collect();
    let noise: Vec<f64> = quiet.windows(2).map(|pair| (pair[1] / pair[0]).ln().abs()).collect();
    let (change, noise) = (quantile(&ratios, 0.5), quantile(&noise, 0.9).exp());
    let rate = traps as f64 / (plan.block * plan.pairs as u32).as_secs_f64();
    println!(
        "| neighbour's p99, quiet | with the storm | median ratio | quiet blocks among themselves | traps/s |"
    );
    println!("|---|---|---|---|---|");
    println!(
        "| {:.1} µs | {:.1} µs | {change:.3} | up to {noise:.3} | {rate:.0} |",
        quantile(quiet, 0.5) * 1e6,
        quantile(storm, 0.5) * 1e6,
    );
    let mut verdict = Verdict::new();
    verdict.add(sizes.len() == 1, format!("one recording of {traps} traps, and there are {}", sizes.len()));
    verdict.add(sizes.iter().sum::<u64>() < 16 << 20, "the directory holds less than 16 MiB".to_owned());
    verdict.add(change <= noise, "the neighbour's p99 moved no more than quiet blocks differ".to_owned());
    println!("\n{verdict}");
    match verdict.broken() {
        0 => Ok(()),
        broken => bail!("{broken} bounds are broken"),
    }
}

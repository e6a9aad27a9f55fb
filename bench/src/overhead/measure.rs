//! One workload: fresh engines of each side, and blocks of slices in which they take turns.
//!
//! ```text
//! engine 1, block 1   A B C A B C  E D D     A bare, B observed, C bare again (the noise), E epochs,
//!           block 2   C B A C B A  E D D     D with `--alloc`, where it is measured
//!           …                              all six orders in turn
//! ```
//!
//! Each side comes as often after each other one and never after itself, for a slice is faster when the caches are
//! its own already. A block's ratio is (B + B) / (A + A); over two blocks a steady drift cancels.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Plan;
use super::process::Process;
use crate::stats::{Estimate, Random, quantile, trimmed_mean};
use crate::worker::Side;
use crate::workloads::Workload;

/// The orders of the sides that are compared; each is the reverse of the one beside it.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 0, 2]];

/// Share of an engine's blocks that is left out at either end.
const TRIM: f64 = 0.1;

/// What was measured of a workload; ratios to the bare engine.
pub struct Measured {
    /// CPU time of the guest's threads.
    pub time: Estimate,
    /// The same with all blocks.
    pub untrimmed: Estimate,
    /// The same of a second bare engine.
    pub noise: Estimate,
    /// Wall time.
    pub wall: Estimate,
    /// Wall time of a second bare engine.
    pub wall_noise: Estimate,
    /// CPU time of the guest's threads with epochs.
    pub epochs: Estimate,
    /// CPU time of the guest's threads with `--alloc`.
    pub allocations: Option<Estimate>,
    /// CPU time of sandscope's own threads over that of the guest's.
    pub background: f64,
    /// Added to making a store and an instance, seconds: median and 99th percentile.
    pub start: Option<(f64, f64)>,
    /// Engines a side.
    pub engines: usize,
    /// Engines whose code lay at the same address on both sides.
    pub aligned: usize,
    /// Whether both sides ran the same machine code.
    pub same_code: bool,
}

/// Logarithms of ratios, one value an engine.
#[derive(Default)]
struct Logs {
    time: Vec<f64>,
    noise: Vec<f64>,
    wall: Vec<f64>,
    wall_noise: Vec<f64>,
    epochs: Vec<f64>,
    allocations: Vec<f64>,
    untrimmed: Vec<f64>,
}

/// A slice of one side: wall and guest CPU time, nanoseconds.
type Slice = (u64, u64);

/// Measures a workload: at least the plan's engines, and more until the noise is known well enough.
pub fn measure(workload: &Workload, plan: &Plan, otlp: &str, random: &mut Random) -> Result<Measured> {
    let mut logs = Logs::default();
    let (mut aligned, mut same_code, mut starts) = (0, true, Vec::new());
    while logs.time.len() < plan.engines
        || (logs.time.len() < plan.most_engines && Estimate::of(&logs.noise).half_width() > super::NOISE)
    {
        let padding = random.below(4096);
        let start = |side| Process::start(workload, side, otlp, plan.interval, padding);
        // Whichever side starts first could find other free memory.
        let (mut bare, mut observed, mut again);
        if logs.time.len().is_multiple_of(2) {
            (bare, observed, again) = (start(Side::Bare)?, start(Side::Observed)?, start(Side::Bare)?);
        } else {
            (again, observed, bare) = (start(Side::Bare)?, start(Side::Observed)?, start(Side::Bare)?);
        }
        let mut epochs = start(Side::Epochs)?;
        let mut allocations = workload.allocations.then(|| start(Side::Allocations)).transpose()?;
        same_code &= bare.text.0 == observed.text.0;
        aligned += usize::from(bare.text.1 == observed.text.1);

        // Warm caches, then as many calls as fill a slice.
        bare.ask("slice", 1)?;
        let once = bare.ask("slice", 2)?.0 / 2;
        let calls = (plan.slice.as_nanos() as u64 / once.max(1)).clamp(1, 1_000_000);
        for side in [&mut bare, &mut observed, &mut again, &mut epochs].into_iter().chain(&mut allocations) {
            side.ask("slice", calls)?;
        }
        let mut blocks: [Vec<f64>; 6] = Default::default();
        for block in 0..plan.blocks(calls * once) {
            let mut sums = [Slice::default(); 3];
            let order = ORDERS[block as usize % ORDERS.len()];
            for side in order.iter().chain(&order) {
                let process = [&mut bare, &mut observed, &mut again][*side].ask("slice", calls)?;
                sums[*side] = add(sums[*side], process);
            }
            let [a, b, c] = sums;
            let e = epochs.ask("slice", calls)?;
            let e = add(e, e);
            let d = match &mut allocations {
                Some(side) => add(side.ask("slice", calls)?, side.ask("slice", calls)?),
                None => a,
            };
            let ratios =
                [log(b.1, a.1), log(c.1, a.1), log(b.0, a.0), log(c.0, a.0), log(e.1, a.1), log(d.1, a.1)];
            blocks.iter_mut().zip(ratios).for_each(|(block, ratio)| block.push(ratio));
        }
        logs.untrimmed.push(trimmed_mean(&blocks[0], 0.0));
        let means = blocks.map(|ratios| trimmed_mean(&ratios, TRIM));
        let Logs { time, noise, wall, wall_noise, epochs, allocations, .. } = &mut logs;
        let lists = [time, noise, wall, wall_noise, epochs, allocations];
        lists.into_iter().zip(means).for_each(|(list, mean)| list.push(mean));
        if workload.starts {
            let (bare, observed) = (bare.ask("starts", plan.starts)?, observed.ask("starts", plan.starts)?);
            starts.push((
                (observed.0 as f64 - bare.0 as f64) * 1e-9,
                (observed.1 as f64 - bare.1 as f64) * 1e-9,
            ));
        }
    }
    let median = |pick: fn(&(f64, f64)) -> f64| quantile(&starts.iter().map(pick).collect::<Vec<_>>(), 0.5);
    Ok(Measured {
        time: Estimate::of(&logs.time),
        untrimmed: Estimate::of(&logs.untrimmed),
        noise: Estimate::of(&logs.noise),
        wall: Estimate::of(&logs.wall),
        wall_noise: Estimate::of(&logs.wall_noise),
        epochs: Estimate::of(&logs.epochs),
        allocations: workload.allocations.then(|| Estimate::of(&logs.allocations)),
        background: background(workload, plan, otlp)?,
        start: (!starts.is_empty()).then(|| (median(|start| start.0), median(|start| start.1))),
        engines: logs.time.len(),
        aligned,
        same_code,
    })
}

/// What sandscope's own threads take beside a guest that runs all the time, over whole export intervals. It is
/// read from their clocks, not from a difference of noisy sums.
fn background(workload: &Workload, plan: &Plan, otlp: &str) -> Result<f64> {
    let mut process = Process::start(workload, Side::Observed, otlp, plan.interval, 1)?;
    let whole: Duration = plan.interval * 2;
    let (guest, own) = process.ask("background", whole.as_millis())?;
    ensure!(guest > 0 && own > 0, "{} ran {guest} ns beside {own} ns of sandscope's", workload.name);
    Ok(own as f64 / guest as f64)
}

fn add(a: Slice, b: Slice) -> Slice {
    (a.0 + b.0, a.1 + b.1)
}

fn log(of: u64, to: u64) -> f64 {
    (of.max(1) as f64 / to.max(1) as f64).ln()
}

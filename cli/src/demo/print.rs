//! What a headless demo prints: the table of the terminal UI as text, or JSON as scripts may rely on it.

use std::collections::BTreeMap;

use sandscope_model::units;
use sandscope_tui::{Headless, Row};
use serde::Serialize;

use crate::problem::Problem;

#[derive(Serialize)]
struct Output {
    regions: Vec<Region>,
    workloads: Vec<Workload>,
    pipeline: Pipeline,
}

#[derive(Serialize, Default)]
struct Region {
    region: String,
    hosts: u32,
    calls: u64,
    errors: u64,
    p50_s: Option<f64>,
    p95_s: Option<f64>,
    p99_s: Option<f64>,
    traps: u64,
    cold_starts: u64,
}

#[derive(Serialize)]
struct Workload {
    region: String,
    workload: String,
    version: String,
    calls: Option<u64>,
    samples: u64,
    /// Of `samples`, those in the guest's own code; `named` and `with_line` are of these.
    guest_samples: u64,
    named: u64,
    with_line: u64,
    top: Vec<Function>,
}

#[derive(Serialize)]
struct Function {
    function: String,
    file: Option<String>,
    line: Option<u32>,
    #[serde(rename = "self")]
    own: f64,
}

#[derive(Serialize)]
struct Pipeline {
    acked: u64,
    delivered: u64,
    dropped: u64,
}

/// JSON to stdout.
pub fn json(seen: &Headless) -> Result<(), Problem> {
    let pipeline = seen.pipeline.unwrap_or_default();
    let output = Output {
        regions: regions(&seen.rows),
        workloads: seen
            .workloads
            .iter()
            .map(|workload| Workload {
                region: workload.key.region.to_string(),
                workload: workload.key.workload.to_string(),
                version: workload.key.version.to_string(),
                calls: workload.calls,
                samples: workload.samples,
                guest_samples: workload.guest,
                named: workload.named,
                with_line: workload.with_line,
                top: workload
                    .top
                    .iter()
                    .map(|top| Function {
                        function: top.function.clone(),
                        file: top.file.clone(),
                        line: top.line,
                        own: top.self_share,
                    })
                    .collect(),
            })
            .collect(),
        pipeline: Pipeline {
            acked: pipeline.acked,
            delivered: pipeline.delivered,
            dropped: pipeline.dropped,
        },
    };
    println!("{}", serde_json::to_string_pretty(&output).map_err(Problem::internal)?);
    Ok(())
}

/// Sums over a region's workloads. Quantiles of several workloads are those of the slowest one.
fn regions(rows: &[Row]) -> Vec<Region> {
    let mut out: BTreeMap<String, Region> = BTreeMap::new();
    for row in rows {
        let name = row.key.region.to_string();
        let region = out.entry(name.clone()).or_insert_with(|| Region { region: name, ..Region::default() });
        region.hosts = region.hosts.max(row.hosts);
        region.calls += row.calls.unwrap_or(0);
        region.errors += row.errors.unwrap_or(0);
        region.traps += row.traps.unwrap_or(0);
        region.cold_starts += row.cold_starts.unwrap_or(0);
        for (slowest, value) in
            [(&mut region.p50_s, row.p50), (&mut region.p95_s, row.p95), (&mut region.p99_s, row.p99)]
        {
            *slowest = match (*slowest, value) {
                (Some(a), Some(b)) => Some(a.max(b)),
                (a, b) => a.or(b),
            };
        }
    }
    out.into_values().collect()
}

/// A table to stdout.
pub fn text(seen: &Headless) {
    let head = ["region", "workload", "calls", "p95", "traps", "samples", "named", "hottest function"];
    line(head.map(str::to_owned));
    for row in &seen.rows {
        let workload = seen.workloads.iter().find(|workload| workload.key == row.key);
        let named = workload.filter(|workload| workload.guest > 0);
        let hottest = workload.and_then(|workload| workload.top.first());
        let unknown = || "-".to_owned();
        line([
            row.region.to_string(),
            row.workload.to_string(),
            row.calls.map_or_else(unknown, units::count),
            row.p95.map_or_else(unknown, units::duration),
            row.traps.map_or_else(unknown, units::count),
            row.samples.map_or_else(unknown, units::count),
            named.map_or_else(unknown, |w| units::percent(w.named as f64 / w.guest as f64)),
            hottest.map_or_else(unknown, |top| top.function.clone()),
        ]);
    }
}

fn line([region, workload, calls, p95, traps, samples, named, hottest]: [String; 8]) {
    println!(
        "{region:<16} {workload:<12} {calls:>8} {p95:>10} {traps:>6} {samples:>8} {named:>8}  {hottest}"
    );
}

//! A day of points of ten regions, as the collector's log would have it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use prost::Message as _;
use sandscope_collector::log::{Entry, Kind, Log as _, SegmentLog, Settings, WhenFull};
use sandscope_model::WorkloadId;
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{MetricBatch, Point, PointValue, Resource};

use super::now;
use crate::stats::Random;

/// What is written: so many points in all of these, evenly.
pub const HOURS: u64 = 24;
pub const REGIONS: usize = 10;
const WORKLOADS: usize = 20;
/// Points of one request: the metrics of all workloads of a host, of one interval.
const POINTS: usize = WORKLOADS * METRICS.len();
const METRICS: [Metric; 5] =
    [Metric::MemorySize, Metric::MemoryPeak, Metric::Traps, Metric::HostCalls, Metric::GcCollections];
/// Requests that wait for the log at a time.
const AT_A_TIME: usize = 64;
const HOUR: u64 = 3_600_000_000_000;

/// The log's bounds: nothing of it goes.
pub fn settings() -> Settings {
    Settings::new(1 << 40, Duration::from_secs(HOURS * 2 * 3600), WhenFull::Refuse)
}

/// The name of a region.
pub fn region(at: usize) -> String {
    format!("region-{at}")
}

/// The name of a workload.
pub fn workload(at: usize) -> String {
    format!("function-{at}")
}

/// Writes at least so many points; how many.
pub async fn fill(directory: &Path, points: u64) -> Result<u64> {
    let log = Arc::new(SegmentLog::open(directory, settings()).context("open the log")?);
    let of_hour = points.div_ceil(HOURS * REGIONS as u64 * POINTS as u64);
    let first = now() - HOURS * HOUR;
    let mut random = Random(11);
    let mut waiting = tokio::task::JoinSet::new();
    for hour in 0..HOURS {
        for interval in 0..of_hour {
            for at in 0..REGIONS {
                let received = first + hour * HOUR + interval * HOUR / of_hour;
                let payload = request(at, interval % 50, received, &mut random);
                let log = Arc::clone(&log);
                let entry = Entry::new(Kind::Metrics, received, None, payload.into());
                waiting.spawn(async move { log.append(entry).await });
                if waiting.len() >= AT_A_TIME
                    && let Some(done) = waiting.join_next().await
                {
                    done?.context("append to the log")?;
                }
            }
        }
    }
    while let Some(done) = waiting.join_next().await {
        done?.context("append to the log")?;
    }
    log.stop().await;
    Ok(of_hour * HOURS * (REGIONS * POINTS) as u64)
}

/// What a host of a region sends.
fn request(at: usize, host: u64, received: u64, random: &mut Random) -> Vec<u8> {
    let resource = Resource {
        service: "edge".to_owned(),
        region: region(at),
        host: format!("node-{host}"),
        instance: format!("boot-{host}"),
        arch: if host.is_multiple_of(2) { "x86_64" } else { "aarch64" }.to_owned(),
        engine_version: "48.0.8".to_owned(),
        ..Resource::default()
    };
    let mut points = Vec::with_capacity(POINTS);
    for of in 0..WORKLOADS {
        let id = WorkloadId::new(&workload(of), "1.4.2");
        for metric in METRICS {
            let value = random.below(1_000_000) as f64;
            let value = match metric {
                Metric::MemorySize | Metric::MemoryPeak => PointValue::Gauge(value),
                _ => PointValue::Counter(value),
            };
            let mut point = Point::of(metric, Some(&id), value);
            (point.start_unix_nano, point.time_unix_nano) = (received - HOUR, received - 1_000_000);
            points.push(point);
        }
    }
    MetricBatch { resource, points }.to_otlp().encode_to_vec()
}

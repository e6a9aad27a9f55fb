//! The replay source: a recording as rows and flame graphs. Everything is there from the start, so rows are
//! sent once and a flame graph whenever it is asked for.

use std::sync::Arc;

use sandscope_model::{ExpHistogram, ModuleId, Profile, SampleKind, WorkloadId};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::PointValue;
use sandscope_proto::start::Phase;
use sandscope_recording::Recording;
use sandscope_symbols::SymbolFile;
use tokio::task::spawn_blocking;

use super::names::Book;
use super::{Ends, Handle};
use crate::data::{Delta, FlameQuery, Link, Row, RowKey, Shown};

/// The symbols of a module by its id; the bytes are what the recording has of it.
pub type LoadSymbols = Arc<dyn Fn(&ModuleId, Option<&[u8]>) -> Option<SymbolFile> + Send + Sync>;

/// Starts showing a recording.
pub fn start(recording: Recording, load: LoadSymbols) -> Handle {
    Handle::start(|tasks, ends| {
        tasks.spawn(play(Arc::new(recording), load, ends));
    })
}

async fn play(recording: Arc<Recording>, load: LoadSymbols, mut ends: Ends) {
    let missing = recording.missing().map(Shown::new);
    let link = Link::Recording { missing, duration_s: recording.duration_s() };
    let rows = Delta::Rows { snapshot: true, rows: rows(&recording), removed: Vec::new(), pipeline: None };
    for delta in [Delta::Link(link), rows] {
        if ends.deltas.send(delta).await.is_err() {
            return;
        }
    }
    let book = Book::default();
    loop {
        let asked = ends.asked.borrow_and_update().clone();
        if let Some(query) = asked {
            flame(&recording, &load, &book, &query, &ends).await;
        }
        if ends.asked.changed().await.is_err() {
            return;
        }
    }
}

/// Sends one flame graph: at once with the names there are, and again after each module's symbols were read.
async fn flame(recording: &Arc<Recording>, load: &LoadSymbols, book: &Book, query: &FlameQuery, ends: &Ends) {
    let profile = Arc::new(profile(recording, query));
    let mut lacking = book.lacking(&profile).into_iter();
    loop {
        let (book_, profile_, kind, order) = (book.clone(), Arc::clone(&profile), query.kind, query.order);
        if let Ok(flame) = spawn_blocking(move || book_.fold(&profile_, kind, order)).await {
            let delta = Delta::Flame { query: query.clone(), flame: Arc::new(flame) };
            let is_old = ends.asked.has_changed().unwrap_or(true);
            if ends.deltas.send(delta).await.is_err() || is_old {
                return;
            }
        }
        let Some(module) = lacking.next() else { return };
        let (book_, recording_, load_) = (book.clone(), Arc::clone(recording), Arc::clone(load));
        let read = spawn_blocking(move || {
            // The screen says how many modules have symbols; nothing else depends on them.
            let recorded = recording_.debug_info(&module).ok().flatten();
            book_.add_file(&module, load_(&module, recorded.as_deref()));
        });
        if read.await.is_err() {
            return;
        }
    }
}

fn profile(recording: &Recording, query: &FlameQuery) -> Profile {
    let mut out = Profile::new();
    for held in recording.profiles() {
        let workload = &held.workload;
        if held.kind == query.kind
            && workload.name == query.key.workload
            && workload.version == query.key.version
        {
            out.merge(&held.profile);
        }
    }
    out
}

fn rows(recording: &Recording) -> Vec<Row> {
    recording.workloads().iter().map(|workload| row(recording, workload)).collect()
}

/// What a recording says about a workload. Memory is the highest that was seen: at the end of a run the
/// last value is none.
fn row(recording: &Recording, workload: &WorkloadId) -> Row {
    let resource = &recording.head().resource;
    let mut row = Row::new(RowKey {
        region: resource.region.as_str().into(),
        workload: workload.name.clone(),
        version: workload.version.clone(),
        service: resource.service.as_str().into(),
    });
    row.hosts = 1;
    let mut calls = ExpHistogram::default();
    let mut cpu_s = None;
    let add = |sum: &mut Option<u64>, n: u64| *sum = Some(sum.unwrap_or(0).saturating_add(n));
    let mine = recording.metrics().iter().filter(|stream| stream.point.workload.as_ref() == Some(workload));
    for stream in mine {
        let point = &stream.point;
        match (Metric::parse(&point.name), &point.value) {
            (Some(Metric::CallDuration), PointValue::Histogram(histogram)) => {
                calls.merge(histogram);
                let failed = point.attribute(attribute::OUTCOME).is_some_and(|o| !matches!(o, "ok" | "exit"));
                add(&mut row.errors, if failed { histogram.count } else { 0 });
            }
            (Some(Metric::MemorySize), PointValue::Gauge(last)) => {
                add(&mut row.memory, stream.peak.unwrap_or(*last) as u64);
            }
            (Some(Metric::CpuTime), PointValue::Counter(sum)) => cpu_s = Some(cpu_s.unwrap_or(0.0) + sum),
            (Some(Metric::Traps), PointValue::Counter(sum)) => add(&mut row.traps, *sum as u64),
            (Some(Metric::InstantiationDuration), PointValue::Histogram(histogram))
                if Phase::of(point) == Some(Phase::Instantiate) =>
            {
                add(&mut row.cold_starts, histogram.count);
            }
            _ => {}
        }
    }
    let duration = recording.duration_s().filter(|s| *s > 0.0);
    if calls.count > 0 {
        row.calls = Some(calls.count);
        row.calls_per_second = duration.map(|s| calls.count as f64 / s);
        (row.p50, row.p95, row.p99) = (calls.quantile(0.5), calls.quantile(0.95), calls.quantile(0.99));
    }
    row.cpu = cpu_s.zip(duration).map(|(cpu, s)| cpu / s);
    let is_mine = |name: &str, version: &str| *name == *workload.name && *version == *workload.version;
    let mine = recording.traps().iter().filter(|t| is_mine(&t.workload, &t.workload_version));
    let traps = mine.fold(0u64, |sum, trap| sum.saturating_add(trap.count));
    if traps > 0 {
        row.traps = Some(row.traps.unwrap_or(0).max(traps));
    }
    for held in recording.profiles().iter().filter(|held| held.workload == *workload) {
        if matches!(held.kind, SampleKind::Cpu | SampleKind::Wall) {
            add(&mut row.samples, held.profile.samples());
            add(&mut row.samples_dropped, held.dropped.saturating_add(held.lost));
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sandscope_proto::otlp::{MetricBatch, Point, Resource};
    use sandscope_recording::{Head, ModuleInfo, SampleBatch, Writer};
    use tokio::time::timeout;

    use super::*;

    /// Only what the recording has.
    fn recorded(_: &ModuleId, bytes: Option<&[u8]>) -> Option<SymbolFile> {
        SymbolFile::parse(bytes?).ok()
    }
    use crate::fold::Order;
    use crate::source::testing::{WORKLOAD, guest};

    /// A recording of a real guest, written as hosts write it, is a row and a graph with names and lines.
    #[tokio::test]
    async fn a_recording_is_rows_and_named_graphs() {
        let (guest, workload) = (guest(), WorkloadId::new(WORKLOAD.0, WORKLOAD.1));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("r.mcap");
        let resource = Resource { region: "eu-central".into(), ..Resource::default() };
        let head = Head {
            resource: resource.clone(),
            started_unix_nano: 1_000_000_000,
            hz: 99.0,
            trigger: "run".into(),
            ..Head::default()
        };
        let mut writer = Writer::create(&path, &head).unwrap();
        let module =
            ModuleInfo { id: guest.id.clone(), workload: workload.clone(), name: "pricing.wasm".into() };
        writer.module(&module, Some(&guest.compressed)).unwrap();
        let batch = SampleBatch {
            workload: &workload,
            kind: SampleKind::Cpu,
            hz: 99.0,
            dropped: 4,
            start_unix_nano: 2_000_000_000,
            profile: &guest.profile,
        };
        writer.samples(&batch).unwrap();
        let sizes =
            [5e6, 0.0].map(|size| Point::of(Metric::MemorySize, Some(&workload), PointValue::Gauge(size)));
        for point in sizes {
            writer.metrics(&MetricBatch { resource: resource.clone(), points: vec![point] }).unwrap();
        }
        writer.finish().unwrap();

        let mut source = start(Recording::open(&path).unwrap(), Arc::new(recorded));
        let mut next =
            async || timeout(Duration::from_secs(60), source.deltas.recv()).await.unwrap().unwrap();
        assert!(matches!(next().await, Delta::Link(Link::Recording { missing: None, .. })));
        let Delta::Rows { snapshot: true, rows, .. } = next().await else { panic!("rows come second") };
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!(row.region.as_str(), "eu-central");
        assert_eq!((row.samples, row.samples_dropped), (Some(guest.profile.samples()), Some(4)));
        assert_eq!((row.memory, row.calls), (Some(5_000_000), None));

        let query = FlameQuery { key: row.key.clone(), kind: SampleKind::Cpu, order: Order::Callees };
        source.ask(Some(query));
        let mut known = Vec::new();
        while known.last() != Some(&1) {
            let delta = timeout(Duration::from_secs(60), source.deltas.recv()).await.unwrap().unwrap();
            let Delta::Flame { flame, .. } = delta else { panic!("{delta:?}") };
            known.push(flame.modules_known);
            if flame.modules_known == 1 {
                assert_eq!(flame.with_line, guest.profile.samples());
            }
        }
        assert_eq!(known, [0, 1]);
    }
}

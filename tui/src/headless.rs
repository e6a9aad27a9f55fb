//! The live source without a terminal: what the UI would show after a while, as data, for scripts.

use std::time::Duration;

use sandscope_model::SampleKind;
use sandscope_proto::connect::Credentials;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use crate::data::{Delta, FlameQuery, Link, Pipeline, Row, RowKey};
use crate::error::TuiError;
use crate::fold::{Flame, Order};
use crate::source::collector::Collector;
use crate::source::live::{self, learn};
use crate::source::names::Book;

/// Most workloads whose stacks are read.
const MAX_WORKLOADS: usize = 1000;

/// Functions that are listed per workload.
const TOP: usize = 10;

/// What the UI would show. Numbers are in base units; text is as peers spelled it, unless it says otherwise.
#[derive(Clone, Debug, Default)]
pub struct Headless {
    /// Rows, by region, workload, version and service.
    pub rows: Vec<Row>,
    /// The collector's own account, if it gave one.
    pub pipeline: Option<Pipeline>,
    /// What their samples say, in the same order; rows whose stacks could not be read are left out.
    pub workloads: Vec<WorkloadSamples>,
}

/// The CPU samples of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkloadSamples {
    /// The row.
    pub key: RowKey,
    /// Calls since its hosts started, if known.
    pub calls: Option<u64>,
    /// Samples in all.
    pub samples: u64,
    /// Samples with at least one frame of the guest.
    pub guest: u64,
    /// Of `guest`, the ones whose innermost guest frame has a name.
    pub named: u64,
    /// Of `guest`, the ones whose innermost guest frame has a file and a line.
    pub with_line: u64,
    /// Functions by their own weight, heaviest first.
    pub top: Vec<TopFunction>,
}

/// A function and its own weight. Text is safe to print.
#[derive(Clone, Debug, PartialEq)]
pub struct TopFunction {
    /// Name.
    pub function: String,
    /// Source file, if known.
    pub file: Option<String>,
    /// Line where most of the weight is, if known.
    pub line: Option<u32>,
    /// Share of all samples that end in it, 0..=1.
    pub self_share: f64,
}

/// Watches a collector for a while and returns what the UI would show at the end.
///
/// # Errors
/// If the address is none, or the collector did not answer in all that time.
pub async fn collect_for(query_url: &str, duration: Duration) -> Result<Headless, TuiError> {
    let until = Instant::now() + duration;
    let (rows, pipeline) = watch_until(query_url, until).await?;
    let collector = Collector::new(query_url, &Credentials::default())?;
    let book = Book::default();
    let mut workloads = Vec::new();
    for row in rows.iter().take(MAX_WORKLOADS) {
        let query = FlameQuery { key: row.key.clone(), kind: SampleKind::Cpu, order: Order::Callees };
        if let Some(flame) = flame_of(&collector, &book, &query).await {
            workloads.push(samples_of(row, &flame));
        }
    }
    Ok(Headless { rows, pipeline, workloads })
}

async fn watch_until(url: &str, until: Instant) -> Result<(Vec<Row>, Option<Pipeline>), TuiError> {
    let mut source = live::start(url, &Credentials::default())?;
    let mut rows = std::collections::BTreeMap::new();
    let (mut account, mut answered, mut failed) = (None, false, String::new());
    while let Ok(delta) = timeout_at(until, source.deltas.recv()).await {
        match delta.ok_or(TuiError::Ended { task: "the live source" })? {
            Delta::Rows { snapshot, rows: changed, removed, pipeline } => {
                answered = true;
                if snapshot {
                    rows.clear();
                }
                for key in removed {
                    rows.remove(&key);
                }
                rows.extend(changed.into_iter().map(|row: Row| (row.key.clone(), row)));
                account = pipeline.or(account);
            }
            Delta::Link(Link::Waiting { reason, .. }) => failed = reason.to_string(),
            Delta::Link(_) | Delta::Flame { .. } | Delta::FlameFailed { .. } => {}
        }
    }
    if answered {
        Ok((rows.into_values().collect(), account))
    } else {
        let reason = if failed.is_empty() { "it did not answer in time".to_owned() } else { failed };
        Err(TuiError::Unreachable { url: url.to_owned(), reason })
    }
}

/// The graph of a row with all names that can be had; `None` if the collector gave no stacks.
async fn flame_of(collector: &Collector, book: &Book, query: &FlameQuery) -> Option<Flame> {
    let (profile, _) = collector.stacks(&query.key, query.kind).await.ok()?;
    for module in book.lacking(&profile) {
        learn(collector, book, &module).await;
    }
    let (book, kind, order) = (book.clone(), query.kind, query.order);
    spawn_blocking(move || book.fold(&profile, kind, order)).await.ok()
}

fn samples_of(row: &Row, flame: &Flame) -> WorkloadSamples {
    let mut functions: Vec<_> = flame.functions.iter().filter(|f| f.own > 0).collect();
    functions.sort_by(|a, b| b.own.cmp(&a.own).then_with(|| a.name.cmp(&b.name)));
    let top = functions.into_iter().take(TOP).map(|f| TopFunction {
        function: f.name.to_string(),
        file: f.file.as_ref().map(ToString::to_string),
        line: f.line,
        self_share: f.own as f64 / flame.samples.max(1) as f64,
    });
    WorkloadSamples {
        key: row.key.clone(),
        calls: row.calls,
        samples: flame.samples,
        guest: flame.guest,
        named: flame.named,
        with_line: flame.with_line,
        top: top.collect(),
    }
}

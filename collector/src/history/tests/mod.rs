//! Histories over a log in memory and a directory: requests in, rows out by SQL.

mod crashes;
mod queries;
mod tables;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::DataFusionError;
use prost::Message;
use sandscope_model::WorkloadId;
use sandscope_proto::otlp::{Resource, Span, SpanBatch};
use tempfile::TempDir;
use tokio_stream::StreamExt as _;

use super::consume::Consumer;
use super::files::Files;
use super::sql::{Engine, environment};
use super::store::Store;
use super::tend::Tender;
use super::{Figures, Keep, MERGE_MEMORY, Place};
use crate::log::{Entry, Kind, Log as _, Position, SegmentLog, Settings};

/// 2026-12-01T10:00Z, ns since the epoch.
const TEN: u64 = 1_796_119_200_000_000_000;
const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;
const WRITER: &str = "0123456789abcdef";

/// A log that outlives collectors, and what the present one has in memory.
struct Bench {
    log: Arc<SegmentLog>,
    directory: TempDir,
    store: Store,
    files: Arc<Files>,
    figures: Arc<Figures>,
}

impl Bench {
    fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap())
    }

    /// With what a directory has.
    fn over(directory: TempDir) -> Self {
        Self {
            log: Arc::new(SegmentLog::in_memory(Settings::default()).unwrap()),
            store: Store::open(&Place::Directory(directory.path().to_owned())).unwrap(),
            directory,
            files: Arc::default(),
            figures: Arc::default(),
        }
    }

    async fn append(&self, kind: Kind, received: u64, request: &impl Message) {
        let entry = Entry::new(kind, received, None, request.encode_to_vec().into());
        self.log.append(entry).await.unwrap();
    }

    /// A span of a region, numbered by its name, that began when it was received.
    async fn span(&self, region: &str, number: u64, received: u64) {
        let batch = SpanBatch { resource: resource(region), spans: vec![span(number, received)] };
        self.append(Kind::Traces, received, &batch.to_otlp()).await;
    }

    /// A collector starts: nothing is in memory but what it finds.
    async fn start(&mut self) -> Consumer {
        self.files = Arc::default();
        let (store, files, figures) = (self.store.clone(), self.files.clone(), self.figures.clone());
        Consumer::open(self.log.clone(), store, files, figures, WRITER.to_owned()).await.unwrap()
    }

    /// Everything that is in the log goes into files.
    async fn catch_up(&self, consumer: &mut Consumer) {
        while consumer.read().await.unwrap() {}
        consumer.flush().await.unwrap();
    }

    fn tender(&self) -> Tender {
        Tender {
            store: self.store.clone(),
            files: self.files.clone(),
            figures: self.figures.clone(),
            writer: WRITER.to_owned(),
            keep: Keep::all(Duration::from_secs(24 * 3600)),
            env: environment(&self.store, MERGE_MEMORY).unwrap(),
        }
    }

    fn engine(&self, memory: usize) -> Engine {
        let env = environment(&self.store, memory).unwrap();
        Engine { store: self.store.clone(), files: self.files.clone(), env, threads: 2 }
    }

    /// Rows of an answer, their cells with `|` between them, unknown ones as `-`.
    async fn ask(&self, sql: &str) -> Vec<String> {
        ask(&self.engine(64 << 20), sql).await.unwrap()
    }

    /// Names of the spans that are stored, in order, each as often as it is stored.
    async fn spans(&self) -> Vec<String> {
        self.ask("SELECT name FROM spans ORDER BY name").await
    }

    /// Files in the store, whoever lists them.
    async fn stored(&self) -> usize {
        self.store.list().await.unwrap().len()
    }
}

async fn ask(engine: &Engine, sql: &str) -> Result<Vec<String>, DataFusionError> {
    let mut answer = engine.query(sql).await?;
    let mut rows = Vec::new();
    while let Some(batch) = answer.next().await {
        let batch = batch?;
        let options = FormatOptions::default().with_null("-");
        let columns: Vec<_> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        rows.extend((0..batch.num_rows()).map(|row| {
            let cells: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            cells.join("|")
        }));
    }
    Ok(rows)
}

fn resource(region: &str) -> Resource {
    Resource {
        service: "edge".into(),
        instance: "boot".into(),
        host: "node-1".into(),
        arch: "aarch64".into(),
        region: region.into(),
        engine: "wasmtime".into(),
        engine_version: "48.0.8".into(),
    }
}

fn span(number: u64, start: u64) -> Span {
    Span {
        trace_id: u128::from(number) + 1,
        span_id: number + 1,
        name: format!("{number:04}"),
        start_unix_nano: start,
        end_unix_nano: start + SECOND / 4,
        workload: Some(WorkloadId::new("session", "1.2.0")),
        ..Span::default()
    }
}

/// So many numbers as spans are named.
fn numbers(count: u64) -> Vec<String> {
    (0..count).map(|number| format!("{number:04}")).collect()
}

/// A position is told by its text alone.
#[test]
fn positions_come_back() {
    for position in [Position::OLDEST, Position::END] {
        assert_eq!(Position::parse(&position.to_string()), Some(position));
    }
    for text in ["", "0", "00000000000000000000000g", "+0000000+0000000+0000000", "ü00000000000000000000000"]
    {
        assert_eq!(Position::parse(text), None, "{text}");
    }
}

//! What queries may not do, and what they do not have to read.

use datafusion::error::DataFusionError;

use super::super::History;
use super::super::settings::Settings as HistorySettings;
use super::super::sql::sentence;
use super::{Bench, HOUR, Place, TEN, ask, numbers};

/// Nothing but questions: no table is made, changed or written to a file, no setting changed, no file of the machine
/// read.
#[tokio::test]
async fn queries_change_nothing() {
    let mut bench = Bench::new();
    bench.span("eu-1", 0, TEN).await;
    let mut consumer = bench.start().await;
    bench.catch_up(&mut consumer).await;
    let engine = bench.engine(64 << 20);
    for sql in [
        "CREATE TABLE t AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/tmp/'",
        "DROP TABLE spans",
        "INSERT INTO spans SELECT * FROM spans",
        "DELETE FROM spans",
        "COPY (SELECT 1) TO '/tmp/sandscope-must-not-exist.parquet'",
        "SET datafusion.execution.batch_size = 1",
        "PREPARE p AS SELECT 1",
        "SELECT 1; SELECT 2",
        "SELECT * FROM '/etc/passwd'",
        "SELECT repeat('x', 1000000000)",
        "WITH RECURSIVE t AS (SELECT 'x' AS x UNION ALL SELECT x || x FROM t) SELECT count(*) FROM t",
        "",
        "SELECT replace('xx', 'x', 'yyyyyyyy')",
        &format!("SELECT length('{}')", "x".repeat(40_000)),
        &format!("SELECT length(x) FROM {}", doubled("x || x", 16)),
        &format!("SELECT length(x) FROM {}", doubled("concat(x, x)", 16)),
    ] {
        assert!(ask(&engine, sql).await.is_err(), "{sql}");
    }
    assert_eq!(bench.spans().await, numbers(1));
    let joined =
        "SELECT concat(name, NULL, 7), name || '-' || 7, name || NULL, length('a' || 'b') FROM spans";
    assert_eq!(bench.ask(joined).await, ["00007|0000-7|-|2"]);
    assert_eq!(bench.ask(&format!("SELECT length(x) FROM {}", doubled("x || x", 14))).await, ["16384"]);
    assert_eq!(
        bench.ask("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'history'").await,
        ["6"]
    );
}

/// A text that is put together with itself so many times.
fn doubled(expression: &str, times: usize) -> String {
    (0..times)
        .fold("(SELECT 'x' AS x) t".to_owned(), |from, _| format!("(SELECT {expression} AS x FROM {from}) t"))
}

/// A query that wants more than there is fails alone, and says what it lacked.
#[tokio::test]
async fn memory_is_bounded() {
    let mut bench = Bench::new();
    bench.span("eu-1", 0, TEN).await;
    let mut consumer = bench.start().await;
    bench.catch_up(&mut consumer).await;
    let engine = bench.engine(8 << 20);
    let greedy = "SELECT value FROM generate_series(1, 100000000) ORDER BY value % 1000, value DESC";
    let error = ask(&engine, greedy).await.map(|rows| rows.len()).unwrap_err();
    assert!(matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)), "{error}");
    assert!(sentence(&error).contains("Resources exhausted"), "{error}");
    assert_eq!(ask(&engine, "SELECT name FROM spans").await.unwrap(), numbers(1));
}

/// Files of other regions, hours and times are not opened.
#[tokio::test]
async fn filters_choose_files() {
    let mut bench = Bench::new();
    for hour in 0..3 {
        for region in ["eu.west", "us-1", ""] {
            bench.span(region, hour, TEN + hour * HOUR).await;
        }
    }
    let mut consumer = bench.start().await;
    bench.catch_up(&mut consumer).await;
    for (filter, opened, rows) in [
        ("true", 9, 9),
        ("region = 'eu.west'", 6, 3),
        ("region IS NULL", 9, 3),
        ("received >= '2026-12-01T11:00:00Z'", 6, 6),
        ("received < TIMESTAMP '2026-12-01 11:00:00' AND region = 'us-1'", 4, 1),
        ("time >= '2026-12-01T12:00:00Z'", 3, 3),
        ("time > now() + INTERVAL '10 years'", 0, 0),
    ] {
        let plan = bench.ask(&format!("EXPLAIN SELECT name FROM spans WHERE {filter}")).await.join("\n");
        let count = bench.ask(&format!("SELECT count(*) FROM spans WHERE {filter}")).await;
        assert_eq!(count, [rows.to_string()], "{filter}");
        assert!(plan.matches(".parquet").count() <= opened, "{filter}: {plan}");
    }
}

/// Who stops reading ends the query, and its place is free for the next.
#[tokio::test(flavor = "multi_thread")]
async fn readers_who_leave_end_their_queries() {
    let bench = Bench::new();
    let mut settings = HistorySettings::new(Place::Directory(bench.directory.path().to_owned()));
    settings.queries.at_once = 1;
    let history = History::start(settings, bench.log.clone(), super::WRITER.to_owned()).unwrap();
    let (_stopping, stop) = tokio::sync::watch::channel(false);
    let endless = "SELECT a.value FROM generate_series(1, 100000000) a, generate_series(1, 100000000) b";
    for _ in 0..2 {
        let mut answer = history.sql(endless.into(), stop.clone()).unwrap();
        assert!(tokio_stream::StreamExt::next(&mut answer).await.unwrap().is_ok());
        let refused = history.sql("SELECT 1".into(), stop.clone()).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        drop(answer);
        while history.places.available_permits() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

/// A query that takes too long ends with a word about it.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines_end_queries() {
    let bench = Bench::new();
    let mut settings = HistorySettings::new(Place::Directory(bench.directory.path().to_owned()));
    settings.queries.deadline = std::time::Duration::from_millis(200);
    settings.queries.memory = 2 << 30;
    let history = History::start(settings, bench.log.clone(), super::WRITER.to_owned()).unwrap();
    let (_stopping, stop) = tokio::sync::watch::channel(false);
    let endless = "SELECT count(*) FROM generate_series(1, 100000000) a, generate_series(1, 100000000) b \
                   WHERE a.value * b.value = 7";
    let mut answer = history.sql(endless.into(), stop).unwrap();
    let mut last = None;
    while let Some(piece) = tokio_stream::StreamExt::next(&mut answer).await {
        last = Some(piece);
    }
    assert_eq!(last.unwrap().unwrap_err().code(), tonic::Code::DeadlineExceeded);
}

//! Whatever is lost on the way, each record is in the history once.

use std::time::Duration;

use super::super::consume::CONSUMER;
use super::{Bench, HOUR, SECOND, TEN, numbers, span};
use crate::log::{Log as _, Position};

impl Bench {
    async fn some(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.span(if number % 2 == 0 { "eu-1" } else { "us-1" }, number, TEN + number * SECOND).await;
        }
    }
}

/// Killed when some files of a flush are there, or all, but none counts: the next collector writes them anew, and
/// what came meanwhile.
#[tokio::test]
async fn killed_before_files_count() {
    let mut bench = Bench::new();
    let mut consumer = bench.start().await;
    bench.some(0..4).await;
    bench.catch_up(&mut consumer).await;
    bench.some(4..8).await;
    while consumer.read().await.unwrap() {}
    consumer.write().await.unwrap();
    assert_eq!(bench.stored().await, 4);
    assert_eq!(bench.spans().await, numbers(4), "a query sees what counts");
    drop(consumer);

    let mut consumer = bench.start().await;
    assert_eq!(bench.stored().await, 2, "leftovers are removed");
    bench.some(8..10).await;
    bench.catch_up(&mut consumer).await;
    assert_eq!(bench.spans().await, numbers(10));
}

/// Cursors that are behind, or gone back to the beginning: how far files count is written beside them.
#[tokio::test]
async fn cursors_that_were_lost() {
    let mut bench = Bench::new();
    for (round, lost) in [Position::OLDEST, Position::OLDEST].into_iter().enumerate() {
        let round = round as u64;
        let mut consumer = bench.start().await;
        bench.some(round * 4..round * 4 + 4).await;
        bench.catch_up(&mut consumer).await;
        bench.log.advance(CONSUMER, lost).await.unwrap();
    }
    bench.start().await;
    assert_eq!(bench.spans().await, numbers(8));
    assert_eq!(bench.log.cursor(CONSUMER, Position::OLDEST).await.unwrap(), bench.log.end());
}

/// Without what is written beside the files, the cursor counts.
#[tokio::test]
async fn state_that_was_lost() {
    let mut bench = Bench::new();
    let mut consumer = bench.start().await;
    bench.some(0..4).await;
    bench.catch_up(&mut consumer).await;
    std::fs::remove_dir_all(bench.directory.path().join("_state")).unwrap();
    let mut consumer = bench.start().await;
    bench.some(4..6).await;
    bench.catch_up(&mut consumer).await;
    assert_eq!(bench.spans().await, numbers(6));
}

/// A store that fails holds back history and nothing else: nothing is lost, and nothing is there twice.
#[tokio::test]
async fn a_store_that_fails_for_a_while() {
    let mut bench = Bench::new();
    let mut consumer = bench.start().await;
    bench.some(0..4).await;
    while consumer.read().await.unwrap() {}
    let spans = bench.directory.path().join("spans");
    std::fs::write(&spans, "in the way").unwrap();
    consumer.flush().await.unwrap_err();
    consumer.flush().await.unwrap_err();
    std::fs::remove_file(&spans).unwrap();
    consumer.flush().await.unwrap();
    assert_eq!(bench.spans().await, numbers(4));
    bench.start().await;
    assert_eq!(bench.spans().await, numbers(4));
}

/// Files of an hour that is over become one of each region, the rows stay; a query that began before goes on reading.
#[tokio::test]
async fn small_files_become_large_ones() {
    let mut bench = Bench::new();
    let mut consumer = bench.start().await;
    for number in 0..20 {
        bench.some(number..number + 1).await;
        bench.catch_up(&mut consumer).await;
    }
    assert_eq!(bench.stored().await, 20);
    let held = bench.files.of(super::super::Table::Spans);
    let tender = bench.tender();
    tender.tend(TEN + 2 * HOUR).await.unwrap();
    assert_eq!(bench.spans().await, numbers(20));
    assert_eq!(bench.stored().await, 22, "what is read is not deleted");
    // Killed now, the next one finds both.
    bench.start().await;
    assert_eq!((bench.stored().await, bench.spans().await), (2, numbers(20)));
    drop(held);
    tender.tend(TEN + 2 * HOUR).await.unwrap();
    assert_eq!((bench.stored().await, bench.spans().await), (2, numbers(20)));
    let order = bench.ask("SELECT time FROM spans WHERE region = 'eu-1'").await;
    assert!(order.is_sorted(), "rows of a file are sorted: {order:?}");
}

/// In the present hour, files are merged when they are many, and what was merged is not merged with every new one.
#[tokio::test]
async fn the_present_hour_is_merged_in_steps() {
    let mut bench = Bench::new();
    let mut consumer = bench.start().await;
    for number in 0..40 {
        bench.span("eu-1", number, TEN + number * SECOND).await;
        bench.catch_up(&mut consumer).await;
        bench.tender().tend(TEN + number * SECOND).await.unwrap();
    }
    assert_eq!((bench.stored().await, bench.spans().await), (2 + 8, numbers(40)));
    bench.start().await;
    assert_eq!(bench.spans().await, numbers(40));
}

/// Whole hours go when their last row is too old, and no row before.
#[tokio::test]
async fn old_hours_go() {
    let mut bench = Bench::new();
    let mut consumer = bench.start().await;
    for number in 0..4 {
        bench.span("eu-1", number, TEN + number * HOUR / 2).await;
    }
    bench.catch_up(&mut consumer).await;
    let tender = bench.tender();
    tender.tend(TEN + 25 * HOUR - 1).await.unwrap();
    assert_eq!(bench.spans().await, numbers(4));
    tender.tend(TEN + 25 * HOUR).await.unwrap();
    assert_eq!((bench.spans().await, bench.stored().await), (vec!["0002".into(), "0003".into()], 1));
    let hours = std::fs::read_dir(bench.directory.path().join("spans/region=eu-1")).unwrap().count();
    assert_eq!(hours, 1, "folders go with their files");
}

/// Two collectors share a store: each sees the other's rows, and neither touches the other's files.
#[tokio::test]
async fn two_collectors_share_a_store() {
    let mut bench = Bench::new();
    let mut consumer = bench.start().await;
    bench.some(0..2).await;
    bench.catch_up(&mut consumer).await;

    let mut other = Bench::new();
    other.store = bench.store.clone();
    let entry =
        |number| super::SpanBatch { resource: super::resource("eu-1"), spans: vec![span(number, TEN)] };
    other.append(crate::log::Kind::Traces, TEN, &entry(2).to_otlp()).await;
    let (store, files, figures) = (other.store.clone(), other.files.clone(), other.figures.clone());
    let writer = "fedcba9876543210".to_owned();
    let mut consumer = super::Consumer::open(other.log.clone(), store, files, figures, writer).await.unwrap();
    other.catch_up(&mut consumer).await;
    assert_eq!(other.spans().await, numbers(3));
    assert_eq!(bench.spans().await, numbers(2));
    bench.tender().learn().await.unwrap();
    assert_eq!(bench.spans().await, numbers(3));
    bench.start().await;
    assert_eq!(bench.stored().await, 3);
}

/// A history that was off lets the log forget, and goes on where it ended when it is on again.
#[tokio::test]
async fn off_and_on_again() {
    let mut bench = Bench::new();
    let mut consumer = bench.start().await;
    bench.some(0..2).await;
    bench.catch_up(&mut consumer).await;
    assert!(super::super::follow(None, None, bench.log.clone()).await.unwrap().is_none());
    assert_eq!(bench.log.cursor(CONSUMER, Position::OLDEST).await.unwrap(), Position::END);
    bench.some(2..4).await;
    let mut consumer = bench.start().await;
    bench.catch_up(&mut consumer).await;
    assert_eq!(bench.spans().await, numbers(4), "the log still had them");
}

/// Waits between attempts are bounded, and not all the same.
#[test]
fn waits_have_jitter() {
    let waits: Vec<Duration> = (0..50).map(|_| super::super::consume::backoff(30)).collect();
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(30)));
    assert!(waits.iter().any(|wait| *wait != waits[0]));
}

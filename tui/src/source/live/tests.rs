//! The live source and the headless client against a real gRPC server that serves a real guest.

use std::time::Duration;

use sandscope_model::SampleKind;
use tokio::time::timeout;

use super::*;
use crate::fold::{Flame, Order};
use crate::headless::collect_for;
use crate::source::testing::{Server, guest, key};

/// The next delta that a question finds an answer in. The time limit only ends a test that has failed.
async fn next<T>(source: &mut Handle, find: impl Fn(Delta) -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = find(source.deltas.recv().await.unwrap()) {
                return found;
            }
        }
    };
    timeout(Duration::from_secs(60), found).await.unwrap()
}

fn rows_of(delta: Delta) -> Option<(bool, usize)> {
    match delta {
        Delta::Rows { snapshot, rows, .. } => Some((snapshot, rows.len())),
        _ => None,
    }
}

fn flame_of(delta: Delta) -> Option<Arc<Flame>> {
    match delta {
        Delta::Flame { flame, .. } => Some(flame),
        _ => None,
    }
}

/// A graph is there at once, and again with names, files and lines when the symbols came.
#[tokio::test]
async fn names_come_after_the_graph() {
    let guest = guest();
    let samples = guest.profile.samples();
    let server = Server::start(0, guest);
    let mut source = start(&server.address.to_string(), &Credentials::default()).unwrap();
    assert_eq!(next(&mut source, rows_of).await, (true, 1));
    source.ask(Some(FlameQuery { key: key(), kind: SampleKind::Cpu, order: Order::Callees }));
    let first = next(&mut source, flame_of).await;
    assert_eq!((first.samples, first.named, first.modules_known, first.modules), (samples, 0, 0, 1));
    assert_eq!(first.truncated, 2);
    let second = next(&mut source, flame_of).await;
    assert_eq!((second.named, second.with_line, second.modules_known), (samples, samples, 1));
    assert!(second.functions.iter().any(|f| f.place().is_some_and(|p| p.contains(".cpp:"))));
}

/// A collector that goes away is missed, and found again without the user doing anything.
#[tokio::test]
async fn a_lost_collector_is_found_again() {
    let server = Server::start(0, guest());
    let address = server.address;
    let mut source = start(&format!("http://{address}"), &Credentials::default()).unwrap();
    next(&mut source, rows_of).await;
    drop(server);
    let waiting = |delta| match delta {
        Delta::Link(Link::Waiting { reason, .. }) => Some(reason),
        _ => None,
    };
    assert!(!next(&mut source, waiting).await.as_str().is_empty());
    let _again = Server::start(address.port(), guest());
    next(&mut source, |delta| matches!(delta, Delta::Link(Link::Connected)).then_some(())).await;
    assert_eq!(next(&mut source, rows_of).await, (true, 1));
}

/// Scripts get rows, counts and functions with their lines.
#[tokio::test]
async fn headless_names_what_ran() {
    let guest = guest();
    let samples = guest.profile.samples();
    let server = Server::start(0, guest);
    let got = collect_for(&server.address.to_string(), Duration::from_secs(2)).await.unwrap();
    assert_eq!((got.rows.len(), got.pipeline.unwrap().acked), (1, 5));
    let [workload] = &got.workloads[..] else { panic!("{:?}", got.workloads) };
    assert_eq!((&workload.key, workload.calls), (&key(), Some(77)));
    assert_eq!((workload.guest, workload.named, workload.with_line), (samples, samples, samples));
    let top = &workload.top[0];
    assert!(top.line.is_some() && top.file.is_some() && top.self_share > 0.0, "{top:?}");
}

/// Without a collector the error says which one and why.
#[tokio::test]
async fn headless_says_that_nobody_is_there() {
    let address = {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap().to_string()
    };
    let error = collect_for(&address, Duration::from_secs(1)).await.unwrap_err().to_string();
    assert!(error.contains(&address) && error.to_lowercase().contains("refused"), "{error}");
}

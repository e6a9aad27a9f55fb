//! Telemetry in over OTLP, rows, stacks and series out over the query service, over real connections.

mod common;

use common::{Host, NoNames, PATIENCE, Rows, row, start};
use sandscope_collector::{Dropped, Limits};
use sandscope_model::{Frame, ModuleId, Profile, WorkloadId};
use sandscope_proto::agent::{Hello, HostMessage, host_message};
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::collector::logs::v1::logs_service_client::LogsServiceClient;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otel::collector::trace::v1::trace_service_client::TraceServiceClient;
use sandscope_proto::otel::profiles::v1development as otlp_profiles;
use sandscope_proto::otel::trace::v1::{ResourceSpans, ScopeSpans, Span};
use sandscope_proto::otlp::{MetricBatch, Point, PointValue, profiles};
use sandscope_proto::query::{FlameRequest, Selection, SeriesRequest, WatchRequest};
use sandscope_proto::stacks::StackDecoder;
use tonic::Code;

const WORKLOADS: [&str; 3] = ["image", "session", "analytics"];

fn in_region(region: &str) -> Selection {
    Selection { region: region.into(), ..Selection::default() }
}

async fn calls(rows: &mut Rows, region: &str, workload: &str, calls: u64) {
    rows.until(|rows| row(rows, region, workload).is_some_and(|row| row.calls == Some(calls))).await;
}

/// Two regions with three workloads are six rows; a reader sees them all first and then what changes.
#[tokio::test]
async fn rows_of_all_regions_arrive_and_change() {
    let collector = start(Limits::default()).await;
    let mut early = collector.watch(Selection::default()).await;
    let first = early.next().await;
    assert!(first.snapshot && first.rows.is_empty(), "an empty collector says that it is empty");

    let mut hosts = Vec::new();
    for region in ["eu-1", "us-1"] {
        for (i, workload) in WORKLOADS.into_iter().enumerate() {
            let mut host = Host::new(region, "boot-1", workload);
            host.call(10 * (i as u64 + 1));
            host.report(&collector, 10).await;
            hosts.push(host);
        }
    }
    early.until(|rows| rows.len() == 6).await;
    let image = row(&early.rows, "eu-1", "image").unwrap();
    assert_eq!((image.calls, image.cold_starts, image.memory), (Some(10), Some(10), Some(65_536)));
    assert_eq!((image.hosts, image.traps, image.errors), (1, Some(0), Some(0)));
    assert!((image.p95_s.unwrap() / 0.01 - 1.0).abs() < 0.05, "{image:?}");
    assert!((image.calls_per_second.unwrap() - 1.0).abs() < 1e-6, "{image:?}");

    let mut late = collector.watch(in_region("us-1")).await;
    let first = late.next().await;
    assert!(first.snapshot);
    late.until(|rows| rows.len() == 3).await;
    let pipeline = late.next().await.pipeline.unwrap();
    assert_eq!((pipeline.acked, pipeline.delivered, pipeline.dropped, pipeline.hosts), (6, 24, 0, 2));

    // Only the row that changed travels.
    hosts[5].call(1);
    hosts[5].trap();
    hosts[5].report(&collector, 20).await;
    let mut sent = Vec::new();
    while row(&late.rows, "us-1", "analytics").and_then(|row| row.traps) != Some(1) {
        let update = late.next().await;
        assert!(!update.snapshot);
        sent.extend(update.rows);
    }
    assert!(sent.iter().all(|row| row.key.as_ref().unwrap().workload == "analytics"), "{sent:#?}");
    collector.stop().await.unwrap();
}

/// A host that crashes and returns under a new instance id counts on from where it was.
#[tokio::test]
async fn a_second_boot_accumulates() {
    let collector = start(Limits::default()).await;
    let mut rows = collector.watch(Selection::default()).await;
    let mut first = Host::new("eu-1", "boot-1", "image");
    first.call(7);
    first.report(&collector, 10).await;
    first.call(1);
    first.report(&collector, 20).await;
    calls(&mut rows, "eu-1", "image", 8).await;
    let mut second = Host::new("eu-1", "boot-2", "image");
    second.call(3);
    second.report(&collector, 10).await;
    calls(&mut rows, "eu-1", "image", 11).await;
    assert_eq!(rows.rows.len(), 1);
}

/// Profiles of several hosts fold into the stacks of a selection, offsets and module ids intact.
#[tokio::test]
async fn stacks_come_back_folded() {
    let collector = start(Limits::default()).await;
    let module = ModuleId::parse("sha256:00ff").unwrap();
    for (region, instance) in [("eu-1", "a"), ("eu-1", "b"), ("us-1", "c")] {
        let host = Host::new(region, instance, "image");
        let batch = host.profile(&module, &[(&[300, 200, 100], 5), (&[200, 100], 2)]);
        host.send_profile(&collector, batch).await;
    }
    let flame = async |selection, kind: &str| {
        let request = FlameRequest { selection: Some(selection), kind: kind.into(), seconds: 0.0 };
        collector.query().flame(request).await.map(tonic::Response::into_inner)
    };
    let answer = flame(in_region("eu-1"), "cpu").await.unwrap();
    let samples = answer.samples.unwrap();
    assert_eq!((answer.truncated, samples.hz, samples.kind.as_str()), (0, 100.0, "cpu"));
    let mut decoder = StackDecoder::default();
    let mut profile = Profile::new();
    decoder.learn(&samples).unwrap();
    decoder.add_to(&mut profile, &samples).unwrap();
    assert_eq!(profile.modules, [module]);
    let mut stacks: Vec<(Vec<u64>, u64)> = profile
        .iter()
        .map(|(stack, weight)| {
            let offset = |&frame: &u32| match profile.frames[frame as usize] {
                Frame::Guest { offset, .. } => offset,
                Frame::Host(_) => 0,
            };
            (stack.iter().map(offset).collect(), weight.samples)
        })
        .collect();
    stacks.sort();
    assert_eq!(stacks, [(vec![200, 100], 4), (vec![300, 200, 100], 10)]);

    assert_eq!(flame(Selection::default(), "cpu").await.unwrap().samples.unwrap().count, [15, 6]);
    assert!(flame(in_region("ap-1"), "cpu").await.unwrap().samples.unwrap().stack.is_empty());
    assert_eq!(flame(Selection::default(), "heat").await.unwrap_err().code(), Code::InvalidArgument);

    let mut rows = collector.watch(Selection::default()).await;
    rows.until(|rows| rows.len() == 2).await;
    let eu = row(&rows.rows, "eu-1", "image").unwrap();
    assert_eq!((eu.samples, eu.calls), (Some(14), None));
    assert!(eu.cpu.unwrap() > 0.0);
}

/// What an embedder records itself can be asked for by name.
#[tokio::test]
async fn an_embedders_counter_is_found() {
    let collector = start(Limits::default()).await;
    let host = Host::new("eu-1", "a", "image");
    let mut point = Point::of(sandscope_proto::metric::Metric::Exports, None, PointValue::Counter(41.0));
    point.name = "my_counter".into();
    let batch = MetricBatch { resource: host.resource.clone(), points: vec![point.with("shard", "7")] };
    collector.metrics().export(batch.to_otlp()).await.unwrap();
    let request = SeriesRequest { name: "my_counter".into(), selection: None };
    let answer = collector.query().series(request).await.unwrap().into_inner();
    let [point] = answer.points.as_slice() else { panic!("{answer:?}") };
    assert_eq!((point.value, point.kind.as_str()), (41.0, "counter"));
    assert_eq!((point.attributes[0].key.as_str(), point.attributes[0].value.as_str()), ("shard", "7"));
    assert_eq!(point.key.as_ref().unwrap().region, "eu-1");
}

/// A flood of label sets, values that are no numbers and indices into nowhere: each is answered with what was
/// not taken, rows stay bounded, and honest hosts are served as before.
#[tokio::test]
async fn hostile_requests_leave_it_bounded_and_serving() {
    let collector = start(Limits { keys: 50, hosts: 500, series: 100, ..Limits::default() }).await;
    let mut honest = Host::new("eu-1", "boot-1", "image");
    honest.call(4);
    honest.report(&collector, 10).await;

    let evil = Host::new("eu-1", "evil", "x");
    let flood = |name: &'static str| {
        let points = (0..100_000).map(|i| {
            let workload = WorkloadId::new(&format!("w{i}"), "1");
            let metric = sandscope_proto::metric::Metric::Traps;
            let mut point = Point::of(metric, Some(&workload), PointValue::Counter(1.0));
            point.name = name.into();
            point.with("i", i.to_string())
        });
        MetricBatch { resource: evil.resource.clone(), points: points.collect() }.to_otlp()
    };
    for name in ["wasm.traps", "my_counter"] {
        let answer = collector.metrics().export(flood(name)).await.unwrap().into_inner();
        let partial = answer.partial_success.unwrap();
        assert!(partial.rejected_data_points > 99_000, "{partial:?}");
        assert!(partial.error_message.contains("too_many"), "{partial:?}");
    }

    let mut nan = evil.batch(10);
    nan.points[2].value = PointValue::Gauge(f64::NAN);
    nan.points[3].value = PointValue::Counter(f64::NEG_INFINITY);
    let answer = collector.metrics().export(nan.to_otlp()).await.unwrap().into_inner();
    let partial = answer.partial_success.unwrap();
    assert!(partial.error_message.contains("2 unreadable"), "{partial:?}");

    let module = ModuleId::parse("ab").unwrap();
    let mut bad =
        profiles::to_otlp(&evil.resource, &[evil.profile(&module, &[(&[1, 2], 3), (&[2], 1)])], &NoNames);
    bad.dictionary.as_mut().unwrap().stack_table[1].location_indices[0] = i32::MAX;
    let bad_profile = &mut bad.resource_profiles[0].scope_profiles[0].profiles;
    bad_profile.push(otlp_profiles::Profile { attribute_indices: vec![-1], ..bad_profile[0].clone() });
    bad_profile.push(otlp_profiles::Profile {
        sample_type: Some(otlp_profiles::ValueType { type_strindex: -9, unit_strindex: 0 }),
        ..bad_profile[0].clone()
    });
    let answer = collector.profiles().export(bad).await.unwrap().into_inner();
    let partial = answer.partial_success.unwrap();
    assert_eq!(partial.rejected_profiles, 1);
    assert!(partial.error_message.contains("unreadable"), "{partial:?}");

    honest.call(1);
    honest.report(&collector, 20).await;
    let mut rows = collector.watch(Selection::default()).await;
    calls(&mut rows, "eu-1", "image", 5).await;
    assert_eq!(rows.rows.len(), 51, "the bound and the row for the rest");
    assert!(row(&rows.rows, "", "(overflow)").is_some_and(|row| row.traps > Some(0)));
    assert!(collector.account.dropped(Dropped::Hosts) > 90_000);
    assert!(collector.account.dropped(Dropped::Series) > 90_000);
    assert_eq!(collector.account.dropped(Dropped::Unreadable), 2 + 1 + 1 + 2);
}

/// Other signals of an ordinary OTLP sender are answered with success and counted.
#[tokio::test]
async fn traces_and_logs_are_accepted() {
    let collector = start(Limits::default()).await;
    let spans = vec![Span::default(), Span::default()];
    let request = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans { spans, ..Default::default() }],
            ..Default::default()
        }],
    };
    TraceServiceClient::new(collector.otlp.clone()).export(request).await.unwrap();
    LogsServiceClient::new(collector.otlp.clone()).export(ExportLogsServiceRequest::default()).await.unwrap();
    assert_eq!((collector.account.spans(), collector.account.log_records()), (2, 0));
    assert_eq!(collector.account.acked(), 2);
}

/// A reader that leaves gives its place to the next.
#[tokio::test]
async fn places_of_readers_are_given_back() {
    let collector = start(Limits { watchers: 1, ..Limits::default() }).await;
    let mut first = collector.watch(Selection::default()).await;
    first.next().await;
    let request = || WatchRequest { selection: None };
    let refused = collector.query().watch(request()).await.map(drop).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    drop(first);
    let again = async { while collector.query().watch(request()).await.is_err() {} };
    tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
}

/// Open streams in both directions do not keep a collector from stopping, and their readers learn of it.
#[tokio::test]
async fn it_stops_although_streams_are_open() {
    let collector = start(Limits::default()).await;
    let mut rows = collector.watch(Selection::default()).await;
    rows.next().await;
    let (outbox, messages) = tokio::sync::mpsc::channel(4);
    let hello = host_message::Message::Hello(Hello { protocol: 1, ..Hello::default() });
    outbox.send(HostMessage { message: Some(hello) }).await.unwrap();
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut host = collector.agent().connect(messages).await.unwrap().into_inner();
    assert!(host.message().await.unwrap().is_some(), "Welcome");

    collector.stop().await.unwrap();
    let end = async {
        while let Ok(Some(_)) = rows.updates.message().await {}
        while let Ok(Some(_)) = host.message().await {}
    };
    tokio::time::timeout(PATIENCE, end).await.expect("both streams end");
}

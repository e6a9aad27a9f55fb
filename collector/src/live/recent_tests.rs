//! What is said of traces, events, lines and hosts after what senders sent.

use prost::Message as _;
use sandscope_proto::metric::attribute;
use sandscope_proto::otlp::{Event, Line, Scalar, Span, SpanBatch, SpanStatus};
use sandscope_proto::query::Selection;
use sandscope_proto::scan;

use super::*;

const S: u64 = 1_000_000_000;

fn resource(region: &str, instance: &str) -> Resource {
    Resource {
        service: "edge".into(),
        region: region.into(),
        instance: instance.into(),
        host: format!("{region}-node"),
        arch: if region == "eu" { "arm64" } else { "amd64" }.into(),
        engine: "wasmtime".into(),
        engine_version: "48.0.8".into(),
    }
}

fn span(trace_id: u128, span_id: u64, parent_id: u64, workload: &str, ms: u64) -> Span {
    Span {
        trace_id,
        span_id,
        parent_id,
        name: format!("call-{span_id}"),
        start_unix_nano: 1000 * S + span_id,
        end_unix_nano: 1000 * S + span_id + ms * 1_000_000,
        workload: Some(WorkloadId::new(workload, "1")),
        ..Span::default()
    }
}

fn failed(span: Span, trap: &str) -> Span {
    let attributes = vec![(attribute::TRAP_CODE.into(), Scalar::Text(trap.into()))];
    Span { status: SpanStatus::Error(trap.into()), attributes, ..span }
}

fn send(live: &mut Live, seconds: u64, region: &str, spans: Vec<Span>) {
    let sent = spans.len() as u64;
    let request = SpanBatch { resource: resource(region, "a"), spans }.to_otlp().encode_to_vec();
    let batch = Batch::Traces { spans: scan::spans(&request.into()).unwrap().batches, skipped_events: 0 };
    let outcome = live.apply(Duration::from_secs(seconds), &batch);
    assert_eq!((outcome.delivered, outcome.refused()), (sent, None));
}

fn select(selection: Selection) -> Selected {
    Selected::new(Some(selection))
}

/// A trace that went through two regions is one, found by its id, and a trap in it is an event that leads to it.
#[test]
fn a_trace_is_found_whole() {
    let mut live = Live::new(&Limits::default());
    send(&mut live, 1, "eu", vec![span(7, 1, 0, "front", 30), span(8, 2, 0, "front", 5)]);
    send(&mut live, 2, "us", vec![failed(span(7, 3, 1, "back", 20), "out_of_bounds")]);

    let all = live.traces(&TracesRequest::default(), &Selected::default()).traces;
    assert_eq!(all.len(), 2);
    let errors = TracesRequest { errors_only: true, ..TracesRequest::default() };
    let [one] = &*live.traces(&errors, &Selected::default()).traces else { panic!("one failed") };
    assert_eq!((one.name.as_str(), one.has_root, one.spans, one.errors), ("call-1", true, 2, 1));
    assert!((one.duration_s - 0.03).abs() < 1e-6);
    let slow = TracesRequest { slower_than_s: 0.025, ..TracesRequest::default() };
    assert_eq!(live.traces(&slow, &Selected::default()).traces.len(), 1);
    let eu = select(Selection { region: "eu".into(), ..Selection::default() });
    assert_eq!(live.traces(&errors, &eu).traces.len(), 0, "the span of eu did not fail");
    let only_us = Selected::default().within(Some(vec!["us".into()]));
    let [seen] = &*live.traces(&TracesRequest::default(), &only_us).traces else { panic!("one is of us") };
    assert_eq!(
        (seen.name.as_str(), seen.has_root, seen.spans),
        ("call-3", false, 1),
        "nothing of eu is told"
    );
    assert_eq!(live.trace(7, &only_us).0.len(), 1);

    let (spans, truncated) = live.trace(7, &Selected::default());
    let regions: Vec<&str> = spans.iter().map(|span| span.key.as_ref().unwrap().region.as_str()).collect();
    assert_eq!((regions, truncated), (vec!["eu", "us"], 0));
    assert_eq!(spans[1].parent_id, spans[0].span_id);
    assert_eq!((spans[1].status.as_str(), spans[1].message.as_str()), ("error", "out_of_bounds"));

    let [trap] = &*live.find_events(&EventsRequest::default(), &Selected::default()).events else {
        panic!("one event")
    };
    assert_eq!((trap.kind.as_str(), trap.name.as_str()), ("trap", "out_of_bounds"));
    assert_eq!(trap.trace_id, spans[0].trace_id);
    assert_eq!(trap.source.as_ref().unwrap().engine, "wasmtime 48.0.8");
}

/// In a flood of calls, the few that failed and the few that were slow are still there.
#[test]
fn what_failed_or_was_slow_stays() {
    let mut live = Live::new(&Limits { recent_bytes: 1 << 20, ..Limits::default() });
    for i in 1..=20_000u64 {
        let usual = span(i.into(), i, 0, "busy", 5 + i % 3);
        let one = match i {
            500 => failed(usual, "unreachable"),
            700 => span(i.into(), i, 0, "busy", 900),
            _ => usual,
        };
        send(&mut live, 1 + i / 10_000, "eu", vec![one]);
    }
    let all = live.traces(&TracesRequest { limit: 1000, ..TracesRequest::default() }, &Selected::default());
    assert!(all.evicted > 10_000 && live.bytes() < 2 << 20);
    for id in [500, 700, 20_000] {
        assert_eq!(live.trace(id, &Selected::default()).0.len(), 1, "{id}");
    }
    assert!(live.trace(600, &Selected::default()).0.is_empty());
}

/// Events and lines are found by what they are of, newest first, and forgotten with time.
#[test]
fn events_and_lines_are_found() {
    let mut live = Live::new(&Limits::default());
    let line = |text: &str, trace_id| Line {
        workload: Some(WorkloadId::new("image", "1")),
        stream: "stderr".into(),
        time_unix_nano: 5,
        trace_id,
        text: text.into(),
        ..Line::default()
    };
    let event = Event { name: "deploy".into(), ..Event::default() };
    let lines = LineBatch { resource: resource("eu", "a"), lines: vec![line("one", 0), line("two", 9)] };
    let events = EventBatch { resource: resource("us", "b"), events: vec![event] };
    let batch = Batch::Logs { lines: vec![lines], events: vec![events] };
    assert_eq!(live.apply(Duration::from_secs(5), &batch).delivered, 3);

    let texts = |request: &LinesRequest, trace, selected: &Selected| {
        let found = live.find_lines(request, trace, selected).lines;
        found.into_iter().map(|line| line.text).collect::<Vec<_>>()
    };
    let all = Selected::default();
    assert_eq!(texts(&LinesRequest::default(), None, &all), ["two", "one"]);
    assert_eq!(texts(&LinesRequest { limit: 1, ..LinesRequest::default() }, None, &all), ["two"]);
    assert_eq!(texts(&LinesRequest::default(), Some(9), &all), ["two"]);
    let arm = select(Selection { arch: "arm64".into(), ..Selection::default() });
    let amd = select(Selection { arch: "amd64".into(), ..Selection::default() });
    let ask = EventsRequest::default();
    assert_eq!(
        (texts(&LinesRequest::default(), None, &arm).len(), live.find_events(&ask, &arm).events.len()),
        (2, 0)
    );
    assert_eq!(
        (texts(&LinesRequest::default(), None, &amd).len(), live.find_events(&ask, &amd).events.len()),
        (0, 1)
    );
    live.apply(Duration::from_secs(2000), &Batch::Metrics(Vec::new()));
    assert_eq!(live.find_lines(&LinesRequest::default(), None, &all).lines.len(), 0);
    assert_eq!(live.bytes(), 0, "nothing is held, so nothing is counted");
}

/// Hosts are listed with what they run on, how old their news is, and how their clock differs.
#[test]
fn hosts_are_listed() {
    let mut live = Live::new(&Limits::default());
    live.set_clock(Duration::ZERO, 1000 * S);
    // Ends 30 ms after 1000 s, arrives at 1002 s by our clock.
    send(&mut live, 2, "eu", vec![span(1, 1, 0, "w", 30)]);
    send(&mut live, 90, "us", vec![span(2, 2, 0, "w", 30)]);
    let (hosts, truncated) = live.hosts(Duration::from_secs(91), &Selected::default());
    assert_eq!((hosts.len(), truncated), (2, 0));
    assert_eq!((hosts[0].region.as_str(), hosts[0].live, hosts[1].live), ("eu", false, true));
    assert!((hosts[0].clock_skew_s.unwrap() - 1.97).abs() < 0.001, "{:?}", hosts[0]);
    let named = select(Selection { host: "us-node".into(), ..Selection::default() });
    assert_eq!(live.hosts(Duration::from_secs(91), &named).0.len(), 1);
}

/// Stacks can be told apart by what the code ran on.
#[test]
fn stacks_are_told_apart_by_engine() {
    let mut live = Live::new(&Limits::default());
    for (region, version) in [("eu", "47.0.0"), ("us", "48.0.8")] {
        let mut profile = sandscope_model::Profile::new();
        let frame = profile.frame(sandscope_model::Frame::Host("f".into()));
        profile.add(&[frame], sandscope_model::profile::Weight { samples: 1, value: 1 });
        let batch = ProfileBatch {
            links: Vec::new(),
            resource: Resource { engine_version: version.into(), ..resource(region, "a") },
            workload: Some(WorkloadId::new("w", "1")),
            kind: SampleKind::Cpu,
            time_unix_nano: 0,
            duration_nano: S,
            period: 1,
            profile,
        };
        live.apply(Duration::from_secs(1), &Batch::Profiles(vec![batch]));
    }
    let samples = |engine: &str| {
        let selected = select(Selection { engine: engine.into(), ..Selection::default() });
        let folded = live.fold(Duration::from_secs(1), &selected, SampleKind::Cpu, FoldSpan::default());
        folded.profile.samples()
    };
    assert_eq!(
        [samples("wasmtime"), samples("48.0.8"), samples("wasmtime 47.0.0"), samples("v8")],
        [2, 1, 1, 0]
    );
}

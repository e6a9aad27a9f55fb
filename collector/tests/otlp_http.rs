//! OTLP over HTTP as its specification has it: both forms, all codings, and what is answered to what is wrong.

mod common;

use std::io::Write as _;
use std::net::SocketAddr;

use common::start;
use prost::Message as _;
use sandscope_collector::Limits;
use sandscope_proto::MAX_MESSAGE;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceResponse;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otel::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// An answer: status, head and body.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

async fn exchange(to: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(to).await.unwrap();
    // The server may have said no before it read everything.
    let _ = stream.write_all(request).await;
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(all[..end].to_vec()).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: all[end + 4..].to_vec() }
}

async fn post(to: SocketAddr, path: &str, form: &str, coding: &str, body: &[u8]) -> Answer {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {form}\r\n\
         content-encoding: {coding}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    exchange(to, &request).await
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn spans(count: usize) -> ExportTraceServiceRequest {
    let spans = (0..count)
        .map(|n| Span {
            name: format!("span {n}"),
            ..Span { trace_id: vec![1; 16], span_id: vec![2; 8], ..Span::default() }
        })
        .collect();
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }],
    }
}

/// Spans arrive in either form and any coding, and the answer has the form of the question.
#[tokio::test]
async fn forms_and_codings() {
    let collector = start(Limits::default()).await;
    let mut expected = 0;
    let plain = spans(5).encode_to_vec();
    let json = br#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"s"}}]},
        "scopeSpans":[{"scope":{"name":"lib"},"spans":[{"traceId":"5B8EFFF798038103D269B633813FC60C",
        "spanId":"EEE19B7EC3C1B174","parentSpanId":"","name":"a","kind":2,"startTimeUnixNano":"1544712660000000000",
        "endTimeUnixNano":"1544712661000000000","attributes":[{"key":"n","value":{"intValue":"7"}}],
        "status":{"code":1},"someFutureField":true}]}]}]}"#;
    for (form, body, count) in [(PROTOBUF, &plain[..], 5), (JSON, &json[..], 1)] {
        let packed = zstd::bulk::compress(body, 3).unwrap();
        for (coding, body) in [("identity", body), ("gzip", &gzip(body)), ("zstd", &packed)] {
            let answer = post(collector.otlp_http, "/v1/traces", form, coding, body).await;
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            assert_eq!(answer.status, 200, "{form} {coding}: {said}");
            assert!(answer.head.contains(&format!("content-type: {form}")), "{}", answer.head);
            assert_eq!(said, if form == JSON { "{}" } else { "" });
            expected += count;
        }
    }
    assert_eq!(collector.account.spans(), expected);
    collector.stop().await.unwrap();
}

/// Metrics in JSON, as the specification's examples write them: a point of a kind that has no place here is said.
#[tokio::test]
async fn partial_success_is_said_in_both_forms() {
    let collector = start(Limits::default()).await;
    let json = br#"{"resourceMetrics":[{"resource":{"attributes":[]},"scopeMetrics":[{"metrics":[
        {"name":"my.counter","unit":"1","sum":{"aggregationTemporality":2,"isMonotonic":true,
         "dataPoints":[{"asDouble":5,"startTimeUnixNano":"1544712660300000000","timeUnixNano":"1544712660300000000"}]}},
        {"name":"my.summary","summary":{"dataPoints":[{"count":"2","sum":3,"timeUnixNano":"1544712660300000000"}]}}
        ]}]}]}"#;
    let answer = post(collector.otlp_http, "/v1/metrics", JSON, "identity", json).await;
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &said["partialSuccess"]["rejectedDataPoints"]), (200, &"1".into()), "{said}");
    assert!(said["partialSuccess"]["errorMessage"].as_str().unwrap().contains("unreadable"), "{said}");

    let request: sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest =
        serde_json::from_slice(json).unwrap();
    let answer =
        post(collector.otlp_http, "/v1/metrics", PROTOBUF, "gzip", &gzip(&request.encode_to_vec())).await;
    let said = ExportMetricsServiceResponse::decode(&answer.body[..]).unwrap();
    assert_eq!((answer.status, said.partial_success.unwrap().rejected_data_points), (200, 1));
    collector.stop().await.unwrap();
}

/// What is wrong is answered with what the specification makes of it, and changes nothing for others: bombs and
/// bodies without end are cut off at the limit, half a request waits alone.
#[tokio::test]
async fn refusals() {
    let collector = start(Limits::default()).await;
    let to = collector.otlp_http;
    let mut half_open = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-le").await.unwrap();
        half_open.push(stream);
    }
    let zeros = vec![0; 2 * MAX_MESSAGE];
    let bomb = gzip(&vec![0; 8 * MAX_MESSAGE]);
    let packed_bomb = zstd::bulk::compress(&vec![0; 8 * MAX_MESSAGE], 3).unwrap();
    let deep = format!(
        r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"k","value":{}1{}}}]}}}}]}}"#,
        r#"{"arrayValue":{"values":["#.repeat(5000),
        "]}}".repeat(5000)
    );
    for (path, form, coding, body, status) in [
        ("/v1/traces", PROTOBUF, "gzip", &bomb[..], 413),
        ("/v1/traces", PROTOBUF, "zstd", &packed_bomb, 413),
        ("/v1/traces", PROTOBUF, "identity", &zeros, 413),
        ("/v1/traces", PROTOBUF, "gzip", b"no gzip", 400),
        ("/v1/traces", PROTOBUF, "br", b"", 415),
        ("/v1/traces", "text/plain", "identity", b"hello", 415),
        ("/v1/traces", PROTOBUF, "identity", b"\xff\xff\xff", 400),
        ("/v1/logs", JSON, "identity", b"{\"resourceLogs\": 3}", 400),
        ("/v1/traces", JSON, "identity", deep.as_bytes(), 400),
        ("/v2/traces", JSON, "identity", b"{}", 404),
    ] {
        let answer = post(to, path, form, coding, body).await;
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, status, "{path} {form} {coding}: {said}");
        if form == JSON {
            let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert!(!said["message"].as_str().unwrap().is_empty());
        }
    }
    let answer = exchange(to, b"GET /v1/traces HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert_eq!(answer.status, 405);
    assert_eq!(collector.account.spans(), 0);

    let answer = post(to, "/v1/traces", PROTOBUF, "identity", &spans(3).encode_to_vec()).await;
    assert_eq!((answer.status, collector.account.spans()), (200, 3));
    drop(half_open);
    collector.stop().await.unwrap();
}

/// 4 GB in chunks: refused once the limit is reached, in bounded memory.
#[tokio::test]
async fn a_body_without_end_is_cut_off() {
    let collector = start(Limits::default()).await;
    let mut stream = TcpStream::connect(collector.otlp_http).await.unwrap();
    let head = format!(
        "POST /v1/logs HTTP/1.1\r\nhost: x\r\ncontent-type: {PROTOBUF}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut chunk = format!("{:x}\r\n", 1 << 20).into_bytes();
    chunk.resize(chunk.len() + (1 << 20), 0);
    chunk.extend_from_slice(b"\r\n");
    let mut sent = 0;
    while sent < 4096 && stream.write_all(&chunk).await.is_ok() {
        sent += 1;
    }
    assert!(sent < 64, "{sent} MiB were taken");
    collector.stop().await.unwrap();
}

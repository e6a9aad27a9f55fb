//! One recording of every format version, as its release wrote it: whatever changes, these open with what is in
//! them. `BLESS=1` writes those of the present version if they are not there; it never changes one that is.

use std::path::{Path, PathBuf};

use sandscope_model::SampleKind;
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::common::v1::{AnyValue, any_value::Value};
use sandscope_proto::otel::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use sandscope_proto::otlp::PointValue;
use sandscope_proto::recording::{AllocationSite, Blocked, BlockedCall, Heap, Lock, Locks};
use sandscope_recording::{FORMAT_VERSION, ModuleInfo, Recording, SampleBatch, Writer};

#[allow(dead_code, reason = "what a recording needs in the tests of damage, others do not")]
mod common;
use common::*;

const DEBUG: &[u8] = b"\0asm\x01\0\0\0 no more than this";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn locks() -> Locks {
    let lock = Lock { address: 64, contentions: 2.0, wait_ns: 500, max_wait_ns: 400, ..Lock::default() };
    let (workload, workload_version) = ("image".to_owned(), "1.2.0".to_owned());
    Locks { version: 1, workload, workload_version, locks: vec![lock] }
}

fn heap() -> Heap {
    let site = AllocationSite { allocated_bytes: 4096, allocated_count: 4, ..AllocationSite::default() };
    let (workload, workload_version) = ("image".to_owned(), "1.2.0".to_owned());
    Heap { version: 1, workload, workload_version, sites: vec![site], live_known: true }
}

fn blocked() -> Blocked {
    let call = BlockedCall { name: "wasi:io#poll".to_owned(), since_ns: 7, ..BlockedCall::default() };
    Blocked { version: 1, calls: vec![call] }
}

fn line(text: &str) -> ExportLogsServiceRequest {
    let body = Some(AnyValue { value: Some(Value::StringValue(text.to_owned())) });
    let record = LogRecord { body, time_unix_nano: START, ..LogRecord::default() };
    let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
    let resource = ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() };
    ExportLogsServiceRequest { resource_logs: vec![resource] }
}

/// Three seconds with something of everything.
fn everything(path: &Path) -> Writer {
    let mut writer = Writer::create(path, &head()).unwrap();
    let info = ModuleInfo { id: module_id(), workload: image(), name: "image.wasm".into() };
    writer.module(&info, Some(&zstd::bulk::compress(DEBUG, 1).unwrap())).unwrap();
    for second in 1..=3 {
        let (workload, profile) = (image(), profile(second));
        let start_unix_nano = START + (second - 1) * 1_000_000_000;
        let kind = SampleKind::Cpu;
        let batch = SampleBatch {
            workload: &workload,
            kind,
            hz: 99.0,
            dropped: 1,
            start_unix_nano,
            profile: &profile,
        };
        writer.samples(&batch).unwrap();
        writer.metrics(&metrics(second)).unwrap();
        writer.spans(&spans(second)).unwrap();
        writer.flush().unwrap();
    }
    writer.cold_start(&cold_start()).unwrap();
    writer.trap(&trap()).unwrap();
    writer.locks(&locks(), START).unwrap();
    writer.heap(&heap(), START).unwrap();
    writer.blocked(&blocked(), START).unwrap();
    writer.logs(&line("hello"), START).unwrap();
    writer
}

#[track_caller]
fn has_everything(path: &Path) {
    let recording = Recording::open(path).unwrap();
    assert_eq!((recording.head(), recording.integrity().unreadable), (&head(), 0));
    let [module] = recording.modules() else { panic!("one module") };
    assert_eq!((&module.id, &module.workload, module.name.as_str()), (&module_id(), &image(), "image.wasm"));
    assert_eq!(recording.debug_info(&module_id()).unwrap().as_deref(), Some(DEBUG));
    let [cpu] = recording.profiles() else { panic!("one profile") };
    assert_eq!(
        (cpu.kind, cpu.profile.samples(), cpu.dropped, cpu.lost),
        (SampleKind::Cpu, 3 * SAMPLES, 3, 0)
    );
    let mut seconds = 0;
    recording
        .each_sample_batch(|batch| {
            seconds += 1;
            assert_eq!(stacks(&batch.profile), stacks(&profile(seconds)));
        })
        .unwrap();
    let mut history = Vec::new();
    recording.history(|batch| history.push(batch)).unwrap();
    assert_eq!(history, [metrics(1), metrics(2), metrics(3)]);
    let size = recording.metrics().iter().find(|stream| stream.point.name == "wasm.memory.size").unwrap();
    assert_eq!((&size.point.value, size.peak), (&PointValue::Gauge(65_536.0 * 3.0), Some(65_536.0 * 3.0)));
    assert_eq!(recording.spans(), 6);
    assert_eq!((recording.cold_starts(), recording.traps()), (&[cold_start()][..], &[trap()][..]));
    assert_eq!((recording.locks(), recording.heaps()), (&[locks()][..], &[heap()][..]));
    assert_eq!(recording.blocked(), blocked().calls);
    let mut lines = Vec::new();
    recording.each_log_batch(|batch| lines.push(batch)).unwrap();
    assert_eq!((recording.logs(), lines), (1, vec![line("hello")]));
}

/// A recording of version 1 that was finished, and one whose host died.
#[test]
fn version_1_opens() {
    let (finished, died) = (file("v1.mcap"), file("v1-open.mcap"));
    if std::env::var_os("BLESS").is_some() && FORMAT_VERSION == 1 && !finished.exists() {
        std::fs::create_dir_all(file("")).unwrap();
        everything(&finished).finish().unwrap();
        drop(everything(&died));
    }
    has_everything(&finished);
    has_everything(&died);
    assert!(Recording::open(&finished).unwrap().complete());
    let missing = Recording::open(&died).unwrap().missing().map(str::to_owned);
    assert_eq!(
        missing.as_deref(),
        Some("this recording is incomplete: it was not closed, so its end is missing")
    );
}

/// What the present writer writes has the same in it, and so has what is recovered from what it wrote.
#[test]
fn the_present_writer_writes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (path, out) = (dir.path().join("r.mcap"), dir.path().join("out.mcap"));
    drop(everything(&path));
    assert!(sandscope_recording::recover(&path, &out, false).unwrap().is_some());
    has_everything(&out);
    everything(&path).finish().unwrap();
    has_everything(&path);
    assert_eq!(sandscope_recording::recover(&path, &out, true).unwrap(), None);
    has_everything(&out);
    assert!(Recording::open(&out).unwrap().complete());
}

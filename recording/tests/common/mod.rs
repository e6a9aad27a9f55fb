//! A recording of two workloads as a host writes it, for the tests of writer and reader.

use std::io::Cursor;
use std::path::Path;

use sandscope_model::profile::Weight;
use sandscope_model::{ExpHistogram, Frame, ModuleId, Profile, SampleKind, WorkloadId};
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{MetricBatch, Point, PointValue, Resource, Span, SpanBatch};
use sandscope_proto::recording::{ColdStart, Trap, TrapFrame};
use sandscope_recording::{Head, ModuleInfo, OpenError, Recording, SampleBatch, WriteError, Writer};

/// Start of the recording, in nanoseconds since 1970.
pub const START: u64 = 1_800_000_000_000_000_000;

/// Seconds that are recorded: more than one dictionary of stacks serves.
pub const SECONDS: u64 = 40;

/// Samples of `image` in one second.
pub const SAMPLES: u64 = 90;

pub fn head() -> Head {
    Head {
        resource: Resource {
            service: "edge".into(),
            region: "eu-1".into(),
            arch: "x86_64".into(),
            engine: "wasmtime".into(),
            engine_version: "48.0.8".into(),
            ..Resource::default()
        },
        started_unix_nano: START,
        hz: 99.0,
        trigger: "run".into(),
        ..Head::default()
    }
}

pub fn image() -> WorkloadId {
    WorkloadId::new("image", "1.2.0")
}

pub fn module_id() -> ModuleId {
    ModuleId::parse("deadbeef").unwrap()
}

/// Debug info before compression: incompressible enough to span several reads.
pub fn debug_info() -> Vec<u8> {
    let mut state = 1u32;
    (0..20_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// The stacks of one second: some of every second, some of this one only.
pub fn profile(second: u64) -> Profile {
    let mut out = Profile::new();
    let module = out.module(&module_id());
    let host = out.frame(Frame::Host("wasi:io.write".into()));
    for i in 0..30 {
        let frames: Vec<u32> = (0..12)
            .map(|depth| {
                let offset = if i < 20 { i * 100 + depth } else { 10_000 + second * 1000 + i * 20 + depth };
                out.frame(Frame::Guest { module, offset })
            })
            .collect();
        let stack: Vec<u32> = if i % 3 == 0 { std::iter::once(host).chain(frames).collect() } else { frames };
        out.add(&stack, Weight { samples: SAMPLES / 30, value: SAMPLES / 30 * 10_101_010 });
    }
    out
}

pub fn metrics(second: u64) -> MetricBatch {
    let histogram = ExpHistogram {
        scale: 3,
        offset: -4,
        buckets: vec![second, 1],
        zeros: 0,
        count: second + 1,
        sum: second as f64,
        max: 1.0,
    };
    // Memory grows until the middle, then shrinks: the peak is not the last value.
    let size = 65_536.0 * second.min(SECONDS - second) as f64;
    let mut points = vec![
        Point::of(Metric::MemorySize, Some(&image()), PointValue::Gauge(size)),
        Point::of(Metric::CallDuration, Some(&image()), PointValue::Histogram(histogram)),
        Point::of(Metric::Samples, Some(&image()), PointValue::Counter((second * SAMPLES) as f64)),
    ];
    for point in &mut points {
        point.start_unix_nano = START;
        point.time_unix_nano = START + second * 1_000_000_000;
    }
    MetricBatch { resource: head().resource, points }
}

pub fn trap() -> Trap {
    Trap {
        version: 1,
        time_unix_nano: START + 5_000_000_000,
        workload: "image".into(),
        workload_version: "1.2.0".into(),
        code: "unreachable".into(),
        message: "wasm `unreachable` instruction executed".into(),
        frames: vec![TrapFrame { module_id: "deadbeef".into(), offset: 77, function: 3 }],
        count: 1,
    }
}

pub fn cold_start() -> ColdStart {
    ColdStart {
        version: 1,
        time_unix_nano: START + 1_000_000,
        workload: "image".into(),
        workload_version: "1.2.0".into(),
        module_id: "deadbeef".into(),
        cache: "hit".into(),
        deserialize_ns: Some(160_000),
        first_call_ns: Some(22_000),
        ..ColdStart::default()
    }
}

/// Two spans of one second.
pub fn spans(second: u64) -> SpanBatch {
    let span = |id: u64| Span {
        trace_id: u128::from(second),
        span_id: id,
        name: "run".into(),
        workload: Some(image()),
        start_unix_nano: START + second * 1_000_000_000 - 5,
        end_unix_nano: START + second * 1_000_000_000,
        ..Span::default()
    };
    SpanBatch { resource: head().resource, spans: vec![span(1), span(2)] }
}

/// Writes all seconds and leaves it to the caller to finish.
pub fn write(path: &Path) -> Result<Writer, WriteError> {
    let mut writer = Writer::create(path, &head())?;
    let info = ModuleInfo { id: module_id(), workload: image(), name: "image.wasm".into() };
    let debug = zstd::bulk::compress(&debug_info(), 1).unwrap();
    for second in 1..=SECONDS {
        // A host announces a module whenever it is loaded.
        writer.module(&info, Some(&debug))?;
        let (workload, profile) = (image(), profile(second));
        writer.samples(&SampleBatch {
            workload: &workload,
            kind: SampleKind::Cpu,
            hz: 99.0,
            dropped: 1,
            start_unix_nano: START + (second - 1) * 1_000_000_000,
            profile: &profile,
        })?;
        writer.metrics(&metrics(second))?;
        if second == 1 {
            writer.cold_start(&cold_start())?;
        }
        writer.spans(&spans(second))?;
        if second == 5 {
            writer.trap(&trap())?;
        }
        writer.flush()?;
    }
    Ok(writer)
}

/// The bytes of a complete recording with the chunks that it was flushed in: what stays when there is no room to
/// write it once more.
pub fn bytes() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let writer = write(&path).unwrap();
    as_flushed(writer, &path)
}

/// Finishes a recording and returns its bytes as they were flushed.
pub fn as_flushed(writer: Writer, path: &Path) -> Vec<u8> {
    // What is not where it was created is not replaced.
    let moved = path.with_file_name("moved.mcap");
    std::fs::rename(path, &moved).unwrap();
    writer.finish().unwrap();
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    std::fs::read(&moved).unwrap()
}

/// The bytes of a complete recording in large chunks.
pub fn packed() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    write(&path).unwrap().finish().unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    std::fs::read(&path).unwrap()
}

pub fn open(bytes: &[u8]) -> Result<Recording, OpenError> {
    Recording::read("r.mcap".to_owned(), Box::new(Cursor::new(bytes.to_vec())))
}

/// Stacks as text with their weights, in an order that does not depend on how they were stored.
pub fn stacks(profile: &Profile) -> Vec<(String, Weight)> {
    let mut all: Vec<_> = profile
        .iter()
        .map(|(stack, weight)| {
            let frames: Vec<String> = stack
                .iter()
                .map(|&frame| match &profile.frames[frame as usize] {
                    Frame::Guest { module, offset } => {
                        format!("{}+{offset}", profile.modules[*module as usize])
                    }
                    Frame::Host(name) => name.to_string(),
                })
                .collect();
            (frames.join(";"), weight)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

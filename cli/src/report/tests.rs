//! Reports of recordings that the writer wrote, with the symbols of a real guest.

use std::path::Path;

use sandscope_model::profile::Weight;
use sandscope_model::{ExpHistogram, Frame, ModuleId, Profile, SampleKind, SourceFrame, WorkloadId};
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::{MetricBatch, Point, PointValue, Resource};
use sandscope_proto::recording::{ColdStart, Trap, TrapFrame};
use sandscope_recording::{Head, ModuleInfo, Recording, SampleBatch, Writer};
use sandscope_symbols::SymbolFile;
use serde_json::{Value, json};

use super::Report;
use crate::lookup::Lookup;

const START: u64 = 1_800_000_000_000_000_000;

/// A guest in Rust with DWARF, built into the repository.
fn guest() -> (ModuleId, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/crash.wasm");
    let bytes = std::fs::read(path).expect("the guests are built: cargo xtask guests");
    (ModuleId::of(&bytes), bytes)
}

/// Two places of the guest: in code that was inlined into a function with a line, and in a function of
/// another name.
fn places(bytes: &[u8]) -> [(u64, Vec<SourceFrame>); 2] {
    let file = SymbolFile::parse(bytes).unwrap();
    let at = |offset: u64| (offset, file.lookup(offset).to_frames());
    let lined = |frames: &[SourceFrame]| {
        !frames.is_empty() && frames.iter().all(|f| f.file.is_some() && f.line.is_some())
    };
    let inlined = (0..bytes.len() as u64)
        .map(at)
        .find(|(_, frames)| frames.len() == 2 && lined(frames) && frames[0].function != frames[1].function)
        .expect("a place with one inlined call");
    let other = (inlined.0..bytes.len() as u64)
        .map(at)
        .find(|(_, frames)| {
            frames.len() == 1 && lined(frames) && inlined.1.iter().all(|f| f.function != frames[0].function)
        })
        .expect("a place in another function");
    [inlined, other]
}

fn workload() -> WorkloadId {
    WorkloadId::new("crash", "1.0.0")
}

fn head() -> Head {
    let resource = Resource {
        service: "edge".into(),
        region: "eu-1".into(),
        engine: "wasmtime".into(),
        engine_version: "48.0.8".into(),
        ..Resource::default()
    };
    Head { resource, started_unix_nano: START, hz: 99.0, trigger: "run".into(), ..Head::default() }
}

/// A recording that `fill` writes, closed or not.
fn record(closed: bool, head: &Head, fill: impl FnOnce(&mut Writer)) -> Recording {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.mcap");
    let mut writer = Writer::create(&path, head).unwrap();
    fill(&mut writer);
    if closed {
        writer.finish().unwrap();
    } else {
        drop(writer);
    }
    Recording::open(&path).unwrap()
}

fn samples(writer: &mut Writer, profile: &Profile, dropped: u64) {
    let workload = workload();
    let kind = SampleKind::Cpu;
    let batch = SampleBatch { workload: &workload, kind, hz: 99.0, dropped, start_unix_nano: START, profile };
    writer.samples(&batch).unwrap();
}

fn add(profile: &mut Profile, stack: &[Frame], samples: u64) {
    let stack: Vec<u32> = stack.iter().map(|frame| profile.frame(frame.clone())).collect();
    profile.add(&stack, Weight { samples, value: samples * 10_101_010 });
}

fn json(report: &Report) -> Value {
    serde_json::from_str(&report.json().unwrap()).unwrap()
}

fn function<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["functions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|f| f["name"] == name)
        .unwrap_or_else(|| panic!("no {name}"))
}

/// Time in inlined code belongs to the function that it was written in; the function around it has it in
/// its total. Both have file and line, and the text names them.
#[test]
fn inlined_functions_count_as_their_own() {
    let (id, bytes) = guest();
    let [(leaf, inlined), (caller, outer)] = places(&bytes);
    let recording = record(true, &head(), |writer| {
        let info = ModuleInfo { id: id.clone(), workload: workload(), name: "crash.wasm".into() };
        writer.module(&info, Some(&zstd::bulk::compress(&bytes, 1).unwrap())).unwrap();
        let mut profile = Profile::new();
        let module = profile.module(&id);
        let at = |offset| Frame::Guest { module, offset };
        add(&mut profile, &[at(leaf), at(caller)], 30);
        add(&mut profile, &[at(caller)], 10);
        add(&mut profile, &[Frame::Host("wasi:io.write".into()), at(caller)], 60);
        samples(writer, &profile, 5);
    });
    let report = Report::new(&recording, 10, &Lookup::default());
    let document = json(&report);
    let inner = function(&document, &inlined[0].function);
    assert_eq!((inner["self"].as_f64(), inner["total"].as_f64()), (Some(0.3), Some(0.3)));
    assert_eq!(inner["line"], inlined[0].line.unwrap());
    assert_eq!(inner["file"].as_str(), inlined[0].file.as_deref());
    assert_eq!(inner["module"].as_str(), Some(id.as_str()));
    let around = function(&document, &inlined[1].function);
    assert_eq!((around["self"].as_f64(), around["total"].as_f64()), (Some(0.0), Some(0.3)));
    let outermost = function(&document, &outer[0].function);
    assert_eq!(
        (outermost["self_samples"].as_u64(), outermost["total_samples"].as_u64()),
        (Some(10), Some(100))
    );
    assert_eq!(document["functions"][0]["name"], "wasi:io.write", "sorted by self");
    assert!(document["functions"][0]["module"].is_null());
    assert_eq!(
        document["samples"],
        json!({"cpu": {"count": 100, "dropped": 5, "hz": 99.0}, "wall": null, "alloc": null})
    );

    let text = report.text(&|_, _| None);
    let line = format!("{}", inlined[0].line.unwrap());
    assert!(text.contains("cpu: 100 samples at 99 Hz, 5 more dropped"), "{text}");
    assert!(text.contains("60.0 %") && text.contains(&line), "{text}");
    assert!(text.contains("few samples"), "{text}");
    assert_eq!(
        json(&Report::new(&recording, 1, &Lookup::default()))["functions"].as_array().unwrap().len(),
        1
    );
}

/// A recursive function is in a stack once, however often it is on it.
#[test]
fn recursion_counts_once() {
    let host = |name: &str| Frame::Host(name.into());
    let recording = record(true, &head(), |writer| {
        let mut profile = Profile::new();
        add(&mut profile, &[host("f"), host("f"), host("main")], 3);
        add(&mut profile, &[host("g"), host("f"), host("g"), host("main")], 1);
        samples(writer, &profile, 0);
    });
    let document = json(&Report::new(&recording, 10, &Lookup::default()));
    let of = |name: &str| {
        let f = function(&document, name);
        (f["self_samples"].as_u64().unwrap(), f["total_samples"].as_u64().unwrap())
    };
    assert_eq!((of("f"), of("g"), of("main")), ((3, 4), (1, 1), (0, 4)));
}

/// An empty recording has every promised field: null where unknown, empty arrays, and 0 only where
/// something counted and saw nothing.
#[test]
fn nothing_recorded_is_null_or_empty() {
    let document = json(&Report::new(&record(true, &Head::default(), |_| ()), 10, &Lookup::default()));
    assert_eq!(document["samples"], json!({"cpu": null, "wall": null, "alloc": null}));
    assert_eq!(document["host"]["region"], Value::Null);
    assert_eq!(document["host"]["engine"], Value::Null);
    assert_eq!(document["recording"]["duration_s"], Value::Null);
    assert_eq!(document["recording"]["format_version"], 1);
    for section in [
        "modules",
        "functions",
        "memory",
        "stack",
        "allocations",
        "locks",
        "gc",
        "host_calls",
        "blocked",
        "cold_starts",
        "traps",
    ] {
        assert_eq!(document[section], json!([]), "{section}");
    }
    let on = json(&Report::new(&record(true, &head(), |_| ()), 10, &Lookup::default()));
    assert_eq!(on["samples"]["cpu"], json!({"count": 0, "dropped": 0, "hz": 99.0}));
}

/// More traps than a reader keeps are a note; nothing is missing from the recording.
#[test]
fn traps_beyond_a_bound_are_a_note() {
    let recording = record(true, &head(), |writer| {
        for offset in 0..1001 {
            let frames = vec![TrapFrame { module_id: "deadbeef".into(), offset, function: 1 }];
            writer.trap(&Trap { version: 1, count: 1, frames, ..Trap::default() }).unwrap();
        }
    });
    let document = json(&Report::new(&recording, 10, &Lookup::default()));
    assert_eq!(document["recording"]["complete"], true);
    assert_eq!(document["notes"][0], "1000 of 1001 places that trapped are shown");
}

/// Names that carry escape sequences neither reach the terminal as such nor get lost in JSON.
#[test]
fn names_cannot_command_a_terminal() {
    const EVIL: &str = "\u{1b}[2J\u{9b}31m\u{202e}gpj.\u{7f}\r";
    let recording = record(false, &head(), |writer| {
        let mut profile = Profile::new();
        add(&mut profile, &[Frame::Host(EVIL.into())], 1000);
        samples(writer, &profile, 0);
        let info = ModuleInfo {
            id: ModuleId::parse("ab").unwrap(),
            workload: WorkloadId::new(EVIL, EVIL),
            name: EVIL.into(),
        };
        writer.module(&info, None).unwrap();
        let text = || EVIL.to_owned();
        let trap = Trap {
            version: 1,
            workload: text(),
            workload_version: text(),
            code: text(),
            message: text(),
            ..Trap::default()
        };
        writer.trap(&trap).unwrap();
    });
    let report = Report::new(&recording, 10, &Lookup::default());
    let (text, encoded) = (report.text(&|_, _| None), report.json().unwrap());
    for safe in [text.replace('\n', ""), encoded.clone()] {
        assert!(!safe.contains(|c: char| c.is_control() || c == '\u{202e}'), "{safe:?}");
    }
    assert_eq!(json(&report)["functions"][0]["name"], EVIL);
    assert!(!text.contains("few samples"), "{text}");
    assert!(text.contains("this recording is incomplete: it was not closed"), "{text}");
    assert_eq!(json(&report)["recording"]["complete"], false);
}

/// Memory, starts and drops come from metrics; a trap without debug info still names its functions.
#[test]
fn metrics_and_traps_are_told() {
    let id = ModuleId::parse("ab").unwrap();
    let recording = record(true, &head(), |writer| {
        let info = ModuleInfo { id: id.clone(), workload: workload(), name: "crash.wasm".into() };
        writer.module(&info, None).unwrap();
        let once =
            |sum| PointValue::Histogram(ExpHistogram { count: 2, sum, max: sum, ..ExpHistogram::default() });
        let of = |metric, value| Point::of(metric, Some(&workload()), value);
        for (second, size) in [(1, 65_536.0), (2, 4_194_304.0), (3, 1_048_576.0)] {
            let mut points = vec![
                of(Metric::MemorySize, PointValue::Gauge(size)),
                of(Metric::MemoryGrows, PointValue::Counter(7.0)).with(attribute::GROW_OUTCOME, "ok"),
                of(Metric::CompileDuration, once(0.5)),
                of(Metric::InstantiationDuration, once(0.004)),
                Point::of(Metric::SamplesDropped, None, PointValue::Counter(4.0))
                    .with(attribute::REASON, "no_room"),
            ];
            points.iter_mut().for_each(|point| point.time_unix_nano = START + second * 1_000_000_000);
            writer.metrics(&MetricBatch { resource: head().resource, points }).unwrap();
        }
        let frames = vec![TrapFrame { module_id: "ab".into(), offset: 77, function: 3 }];
        let trap = Trap {
            version: 1,
            time_unix_nano: START + 2_500_000_000,
            workload: "crash".into(),
            workload_version: "1.0.0".into(),
            code: "memory_out_of_bounds".into(),
            message: "out of bounds memory access".into(),
            frames,
            count: 3,
        };
        writer.trap(&trap).unwrap();
    });
    let report = Report::new(&recording, 10, &Lookup::default());
    let document = json(&report);
    assert_eq!(
        document["memory"][0],
        json!({"module": "ab", "index": null, "instance": null, "size": 1_048_576, "peak": 4_194_304, "resident": null, "limit": null,
               "grows": 7, "refused": 0, "workload": "crash"})
    );
    let start = &document["cold_starts"][0];
    assert_eq!(
        (&start["workload"], &start["cache"], &start["count"]),
        (&json!("crash"), &json!("none"), &json!(2))
    );
    assert_eq!(start["phases"]["compile_s"], 0.25);
    assert_eq!(start["phases"]["instantiate_s"], 0.002);
    assert_eq!(start["phases"]["first_call_s"], Value::Null);
    assert_eq!(document["samples"]["cpu"]["dropped"], 4);
    assert_eq!(document["recording"]["duration_s"], 3.0);
    let trap = &document["traps"][0];
    assert_eq!((&trap["code"], &trap["at_s"]), (&json!("memory_out_of_bounds"), &json!(2.5)));
    assert_eq!(trap["count"], 3);
    assert_eq!(trap["frames"][0]["function"], "wasm-function[3]");
    assert_eq!((&trap["frames"][0]["offset"], &trap["frames"][0]["line"]), (&json!(77), &Value::Null));

    let text = report.text(&|_, _| None);
    for part in [
        "crash trapped 3 times, first after 2.50 s: out of bounds memory access",
        "memory of crash: peak 4.00 MiB",
        "start of crash: compile 250 ms",
        "no debug info of module ab",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// Deep recursion takes a line of the text, not a screen; scripts get every frame.
#[test]
fn deep_recursion_fits_a_screen() {
    let frame = |offset| TrapFrame { module_id: "ab".into(), offset, function: 3 };
    let stack = (0..20).chain(std::iter::repeat_n(77, 500)).chain(100..105).map(frame).collect();
    let recording = record(true, &head(), |writer| {
        let trap = Trap { version: 1, workload: "crash".into(), frames: stack, ..Trap::default() };
        writer.trap(&trap).unwrap();
    });
    let report = Report::new(&recording, 10, &Lookup::default());
    assert_eq!(json(&report)["traps"][0]["frames"].as_array().unwrap().len(), 525);
    let text = report.text(&|_, _| None);
    assert!(text.contains("20: wasm-function[3]  500 times"), "{text}");
    assert!(text.contains("… 10 frames …"), "{text}");
    assert!(text.lines().count() < 40, "{text}");
}

/// Starts that were recorded one by one stand for themselves, and take the place of their workload's means.
/// The phases of later starts in the metrics are no instantiations.
#[test]
fn cold_starts_are_listed_one_by_one() {
    let once = |seconds: f64| {
        let histogram = ExpHistogram { count: 2, zeros: 2, sum: seconds, ..ExpHistogram::default() };
        PointValue::Histogram(histogram)
    };
    let start = |workload: &str, cache: &str| ColdStart {
        version: 1,
        time_unix_nano: START + 500_000_000,
        workload: workload.into(),
        workload_version: "1.0.0".into(),
        module_id: "ab".into(),
        cache: cache.into(),
        deserialize_ns: Some(160_000),
        first_call_ns: Some(22_000),
        ..ColdStart::default()
    };
    let recording = record(true, &head(), |writer| {
        let other = WorkloadId::new("older", "2");
        let of = |metric, id: &WorkloadId, value| Point::of(metric, Some(id), value);
        let instantiation = Metric::InstantiationDuration;
        let points = vec![
            of(instantiation, &workload(), once(0.004)),
            of(instantiation, &other, once(0.008)),
            of(instantiation, &other, once(70.0)).with(attribute::START_PHASE, "first_call"),
        ];
        writer.metrics(&MetricBatch { resource: head().resource, points }).unwrap();
        writer.cold_start(&start("crash", "hit")).unwrap();
        writer.cold_start(&start("crash", "from tomorrow")).unwrap();
    });
    let report = Report::new(&recording, 10, &Lookup::default());
    let starts = &json(&report)["cold_starts"];
    assert_eq!(starts.as_array().unwrap().len(), 3);
    assert_eq!(
        starts[0],
        json!({"workload": "crash", "cache": "hit", "count": 1, "version": "1.0.0", "module": "ab", "at_s": 0.5,
               "phases": {"read_s": null, "compile_s": null, "deserialize_s": 0.000_16, "link_s": null,
                          "instantiate_s": null, "first_call_s": 0.000_022}})
    );
    assert_eq!(starts[1]["cache"], "none");
    assert_eq!((&starts[2]["workload"], &starts[2]["count"]), (&json!("older"), &json!(2)));
    assert_eq!(starts[2]["phases"]["instantiate_s"], 0.004);
    let text = report.text(&|_, _| None);
    assert!(text.contains("start of crash (cache hit): deserialize 160 µs, first call 22.0 µs"), "{text}");
}

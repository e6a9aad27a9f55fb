//! Comparisons of recordings that the writer wrote: what a user reads and what a script gets.

use std::path::Path;

use sandscope_model::profile::Weight;
use sandscope_model::{ExpHistogram, Frame, Profile, SampleKind, WorkloadId};
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{MetricBatch, Point, PointValue, Resource};
use sandscope_recording::{Head, Recording, SampleBatch, Writer};
use serde_json::Value;

use super::{Diff, Limit};
use crate::lookup::Lookup;

const START: u64 = 1_800_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// A recording of so many seconds; per second, samples by function and calls of a total duration.
fn record(
    dir: &Path,
    name: &str,
    seconds: u64,
    functions: &[(&str, u64)],
    calls: Option<(u64, f64)>,
) -> Recording {
    let path = dir.join(name);
    let head = Head { started_unix_nano: START, hz: 99.0, trigger: "run".into(), ..Head::default() };
    let workload = WorkloadId::new("shop", "1");
    let mut writer = Writer::create(&path, &head).unwrap();
    let mut durations = ExpHistogram::default();
    for second in 0..seconds {
        let start_unix_nano = START + second * SECOND;
        let mut profile = Profile::new();
        for (at, &(function, samples)) in functions.iter().enumerate() {
            let root = profile.frame(Frame::Host("main".into()));
            let leaf = profile.frame(Frame::Host(function.into()));
            // Not the same each second: what is compared has scatter.
            let samples = samples + (second * 7 + at as u64 * 3) % 5;
            profile.add(&[leaf, root], Weight { samples, value: samples * 10_000_000 });
        }
        let kind = SampleKind::Cpu;
        let batch = SampleBatch {
            workload: &workload,
            kind,
            hz: 99.0,
            dropped: 0,
            start_unix_nano,
            profile: &profile,
        };
        writer.samples(&batch).unwrap();
        if let Some((count, each)) = calls {
            let one = ExpHistogram { count, sum: count as f64 * each, ..ExpHistogram::default() };
            durations =
                ExpHistogram { count: durations.count + one.count, sum: durations.sum + one.sum, ..one };
            let point = Point {
                name: Metric::CallDuration.name().into(),
                unit: "s".into(),
                workload: Some(workload.clone()),
                attributes: Vec::new(),
                start_unix_nano: START,
                time_unix_nano: start_unix_nano + SECOND,
                value: PointValue::Histogram(durations.clone()),
                delta: false,
                exemplar: None,
            };
            writer.metrics(&MetricBatch { resource: Resource::default(), points: vec![point] }).unwrap();
        }
        writer.flush().unwrap();
    }
    writer.finish().unwrap();
    Recording::open(&path).unwrap()
}

fn json(diff: &Diff) -> Value {
    serde_json::from_str(&diff.json().unwrap()).unwrap()
}

fn change<'a>(json: &'a Value, what: &str, name: &str) -> &'a Value {
    let found = json["changes"].as_array().unwrap().iter().find(|c| c["what"] == what && c["name"] == name);
    found.unwrap_or_else(|| panic!("no {what} of {name}: {json}"))
}

/// A function that takes a tenth longer is found, by its own size, and the others stay as they were although
/// their shares fell.
#[test]
fn a_slower_function_is_told_from_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let before = record(dir.path(), "a", 200, &[("hash", 60), ("parse", 80), ("print", 40)], None);
    let after = record(dir.path(), "b", 200, &[("hash", 67), ("parse", 80), ("print", 40)], None);
    let diff = Diff::new(&before, &after, None, &Lookup::default());
    let json = json(&diff);
    assert_eq!(json["verdict"], "changed");
    assert_eq!(json["per"], "rest");
    let hash = change(&json, "cpu", "hash");
    assert_eq!(hash["significant"], true);
    assert!((hash["change"].as_f64().unwrap() - 0.113).abs() < 0.01, "{hash}");
    assert!(hash["low"].as_f64().unwrap() > 0.05 && hash["high"].as_f64().unwrap() < 0.2, "{hash}");
    for name in ["parse", "print"] {
        let other = change(&json, "cpu", name);
        assert_eq!(other["significant"], false, "{other}");
        assert!(other["change"].as_f64().unwrap().abs() < 0.01, "{other}");
    }
    // All of it grew by what the function grew, and that is told of whoever called it.
    let main = change(&json, "cpu_total", "main");
    assert!((main["change"].as_f64().unwrap() - 0.0376).abs() < 0.005, "{main}");
    let text = diff.text();
    assert!(text.contains("hash") && text.contains("+11."), "{text}");

    assert_eq!(diff.beyond(&["cpu>5%".parse().unwrap()]).len(), 1);
    assert!(diff.beyond(&["cpu>20%".parse().unwrap(), "gc>0%".parse().unwrap()]).is_empty());
}

/// Twice the load is no slow-down: with calls, time is told per call. A longer call is.
#[test]
fn load_is_no_slow_down() {
    let dir = tempfile::tempdir().unwrap();
    let before = record(dir.path(), "a", 100, &[("hash", 60), ("parse", 80)], Some((100, 0.01)));
    let after = record(dir.path(), "b", 100, &[("hash", 122), ("parse", 162)], Some((200, 0.013)));
    let json = json(&Diff::new(&before, &after, None, &Lookup::default()));
    assert_eq!(json["per"], "call");
    let hash = change(&json, "cpu", "hash");
    assert_eq!((&hash["significant"], &hash["verdict"]), (&false.into(), &"same".into()));
    assert!((hash["baseline"].as_f64().unwrap() - 0.0062).abs() < 0.0002, "seconds a call: {hash}");
    let call = change(&json, "call", "shop");
    assert_eq!(call["significant"], true);
    assert!((call["change"].as_f64().unwrap() - 0.3).abs() < 1e-6);
    assert_eq!(json["candidate"]["calls"], 20_000);
}

/// Short recordings are not judged, equal ones are the same.
#[test]
fn little_is_inconclusive_and_equal_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name, seconds, hash| record(dir.path(), name, seconds, &[("hash", hash), ("parse", 90)], None);
    let short = Diff::new(&of("a", 5, 60), &of("b", 5, 90), None, &Lookup::default());
    assert_eq!(json(&short)["verdict"], "inconclusive");
    assert!(short.text().contains("5 s, at least 15 s"), "{}", short.text());
    assert!(short.beyond(&["cpu>0%".parse().unwrap()]).is_empty());
    let thin = Diff::new(&of("c", 20, 1), &of("d", 20, 1), None, &Lookup::default());
    assert_eq!(change(&json(&thin), "cpu", "hash")["verdict"], "inconclusive");
    let equal = Diff::new(&of("e", 200, 60), &of("f", 200, 60), None, &Lookup::default());
    assert_eq!(json(&equal)["verdict"], "same", "{}", equal.text());
}

#[test]
fn limits_say_what_is_wrong_with_them() {
    assert_eq!("gc > 2.5%".parse(), Ok(Limit { what: "gc".into(), growth: 0.025 }));
    for wrong in ["cpu", "cpu>5", "fuel>5%", "cpu>-1%", "cpu>x%"] {
        assert!(wrong.parse::<Limit>().is_err(), "{wrong}");
    }
}

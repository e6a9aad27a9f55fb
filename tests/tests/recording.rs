//! The format of recordings as others see it: `recording verify` and `recover`, and readers that are not ours.

#![allow(clippy::print_stdout, reason = "the nightly log keeps the figures, and what was skipped")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sandscope_recording::Recording;
use sandscope_tests::{guest, guests, output, pypi, sandscope, stderr, stdout};
use serde_json::Value;

/// Records a second or so of `image`.
fn record(folder: &Path) -> PathBuf {
    record_for(folder, 60)
}

/// Records so many times of what `image` does.
fn record_for(folder: &Path, times: u32) -> PathBuf {
    let path = folder.join("r.mcap");
    std::fs::copy(guests().join("data/photo.jpg"), folder.join("in.jpg")).unwrap();
    let (grant, image, times) = (format!("{}::/data", folder.display()), guest("image"), times.to_string());
    let output = output(&[
        "run",
        "--hz",
        "200",
        "--record",
        path.to_str().unwrap(),
        "--dir",
        &grant,
        "--",
        image.to_str().unwrap(),
        "/data/in.jpg",
        "/data/out.jpg",
        "320",
        &times,
    ]);
    assert!(output.status.success(), "{}", stderr(&output));
    path
}

#[track_caller]
fn verify(path: &Path, code: i32) -> Value {
    let output = output(&["recording", "verify", "--json", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("verify --json is JSON")
}

fn samples(path: &Path) -> u64 {
    Recording::open(path).unwrap().profiles().iter().map(|profile| profile.profile.samples()).sum()
}

/// A recording is whole; cut in the middle it is not, which is said; recovered it is whole again, has what was
/// left, and says that it is not all.
#[test]
fn what_is_left_of_a_recording_can_be_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path());
    let whole = verify(&path, 0);
    assert_eq!(
        (&whole["whole"], &whole["missing"], &whole["bytes_lost"]),
        (&true.into(), &Value::Null, &0.into())
    );
    assert!(!dir.path().join(".r.mcap.rewriting").exists());

    let bytes = std::fs::read(&path).unwrap();
    let cut = dir.path().join("cut.mcap");
    std::fs::write(&cut, &bytes[..bytes.len() - 20_000]).unwrap();
    let damaged = verify(&cut, 1);
    assert!(damaged["missing"].as_str().unwrap().contains("cut off"), "{damaged}");
    assert!(damaged["bytes_lost"].as_u64().unwrap() > 0, "{damaged}");
    let text = output(&["recording", "verify", cut.to_str().unwrap()]);
    assert!(stdout(&text).contains("damaged") && stdout(&text).contains("recover"), "{}", stdout(&text));

    let out = dir.path().join("out.mcap");
    let recover = |more: &[&str]| {
        let mut args = vec!["recording", "recover", cut.to_str().unwrap(), "-o", out.to_str().unwrap()];
        args.extend(more);
        output(&args)
    };
    let first = recover(&[]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let recovered = verify(&out, 0);
    assert_eq!((&recovered["recovered"], &recovered["attachments"]), (&true.into(), &damaged["attachments"]));
    assert!(recovered["missing"].as_str().unwrap().contains("recovered"), "{recovered}");
    assert_eq!(samples(&out), samples(&cut));
    let report = output(&["report", "--json", out.to_str().unwrap()]);
    let report: Value = serde_json::from_str(&stdout(&report)).unwrap();
    assert_eq!(report["recording"]["complete"], false, "what is lost stays lost");

    // What exists is not replaced, unless that is asked for.
    let again = recover(&[]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("--overwrite"), "{}", stderr(&again));
    assert_eq!(recover(&["--overwrite"]).status.code(), Some(0));
}

/// Of `image` at 99 Hz over a minute a sample takes at most 25 bytes while the recording is open and 8 once it is
/// written anew: of the whole file, metrics and schemas included, but without debug info.
#[test]
#[ignore = "nightly: a minute, on a machine with nothing else to do"]
fn a_minute_of_samples_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::copy(guests().join("data/photo.jpg"), path("in.jpg")).unwrap();
    let grant = format!("{}::/data", dir.path().display());
    let mut host = sandscope(&["run", "--record", path("r.mcap").to_str().unwrap(), "--dir", &grant, "--"])
        .arg(guest("image"))
        .args(["/data/in.jpg", "/data/out.jpg", "320", "1000000"])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(60));
    std::fs::copy(path("r.mcap"), path("open.mcap")).unwrap();
    host.kill().unwrap();
    host.wait().unwrap();
    sandscope_recording::recover(&path("open.mcap"), &path("closed.mcap"), false).unwrap();
    let count = samples(&path("open.mcap"));
    assert!(count > 5000, "{count} samples: the machine is too busy to tell");
    for (name, limit) in [("open.mcap", 25.0), ("closed.mcap", 8.0)] {
        let recording = Recording::open(&path(name)).unwrap();
        let bytes = recording.integrity().bytes - recording.integrity().attached;
        let each = bytes as f64 / count as f64;
        println!("{name}: {bytes} bytes besides debug info, {each:.1} a sample");
        assert!(each <= limit, "{name}: {each:.1} bytes a sample");
    }
}

/// What the reader of the MCAP project itself makes of a recording: channels, schemas, and messages that the
/// schemas decode.
const READER: &str = r#"
import sys, json, collections
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from mcap.reader import make_reader

with open(sys.argv[1], "rb") as file:
    reader = make_reader(file, validate_crcs=True)
    summary = reader.get_summary()
    classes = {}
    for schema in summary.schemas.values():
        pool = descriptor_pool.DescriptorPool()
        for described in descriptor_pb2.FileDescriptorSet.FromString(schema.data).file:
            pool.Add(described)
        classes[schema.id] = message_factory.GetMessageClass(pool.FindMessageTypeByName(schema.name))
    out = {"topics": collections.Counter(), "samples": 0, "metrics": [], "modules": []}
    for schema, channel, message in reader.iter_messages():
        decoded = classes[schema.id].FromString(message.data)
        out["topics"][channel.topic] += 1
        if channel.topic == "samples":
            out["samples"] += sum(decoded.count)
        if channel.topic == "metrics":
            for resource in decoded.resource_metrics:
                out["metrics"] += [m.name for scope in resource.scope_metrics for m in scope.metrics]
        if channel.topic == "modules":
            out["modules"].append(decoded.name)
    out["attachments"] = [attachment.name for attachment in reader.iter_attachments()]
    print(json.dumps(out))
"#;

#[test]
fn the_reader_of_mcap_itself_opens_a_recording() {
    let mut packages = Vec::new();
    for package in ["mcap", "zstandard", "lz4", "protobuf"] {
        let Some(file) = pypi(package, "__init__.py") else { return };
        let root = file.ancestors().find(|path| path.ends_with(format!("pypi/{package}"))).unwrap();
        packages.push(root.to_owned());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = record(dir.path());
    let read = Command::new("python3")
        .args(["-c", READER])
        .arg(&path)
        .env("PYTHONPATH", std::env::join_paths(packages).unwrap())
        .output()
        .unwrap();
    assert!(read.status.success(), "{}", stderr(&read));
    let read: Value = serde_json::from_str(&stdout(&read)).unwrap();
    assert_eq!(read["samples"], samples(&path));
    assert_eq!(read["modules"], serde_json::json!(["image.wasm"]));
    let metrics = read["metrics"].as_array().unwrap();
    assert!(metrics.contains(&"wasm.memory.size".into()), "{metrics:?}");
    let attachments = read["attachments"].as_array().unwrap();
    assert!(attachments.iter().any(|name| name.as_str().unwrap().starts_with("debug/")), "{attachments:?}");
}

/// A file system of its own with so much room, for as long as it is needed.
struct Tiny(tempfile::TempDir);

impl Tiny {
    /// `None`, said aloud, for who may not mount.
    fn new(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(folder.path()).output();
        let done = mount.is_ok_and(|output| output.status.success());
        if !done {
            println!("SKIPPED: a file system can only be mounted by root");
        }
        done.then_some(Self(folder))
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// A disk that fills up takes nothing that was recorded and changes nothing for the guest: without room to write the
/// recording again it stays as it was, complete; without room for all of it, it opens and both it and the host say so.
#[test]
fn a_full_disk_leaves_what_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let recorded = |folder: &Path| {
        let path = folder.join("r.mcap");
        let guest = guest("crash");
        let run = output(&["run", "--record", path.to_str().unwrap(), guest.to_str().unwrap(), "structs"]);
        assert_eq!(run.status.code(), Some(134), "{}", stderr(&run));
        (path, stderr(&run))
    };
    let size = std::fs::metadata(recorded(dir.path()).0).unwrap().len();
    let Some(tight) = Tiny::new(size + size / 2) else { return };
    let (path, _) = recorded(tight.0.path());
    let recording = Recording::open(&path).unwrap();
    assert!(recording.complete() && recording.traps().len() == 1, "{:?}", recording.missing());
    assert_eq!(std::fs::read_dir(tight.0.path()).unwrap().count(), 1, "what was begun is gone");

    let full = Tiny::new(size / 2).unwrap();
    let (path, said) = recorded(full.0.path());
    assert!(said.contains("stays incomplete"), "{said}");
    let recording = Recording::open(&path).unwrap();
    assert!(!recording.complete());
    let report = stdout(&output(&["report", path.to_str().unwrap()]));
    assert!(report.contains("this recording is incomplete"), "{report}");
}

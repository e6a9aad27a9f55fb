//! `sandscope diff` on recordings of a real guest: it finds a slow-down that was planted, and none that was not.
//! Pairs are drawn from a few recordings by blocks of a second.
#![allow(clippy::print_stdout, reason = "the nightly log keeps the figures")]

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use sandscope_model::{ModuleId, Profile, WorkloadId};
use sandscope_recording::{Head, ModuleInfo, Recording, SampleBatch, Writer};
use sandscope_tests::{output, sandscope, stderr, stdout};
use serde_json::Value;

/// Three functions that take about 30, 40 and 30 % of the time if `hot` is 3000, called so many times.
const GUEST: &str = r#"(module
  (global $sum (mut i64) (i64.const 88172645463325252))
  (func $hash (param $n i32) (call $mix (local.get $n)))
  (func $mix (param $n i32) (local $x i64)
    (local.set $x (global.get $sum))
    (loop $again
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 13))))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 7))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (global.set $sum (local.get $x)))
  (func $parse (param $n i32) (local $x i64)
    (local.set $x (global.get $sum))
    (loop $again
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 17))))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 9))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (global.set $sum (local.get $x)))
  (func $print (param $n i32) (local $x i64)
    (local.set $x (global.get $sum))
    (loop $again
      (local.set $x (i64.xor (local.get $x) (i64.shl (local.get $x) (i64.const 5))))
      (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 3))))
      (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (global.set $sum (local.get $x)))
  (func (export "work") (param $hot i32) (param $rounds i32)
    (loop $again
      (call $hash (local.get $hot))
      (call $parse (i32.const 4000))
      (call $print (i32.const 3000))
      (br_if $again (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1)))))))"#;

/// The function that becomes slower.
const HOT: &str = "mix";

fn start(guest: &Path, path: &Path, hot: u32, rounds: u32) -> Child {
    sandscope(&["run", "--hz", "249", "--record", path.to_str().unwrap(), "--invoke", "work", "--"])
        .arg(guest)
        .args([hot.to_string(), rounds.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Recordings of so many rounds, one per value of `hot`, two at a time.
fn record(dir: &Path, hot: &[u32], rounds: u32) -> Vec<Recording> {
    let guest = dir.join("shop.wasm");
    std::fs::write(&guest, wat::parse_str(GUEST).unwrap()).unwrap();
    let mut out = Vec::new();
    for (round, pair) in hot.chunks(2).enumerate() {
        let runs: Vec<(PathBuf, Child)> = pair
            .iter()
            .enumerate()
            .map(|(i, &hot)| {
                let path = dir.join(format!("{round}-{i}.mcap"));
                let child = start(&guest, &path, hot, rounds);
                (path, child)
            })
            .collect();
        for (path, mut child) in runs {
            assert!(child.wait().unwrap().success());
            out.push(Recording::open(&path).unwrap());
        }
    }
    out
}

/// A fixed sequence.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0 >> 11) * n as u128) >> 53) as usize
    }
}

/// What pairs are drawn from: the seconds of some recordings of one program.
struct Blocks {
    module: (ModuleInfo, Vec<u8>),
    workload: WorkloadId,
    seconds: Vec<Profile>,
}

impl Blocks {
    fn of(recordings: &[&Recording]) -> Self {
        let first = recordings[0];
        let info = first.modules()[0].clone();
        let id: ModuleId = info.id.clone();
        let debug = zstd::bulk::compress(&first.debug_info(&id).unwrap().unwrap(), 3).unwrap();
        let mut seconds = Vec::new();
        for recording in recordings {
            let mut of_this = Vec::new();
            recording.each_sample_batch(|batch| of_this.push(batch.profile)).unwrap();
            // The first and the last second are not whole.
            of_this.pop();
            seconds.extend(of_this.into_iter().skip(1));
        }
        Self { workload: info.workload.clone(), module: (info, debug), seconds }
    }

    /// A recording of about so many samples.
    fn draw(&self, random: &mut Random, samples: u64, path: &Path) {
        const SECOND: u64 = 1_000_000_000;
        let started_unix_nano = 1_800_000_000 * SECOND;
        let head = Head { started_unix_nano, hz: 249.0, trigger: "run".into(), ..Head::default() };
        let mut writer = Writer::create(path, &head).unwrap();
        writer.module(&self.module.0, Some(&self.module.1)).unwrap();
        let (mut drawn, mut second) = (0, 0);
        while drawn < samples {
            let profile = &self.seconds[random.below(self.seconds.len())];
            let batch = SampleBatch {
                workload: &self.workload,
                kind: sandscope_model::SampleKind::Cpu,
                hz: 249.0,
                dropped: 0,
                start_unix_nano: started_unix_nano + second * SECOND,
                profile,
            };
            writer.samples(&batch).unwrap();
            drawn += profile.samples();
            second += 1;
        }
        writer.finish().unwrap();
    }
}

/// What `diff` says of a pair that is drawn.
fn diff(random: &mut Random, a: &Blocks, b: &Blocks, samples: u64, dir: &Path) -> Value {
    let paths = [dir.join("a.mcap"), dir.join("b.mcap")];
    a.draw(random, samples, &paths[0]);
    b.draw(random, samples, &paths[1]);
    let output = output(&["diff", "--json", paths[0].to_str().unwrap(), paths[1].to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn found(json: &Value) -> bool {
    let changes = json["changes"].as_array().unwrap();
    changes.iter().any(|change| {
        change["what"] == "cpu"
            && change["name"] == HOT
            && change["significant"] == true
            && change["change"].as_f64().is_some_and(|change| change > 0.0)
    })
}

/// How many of `pairs` equal pairs are called changed, how many slow-downs are found, and how many of those that
/// nobody could see in so few samples are called the same.
fn judge(base: &Blocks, slow: &Blocks, pairs: usize, samples: u64) -> (usize, usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random(17);
    let (mut wrong, mut right, mut same) = (0, 0, 0);
    for pair in 0..pairs {
        let equal = diff(&mut random, base, base, samples, dir.path());
        wrong += usize::from(equal["verdict"] == "changed");
        let planted = diff(&mut random, base, slow, samples, dir.path());
        right += usize::from(found(&planted));
        if pair % 10 == 0 {
            let thin = diff(&mut random, base, slow, samples / 40, dir.path());
            same += usize::from(thin["verdict"] == "same");
        }
    }
    (wrong, right, same)
}

/// In a few seconds a function that takes twice as long can be seen, and equal recordings are equal.
#[test]
fn a_planted_slow_down_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let [base, slow] = record(dir.path(), &[3000, 6000], 600_000).try_into().unwrap();
    let (base, slow) = (Blocks::of(&[&base]), Blocks::of(&[&slow]));
    let (wrong, right, same) = judge(&base, &slow, 3, 4000);
    assert_eq!((right, same), (3, 0), "slow-downs found, thin ones called the same");
    // One pair in a hundred is called changed by design.
    assert!(wrong <= 1, "{wrong} of 3 equal pairs are called changed");
}

/// The promise: of 100 pairs of 30,000 samples a side.
#[test]
#[ignore = "nightly: ten minutes"]
fn a_tenth_is_found_in_thirty_thousand_samples() {
    let dir = tempfile::tempdir().unwrap();
    let [a, slow_a, b, slow_b] =
        record(dir.path(), &[3000, 3300, 3000, 3300], 14_000_000).try_into().unwrap();
    let (base, slow) = (Blocks::of(&[&a, &b]), Blocks::of(&[&slow_a, &slow_b]));
    let share = {
        let mut whole = Profile::new();
        base.seconds.iter().for_each(|second| drop(whole.merge(second)));
        whole.samples()
    };
    assert!(share >= 60_000, "{share} samples are too few to draw from");
    let (wrong, right, same) = judge(&base, &slow, 100, 30_000);
    println!(
        "of 100 pairs: {wrong} equal ones called changed, {right} slow-downs found, {same} thin ones the same"
    );
    assert!(wrong <= 2, "{wrong} of 100 equal pairs are called changed");
    assert!(right >= 95, "{right} of 100 slow-downs are found");
    assert_eq!(same, 0);
}

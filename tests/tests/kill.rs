//! Hosts that are killed at any moment, while they record and while they finish: what they recorded opens, and at
//! most the last second of it is missing.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::PointValue;
use sandscope_recording::Recording;
use sandscope_tests::sandscope;

/// Hosts at the same time.
const AT_ONCE: u32 = 5;

/// A second, and what a machine that runs many tests at once may delay.
const MAY_BE_LOST: Duration = Duration::from_secs(3);

/// Lines per second that the guest prints.
const LINES_PER_SECOND: u64 = 100;

/// A guest that prints a line and sleeps for 10 ms, so many times.
fn printer(lines: u64) -> String {
    format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write"
                (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff"
                (func $poll (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\03\00\00\00hi\0ahi\0ahi\0a")
            ;; A subscription: the monotonic clock, 10,000,000 ns from now.
            (data (i32.const 80) "\01\00\00\00\00\00\00\00\80\96\98\00\00\00\00\00")
            (func (export "_start") (local $n i64)
                (local.set $n (i64.const {lines}))
                (loop $again
                    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 200)))
                    (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 200)))
                    (br_if $again
                        (i64.ne (local.tee $n (i64.sub (local.get $n) (i64.const 1))) (i64.const 0))))))"#
    )
}

/// Calls of `fd_write` that a recording has.
fn recorded_lines(recording: &Recording) -> u64 {
    let calls = recording.metrics().iter().filter(|stream| {
        let point = &stream.point;
        point.name == Metric::HostCallDuration.name()
            && point.attributes.iter().any(|(_, value)| value.ends_with("fd_write"))
    });
    calls
        .map(|stream| match &stream.point.value {
            PointValue::Histogram(histogram) => histogram.count,
            PointValue::Counter(_) | PointValue::Gauge(_) => 0,
        })
        .sum()
}

/// Runs a guest that prints, kills the host after so long, and looks at what is left. Returns how many lines had
/// to be in it.
fn killed_after(folder: &Path, number: u32, life: Duration, lines: u64) -> u64 {
    let (wat, path) = (folder.join(format!("{number}.wat")), folder.join(format!("{number}.mcap")));
    std::fs::write(&wat, printer(lines)).unwrap();
    let mut host = sandscope(&["run", "--record", path.to_str().unwrap(), wat.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(host.stdout.take().unwrap());
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    let reader =
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).map(|_| Instant::now()).collect());
    std::thread::sleep(life);
    let killed = Instant::now();
    host.kill().unwrap();
    host.wait().unwrap();
    let printed: Vec<Instant> = reader.join().unwrap();
    let case = format!("killed {life:?} after the first of {lines} lines");
    let recording = Recording::open(&path).unwrap_or_else(|error| panic!("{case}: {error}"));
    let damaged = recording.integrity().damaged;
    // The record that was being written when the process ended is the only one that may be cut.
    assert!(damaged <= 1, "{case}: {:?}", recording.missing());
    let before = printed.iter().filter(|at| **at + MAY_BE_LOST < killed).count() as u64;
    let recorded = recorded_lines(&recording);
    assert!(recorded >= before, "{case}: {recorded} lines are recorded of {before} that had to be");
    assert!(recorded <= printed.len() as u64 + 1, "{case}: {recorded} of {}", printed.len());
    before
}

/// 20 times, or as often as `SANDSCOPE_KILLS` says. Every third host is killed about when its guest ends.
#[test]
fn a_killed_host_leaves_what_it_recorded() {
    let times = std::env::var("SANDSCOPE_KILLS").map_or(20, |times| times.parse().expect("a number"));
    let folder = tempfile::tempdir().unwrap();
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let (next, had_to_be) = (AtomicU32::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= times {
                        return;
                    }
                    let random = u64::from(seed.wrapping_add(number).wrapping_mul(2_654_435_761) >> 8);
                    let life = Duration::from_millis(random % 5000);
                    let lines = match number % 3 {
                        0 => (life.as_millis() as u64 * LINES_PER_SECOND / 1050).max(1),
                        _ => u64::from(u32::MAX),
                    };
                    had_to_be.fetch_add(killed_after(folder.path(), number, life, lines), Ordering::Relaxed);
                }
            });
        }
    });
    assert!(had_to_be.into_inner() > 0, "all were killed before they had to have recorded anything");
}

//! The flight recorder through its users' eyes: what makes a recording, what is in it and what is not, and what
//! becomes of guests when it cannot write.
#![cfg(target_os = "linux")]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sandscope_host::{Builder, Loaded, Recordings, Sandscope, WorkloadId};
use sandscope_model::SampleKind;
use sandscope_proto::otlp::{LineBatch, PointValue};
use sandscope_recording::Recording;
use sandscope_tests::{Background, guest, output, sandscope, stderr, stdout};
use wasmtime::{Config, Engine, Instance, Module, Store};

/// `bad` traps, `grow` takes 64 KiB more.
const GUEST: &str = r#"(module (memory 1)
    (func (export "bad") (unreachable))
    (func (export "grow") (drop (memory.grow (i32.const 1)))))"#;

fn load(scope: &Sandscope, name: &str) -> Loaded<Module> {
    let mut config = Config::new();
    scope.configure(&mut config);
    let engine = Engine::new(&config).unwrap();
    let bytes = wat::parse_str(GUEST).unwrap();
    scope.load_module(&engine, &bytes, &WorkloadId::new(name, "1"), "guest.wasm").unwrap()
}

/// Calls a function of a fresh instance that may have 128 KiB, and lets it live for a while.
fn call(guest: &Loaded<Module>, function: &str, live: Duration) -> wasmtime::Result<()> {
    let mut store = Store::new(guest.engine(), guest.workload().store_probe().with_limit(128 << 10));
    store.limiter(|probe| probe);
    let instance = guest.workload().instantiate(|| Instance::new(&mut store, guest, &[]))?;
    let function = instance.get_typed_func::<(), ()>(&mut store, function)?;
    let result = guest.workload().call(|| function.call(&mut store, ()));
    std::thread::sleep(live);
    result
}

fn recordings(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.collect();
    assert!(found.iter().all(|path| path.extension().unwrap() == "mcap"), "nothing half written: {found:?}");
    found.sort();
    found
}

fn open(path: &Path) -> Recording {
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let recording = Recording::open(path).unwrap();
    assert!(recording.complete(), "{:?}", recording.missing());
    recording
}

/// Why there is a recording, and of whom.
fn why(recording: &Recording) -> String {
    let head = recording.head();
    format!("{}, in {}", head.trigger, head.cause.as_ref().unwrap().workload)
}

fn spans(recording: &Recording) -> Vec<WorkloadId> {
    let mut all = Vec::new();
    recording
        .each_span_batch(|batch| all.extend(batch.spans.into_iter().filter_map(|s| s.workload)))
        .unwrap();
    all
}

/// A builder whose warnings can be looked at.
fn warned(builder: Builder) -> (Builder, Arc<Mutex<Vec<String>>>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&warnings);
    (builder.on_warning(move |warning| told.lock().unwrap().push(warning.to_string())), warnings)
}

/// Thousands of traps at two places are two recordings and a count; what the neighbour did is in neither.
#[test]
fn a_storm_is_one_recording_and_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let (directory, record) = (dir.path().join("recordings"), dir.path().join("r.mcap"));
    let builder = Sandscope::builder().recordings(Recordings::to(&directory)).record(&record);
    let (builder, warnings) = warned(builder);
    let scope = builder.build().unwrap();
    let (noisy, quiet) = (load(&scope, "noisy"), load(&scope, "quiet"));
    call(&quiet, "grow", Duration::ZERO).unwrap();
    for _ in 0..5000 {
        assert!(call(&noisy, "bad", Duration::ZERO).is_err());
    }
    std::thread::sleep(Duration::from_secs(3));
    for _ in 0..1000 {
        assert!(call(&noisy, "bad", Duration::ZERO).is_err());
    }
    scope.shutdown();

    let [only] = &*recordings(&directory) else { panic!("{:?}", recordings(&directory)) };
    assert!(std::fs::metadata(only).unwrap().len() < 1 << 20);
    let recording = open(only);
    let (head, cause) = (recording.head(), recording.head().cause.clone().unwrap());
    assert_eq!(head.trigger, "trap: unreachable_code_reached");
    assert_eq!((cause.workload, cause.suppressed), (WorkloadId::new("noisy", "1"), 0));
    let (wall, anchor) = (cause.unix_nano as f64, head.anchor.unwrap());
    assert!((wall - anchor.unix_nano as f64).abs() < 1e10 && anchor.monotonic_nano > 0, "{anchor:?}");
    let text = stdout(&output(&["report", only.to_str().unwrap()]));
    assert!(text.contains("  recorded for trap: unreachable_code_reached, in noisy@1, at 20"), "{text}");
    let [trap] = recording.traps() else { panic!("{:?}", recording.traps()) };
    assert_eq!((trap.workload.as_str(), trap.frames.len()), ("noisy", 1));
    let spans = spans(&recording);
    assert!(!spans.is_empty() && spans.iter().all(|workload| &*workload.name == "noisy"), "{spans:?}");
    assert!(
        recording.metrics().iter().all(|s| s.point.workload.as_ref().is_none_or(|w| &*w.name == "noisy"))
    );
    assert!(recording.debug_info(&recording.modules()[0].id).unwrap().is_some(), "it can be read elsewhere");

    let whole = Recording::open(&record).unwrap();
    let count = |outcome: &str| {
        let streams = whole.metrics().iter().filter(|stream| stream.point.name == "sandscope.recordings");
        let mut of_outcome = streams.filter(|stream| stream.point.attribute("outcome") == Some(outcome));
        let PointValue::Counter(value) = of_outcome.next().unwrap().point.value else { panic!("a counter") };
        value
    };
    assert_eq!((count("written"), count("failed"), count("evicted")), (1.0, 0.0, 0.0));
    assert_eq!(count("suppressed"), 5999.0);
    let told = warnings.lock().unwrap().clone();
    let [suppressed] = &*told else { panic!("{told:?}") };
    assert!(suppressed.contains("unreachable_code_reached"), "{suppressed}");
}

/// A recording says which of the conditions was met, each workload for itself.
#[test]
fn triggers_name_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let triggers = ["call>2s", "call>p99*5", "memory>90%", "wasm.memory.grows>0.5"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    let scope = Sandscope::builder()
        .hz(0.0)
        .recordings(Recordings { triggers, ..Recordings::to(dir.path().join("r")) })
        .build()
        .unwrap();
    let [slow, slower, full] = ["slow", "slower", "full"].map(|name| load(&scope, name));
    let sleep = |guest: &Loaded<Module>, ms| {
        let wait = || {
            std::thread::sleep(Duration::from_millis(ms));
            Ok(())
        };
        guest.workload().call(wait).unwrap();
    };
    // As many as are needed to learn what is usual: none of them is judged by it, however slow the machine.
    (0..100).for_each(|_| sleep(&slower, 1));
    sleep(&slow, 2100);
    call(&full, "grow", Duration::from_secs(1)).unwrap();
    // By now it was learned what is usual.
    std::thread::sleep(Duration::from_secs(2));
    sleep(&slower, 1200);
    scope.shutdown();
    let mut found: Vec<String> =
        recordings(&dir.path().join("r")).iter().map(|path| why(&open(path))).collect();
    found.sort();
    let [slowest, slow, full, grown] = &*found else { panic!("{found:?}") };
    assert!(slow.starts_with("call>p99*5: a call took 1.") && slow.ends_with(", in slower@1"), "{slow}");
    assert!(slowest.starts_with("call>2s: a call took 2.") && slowest.ends_with("s, in slow@1"), "{slowest}");
    assert_eq!(full, "memory>90%: 100.0 % are in use, in full@1");
    assert_eq!(grown, "wasm.memory.grows>0.5: it is 1, in full@1");
}

/// Waits and collections too, in the program's real guests.
#[test]
fn waits_and_collections_are_triggers() {
    let dir = tempfile::tempdir().unwrap();
    for (guest_name, condition, flags) in
        [("gc", "gc>1µs", &["--invoke", "run"][..]), ("parallel", "lock>1µs", &[])]
    {
        let directory = dir.path().join(guest_name);
        let guest = guest(guest_name);
        let mut args = vec!["run", "--recordings", directory.to_str().unwrap(), "--trigger", condition];
        args.extend(flags);
        args.extend(["--", guest.to_str().unwrap()]);
        args.extend(if guest_name == "gc" { &["2000"][..] } else { &["4", "4000"] });
        let output = output(&args);
        assert!(output.status.success(), "{}", stderr(&output));
        let [only] = &*recordings(&directory) else { panic!("{}", stderr(&output)) };
        let reason = why(&open(only));
        assert!(reason.starts_with(condition) && reason.contains(guest_name), "{reason}");
    }
}

/// All bytes of a file, and what every zstd frame in it holds.
fn all_bytes(path: &Path) -> Vec<u8> {
    let file = std::fs::read(path).unwrap();
    let mut all = file.clone();
    for at in (0..file.len()).filter(|&at| file[at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd])) {
        let frame = zstd::stream::read::Decoder::new(&file[at..]).unwrap().single_frame();
        // Four bytes that happen to look like the start of a frame hold nothing.
        let _ = { frame }.read_to_end(&mut all);
    }
    all
}

/// A secret in the guest's arguments, environment and memory is not in the recording of its trap.
#[test]
fn secrets_stay_in_the_guest() {
    const SECRET: &str = "hunter2-correct-horse";
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("r");
    let (guest, env) = (guest("crash"), format!("TOKEN={SECRET}"));
    let output = output(&[
        "run",
        "--recordings",
        directory.to_str().unwrap(),
        "--env",
        &env,
        "--",
        guest.to_str().unwrap(),
        "panic",
        SECRET,
    ]);
    assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
    assert!(stderr(&output).contains(SECRET), "the guest had it");
    let [only] = &*recordings(&directory) else { panic!("{}", stderr(&output)) };
    assert!(stderr(&output).contains(only.to_str().unwrap()), "{}", stderr(&output));
    let recording = open(only);
    assert!(!recording.traps().is_empty() && recording.cold_starts().len() == 1);
    assert_eq!(recording.core_dumps().count(), 1, "the stack, and nothing of memory");
    let holds =
        |path: &Path, text: &str| all_bytes(path).windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(only, "main.rs") && holds(only, "unreachable"), "what is compressed was looked at");
    assert!(!holds(only, SECRET));
    let text = stdout(&sandscope_tests::output(&["report", only.to_str().unwrap()]));
    assert!(text.contains("--memory stack"), "it says how to get more: {text}");
}

/// Whoever asks for memory has variables in the recordings of traps too.
#[test]
fn memory_that_is_asked_for_shows_variables() {
    let dir = tempfile::tempdir().unwrap();
    let (directory, guest) = (dir.path().join("r"), guest("crash"));
    let run = output(&[
        "run",
        "--recordings",
        directory.to_str().unwrap(),
        "--memory",
        "stack",
        guest.to_str().unwrap(),
        "structs",
    ]);
    assert_eq!(run.status.code(), Some(134), "{}", stderr(&run));
    let [only] = &*recordings(&directory) else { panic!("{}", stderr(&run)) };
    let text = stdout(&output(&["report", only.to_str().unwrap()]));
    assert!(text.contains("label: String = \"level-001\""), "{text}");
}

/// Without a place to write to there is a warning, and guests end as they would.
#[test]
fn failing_recordings_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let (below, guest) = (file.join("recordings"), guest("crash"));
    let args = ["run", "--recordings", below.to_str().unwrap(), "--", guest.to_str().unwrap(), "unreachable"];
    let failed = output(&args);
    assert_eq!(failed.status.code(), Some(134));
    assert!(stderr(&failed).contains("no recording in"), "{}", stderr(&failed));

    // No room, as on a full disk: what was begun is gone.
    let directory = dir.path().join("r");
    let settings = Recordings { directory_limit: 10, ..Recordings::to(&directory) };
    let (builder, warnings) = warned(Sandscope::builder().recordings(settings));
    let scope = builder.build().unwrap();
    let guest = load(&scope, "bad");
    assert!(call(&guest, "bad", Duration::ZERO).is_err());
    scope.shutdown();
    assert_eq!(recordings(&directory).len(), 0);
    let told = warnings.lock().unwrap().clone();
    assert!(told.len() == 1 && told[0].contains("no recording in"), "{told:?}");
}

/// A process that traps again soon after its start makes no second recording.
#[test]
fn a_host_that_restarts_remembers() {
    let dir = tempfile::tempdir().unwrap();
    let (directory, guest) = (dir.path().join("r"), guest("crash"));
    for mode in ["unreachable", "unreachable", "div0"] {
        let args = ["run", "--recordings", directory.to_str().unwrap(), "--", guest.to_str().unwrap(), mode];
        assert_eq!(output(&args).status.code(), Some(134));
    }
    assert_eq!(recordings(&directory).len(), 2);
}

/// A host that serves is asked for a recording, by process or by socket, and gives this user's command one.
#[test]
fn a_capture_is_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, out) = (dir.path().join("s/host.sock"), dir.path().join("c.mcap"));
    let guest = guest("session");
    let args = ["serve", "--addr", "127.0.0.1:0", "--socket", socket.to_str().unwrap(), "--no-recordings"];
    let (_server, line) = Background::start(&[&args[..], &[guest.to_str().unwrap()]].concat(), "serving");
    let address = line.rsplit("http://").next().unwrap().trim().to_owned();
    let enough = Arc::new(AtomicBool::new(false));
    let asked_enough = enough.clone();
    let asking = std::thread::spawn(move || {
        while !asked_enough.load(Ordering::Relaxed) {
            use std::io::Write;
            let mut stream = std::net::TcpStream::connect(&address).unwrap();
            stream.write_all(b"GET /me HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        }
    });
    let capture = |workload: &str, flags: &[&str]| {
        let args = ["capture", "--workload", workload, "--for", "1s", "--socket", socket.to_str().unwrap()];
        output(&[&args[..], &["-o", out.to_str().unwrap()], flags].concat())
    };
    let unknown = capture("sesion", &[]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("It has session "), "{}", stderr(&unknown));
    assert!(!out.exists());
    for (flags, why) in
        [(["--memory", "all"], "where a guest traps"), (["--alloc", "--hz=99"], "serve --alloc")]
    {
        let refused = capture("session", &flags);
        assert!(refused.status.code() == Some(2) && stderr(&refused).contains(why), "{}", stderr(&refused));
    }
    // More samples for as long as somebody asked for them.
    for (flags, hz) in [(&["--hz", "5000"][..], 5000.0), (&[], 99.0)] {
        let known = capture("session", flags);
        assert!(known.status.success(), "{}", stderr(&known));
        let recording = open(&out);
        assert_eq!(recording.head().hz, hz);
        let mut samples = 0;
        recording
            .each_sample_batch(|batch| {
                if batch.kind == SampleKind::Cpu {
                    let value: u64 = batch.profile.weights.iter().map(|weight| weight.value).sum();
                    assert_eq!((batch.hz, value % (1e9 / hz) as u64), (hz, 0));
                    samples += batch.profile.samples();
                }
            })
            .unwrap();
        assert!(samples > 0 || hz < 100.0);
    }
    enough.store(true, Ordering::Relaxed);
    asking.join().unwrap();
    let recording = open(&out);
    assert!(why(&recording).starts_with("capture, in session@"), "{}", why(&recording));
    assert!(!spans(&recording).is_empty());
    let calls = recording.metrics().iter().any(|stream| stream.point.name == "wasm.call.duration");
    assert!(calls && recording.modules().len() == 1);
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let none = sandscope(&["capture", "--workload", "session", "-o", out.to_str().unwrap()])
        .env("XDG_RUNTIME_DIR", dir.path())
        .output()
        .unwrap();
    assert!(stderr(&none).contains("find a host"), "{}", stderr(&none));
}

/// What a guest wrote is in recordings where that is allowed, with the call that wrote it, and never as commands for a
/// terminal; elsewhere it is not.
#[test]
fn lines_of_guests_are_kept_where_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (directory, record) = (dir.path().join("r"), dir.path().join("run.mcap"));
    let guest = guest("crash");
    let run = |flags: &[&str]| {
        let fixed =
            ["run", "--recordings", directory.to_str().unwrap(), "--record", record.to_str().unwrap()];
        let guest = [guest.to_str().unwrap(), "panic", "red \u{1b}[31m alert"];
        let output = output(&[&fixed[..], flags, &guest].concat());
        assert_eq!(output.status.code(), Some(134), "{}", stderr(&output));
        output
    };
    let shown = run(&["--record-output"]);
    assert!(stderr(&shown).contains("red \u{1b}[31m alert"), "the guest's own output is as it was");
    let [only] = &*recordings(&directory) else { panic!("{}", stderr(&shown)) };
    for path in [only, &record] {
        let recording = Recording::open(path).unwrap();
        let mut lines = Vec::new();
        recording
            .each_log_batch(|request| {
                lines.extend(LineBatch::from_otlp(&request).0.into_iter().flat_map(|batch| batch.lines));
            })
            .unwrap();
        let line = lines.iter().find(|line| line.text.contains("red \u{1b}[31m alert")).unwrap();
        assert_eq!((&*line.stream, &*line.workload.as_ref().unwrap().name), ("stderr", "crash"));
        let mut spans = Vec::new();
        recording.each_span_batch(|batch| spans.extend(batch.spans)).unwrap();
        assert!(spans.iter().any(|span| span.span_id == line.span_id), "{line:?} {spans:?}");
        let text = stdout(&output(&["report", path.to_str().unwrap()]));
        assert!(text.contains("stderr crash: ") && text.contains("alert"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
    run(&[]);
    let [only] = &*recordings(&directory) else { panic!("one recording") };
    assert!([only, &record].iter().all(|path| Recording::open(path).unwrap().logs() == 0));
}

//! Cold starts and the cache of compiled modules, across processes: what `run` keeps, what `report` says of it.

use std::path::{Path, PathBuf};

use sandscope_tests::{guest, output, sandscope, stderr, stdout};
use serde_json::Value;

/// Runs a guest with these options and a recording; its cold start, and what went to stderr.
#[track_caller]
fn start(dir: &Path, options: &[&str], name: &str, args: &[&str]) -> (Value, String) {
    let (recording, guest) = (dir.join("r.mcap"), guest(name));
    let (recording, guest) = (recording.to_str().unwrap(), guest.to_str().unwrap());
    let run = output(&[&["run", "--record", recording], options, &["--", guest], args].concat());
    assert!(run.status.success(), "{}", stderr(&run));
    let report = output(&["report", "--json", recording]);
    let mut report: Value = serde_json::from_str(&stdout(&report)).expect("report --json is JSON");
    let starts = report["cold_starts"].as_array_mut().unwrap();
    assert_eq!(starts.len(), 1, "{starts:?}");
    (starts.remove(0), stderr(&run))
}

/// Phases by name that a start has a time of. Whatever it has not is null, never 0.
#[track_caller]
fn timed(start: &Value) -> Vec<&str> {
    let phases = start["phases"].as_object().unwrap();
    assert!(phases.values().all(|phase| phase.is_null() || phase.as_f64().unwrap() > 0.0), "{start}");
    phases.iter().filter(|(_, seconds)| !seconds.is_null()).map(|(name, _)| name.as_str()).collect()
}

const COMPILED: [&str; 5] = ["compile_s", "first_call_s", "instantiate_s", "link_s", "read_s"];
const LOADED: [&str; 5] = ["deserialize_s", "first_call_s", "instantiate_s", "link_s", "read_s"];

#[track_caller]
fn check(start: &Value, cache: &str, phases: [&str; 5]) {
    assert_eq!((start["cache"].as_str(), timed(start)), (Some(cache), phases.to_vec()), "{start}");
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// The first process compiles, the second loads what the first compiled; a damaged entry is compiled again
/// and replaced.
#[test]
fn the_second_process_does_not_compile() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let options = ["--cache", cache.to_str().unwrap()];
    let run = |options: &[&str]| start(dir.path(), options, "crash", &["ok"]).0;
    let first = run(&options);
    check(&first, "miss", COMPILED);
    assert_eq!((first["workload"].as_str(), first["count"].as_u64()), (Some("crash"), Some(1)));
    check(&run(&options), "hit", LOADED);

    let [entry] = &entries(&cache)[..] else { panic!("one module, one entry") };
    let whole = std::fs::read(entry).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(entry, &damaged).unwrap();
    check(&run(&options), "miss", COMPILED);
    assert_eq!(std::fs::read(entry).unwrap(), whole, "replaced by what it was");
    check(&run(&options), "hit", LOADED);

    check(&run(&["--no-cache", options[0], options[1]]), "none", COMPILED);
    let text = stdout(&output(&["report", dir.path().join("r.mcap").to_str().unwrap()]));
    assert!(text.contains("start of crash: read ") && text.contains(", first call "), "{text}");
}

/// A guest from the cache is the same guest: its traps name the same places.
#[test]
fn traps_of_cached_modules_have_names() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let crash = guest("crash");
    let run = || {
        let args = ["run", "--cache", cache.to_str().unwrap(), crash.to_str().unwrap(), "structs", "3"];
        let output = output(&args);
        assert_eq!(output.status.code(), Some(134));
        stderr(&output)
    };
    let compiled = run();
    assert!(compiled.contains("crash/src/structs.rs"), "{compiled}");
    assert_eq!(run(), compiled);
}

/// A cache that others could put code into is not used: a sentence says so, and the guest runs.
#[cfg(unix)]
#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
    for _ in 0..2 {
        let (start, stderr) = start(dir.path(), &["--cache", cache.to_str().unwrap()], "crash", &["ok"]);
        check(&start, "none", COMPILED);
        assert!(stderr.contains("not cached") && stderr.contains("chmod go-w"), "{stderr}");
    }
    assert_eq!(entries(&cache), Vec::<PathBuf>::new());
}

/// Without a flag the cache is in the user's cache directory, and `--explain-config` says where.
#[test]
fn the_default_is_the_users_cache_directory() {
    let home = tempfile::tempdir().unwrap();
    let crash = guest("crash");
    let run = |name: &str, value: &Path, args: &[&str]| {
        let mut command = sandscope(&[&["run", crash.to_str().unwrap()], args].concat());
        command.env_remove("XDG_CACHE_HOME").env(name, value);
        command
    };
    let under_home = home.path().join(".cache/sandscope/modules");
    assert!(run("HOME", home.path(), &["ok"]).status().unwrap().success());
    assert_eq!(entries(&under_home).len(), 1);
    let explained = |name: &str, value: &Path| {
        let mut command = sandscope(&["run", "--explain-config", crash.to_str().unwrap()]);
        stdout(&command.env_remove("XDG_CACHE_HOME").env(name, value).output().unwrap())
    };
    let text = explained("HOME", home.path());
    assert!(text.contains(&format!("cache = {}  (default)", under_home.display())), "{text}");
    let text = explained("XDG_CACHE_HOME", home.path());
    assert!(
        text.contains(&format!("cache = {}/sandscope/modules  (default)", home.path().display())),
        "{text}"
    );
}

//! The history through real processes: guests, a collector, `sandscope query`, and other engines on the same files.

mod bucket;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use sandscope_tests::{Background, collector, guest, output, python, sandscope, stderr, stdout};
use serde_json::Value;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(90);
/// A region whose name is no folder's.
const REGION: &str = "eu.west/1";

/// A collector with a history.
struct Collector {
    process: Background,
    otlp: String,
    query: String,
}

impl Collector {
    fn start(data: &Path) -> Self {
        Self::start_in(data, &[], &[])
    }

    /// With further flags and variables.
    fn start_in(data: &Path, flags: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = collector(&[&["--data", data.to_str().unwrap()], flags].concat());
        command.envs(environment.iter().copied());
        let (process, line) = Background::spawn(command, "OTLP/gRPC on");
        let mut addresses =
            line.split([' ', ',']).filter(|word| word.starts_with("127.")).map(|at| format!("http://{at}"));
        let (otlp, query) = (addresses.next().unwrap(), addresses.next().unwrap());
        Self { process, otlp, query }
    }

    /// Two runs of guests: one that works, one that traps.
    fn receive(&self) {
        let (analytics, crash) = (guest("analytics"), guest("crash"));
        let common = ["--otlp", &self.otlp, "--region", REGION, "--workload-version", "1.0"];
        let mut args = vec!["run", "--hz", "250"];
        args.extend(common);
        args.extend([analytics.to_str().unwrap(), "--generate", "100000", "1"]);
        assert!(output(&args).status.success());
        let mut args = vec!["run"];
        args.extend(common);
        args.extend([crash.to_str().unwrap(), "div0"]);
        assert_eq!(output(&args).status.code(), Some(134));
    }

    fn query(&self, sql: &str, format: &str) -> Output {
        output(&["query", "--connect", &self.query, "--format", format, sql])
    }

    /// The answer as objects.
    fn ask(&self, sql: &str) -> Vec<Value> {
        let answer = self.query(sql, "json");
        assert!(answer.status.success(), "{sql}: {}", stderr(&answer));
        serde_json::from_slice(&answer.stdout).unwrap()
    }

    /// Waits until a query's only value is true; a store that is coming back may fail meanwhile.
    fn until(&self, sql: &str) {
        let started = Instant::now();
        let done = format!("SELECT coalesce(({sql}), false) AS done");
        loop {
            let answer = self.query(&done, "ndjson");
            if stdout(&answer).trim() == "{\"done\":true}" {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "never: {sql}: {}", stderr(&answer));
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Tells it to end, and waits for it: what it received is in files.
    fn stop(mut self) {
        let killed = Command::new("kill").args(["-TERM", &self.process.0.id().to_string()]).status();
        assert!(killed.unwrap().success());
        assert!(self.process.0.wait().unwrap().success());
    }
}

/// What guests sent can be asked a little later, in every format; it is there after a restart, and other engines count
/// and add up the same from the files.
#[test]
fn guests_are_history() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path());
    collector.receive();
    collector.until("SELECT count(DISTINCT workload) = 2 FROM spans");
    collector.stop();
    let collector = Collector::start(data.path());
    collector.until("SELECT count(DISTINCT workload) = 2 FROM spans");

    let traps = collector.ask("SELECT region, workload, version, name FROM events WHERE kind = 'trap'");
    let trap = serde_json::json!({
        "region": REGION, "workload": "crash", "version": "1.0", "name": "integer_division_by_zero",
    });
    assert_eq!(traps, [trap]);
    let hot = "SELECT f['module'] AS module, sum(value) AS ns FROM (SELECT unnest(frames) AS f, value FROM samples \
               JOIN stacks USING (stack_id) WHERE workload = 'analytics') WHERE f['module'] IS NOT NULL GROUP BY 1";
    assert!(collector.ask(hot)[0]["ns"].as_u64().unwrap() > 1_000_000, "{:?}", collector.ask(hot));

    formats(&collector);
    documented(&collector);
    other_engines(&collector, &data.path().join("history"));
}

/// The questions that the documentation asks.
fn documented(collector: &Collector) {
    let docs = include_str!("../../../docs/HISTORY.md");
    let lines = docs.lines().filter_map(|line| line.strip_prefix("sandscope query ")?.split('"').nth(1));
    let blocks = docs.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let blocks = blocks.filter(|sql| !sql.contains("read_parquet"));
    let questions: Vec<&str> = lines.chain(blocks).collect();
    assert!(questions.len() > 2);
    for sql in questions {
        let answer = collector.query(sql, "ndjson");
        assert!(answer.status.success(), "{sql}: {}", stderr(&answer));
    }
}

fn formats(collector: &Collector) {
    let sql = "SELECT workload, 1 AS one, CAST(NULL AS TEXT) AS none, 'a,\"b\u{1b}[31m' AS odd FROM spans \
               WHERE workload = 'crash' LIMIT 1";
    let text = |format| {
        let answer = collector.query(sql, format);
        assert!(answer.status.success(), "{}", stderr(&answer));
        stdout(&answer)
    };
    assert_eq!(text("csv"), "workload,one,none,odd\ncrash,1,,\"a,\"\"b\u{1b}[31m\"\n");
    assert_eq!(
        text("ndjson"),
        "{\"workload\":\"crash\",\"one\":1,\"none\":null,\"odd\":\"a,\\\"b\\u001b[31m\"}\n"
    );
    assert_eq!(text("json"), format!("[{}]\n", text("ndjson").trim_end()));
    let table = text("table");
    assert!(table.starts_with("workload  one  none  odd"), "{table}");
    assert!(table.contains("crash     1          a,\"b␛[31m"), "{table}");

    let attributes = collector.query("SELECT attributes FROM spans LIMIT 1", "csv");
    assert!(attributes.status.success(), "{}", stderr(&attributes));
    assert_eq!(collector.ask("SELECT name FROM spans WHERE false"), Vec::<Value>::new());
    let tables = output(&["query", "--connect", &collector.query]);
    assert!(stdout(&tables).contains("stack_id"), "{}", stdout(&tables));
    let many = "SELECT a.value * b.value AS n FROM generate_series(1, 1000) a, generate_series(1, 300) b";
    assert_eq!(stdout(&collector.query(many, "ndjson")).lines().count(), 300_000);

    for (sql, says) in [("DROP TABLE spans", "DDL"), ("SELECT * FROM spams", "spams"), ("SELEC", "SELEC")] {
        let refused = collector.query(sql, "table");
        assert_eq!(refused.status.code(), Some(2), "{sql}");
        assert!(stderr(&refused).contains(says), "{sql}: {}", stderr(&refused));
    }
}

/// The counts and sums that `read.py` takes, as this program says them.
fn other_engines(collector: &Collector, files: &Path) {
    let Some(packages) = python("history", &["duckdb", "chdb"]) else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/history/read.py");
    for engine in ["duckdb", "chdb"] {
        let mut command = Command::new("python3");
        command.args([script, engine, files.to_str().unwrap()]).env("PYTHONPATH", &packages);
        let read = command.stdin(Stdio::null()).output().unwrap();
        assert!(read.status.success(), "{engine}: {}", stderr(&read));
        for line in stdout(&read).lines() {
            let line: Vec<Value> = serde_json::from_str(line).unwrap();
            let table = line[0].as_str().unwrap();
            let columns = match table {
                "spans" => "count(*) AS a, sum(duration_s) AS b, count(DISTINCT trace_id) AS c",
                "metrics" => "count(*) AS a, sum(value) AS b, sum(count) AS c",
                "logs" => "count(*) AS a, count(DISTINCT body) AS b, count(severity) AS c",
                "samples" => "count(*) AS a, sum(value) AS b, count(DISTINCT stack_id) AS c",
                "stacks" => "count(*) AS a, 0 AS b, 0 AS c",
                "events" => "count(*) AS a, count(DISTINCT name) AS b, count(duration_s) AS c",
                other => panic!("table {other}"),
            };
            let own = collector.ask(&format!("SELECT {columns} FROM {table}"));
            for (key, theirs) in ["a", "b", "c"].iter().zip(&line[1..]) {
                let (ours, theirs) = (own[0][key].as_f64().unwrap_or(0.0), theirs.as_f64().unwrap());
                let is_same = (ours - theirs).abs() <= 1e-9 * ours.abs();
                assert!(is_same, "{engine}: {table} {key}: {ours} here, {theirs} there");
            }
        }
    }
}

/// With nobody there, what to start is said.
#[test]
fn no_collector() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = output(&["query", "--connect", &format!("http://{nobody}"), "SELECT 1"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("sandscope collect"), "{}", stderr(&refused));
}

/// A query whose answer has begun to arrive, and is read for ever.
fn answering(collector: &Collector, sql: &str) -> Background {
    let mut command = sandscope(&["query", "--connect", &collector.query, "--format", "csv", sql]);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut query = Background(command.spawn().unwrap());
    let mut answer = BufReader::new(query.0.stdout.take().unwrap());
    answer.read_line(&mut String::new()).unwrap();
    std::thread::spawn(move || std::io::copy(&mut answer, &mut std::io::sink()));
    query
}

/// Ctrl-C ends a query here and in the collector: the processor has nothing to do any more, and other queries have
/// their places.
#[test]
fn interrupted_queries_end_everywhere() {
    let data = tempfile::tempdir().unwrap();
    let collector = Collector::start(data.path());
    let endless = "SELECT b.value FROM generate_series(1, 1000) a, generate_series(1, 100000000) b";
    // As many as there are places, and again: were one left, the last would be refused.
    for _ in 0..2 {
        let queries: Vec<Background> = (0..8).map(|_| answering(&collector, endless)).collect();
        assert!(!collector.query("SELECT 1", "csv").status.success(), "all places are taken");
        for mut query in queries {
            let killed = Command::new("kill").args(["-INT", &query.0.id().to_string()]).status();
            assert!(killed.unwrap().success());
            assert_eq!(query.0.wait().unwrap().code(), Some(130));
        }
        let started = Instant::now();
        while !collector.query("SELECT 1", "csv").status.success() {
            assert!(started.elapsed() < PATIENCE, "places are never free again");
        }
    }
}

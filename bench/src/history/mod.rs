//! `cargo xtask bench history`: a day of 100 million points, written by the collector from its log, and questions over it,
//! beside DuckDB (from PyPI) on the same files. Both answer in turns in one run, each in a process that is there already,
//! and times are of whole answers, as a client has them.

mod fill;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use sandscope_collector::history::{Figures, Place, Queries, Settings};
use sandscope_collector::{Collector, Config};
use sandscope_proto::query::SqlRequest;
use sandscope_proto::query::query_client::QueryClient;
use tonic::transport::{Channel, Endpoint};

use crate::stats::quantile;
use crate::verdict::Verdict;

/// What a query over everything may take, as a multiple of DuckDB.
const SCAN: f64 = 1.2;
/// What a question of the terminal UI may take, in ms.
const QUESTION: f64 = 100.0;
/// Files are at rest when none was merged for so long.
const AT_REST: Duration = Duration::from_secs(45);
/// Longest wait for the files.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is asked of both, and whether it is of everything.
struct Question {
    name: &'static str,
    sql: String,
    is_scan: bool,
}

/// Measures and prints; the error says how many bounds are broken.
pub fn run(quick: bool) -> Result<()> {
    let (points, rounds) = if quick { (2_000_000, 3) } else { (100_000_000, 9) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let data = tempfile::tempdir()?;
        let started = Instant::now();
        let points = fill::fill(data.path(), points).await?;
        println!("{points} points are in the log after {:.0} s.", started.elapsed().as_secs_f64());
        measure(data.path(), points, rounds).await
    })
}

async fn measure(data: &Path, points: u64, rounds: usize) -> Result<()> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let history = data.join("history");
    let mut settings = Settings::new(Place::Directory(history.clone()));
    settings.queries = Queries { deadline: Duration::from_secs(600), ..Queries::default() };
    let config = Config {
        otlp: any,
        otlp_http: any,
        query: any,
        http: any,
        data: Some(data.to_owned()),
        log: fill::settings(),
        history: Some(settings),
        ..Config::default()
    };
    let collector = Collector::bind(config).await.context("start the collector")?;
    let figures = collector.history().context("a history")?;
    let channel = Endpoint::from_shared(format!("http://{}", collector.query_addr()))?.connect_lazy();
    let serving = tokio::spawn(collector.run(std::future::pending()));
    at_rest(&figures, points).await?;
    let (files, bytes) = size(&history.join("metrics"))?;
    println!("{files} files, {:.1} bytes a point.\n", bytes as f64 / points as f64);

    let mut duck = sandscope_tests::python("duckdb", &["duckdb"])
        .map(|packages| Duck::start(&packages, &history))
        .transpose()?;
    let mut client = QueryClient::new(channel).max_decoding_message_size(16 << 20);
    let mut verdict = Verdict::new();
    println!("| question | median | quartiles | DuckDB | beside it |");
    println!("|---|---|---|---|---|");
    for question in questions() {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let our_time = ask(&mut client, &question.sql).await?;
            let their_time = duck.as_mut().map(|duck| duck.ask(&question.sql)).transpose()?;
            // The first round warms up.
            if round > 0 {
                ours.push(our_time);
                theirs.extend(their_time);
            }
        }
        let median = quantile(&ours, 0.5);
        let (low, high) = (quantile(&ours, 0.25), quantile(&ours, 0.75));
        let beside = if theirs.is_empty() { None } else { Some(quantile(&theirs, 0.5)) };
        let told =
            beside.map_or("– | –".to_owned(), |their| format!("{their:.0} ms | {:.2}", median / their));
        println!("| {} | {median:.0} ms | {low:.0}–{high:.0} | {told} |", question.name);
        match beside {
            Some(their) if question.is_scan => {
                let ratio = median / their;
                verdict
                    .add(ratio <= SCAN, format!("{}: {ratio:.2} of DuckDB, at most {SCAN}", question.name));
            }
            _ if question.is_scan => {}
            _ => {
                let holds = median < QUESTION;
                verdict.add(holds, format!("{}: {median:.0} ms, at most {QUESTION}", question.name));
            }
        }
    }
    serving.abort();
    if duck.is_none() {
        println!("\nWithout DuckDB there is nothing to compare with.");
    }
    println!("\n{verdict}");
    match verdict.broken() {
        0 => Ok(()),
        broken => bail!("{broken} bounds are broken"),
    }
}

fn questions() -> [Question; 3] {
    let second = 1_000_000_000;
    // A whole hour of the middle of the day, in s.
    let from = (now() / second - fill::HOURS * 3600 / 2) / 3600 * 3600;
    let one = format!(
        "SELECT date_trunc('minute', time), avg(value), max(value) FROM metrics \
         WHERE region = '{}' AND received >= to_timestamp({from}) AND received < to_timestamp({}) \
         AND workload = '{}' AND name = 'wasm.memory.size' GROUP BY 1 ORDER BY 1",
        fill::region(3),
        from + 3600,
        fill::workload(7)
    );
    let all = "SELECT region, name, count(*), avg(value), max(value) FROM metrics GROUP BY 1, 2";
    let most = "SELECT workload, sum(value) AS s FROM metrics WHERE name = 'wasm.host_calls' \
                GROUP BY 1 ORDER BY s DESC LIMIT 5";
    [
        Question { name: "all, by region and name", sql: all.to_owned(), is_scan: true },
        Question { name: "all, the workloads with most", sql: most.to_owned(), is_scan: true },
        Question { name: "one region, hour and workload, by minute", sql: one, is_scan: false },
    ]
}

/// Whole milliseconds for a whole answer.
async fn ask(client: &mut QueryClient<Channel>, sql: &str) -> Result<f64> {
    let started = Instant::now();
    let mut answer = client.sql(SqlRequest { sql: sql.to_owned() }).await?.into_inner();
    while answer.message().await?.is_some() {}
    Ok(started.elapsed().as_secs_f64() * 1e3)
}

/// Waits until everything is in files, and these are merged.
async fn at_rest(figures: &Arc<Figures>, points: u64) -> Result<()> {
    let started = Instant::now();
    let mut since = Instant::now();
    let mut seen = (0, 0);
    let mut written = None;
    while seen.0 < points || since.elapsed() < AT_REST {
        if started.elapsed() > PATIENCE {
            bail!("files are never at rest: {:?}", figures.failure());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = (figures.rows(), figures.merged());
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        if seen.0 >= points && written.is_none() {
            written = Some(started.elapsed());
        }
    }
    let written = written.unwrap_or_default().as_secs_f64();
    let merged = (started.elapsed() - since.elapsed()).as_secs_f64();
    println!("In files after {written:.0} s, merged after {merged:.0} s.");
    Ok(())
}

fn size(directory: &Path) -> Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let (of_files, of_bytes) = if metadata.is_dir() { size(&entry.path())? } else { (1, metadata.len()) };
        (files, bytes) = (files + of_files, bytes + of_bytes);
    }
    Ok((files, bytes))
}

/// Ns since the epoch.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// DuckDB, in a process of its own that ends with this.
struct Duck {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Duck {
    fn start(packages: &Path, history: &Path) -> Result<Self> {
        let threads = std::thread::available_parallelism()?.to_string();
        let mut child = Command::new("python3")
            .args(["-c", include_str!("duck.py")])
            .arg(history)
            .arg(threads)
            .env("PYTHONPATH", packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start DuckDB")?;
        let questions = child.stdin.take().context("its standard input")?;
        let answers = BufReader::new(child.stdout.take().context("its standard output")?);
        let mut duck = Self { child, questions, answers };
        duck.line()?;
        Ok(duck)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() { bail!("DuckDB ended") } else { Ok(line) }
    }

    /// Milliseconds. It compares its times in ns with no others.
    fn ask(&mut self, sql: &str) -> Result<f64> {
        writeln!(self.questions, "{}", sql.replace("received ", "received::TIMESTAMPTZ "))?;
        self.questions.flush()?;
        let line = self.line()?;
        line.split_whitespace().next().and_then(|time| time.parse().ok()).context("DuckDB's time")
    }
}

impl Drop for Duck {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

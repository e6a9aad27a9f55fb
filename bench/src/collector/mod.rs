//! `cargo xtask bench collector`: what taking OTLP in costs the collector, with its log on disk and in memory, beside the
//! agent rotel (from PyPI), which takes in the same requests and keeps nothing. The figure is items for each second of
//! CPU time of the whole process, not of the wall, so that the sender beside it does not count.

mod load;
pub mod side;

use std::fmt;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::stats::quantile;
use crate::verdict::Verdict;
use load::{Load, Sender};

/// Longest wait for a process to listen.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the durable collector has to reach, as a multiple of rotel.
const DURABLE: f64 = 1.0;
/// The same of the one that keeps nothing.
const IN_MEMORY: f64 = 1.5;

/// Who takes in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Durable,
    InMemory,
    Rotel,
}

impl Side {
    const ALL: [Self; 3] = [Self::Durable, Self::InMemory, Self::Rotel];
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Durable => "durable",
            Self::InMemory => "in memory",
            Self::Rotel => "rotel",
        })
    }
}

/// How long one side takes in before the next, and how often each has its turn.
struct Plan {
    block: Duration,
    rounds: usize,
}

/// Measures and prints; the error says how many bounds are broken.
pub fn run(quick: bool) -> Result<()> {
    let plan = if quick {
        Plan { block: Duration::from_secs(1), rounds: 3 }
    } else {
        Plan { block: Duration::from_secs(4), rounds: 10 }
    };
    let rotel = sandscope_tests::pypi("rotel", "rotel-agent");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    println!("| load | side | items/s of CPU time | quartiles | beside rotel | peak memory |");
    println!("|---|---|---|---|---|---|");
    let mut verdict = Verdict::new();
    for load in Load::ALL {
        let sides: Vec<Side> = Side::ALL
            .into_iter()
            .filter(|side| *side != Side::Rotel || (rotel.is_some() && load.is_stable()))
            .collect();
        let found = runtime.block_on(measure(&plan, load, &sides, rotel.as_deref()))?;
        let median = |side: Side| found.iter().find(|of| of.side == side).map(|of| quantile(&of.rates, 0.5));
        let baseline = median(Side::Rotel);
        for Figures { side, rates, peak } in &found {
            let rate = quantile(rates, 0.5);
            let (low, high) = (quantile(rates, 0.25), quantile(rates, 0.75));
            let beside = baseline.map_or("–".to_owned(), |rotel| format!("{:.2}", rate / rotel));
            let peak = *peak as f64 / f64::from(1 << 20);
            println!("| {load} | {side} | {rate:.0} | {low:.0}–{high:.0} | {beside} | {peak:.0} MiB |");
        }
        for (side, bound) in [(Side::Durable, DURABLE), (Side::InMemory, IN_MEMORY)] {
            if let (Some(rotel), Some(rate)) = (baseline, median(side)) {
                let ratio = rate / rotel;
                verdict.add(ratio >= bound, format!("{load}, {side}: {ratio:.2} of rotel, at least {bound}"));
            }
        }
    }
    if rotel.is_none() {
        println!("\nWithout rotel there is nothing to compare with.");
    }
    println!("\n{verdict}");
    match verdict.broken() {
        0 => Ok(()),
        broken => bail!("{broken} bounds are broken"),
    }
}

/// What one side did with one load.
struct Figures {
    side: Side,
    /// Items for each second of CPU time, of each block.
    rates: Vec<f64>,
    /// Bytes.
    peak: u64,
}

/// All sides at once, in turns; the order turns round each time.
async fn measure(plan: &Plan, load: Load, sides: &[Side], rotel: Option<&Path>) -> Result<Vec<Figures>> {
    let mut running = Vec::new();
    for side in sides {
        let process = Process::start(*side, rotel)?;
        let sender = Sender::connect(&process.endpoint, load).await?;
        running.push((process, sender, Figures { side: *side, rates: Vec::new(), peak: 0 }));
    }
    for round in 0..=plan.rounds {
        running.reverse();
        for (process, sender, figures) in &mut running {
            let before = process.cpu()?;
            let items = sender.send_for(plan.block).await?;
            let cpu = process.cpu()? - before;
            // The first round warms up.
            if round > 0 {
                figures.rates.push(items as f64 / cpu.as_secs_f64());
            }
            figures.peak = process.peak()?;
        }
    }
    running.sort_by_key(|(_, _, figures)| figures.side as u8);
    Ok(running.into_iter().map(|(_, _, figures)| figures).collect())
}

/// A collector or an agent; ends with this.
struct Process {
    child: Child,
    endpoint: String,
    /// What it keeps.
    _data: Option<tempfile::TempDir>,
}

impl Process {
    fn start(side: Side, rotel: Option<&Path>) -> Result<Self> {
        match side {
            Side::Durable | Side::InMemory => {
                let data = (side == Side::Durable).then(tempfile::tempdir).transpose()?;
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("collector-side");
                command.args(data.as_ref().map(tempfile::TempDir::path));
                let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
                let mut endpoint = String::new();
                let stdout = child.stdout.take().context("the collector's address")?;
                BufReader::new(stdout).read_line(&mut endpoint)?;
                Ok(Self { child, endpoint: endpoint.trim().to_owned(), _data: data })
            }
            Side::Rotel => {
                let rotel = rotel.context("rotel is not there")?;
                let listeners = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
                let [grpc, http] = listeners.map(|listener| listener.local_addr());
                let (grpc, http) = (grpc?.to_string(), http?.to_string());
                let child = Command::new(rotel)
                    .args(["start", "--otlp-grpc-endpoint", &grpc, "--otlp-http-endpoint", &http])
                    .args(["--exporter", "blackhole"])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .context("start rotel")?;
                let process = Self { child, endpoint: format!("http://{grpc}"), _data: None };
                let started = Instant::now();
                while std::net::TcpStream::connect(&grpc).is_err() {
                    if started.elapsed() > PATIENCE {
                        bail!("rotel never listens");
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(process)
            }
        }
    }

    /// CPU time of all its threads, user and system.
    fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        // The second field is the program's name, which may hold anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
        let ticks = ticks(11).zip(ticks(12)).map(|(user, system)| user + system);
        // SAFETY: reads a constant of the system; it has no preconditions.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        Ok(Duration::from_secs_f64(ticks.context("the process's times")? as f64 / per_second))
    }

    /// Most resident memory so far, in bytes.
    fn peak(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! The guest `analytics`: a summary of events, per key, with percentiles.
//!
//! `analytics [--top K] [--retain] [--generate N [SEED]]` reads events as lines of JSON
//! from stdin, or makes N of them itself, as a load that needs no input. It allocates
//! as such functions do (owned strings, maps, vectors that double) and, with
//! `--retain`, keeps every event until the end, like the leak that teams look for.
//!
//! The synthetic events are in `generate.rs`, percentiles and top-k in `summary.rs`.

mod generate;
mod summary;

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use serde::Deserialize;

use crate::generate::Generator;
use crate::summary::Summary;

const USAGE: &str = "usage: analytics [--top K] [--retain] [--generate N [SEED]] < EVENTS.ndjson";

/// One line of input: `{"key": "checkout", "user": "u17", "latency_ms": 12.5, …}`.
#[derive(Debug, Deserialize)]
pub struct Event {
    pub key: String,
    pub user: String,
    pub latency_ms: f64,
    #[serde(default)]
    pub bytes: u64,
    #[serde(default)]
    pub status: u16,
    #[serde(default)]
    pub tags: Vec<String>,
}

struct Options {
    top: usize,
    retain: bool,
    /// How many events to make, and the seed; stdin otherwise.
    generate: Option<(u64, u64)>,
}

impl Options {
    fn parse(args: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self { top: 5, retain: false, generate: None };
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--top" => options.top = args.next()?.parse().ok()?,
                "--retain" => options.retain = true,
                "--generate" => {
                    let count = args.next()?.parse().ok()?;
                    let seed = args.next_if(|arg| !arg.starts_with("--"));
                    let seed = seed.map_or(Some(1), |seed| seed.parse().ok())?;
                    options.generate = Some((count, seed));
                }
                _ => return None,
            }
        }
        Some(options)
    }
}

fn main() -> ExitCode {
    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("analytics: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> io::Result<()> {
    let mut pipeline = Pipeline::new(options.retain);
    match options.generate {
        Some((count, seed)) => {
            let mut generator = Generator::new(seed);
            for _ in 0..count {
                pipeline.ingest(&generator.next_line());
            }
        }
        None => {
            for line in io::stdin().lock().lines() {
                pipeline.ingest(&line?);
            }
        }
    }
    let mut out = io::stdout().lock();
    pipeline.summary.print(&mut out, options.top)?;
    if options.retain {
        writeln!(out, "retained {} events", pipeline.retained.len())?;
    }
    out.flush()
}

struct Pipeline {
    summary: Summary,
    retain: bool,
    retained: Vec<Event>,
}

impl Pipeline {
    fn new(retain: bool) -> Self {
        Self { summary: Summary::default(), retain, retained: Vec::new() }
    }

    /// A line that is no event is counted, not fatal: one bad client must not stop
    /// the report of all the others.
    fn ingest(&mut self, line: &str) {
        if line.trim().is_empty() {
            return;
        }
        match parse(line) {
            Ok(event) => {
                self.summary.add(&event);
                if self.retain {
                    self.retained.push(event);
                }
            }
            Err(_) => self.summary.reject(),
        }
    }
}

/// Kept out of line, so that a profile can tell parsing from counting.
#[inline(never)]
fn parse(line: &str) -> serde_json::Result<Event> {
    serde_json::from_str(line)
}

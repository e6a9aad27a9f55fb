//! `sandscope capture --connect`: asks a collector to have one of its hosts record.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sandscope_collector::client::{self, ClientError, Event, Order};
use sandscope_model::text::visible;

use super::capture::written;
use crate::args::CaptureArgs;
use crate::problem::{Problem, chain};

/// Between lines about an upload.
const TELL: Duration = Duration::from_secs(1);

/// Has a host record, and writes what it recorded.
pub fn capture(url: &str, args: &CaptureArgs) -> Result<ExitCode, Problem> {
    let order = Order {
        workload: args.workload.clone(),
        region: args.region.clone().unwrap_or_default(),
        duration: args.duration,
        hz: args.hz.unwrap_or(0.0),
    };
    let credentials = args.reach.credentials()?;
    let runtime = crate::runtime()?;
    let mut told = None;
    let tell = |event: Event| match event {
        Event::Recording { region, host } => {
            let (workload, host, region) = (visible(&args.workload), visible(&host), visible(&region));
            eprintln!("sandscope: recording {workload} on {host} in {region} for {:?}", args.duration);
        }
        Event::Uploading { received, size } => {
            let due = told.is_none_or(|last: Instant| last.elapsed() >= TELL);
            if due && std::io::stderr().is_terminal() {
                told = Some(Instant::now());
                eprintln!("sandscope: {received} of {size} bytes are at the collector");
            }
        }
        Event::Away => eprintln!("sandscope: the collector went away, waiting for it"),
    };
    let write =
        |file: &mut std::fs::File| runtime.block_on(client::capture(url, &credentials, &order, file, tell));
    let bytes = written(&args.out, write, ClientError::Write).map_err(|error| {
        let problem = Problem::usage(chain(&error));
        match error {
            ClientError::Connect(_) | ClientError::Unreachable { .. } => {
                problem.next("Is it the query address of a collector? `sandscope collect` prints it.")
            }
            ClientError::Write(_) => problem.next("Choose another file with -o."),
            ClientError::Refused { .. } => {
                problem.next("Hosts are there that were started with --otlp; `sandscope top` shows them.")
            }
            ClientError::Incomplete { .. } => problem,
        }
    })?;
    eprintln!("recording: {0}, {bytes} bytes  (sandscope open {0})", args.out.display());
    Ok(ExitCode::SUCCESS)
}

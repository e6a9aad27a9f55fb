//! `sandscope demo`: regions as processes of their own, real guests under load, one collector, and the
//! terminal UI or, headless, what it would show. Everything that was started ends with it.

pub mod host;
mod load;
mod print;
mod region;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use sandscope_collector::{Collector, Config};
use tokio::sync::oneshot;

use crate::args::DemoArgs;
use crate::commands::collect::interrupted;
use crate::problem::{Problem, chain};
use region::Region;

/// How long a headless demo runs unless told otherwise.
const HEADLESS: Duration = Duration::from_secs(30);

/// Names of regions, as clouds call them; more than these are numbered.
const REGIONS: [&str; 10] = [
    "eu-west-1",
    "us-east-1",
    "ap-south-1",
    "sa-east-1",
    "eu-north-1",
    "us-west-2",
    "ap-northeast-1",
    "af-south-1",
    "ca-central-1",
    "me-south-1",
];

/// Runs the demo.
pub fn demo(args: &DemoArgs) -> Result<ExitCode, Problem> {
    let guests = guests(args.guests.as_deref())?;
    crate::runtime()?.block_on(run(args, &guests))
}

async fn run(args: &DemoArgs, guests: &Path) -> Result<ExitCode, Problem> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = Config { otlp: any, otlp_http: any, query: any, http: any, ..Config::default() };
    let collector = Collector::bind(config).await.map_err(|error| Problem::internal(chain(&error)))?;
    let otlp = format!("http://{}", collector.otlp_addr());
    let query = format!("http://{}", collector.query_addr());
    let (stop, stopped) = oneshot::channel::<()>();
    let collector = tokio::spawn(collector.run(async {
        // A dropped sender is a stop as well.
        let _ = stopped.await;
    }));
    let mut regions = Vec::new();
    for index in 0..args.regions {
        let name = REGIONS
            .get(usize::from(index))
            .map_or_else(|| format!("region-{}", index + 1), |name| (*name).to_owned());
        regions.push(Region::start(&name, &otlp, guests, u64::from(index))?);
    }
    let result = if args.headless {
        eprintln!("sandscope: OTLP on {otlp}, queries on {query}");
        headless(args, &query).await
    } else {
        terminal(args, query).await
    };
    for region in regions {
        region.stop().await;
    }
    drop(stop);
    match collector.await {
        Ok(Ok(())) => result,
        Ok(Err(error)) => result.and(Err(Problem::internal(chain(&error)))),
        Err(panic) => result.and(Err(Problem::internal(format!("stop the collector: {panic}")))),
    }
}

async fn terminal(args: &DemoArgs, query: String) -> Result<ExitCode, Problem> {
    let options = sandscope_tui::TopOptions {
        query_url: query,
        title: "demo".to_owned(),
        credentials: sandscope_host::Credentials::default(),
    };
    let deadline = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        shown = sandscope_tui::top(options) => shown.map_err(|error| {
            Problem::usage(chain(&error)).next("Run it in a terminal, or with --headless.")
        })?,
        () = deadline => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn headless(args: &DemoArgs, query: &str) -> Result<ExitCode, Problem> {
    let duration = args.duration.unwrap_or(HEADLESS);
    let seen = tokio::select! {
        seen = sandscope_tui::collect_for(query, duration) => {
            seen.map_err(|error| Problem::internal(chain(&error)))?
        }
        () = interrupted() => return Ok(ExitCode::from(130)),
    };
    if args.json {
        print::json(&seen)?;
    } else {
        print::text(&seen);
    }
    Ok(ExitCode::SUCCESS)
}

/// The folder of the guests: as given, else the source tree that this binary was built from.
fn guests(given: Option<&Path>) -> Result<PathBuf, Problem> {
    let built_from = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests");
    let dir = given.map_or_else(|| PathBuf::from(built_from), Path::to_owned);
    if dir.join("image.wasm").is_file() {
        // A child process may have another working directory.
        return dir
            .canonicalize()
            .map_err(|error| Problem::usage(format!("open {}: {error}", dir.display())));
    }
    Err(Problem::usage(format!("find the demo's guests in {}", dir.display()))
        .next("Give the folder tests/guests of the source tree with --guests DIR."))
}

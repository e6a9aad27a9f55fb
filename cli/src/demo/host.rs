//! One region's host process: loads the guests, keeps them under load, sends what it measures.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use sandscope_host::Sandscope;
use sandscope_host::runner::Runner;

use super::load;
use crate::args::DemoHostArgs;
use crate::problem::{Problem, chain};

/// Time between exports: the demo is for watching.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until standard input ends.
pub fn host(args: DemoHostArgs) -> Result<ExitCode, Problem> {
    let scope = Sandscope::builder()
        .service("demo")
        .region(&args.region)
        .host_name(&format!("{}-node-1", args.region))
        .otlp(&args.otlp)
        .interval(INTERVAL)
        .metrics_facade(true)
        .build()
        .map_err(|error| Problem::usage(chain(&error)))?;
    let runner = Runner::new(&scope)?;
    let runtime = crate::runtime()?;
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // The demo keeps the other end open as long as it lives; any error is an end too.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    let started = load::start(&runtime, runner, args.guests, args.seed);
    runtime.block_on(async {
        let _ = end.await;
    });
    drop(started);
    runtime.shutdown_background();
    scope.shutdown();
    Ok(ExitCode::SUCCESS)
}

//! `sandscope collect`: the collector.

use std::process::ExitCode;
use std::sync::Arc;

use sandscope_collector::access::Access;
use sandscope_collector::log::Recovery;
use sandscope_collector::{Collector, Config};

use crate::args::CollectArgs;
use crate::config::{Resolved, resolve};
use crate::problem::{Problem, chain};

/// Prints what is in force.
pub fn explain(args: &CollectArgs) -> Result<ExitCode, Problem> {
    let resolved = resolve(args)?;
    resolved.lines.iter().for_each(|line| println!("{line}"));
    resolved.check()?;
    Ok(ExitCode::SUCCESS)
}

/// Collects until Ctrl-C or SIGTERM.
pub fn collect(args: &CollectArgs) -> Result<ExitCode, Problem> {
    if args.check {
        return explain(args);
    }
    let resolved = resolve(args)?;
    let config = resolved.config.clone();
    crate::runtime()?.block_on(async {
        let bound = Collector::bind(config.clone()).await;
        let collector = bound.map_err(|error| resolved.problem(&error))?;
        // Before anybody learns that it runs: a signal that nobody waits for would end it.
        reload(args.clone(), collector.access());
        greet(&collector, &resolved);
        collector.run(interrupted()).await.map_err(|error| Problem::internal(chain(&error)))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn greet(collector: &Collector, resolved: &Resolved) {
    let Config { access, data, .. } = &resolved.config;
    let scheme = if access.tls.is_some() { "https" } else { "http" };
    let addrs =
        [&resolved.config.otlp, &resolved.config.otlp_http, &resolved.config.query, &resolved.config.http];
    let is_beyond = addrs.iter().any(|addr| !addr.ip().is_loopback());
    if is_beyond && (access.tls.is_none() || access.credentials.is_empty()) {
        eprintln!("sandscope: WARNING: --insecure: whoever reaches this collector may do everything with it");
    }
    eprintln!("sandscope: OTLP/gRPC on {}, queries on {}", collector.otlp_addr(), collector.query_addr());
    eprintln!("  OTLP/HTTP on {} for SDKs and agents", collector.otlp_http_addr());
    eprintln!("  debug info: sandscope symbols push FILE --to {scheme}://{}", collector.http_addr());
    eprintln!("  watch it: sandscope top --connect {scheme}://{}", collector.query_addr());
    eprintln!("  send to it: sandscope run --otlp {scheme}://{} guest.wasm", collector.otlp_addr());
    match data {
        Some(data) => eprintln!("  log: {}{}", data.display(), found(collector.recovery())),
        None => eprintln!("  log: in memory, because there is no home directory; choose one with --data"),
    }
    if let Some(history) = &resolved.config.history {
        let query = collector.query_addr();
        eprintln!("  history: {}; ask it: sandscope query --connect {scheme}://{query}", history.place);
    }
}

/// What there was, if it is worth a word.
fn found(recovery: Recovery) -> String {
    let Recovery { records, lost, torn } = recovery;
    let mut text = if records > 0 { format!(", {records} requests") } else { String::new() };
    if lost.records > 0 || lost.bytes > 0 {
        text += &format!(", {} LOST to damage ({} bytes)", lost.records, lost.bytes);
    }
    if torn > 0 {
        text += &format!(", {torn} unfinished bytes at the end");
    }
    text
}

/// Reads credentials and certificates again at each SIGHUP, while the runtime lasts. What cannot be read leaves
/// everything as it was.
fn reload(args: CollectArgs, access: Arc<Access>) {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                let read = resolve(&args).and_then(|resolved| {
                    let reloaded = access.reload(&resolved.config.access);
                    reloaded.map_err(|error| resolved.problem(&error.into()))
                });
                match read {
                    Ok(()) => eprintln!("sandscope: credentials and certificates are read again"),
                    Err(problem) => {
                        problem.print();
                        eprintln!("sandscope: credentials and certificates stay as they were");
                    }
                }
            }
        });
    }
    #[cfg(not(unix))]
    let _ = (args, access);
}

/// Ctrl-C or SIGTERM.
pub async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without signals the process ends by being killed, which is as good.
    let _ = tokio::signal::ctrl_c().await;
}

//! `sandscope collect`: the collector.

use std::process::ExitCode;

use sandscope_collector::{Collector, Config};

use crate::args::CollectArgs;
use crate::problem::{Problem, chain};

/// Collects until Ctrl-C or SIGTERM.
pub fn collect(args: &CollectArgs) -> Result<ExitCode, Problem> {
    let config = Config {
        otlp: args.otlp_listen,
        otlp_http: args.otlp_http_listen,
        query: args.query_listen,
        http: args.http_listen,
        ..Config::default()
    };
    crate::runtime()?.block_on(async {
        let collector = Collector::bind(config).await.map_err(|error| {
            Problem::usage(chain(&error)).next(
                "Choose others with --otlp-listen, --otlp-http-listen, --query-listen and --http-listen.",
            )
        })?;
        eprintln!("sandscope: OTLP/gRPC on {}, queries on {}", collector.otlp_addr(), collector.query_addr());
        eprintln!("  OTLP/HTTP on {} for SDKs and agents", collector.otlp_http_addr());
        eprintln!("  debug info: sandscope symbols push FILE --to http://{}", collector.http_addr());
        eprintln!("  watch it: sandscope top --connect http://{}", collector.query_addr());
        eprintln!("  send to it: sandscope run --otlp http://{} guest.wasm", collector.otlp_addr());
        collector.run(interrupted()).await.map_err(|error| Problem::internal(chain(&error)))
    })?;
    Ok(ExitCode::SUCCESS)
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

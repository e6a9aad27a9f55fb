//! `sandscope collect`: the collector.

use std::process::ExitCode;

use sandscope_collector::history::{self, Keep, Place};
use sandscope_collector::log::{Recovery, Settings, WhenFull};
use sandscope_collector::{BindError, Collector, Config};

use crate::args::{CollectArgs, HistoryAt, LogFull};
use crate::problem::{Problem, chain};

/// Collects until Ctrl-C or SIGTERM.
pub fn collect(args: &CollectArgs) -> Result<ExitCode, Problem> {
    let when_full = match args.log_full {
        LogFull::Refuse => WhenFull::Refuse,
        LogFull::DropOldest => WhenFull::DropOldest,
    };
    let config = Config {
        otlp: args.otlp_listen,
        otlp_http: args.otlp_http_listen,
        query: args.query_listen,
        http: args.http_listen,
        data: args.data.clone(),
        log: Settings::new(args.log_size as u64, args.log_age, when_full),
        history: history(args),
        ..Config::default()
    };
    let place = config.history.as_ref().map(|history| history.place.to_string());
    crate::runtime()?.block_on(async {
        let collector = Collector::bind(config).await.map_err(|error| {
            Problem::usage(chain(&error)).next(match error {
                BindError::Log(_) => "Choose another directory with --data.",
                BindError::History(_) => "Choose another place with --history.",
                BindError::Otlp { .. }
                | BindError::OtlpHttp { .. }
                | BindError::Query { .. }
                | BindError::Http { .. } => {
                    "Choose others with --otlp-listen, --otlp-http-listen, --query-listen and --http-listen."
                }
            })
        })?;
        eprintln!("sandscope: OTLP/gRPC on {}, queries on {}", collector.otlp_addr(), collector.query_addr());
        eprintln!("  OTLP/HTTP on {} for SDKs and agents", collector.otlp_http_addr());
        eprintln!("  debug info: sandscope symbols push FILE --to http://{}", collector.http_addr());
        eprintln!("  watch it: sandscope top --connect http://{}", collector.query_addr());
        eprintln!("  send to it: sandscope run --otlp http://{} guest.wasm", collector.otlp_addr());
        match &args.data {
            Some(data) => eprintln!("  log: {}{}", data.display(), found(collector.recovery())),
            None => eprintln!("  log: in memory, because there is no home directory; choose one with --data"),
        }
        if let Some(place) = place {
            eprintln!(
                "  history: {place}; ask it: sandscope query --connect http://{}",
                collector.query_addr()
            );
        }
        collector.run(interrupted()).await.map_err(|error| Problem::internal(chain(&error)))
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Where the flags say, else beside the log.
fn history(args: &CollectArgs) -> Option<history::Settings> {
    let place = match &args.history {
        Some(HistoryAt::Off) => return None,
        Some(HistoryAt::Place(place)) => place.clone(),
        None => Place::Directory(args.data.as_ref()?.join("history")),
    };
    let mut settings = history::Settings::new(place);
    // Of all tables first, so that the order of flags does not matter.
    let of_all =
        args.history_keep.iter().filter_map(|(table, time)| table.is_none().then_some(*time)).next_back();
    settings.keep = of_all.map_or_else(Keep::default, Keep::all);
    for (table, time) in &args.history_keep {
        if let Some(table) = table {
            settings.keep.set(*table, *time);
        }
    }
    Some(settings)
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

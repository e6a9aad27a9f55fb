//! `sandscope serve`: a wasi:http component behind a socket.

use std::process::ExitCode;

use sandscope_host::capture;
use sandscope_host::runner::{GuestFile, Runner, ServeLimits};

use crate::args::ServeArgs;
use crate::problem::Problem;
use crate::values::default_recordings;

/// Serves until Ctrl-C or SIGTERM.
pub fn serve(args: &ServeArgs) -> Result<ExitCode, Problem> {
    let file = GuestFile::read(
        &args.component,
        args.identity.workload.as_deref(),
        args.identity.workload_version.as_deref(),
    )?;
    let mut flight = args.flight.clone();
    if !args.no_recordings {
        flight.recordings = flight.recordings.or_else(default_recordings);
    }
    let own = || Some(capture::directory()?.join(format!("{}.sock", std::process::id())));
    flight.socket = flight.socket.or_else(own);
    let dumped = super::Dumped { record: args.memory, recordings: args.memory };
    let scope = super::scope(&args.identity, &args.cache, dumped, &flight)?;
    let guest = Runner::new(&scope)?.http(&file)?;
    let grants = super::grants(&args.given, vec![file.name.clone()]);
    let limits = ServeLimits {
        reuse: args.reuse,
        max_concurrent: args.max_concurrent,
        request_timeout: (!args.request_timeout.is_zero()).then_some(args.request_timeout),
        max_body: args.max_body,
    };
    let runtime = crate::runtime()?;
    let result = runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind(args.addr).await?;
        eprintln!("sandscope: serving {} on http://{}", file.name, listener.local_addr()?);
        guest.serve(listener, grants, limits, crate::commands::collect::interrupted()).await
    });
    runtime.shutdown_background();
    scope.shutdown();
    result.map_err(|error| {
        Problem::usage(format!("listen on {}: {error}", args.addr))
            .next("Choose another address with --addr.")
    })?;
    Ok(ExitCode::SUCCESS)
}

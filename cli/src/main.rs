//! The `sandscope` binary: flags, wiring, exit codes. The only place that sees every crate.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

mod args;
mod commands;
mod config;
mod demo;
mod diff;
mod explain;
mod export;
mod foreign;
mod lookup;
mod problem;
mod reach;
mod report;
mod rows;
mod stopped;
mod store;
mod values;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command};
use problem::Problem;

/// Exit code for a failure of sandscope itself.
const INTERNAL: u8 = 70;

fn main() -> ExitCode {
    // A guest's full heap captures a host backtrace each time if this is set, which slows guests threefold.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    let matches = Cli::command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let explains_collect = cli.explain_config && matches!(cli.command, Command::Collect(_));
    if cli.explain_config && !explains_collect {
        explain::print(&Cli::command(), &matches);
        return ExitCode::SUCCESS;
    }
    let result = match cli.command {
        Command::Run(args) => commands::run::run(&args),
        Command::Serve(args) => commands::serve::serve(&args),
        Command::Capture(args) => commands::capture::capture(&args),
        Command::Collect(args) if explains_collect => commands::collect::explain(&args),
        Command::Collect(args) => commands::collect::collect(&args),
        Command::Top(args) => commands::ui::top(&args),
        Command::Query(args) => commands::query::query(&args),
        Command::Open(args) => commands::ui::open(&args),
        Command::Report(args) => commands::report::report(&args),
        Command::Export(args) => commands::export::export(&args),
        Command::Diff(args) => commands::diff::diff(&args),
        Command::Recording(command) => commands::recording::recording(&command),
        Command::Symbolize(args) => commands::symbolize::symbolize(&args),
        Command::Symbols(args) => commands::symbols::symbols(&args),
        Command::Demo(args) => demo::demo(&args),
        Command::DemoHost(args) => demo::host::host(args),
    };
    match result {
        Ok(code) => code,
        Err(problem) => {
            problem.print();
            ExitCode::from(problem.code())
        }
    }
}

/// A runtime for commands that wait on sockets.
fn runtime() -> Result<tokio::runtime::Runtime, Problem> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::internal(format!("start the runtime: {error}")))
}

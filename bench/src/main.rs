//! Benchmarks: each figure beside a baseline of the same run. Reached through `cargo xtask bench`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

mod accuracy;
mod clock;
mod collector;
mod history;
mod layout;
mod overhead;
mod stats;
mod storm;
mod symbols;
mod verdict;
mod worker;
mod workloads;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask bench overhead [--quick] [--only WORKLOAD]
       cargo xtask bench accuracy [--quick]
       cargo xtask bench storm [--quick]
       cargo xtask bench symbols [--quick]
       cargo xtask bench collector [--quick]
       cargo xtask bench history [--quick]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["overhead"] => overhead::run(false, None),
        ["overhead", "--quick"] => overhead::run(true, None),
        ["overhead", "--only", name] => overhead::run(false, Some(name)),
        ["overhead", "--quick", "--only", name] => overhead::run(true, Some(name)),
        ["accuracy"] => accuracy::run(false),
        ["accuracy", "--quick"] => accuracy::run(true),
        ["storm"] => storm::run(false),
        ["storm", "--quick"] => storm::run(true),
        ["symbols"] => symbols::run(false),
        ["symbols", "--quick"] => symbols::run(true),
        ["collector"] => collector::run(false),
        ["collector", "--quick"] => collector::run(true),
        ["history"] => history::run(false),
        ["history", "--quick"] => history::run(true),
        ["collector-side"] => collector::side::run(None),
        ["collector-side", data] => collector::side::run(Some(data)),
        ["symbols-side", side, module, addresses] => symbols::side::run(side, module, addresses),
        ["worker", workload, side, otlp, interval, padding] => {
            worker::run(&worker::Arguments { workload, side, otlp, interval, padding })
        }
        ["memory", side, otlp, count] => worker::memory::run(side, otlp, count),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

//! Benchmarks: each figure beside a baseline of the same run. Reached through `cargo xtask bench`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

mod guests;
mod overhead;
mod stats;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["overhead"] => overhead::run(false),
        ["overhead", "--quick"] => overhead::run(true),
        ["worker", guest, mode, otlp] => worker::run(guest, mode, otlp),
        _ => {
            eprintln!("usage: cargo xtask bench overhead [--quick]");
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

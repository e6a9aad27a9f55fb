//! Everything that could break a sampler, at once, in a process of its own: a high rate, traps, stack overflows,
//! calls cancelled in the middle, modules and engines that come and go, garbage collection, fork and exec, and
//! a debugger-like SIGSTOP. It must not crash, hang, or name an address wrongly, and its signal handler must
//! never allocate.
//!
//! `SANDSCOPE_STRESS_FOR` (like `90s`, `30m`) says for how long; `cargo xtask stress --for 30m` sets it.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "progress of a long test")]

mod allocator;
mod check;
mod guests;
mod supervisor;
mod worker;

use std::time::Duration;

/// Set in the process under stress.
const WORKER: &str = "SANDSCOPE_STRESS_WORKER";
/// For how long.
const FOR: &str = "SANDSCOPE_STRESS_FOR";

#[test]
fn nothing_breaks_under_stress() {
    let time = std::env::var(FOR).map_or(Duration::from_secs(20), |text| duration(&text));
    if std::env::var_os(WORKER).is_some() {
        worker::run(time);
    } else {
        supervisor::run("nothing_breaks_under_stress");
    }
}

fn duration(text: &str) -> Duration {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().unwrap_or_else(|_| panic!("{FOR} is like 90s or 30m, not {text:?}"));
    match &text[digits.len()..] {
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number * 60),
        _ => panic!("{FOR} is like 90s or 30m, not {text:?}"),
    }
}

//! `sandscope diff`: what two recordings differ in.

use std::process::ExitCode;

use sandscope_recording::Recording;

use crate::args::DiffArgs;
use crate::diff::Diff;
use crate::lookup::Lookup;
use crate::problem::{Problem, chain};

/// Prints the comparison; exit code 1 if a limit of `--fail-on` is exceeded.
pub fn diff(args: &DiffArgs) -> Result<ExitCode, Problem> {
    let open = |file| Recording::open(file).map_err(|error| Problem::usage(chain(&error)));
    let (baseline, candidate) = (open(&args.baseline)?, open(&args.candidate)?);
    let diff = Diff::new(&baseline, &candidate, args.workload.as_deref(), &Lookup::of_user());
    if args.json {
        println!("{}", diff.json().map_err(Problem::internal)?);
    } else {
        print!("{}", diff.text());
    }
    let beyond = diff.beyond(&args.fail_on);
    for sentence in &beyond {
        eprintln!("sandscope: {}", sandscope_model::text::visible(sentence));
    }
    Ok(if beyond.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

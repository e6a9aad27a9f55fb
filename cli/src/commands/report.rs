//! `sandscope report`: a recording as text or JSON.

use std::process::ExitCode;

use sandscope_recording::Recording;

use crate::args::ReportArgs;
use crate::lookup::Lookup;
use crate::problem::{Problem, chain};
use crate::report::Report;

/// Prints the report.
pub fn report(args: &ReportArgs) -> Result<ExitCode, Problem> {
    let recording = Recording::open(&args.file).map_err(|error| Problem::usage(chain(&error)))?;
    let report = Report::new(&recording, args.top, &Lookup::of_user());
    if args.json {
        println!("{}", report.json().map_err(Problem::internal)?);
    } else {
        print!("{}", report.text());
    }
    Ok(ExitCode::SUCCESS)
}

//! `sandscope top` and `sandscope open`: the terminal UI over its two sources.

use std::process::ExitCode;
use std::sync::Arc;

use sandscope_tui::LoadSymbols;

use crate::args::{OpenArgs, TopArgs};
use crate::foreign;
use crate::lookup::Lookup;
use crate::problem::{Problem, chain};

/// Watches a collector.
pub fn top(args: &TopArgs) -> Result<ExitCode, Problem> {
    let options = sandscope_tui::TopOptions {
        query_url: args.connect.clone(),
        title: args.connect.clone(),
        credentials: args.reach.credentials()?,
    };
    crate::runtime()?.block_on(sandscope_tui::top(options)).map_err(|error| {
        Problem::usage(chain(&error)).next("Run it in a terminal; see `sandscope top --help`.")
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Opens a recording, or a core dump.
pub fn open(args: &OpenArgs) -> Result<ExitCode, Problem> {
    let recording = foreign::open(&args.file, args.module.as_deref())?;
    let lookup = Lookup::of_user();
    let load: LoadSymbols = Arc::new(move |id, recorded| lookup.symbols(id, recorded).symbols);
    crate::runtime()?.block_on(sandscope_tui::open(recording, load)).map_err(|error| {
        Problem::usage(chain(&error)).next("`sandscope report FILE` prints a recording without a terminal.")
    })?;
    Ok(ExitCode::SUCCESS)
}

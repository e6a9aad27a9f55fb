//! `sandscope report`: a recording as text or JSON.

use std::path::{Component, Path};
use std::process::ExitCode;

use crate::args::ReportArgs;
use crate::foreign;
use crate::lookup::Lookup;
use crate::problem::Problem;
use crate::report::Report;

/// Prints the report.
pub fn report(args: &ReportArgs) -> Result<ExitCode, Problem> {
    let recording = foreign::open(&args.file, args.module.as_deref())?;
    let report = Report::new(&recording, args.top, &Lookup::of_user());
    if args.json {
        println!("{}", report.json().map_err(Problem::internal)?);
    } else {
        let line = |file: &str, line: u32| source_line(args.source.as_deref()?, file, line);
        print!("{}", report.text(&line));
    }
    Ok(ExitCode::SUCCESS)
}

/// Largest source file that is read, in bytes.
const MAX_SOURCE: u64 = 16 << 20;

/// A line of the file below `root` whose path has the longest end in common with `file`, a path that the guest's author
/// chose: nothing outside of `root` is read for it.
fn source_line(root: &Path, file: &str, line: u32) -> Option<String> {
    let parts: Vec<_> =
        Path::new(file).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let is_plain = !Path::new(file).components().any(|part| part == Component::ParentDir);
    let path = (0..parts.len())
        .filter(|_| is_plain)
        .map(|skip| root.join(parts.iter().skip(skip).collect::<std::path::PathBuf>()))
        .find(|path| path.is_file())?;
    std::fs::metadata(&path).ok().filter(|metadata| metadata.len() <= MAX_SOURCE)?;
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().nth(usize::try_from(line).ok()?.checked_sub(1)?).map(str::to_owned)
}

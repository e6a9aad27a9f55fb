//! A comparison as text: the verdict in a sentence, then a line for each change worth reading.

use std::fmt::Write as _;

use sandscope_model::frame::short_name;
use sandscope_model::text::visible;
use sandscope_model::units;

use super::{About, Change, Diff};

/// Lines of what did not change.
const UNCHANGED: usize = 10;

/// Columns of a name.
const NAME: usize = 44;

pub(super) fn render(diff: &Diff) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, diff);
    out
}

/// `+4.1 %`.
pub(super) fn percent(part: f64) -> String {
    format!("{:+.1} %", part * 100.0)
}

fn write(out: &mut String, diff: &Diff) -> std::fmt::Result {
    one_side(out, "baseline", &diff.baseline)?;
    one_side(out, "candidate", &diff.candidate)?;
    let against = match diff.per {
        "call" => "per call",
        _ => "against the time of all code that did not change",
    };
    writeln!(out, "{}; time of functions is compared {against}\n", sentence(diff))?;
    let (changed, rest): (Vec<_>, Vec<_>) =
        diff.changes.iter().partition(|change| change.significant == Some(true));
    if !diff.changes.is_empty() {
        writeln!(
            out,
            "{:<12} {:<NAME$} {:>11} {:>11} {:>9}  interval (99 %)",
            "what", "name", "baseline", "candidate", "change"
        )?;
    }
    changed.iter().try_for_each(|change| one(out, change))?;
    rest.iter().take(UNCHANGED).try_for_each(|change| one(out, change))?;
    if let Some(more) = rest.len().checked_sub(UNCHANGED + 1) {
        writeln!(out, "and {} more without a significant change: `--json` lists them", more + 1)?;
    }
    diff.notes.iter().try_for_each(|note| writeln!(out, "note: {}", visible(note)))
}

fn sentence(diff: &Diff) -> String {
    let changed = diff.changes.iter().filter(|change| change.significant == Some(true)).count();
    match diff.verdict {
        "changed" if changed == 1 => "1 change is more than chance".to_owned(),
        "changed" => format!("{changed} changes are more than chance"),
        "same" => "no change; one of a tenth in what takes most would have been seen".to_owned(),
        _ => "inconclusive: too few samples to tell".to_owned(),
    }
}

fn one_side(out: &mut String, side: &str, about: &About) -> std::fmt::Result {
    let mut facts = vec![format!("{} samples", units::count(about.samples))];
    facts.extend(about.calls.map(|calls| format!("{} calls", units::count(calls))));
    facts.extend(about.duration_s.map(units::duration));
    writeln!(out, "{side:<10} {}: {}", visible(&about.name), facts.join(", "))
}

fn one(out: &mut String, change: &Change) -> std::fmt::Result {
    let figure = |value: Option<f64>| match (value, change.unit) {
        (None, _) => "-".to_owned(),
        (Some(value), "s") => units::duration(value),
        (Some(value), "By") => units::bytes(value as u64),
        (Some(value), _) => format!("{:.1} %", value * 100.0),
    };
    let name: String = visible(&short_name(&change.name)).chars().take(NAME).collect();
    let grown = change.change.map_or_else(|| "-".to_owned(), percent);
    let interval = match (change.low, change.high, change.verdict) {
        (Some(low), Some(high), verdict) => {
            let verdict = verdict.filter(|_| change.significant != Some(true)).unwrap_or("");
            format!("{} … {}  {verdict}", percent(low), percent(high))
        }
        (_, _, Some(verdict)) => verdict.to_owned(),
        _ => "a single figure".to_owned(),
    };
    let line = format!(
        "{:<12} {name:<NAME$} {:>11} {:>11} {grown:>9}  {interval}",
        change.what,
        figure(change.baseline),
        figure(change.candidate)
    );
    writeln!(out, "{}", line.trim_end())
}

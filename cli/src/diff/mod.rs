//! What differs between two recordings: [`Diff`] and its two forms. The statistics are in
//! [`sandscope_model::compare`]; reading recordings into series is in `side`.
//!
//! ```text
//! recording --side--> series per function, metric   --compare--> changes --> text, JSON
//! ```
//!
//! # What is compared
//! Time of a function is compared per call where both recordings hold at least [`MIN_CALLS`] calls, so that
//! more load is no slow-down. Without calls (a command that ran once) it is compared against the time of all
//! code that did not change: a function that takes a tenth longer is reported as a tenth, and the others as
//! unchanged.

mod changes;
mod side;
#[cfg(test)]
mod tests;
mod text;

use sandscope_model::compare::{MIN_BLOCKS, Verdict};
use sandscope_recording::Recording;
use serde::Serialize;

use crate::lookup::Lookup;
use crate::report::encode;

/// Calls that a side needs before time is told per call.
const MIN_CALLS: f64 = 30.0;

/// Two recordings, compared.
#[derive(Debug, Serialize)]
pub struct Diff {
    /// `same`, `changed` or `inconclusive`.
    verdict: &'static str,
    changes: Vec<Change>,
    /// What time of functions is measured against: `call` or `rest`, the time of all code that did not change.
    per: &'static str,
    baseline: About,
    candidate: About,
    notes: Vec<String>,
}

/// What is known of one side.
#[derive(Debug, Serialize)]
struct About {
    name: String,
    samples: u64,
    calls: Option<u64>,
    duration_s: Option<f64>,
}

/// One quantity.
#[derive(Debug, Serialize)]
struct Change {
    /// `cpu`, `cpu_total`, `wall`, `wall_total`, `alloc`, `alloc_total`, `call`, `phase`, `lock`, `gc`,
    /// `host_call` or `memory`.
    what: &'static str,
    name: String,
    /// Seconds per call, or a share of all samples, of each side; seconds per event for `call` and `phase`;
    /// bytes for `memory`.
    baseline: Option<f64>,
    candidate: Option<f64>,
    unit: &'static str,
    /// By which part it grew: 0.1 is a tenth more.
    change: Option<f64>,
    /// The change's interval, wide enough for all quantities at once.
    low: Option<f64>,
    high: Option<f64>,
    /// Whether it is more than chance; `null` for what is a single figure and has no scatter.
    significant: Option<bool>,
    verdict: Option<&'static str>,
}

/// A change that makes the command fail: `cpu>5%`.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    what: String,
    growth: f64,
}

impl Diff {
    /// Compares two recordings; only `workload`'s part of them if it is given.
    pub fn new(baseline: &Recording, candidate: &Recording, workload: Option<&str>, lookup: &Lookup) -> Self {
        let sides = [baseline, candidate].map(|recording| side::Side::of(recording, workload, lookup));
        let names = [baseline, candidate].map(|recording| recording.name().to_owned());
        let durations = [baseline.duration_s(), candidate.duration_s()];
        Self::between(&sides, names, durations)
    }

    fn between(sides: &[side::Side; 2], names: [String; 2], durations: [Option<f64>; 2]) -> Self {
        let [a, b] = sides;
        let per_call = a.calls().min(b.calls()) >= MIN_CALLS;
        let found = changes::all(a, b, per_call);
        let [a_name, b_name] = names;
        let about = |side: &side::Side, name, duration_s| About {
            name,
            samples: side.samples(),
            calls: Some(side.calls() as u64).filter(|calls| *calls > 0),
            duration_s,
        };
        let mut notes: Vec<String> = sides.iter().flat_map(|side| side.notes.iter().cloned()).collect();
        let blocks = a.blocks().min(b.blocks());
        if blocks < MIN_BLOCKS {
            notes.push(format!(
                "too short to know what chance brings: {blocks} s, at least {MIN_BLOCKS} s are needed"
            ));
        }
        Self {
            verdict: changes::overall(&found),
            changes: found,
            per: if per_call { "call" } else { "rest" },
            baseline: about(a, a_name, durations[0]),
            candidate: about(b, b_name, durations[1]),
            notes,
        }
    }

    /// For scripts, one line, safe to print.
    ///
    /// # Errors
    /// None is known; the encoder's type has one.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        encode(self)
    }

    /// For people, safe to print.
    pub fn text(&self) -> String {
        text::render(self)
    }

    /// The significant changes beyond a limit, as sentences.
    pub fn beyond(&self, limits: &[Limit]) -> Vec<String> {
        let over = |change: &&Change, limit: &Limit| {
            (change.what == limit.what || change.what.strip_suffix("_total") == Some(&limit.what))
                && change.significant != Some(false)
                && change.change.is_some_and(|grown| grown > limit.growth)
        };
        limits
            .iter()
            .flat_map(|limit| {
                self.changes.iter().filter(move |change| over(change, limit)).map(move |change| {
                    let grown = text::percent(change.change.unwrap_or(0.0));
                    format!(
                        "{} {}: {grown} is beyond {}",
                        change.what,
                        change.name,
                        text::percent(limit.growth)
                    )
                })
            })
            .collect()
    }
}

impl std::str::FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WHAT: [&str; 9] =
            ["cpu", "wall", "alloc", "call", "phase", "lock", "gc", "host_call", "memory"];
        let wrong = || format!("{text:?} is no limit, such as cpu>5%");
        let (what, growth) = text.split_once('>').ok_or_else(wrong)?;
        let (what, growth) = (what.trim(), growth.trim());
        if !WHAT.contains(&what) {
            return Err(format!("{what:?} is none of {}", WHAT.join(", ")));
        }
        let percent: f64 = growth.strip_suffix('%').ok_or_else(wrong)?.trim().parse().map_err(|_| wrong())?;
        if !(0.0..=1e6).contains(&percent) {
            return Err(wrong());
        }
        Ok(Self { what: what.to_owned(), growth: percent / 100.0 })
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Changed => "changed",
        Verdict::Same => "same",
        Verdict::Inconclusive => "inconclusive",
    }
}

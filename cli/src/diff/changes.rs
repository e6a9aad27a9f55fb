//! From two sides to changes: which quantities are compared, against what, and in which order they are told.

use std::collections::{BTreeMap, BTreeSet};

use sandscope_model::SampleKind;
use sandscope_model::compare::{self, Series, Verdict, join};

use super::side::{Function, Seconds, Side};
use super::{Change, word};

/// Share of all samples, on either side, below which a function is not compared: its samples are too few to
/// say anything, and each further comparison makes all intervals wider.
const LEAST_SHARE: f64 = 0.01;

/// Functions that are told to have changed one by one, each time against what is left.
const ROUNDS: usize = 10;

/// Share of a kind's samples that may be taken out because it changed.
const MOST: f64 = 0.5;

/// Functions of a kind that are compared.
const MAX_FUNCTIONS: usize = 100;

/// What one comparison is about.
struct Subject {
    what: &'static str,
    name: String,
    unit: &'static str,
    /// What the ratio is multiplied by to get the figure in `unit`; `None`: it is told as a share.
    scale: Option<f64>,
    /// Shares of all samples of either side, for order and for figures.
    shares: Option<(f64, f64)>,
    /// Whether it is a function's own time.
    is_own: bool,
}

impl Subject {
    /// Share of all samples, of the side where it is larger.
    fn share(&self) -> f64 {
        self.shares.map_or(0.0, |(a, b)| a.max(b))
    }
}

/// All changes, the significant ones first, then by how much they matter.
///
/// Shares add up to one, so that a slower function makes all others look faster. Without calls to measure by,
/// what changed most is therefore found first and taken out of what everything is measured against, until
/// nothing that is left in there changed.
pub(super) fn all(a: &Side, b: &Side, per_call: bool) -> Vec<Change> {
    let mut changed: BTreeSet<(&'static str, String)> = BTreeSet::new();
    let mut taken: BTreeMap<&'static str, f64> = BTreeMap::new();
    let (subjects, found) = loop {
        let mut subjects = Vec::new();
        let mut items = Vec::new();
        for kind in [SampleKind::Cpu, SampleKind::Wall, SampleKind::Alloc] {
            functions(kind, [a, b], per_call, &changed, &mut subjects, &mut items);
        }
        durations(a, b, &mut subjects, &mut items);
        let found = compare::compare(&items);
        let most = subjects
            .iter()
            .zip(&found)
            .filter(|(subject, change)| subject.is_own && change.verdict == Verdict::Changed)
            .filter(|(subject, _)| !changed.contains(&(subject.what, subject.name.clone())))
            // Most of the time has to be left to measure against: what half of it did is no yardstick.
            .filter(|(subject, _)| subject.share() + taken.get(subject.what).unwrap_or(&0.0) <= MOST)
            .max_by(|(_, a), (_, b)| certainty(a).total_cmp(&certainty(b)));
        match most {
            Some((subject, _)) if !per_call && changed.len() < ROUNDS => {
                *taken.entry(subject.what).or_default() += subject.share();
                changed.insert((subject.what, subject.name.clone()));
            }
            _ => break (subjects, found),
        }
    };
    let mut out: Vec<(f64, Change)> =
        subjects.into_iter().zip(&found).map(|(subject, change)| told(subject, change)).collect();
    out.sort_by(|(a_weight, a), (b_weight, b)| {
        let first = |change: &Change| change.significant != Some(true);
        first(a).cmp(&first(b)).then(b_weight.total_cmp(a_weight)).then_with(|| a.name.cmp(&b.name))
    });
    out.into_iter().map(|(_, change)| change).chain(levels(a, b)).collect()
}

/// How far a change is from none, in widths of its interval.
fn certainty(change: &compare::Change) -> f64 {
    let log = |part: f64| part.ln_1p();
    match (change.change, change.interval) {
        (Some(change), Some((low, high))) => {
            log(change).abs() / (log(high) - log(low)).max(f64::MIN_POSITIVE)
        }
        _ => 0.0,
    }
}

/// What all changes together say. Without a change, two sides are the same only if one in the function that
/// takes most would have been seen.
pub(super) fn overall(changes: &[Change]) -> &'static str {
    if changes.iter().any(|change| change.significant == Some(true)) {
        return word(Verdict::Changed);
    }
    let largest = changes
        .iter()
        .filter(|change| matches!(change.what, "cpu" | "wall" | "alloc"))
        .max_by(|a, b| a.baseline.unwrap_or(0.0).total_cmp(&b.baseline.unwrap_or(0.0)));
    largest.and_then(|change| change.verdict).unwrap_or(word(Verdict::Inconclusive))
}

fn functions(
    kind: SampleKind,
    [a, b]: [&Side; 2],
    per_call: bool,
    changed: &BTreeSet<(&'static str, String)>,
    subjects: &mut Vec<Subject>,
    items: &mut Vec<(Series, Series)>,
) {
    let empty = Seconds::new();
    let (all_a, all_b) = (a.all.get(&kind).unwrap_or(&empty), b.all.get(&kind).unwrap_or(&empty));
    let (sum_a, sum_b): (f64, f64) = (all_a.iter().sum(), all_b.iter().sum());
    if sum_a <= 0.0 || sum_b <= 0.0 {
        return;
    }
    let [own, total] = match kind {
        SampleKind::Cpu => ["cpu", "cpu_total"],
        SampleKind::Wall => ["wall", "wall_total"],
        SampleKind::Alloc => ["alloc", "alloc_total"],
    };
    let none = Function::default();
    let mut names: BTreeMap<&str, (&Function, &Function)> = BTreeMap::new();
    for (side, first) in [(a, true), (b, false)] {
        for (name, function) in side.functions.get(&kind).into_iter().flatten() {
            let pair = names.entry(name).or_insert((&none, &none));
            *(if first { &mut pair.0 } else { &mut pair.1 }) = function;
        }
    }
    // What time is measured against without calls: samples that ended in functions that did not change.
    let mut rest = [filled(all_a, a.blocks()), filled(all_b, b.blocks())];
    for (name, pair) in &names {
        if changed.contains(&(own, (*name).to_owned())) {
            less(&mut rest[0], &pair.0.own);
            less(&mut rest[1], &pair.1.own);
        }
    }
    let value = a.value.get(&kind).copied().unwrap_or(0.0);
    let mut candidates: Vec<(f64, Subject, (Series, Series))> = Vec::new();
    for (name, (in_a, in_b)) in names {
        for (what, x, y) in [(own, &in_a.own, &in_b.own), (total, &in_a.total, &in_b.total)] {
            let is_own = what == own;
            // A function that calls nothing is told once.
            if !is_own && in_a.own == in_a.total && in_b.own == in_b.total {
                continue;
            }
            let shares = (x.iter().sum::<f64>() / sum_a, y.iter().sum::<f64>() / sum_b);
            let share = shares.0.max(shares.1);
            if share < LEAST_SHARE {
                continue;
            }
            let part_of_rest = is_own && !changed.contains(&(own, name.to_owned()));
            let series = if per_call {
                (per(x, &a.called, a.blocks()), per(y, &b.called, b.blocks()))
            } else {
                (against(x, &rest[0], part_of_rest), against(y, &rest[1], part_of_rest))
            };
            let unit = match (per_call, kind) {
                (false, _) => "1",
                (true, SampleKind::Alloc) => "By",
                (true, _) => "s",
            };
            let scale = per_call.then_some(if kind == SampleKind::Alloc { value } else { value / 1e9 });
            let subject = Subject { what, name: name.to_owned(), unit, scale, shares: Some(shares), is_own };
            candidates.push((share, subject, series));
        }
    }
    candidates.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    for (_, subject, series) in candidates.into_iter().take(2 * MAX_FUNCTIONS) {
        subjects.push(subject);
        items.push(series);
    }
}

fn durations(a: &Side, b: &Side, subjects: &mut Vec<Subject>, items: &mut Vec<(Series, Series)>) {
    for ((what, name), in_a) in &a.timed {
        let Some(in_b) = b.timed.get(&(*what, name.clone())) else { continue };
        let series = |timed: &super::side::Timed, side: &Side| {
            // How long a call takes is told per call; how long guests wait or collect, per call they serve or,
            // without calls, per second.
            let base = match *what {
                "call" | "phase" => timed.count.clone(),
                _ if a.calls().min(b.calls()) >= super::MIN_CALLS => side.called.clone(),
                _ => vec![1.0; side.blocks()],
            };
            let events: f64 = timed.count.iter().sum();
            let counting = if events > 0.0 { 1.0 / events } else { 0.0 };
            Series { counting, ..per(&timed.sum, &base, side.blocks()) }
        };
        let pair = (series(in_a, a), series(in_b, b));
        let name = name.clone();
        subjects.push(Subject { what, name, unit: "s", scale: Some(1.0), shares: None, is_own: false });
        items.push(pair);
    }
}

/// An amount per something that is counted without error.
fn per(amount: &Seconds, base: &Seconds, blocks: usize) -> Series {
    let samples: f64 = amount.iter().sum();
    let counting = if samples > 0.0 { 1.0 / samples } else { 0.0 };
    Series { amount: join(&filled(amount, blocks)), base: join(&filled(base, blocks)), counting }
}

/// Samples of a function against those of code that did not change, less its own if they are among them.
fn against(samples: &Seconds, rest: &Seconds, part_of_rest: bool) -> Series {
    let mut rest = rest.clone();
    if part_of_rest {
        less(&mut rest, samples);
    }
    let samples = filled(samples, rest.len());
    let (x, y): (f64, f64) = (samples.iter().sum(), rest.iter().sum());
    let counting = if x > 0.0 && y > 0.0 { 1.0 / x + 1.0 / y } else { 0.0 };
    Series { amount: join(&samples), base: join(&rest), counting }
}

fn less(seconds: &mut Seconds, part: &Seconds) {
    seconds.iter_mut().zip(part).for_each(|(all, part)| *all = (*all - part).max(0.0));
}

fn filled(seconds: &Seconds, blocks: usize) -> Seconds {
    let mut out = seconds.clone();
    out.resize(blocks.max(seconds.len()), 0.0);
    out
}

/// A change as it is told, and how much it matters.
fn told(subject: Subject, change: &compare::Change) -> (f64, Change) {
    let figure = |ratio: Option<f64>| subject.scale.and_then(|scale| Some(ratio? * scale));
    let (baseline, candidate) = match subject.shares {
        Some((a, b)) if subject.scale.is_none() => (Some(a), Some(b)),
        _ => (figure(change.baseline), figure(change.candidate)),
    };
    let share = subject.share();
    let weight = share + change.change.map_or(1.0, f64::abs) * share;
    let told = Change {
        what: subject.what,
        name: subject.name,
        baseline,
        candidate,
        unit: subject.unit,
        change: change.change,
        low: change.interval.map(|(low, _)| low),
        high: change.interval.map(|(_, high)| high),
        significant: Some(change.verdict == Verdict::Changed),
        verdict: Some(word(change.verdict)),
    };
    (weight, told)
}

/// Single figures: no scatter is known of them.
fn levels(a: &Side, b: &Side) -> Vec<Change> {
    let both = a.levels.iter().filter_map(|(key, x)| Some((key, *x, *b.levels.get(key)?)));
    both.map(|((what, name), x, y)| Change {
        what,
        name: name.clone(),
        baseline: Some(x),
        candidate: Some(y),
        unit: "By",
        change: (x > 0.0).then(|| y / x - 1.0),
        low: None,
        high: None,
        significant: None,
        verdict: None,
    })
    .collect()
}

//! The report as one screen of text for a ticket. Every name in it comes from a guest or a file and goes
//! through `visible`.

use std::fmt::Write as _;

use sandscope_model::frame::short_name;
use sandscope_model::text::visible;
use sandscope_model::units;

use super::json::{
    Allocation, Blocked, ColdStart, Counts, Document, Function, Gc, HostCall, Lock, Memory, Stack, Trap,
    TrapFrame, Variable,
};

/// Places of a trap's stack that are printed at each end of it.
const EDGE: usize = 8;

/// Traps that are printed with their stacks.
const TRAPS: usize = 3;

/// Cold starts that are printed.
const STARTS: usize = 10;

/// Characters of a variable's value.
const VALUE: usize = 160;

/// Columns of a function's name and of its place.
const NAME: usize = 56;
const PLACE: usize = 44;
/// Allocating stacks that are told of.
const SITES: usize = 5;
/// Frames of the language's own library above an allocation, which say little.
const LIBRARY: [&str; 2] = ["rust/library/", "libcxx/include"];
/// Locks that are told of.
const LOCKS: usize = 3;
/// Host functions that are told of.
const CALLS: usize = 5;
/// Frames of a lock's stack that are told of.
const LOCK_FRAMES: usize = 6;

/// A line of a source file, by the file as debug info names it and the line from 1; `None` if it is not at hand.
pub type SourceLine<'a> = dyn Fn(&str, u32) -> Option<String> + 'a;

/// Below this, shares are too rough to act on without saying so.
const THIN: u64 = 400;

/// The text.
pub(super) fn render(name: &str, document: &Document, source: &SourceLine<'_>) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, name, document, source);
    out
}

fn write(out: &mut String, name: &str, document: &Document, source: &SourceLine<'_>) -> std::fmt::Result {
    header(out, name, document)?;
    for trap in document.traps.iter().take(TRAPS) {
        writeln!(out)?;
        one_trap(out, trap, source)?;
    }
    if let Some(more) = document.traps.len().checked_sub(TRAPS + 1) {
        writeln!(out, "\nand {} more traps: `--json` lists them", more + 1)?;
    }
    writeln!(out)?;
    functions(out, document)?;
    if !document.memory.is_empty() || !document.cold_starts.is_empty() {
        writeln!(out)?;
    }
    document.memory.iter().try_for_each(|memory| one_memory(out, memory))?;
    document.stack.iter().try_for_each(|stack| one_stack(out, stack))?;
    document.gc.iter().try_for_each(|gc| one_gc(out, gc))?;
    document.allocations.iter().take(SITES).try_for_each(|site| one_site(out, site))?;
    document.locks.iter().take(LOCKS).try_for_each(|lock| one_lock(out, lock))?;
    document.blocked.iter().take(CALLS).try_for_each(|call| one_blocked(out, call))?;
    document.host_calls.iter().take(CALLS).try_for_each(|call| one_call(out, call))?;
    document.cold_starts.iter().take(STARTS).try_for_each(|start| one_start(out, start))?;
    if let Some(more) = document.cold_starts.len().checked_sub(STARTS + 1) {
        writeln!(out, "and {} more starts: `--json` lists them", more + 1)?;
    }
    document.notes.iter().try_for_each(|note| writeln!(out, "note: {}", visible(note)))
}

fn header(out: &mut String, name: &str, document: &Document) -> std::fmt::Result {
    let duration = document.recording.duration_s.filter(|seconds| *seconds > 0.0).map(units::duration);
    let host = &document.host;
    let facts = [&host.region, &host.service, &host.host, &host.arch, &host.engine].into_iter().flatten();
    let facts: Vec<_> = duration.iter().chain(facts).map(|fact| visible(fact)).collect();
    writeln!(out, "{}: {}", visible(name), facts.join(", "))?;
    if let Some(missing) = &document.recording.missing {
        writeln!(out, "  {}", visible(missing))?;
    }
    cause(out, document)?;
    for module in &document.modules {
        let version = module.version.as_deref().map_or_else(String::new, |version| format!("@{version}"));
        let debug = if module.debug_info { "" } else { ", without debug info" };
        let (workload, name, id) = (visible(&module.workload), visible(&module.name), visible(&module.id));
        writeln!(out, "  {workload}{}: {name} ({id}{debug})", visible(&version))?;
    }
    Ok(())
}

/// Why there is a recording; nothing where somebody simply recorded a run.
fn cause(out: &mut String, document: &Document) -> std::fmt::Result {
    let (Some(trigger), Some(cause)) = (&document.recording.trigger, &document.recording.cause) else {
        return Ok(());
    };
    let version = cause.version.as_ref().map_or_else(String::new, |version| format!("@{version}"));
    let time = cause.time_s.map_or_else(String::new, |time| format!(", at {}", units::utc(time as u64)));
    let workload = visible(&cause.workload);
    writeln!(out, "  recorded for {}, in {workload}{}{time}", visible(trigger), visible(&version))?;
    match cause.suppressed {
        0 => Ok(()),
        1 => writeln!(out, "  one trigger before it made no recording: there were enough"),
        n => writeln!(out, "  {n} triggers before it made no recording: there were enough"),
    }
}

fn one_trap(out: &mut String, trap: &Trap, source: &SourceLine<'_>) -> std::fmt::Result {
    let at = trap.at_s.map_or_else(String::new, |at| format!(" after {}", units::duration(at)));
    let words = trap.code.replace('_', " ");
    let times = if trap.count > 1 { format!(" {} times, first", trap.count) } else { String::new() };
    writeln!(
        out,
        "{} trapped{times}{at}: {} ({})",
        visible(&trap.workload),
        visible(&trap.message),
        visible(&words)
    )?;
    let runs = runs(&trap.frames);
    let left_out: usize = runs.iter().rev().skip(EDGE).rev().skip(EDGE).map(|run| run.times).sum();
    let last = runs.len().saturating_sub(EDGE);
    for (i, run) in runs.iter().enumerate() {
        if (EDGE..last).contains(&i) {
            if i == EDGE {
                writeln!(out, "      … {left_out} frames …")?;
            }
            continue;
        }
        let inlined = if run.frame.inlined { " (inlined)" } else { "" };
        let times = if run.times > 1 { format!("  {} times", run.times) } else { String::new() };
        writeln!(out, "{:>4}: {}{inlined}{times}", run.depth, visible(&short_name(&run.frame.function)))?;
        if let Some(file) = &run.frame.file {
            let line = run.frame.line.map_or_else(String::new, |line| format!(":{line}"));
            let column = run.frame.column.filter(|_| run.frame.line.is_some());
            let column = column.map_or_else(String::new, |column| format!(":{column}"));
            writeln!(out, "        at {}{line}{column}", visible(file))?;
            if let Some(text) = run.frame.line.and_then(|line| source(file, line)) {
                writeln!(out, "        > {}", start(&visible(text.trim()), VALUE))?;
            }
        }
        run.frame.variables.iter().try_for_each(|variable| one_variable(out, variable))?;
    }
    events(out, trap)
}

fn one_variable(out: &mut String, variable: &Variable) -> std::fmt::Result {
    let value = match (&variable.value, variable.status) {
        (Some(value), _) => start(&visible(value), VALUE),
        (None, "not-recorded") => "<not recorded>".to_owned(),
        (None, _) => "<optimized out>".to_owned(),
    };
    let ty = start(&visible(&variable.ty), NAME);
    writeln!(out, "          {}: {ty} = {value}", visible(&variable.name))
}

/// The last of what came before a trap.
fn events(out: &mut String, trap: &Trap) -> std::fmt::Result {
    if !trap.events.is_empty() {
        writeln!(out, "  before it:")?;
    }
    for event in &trap.events {
        let took = event.duration_s.map_or_else(String::new, |took| format!(", {}", units::duration(took)));
        let (at, workload, what) =
            (units::duration(event.at_s), visible(&event.workload), visible(&event.what));
        writeln!(out, "    {at:>9}  {} {workload}: {what}{took}", event.kind)?;
    }
    Ok(())
}

/// Frames of a stack at the same place one after another, as deep recursion has them.
struct Run<'a> {
    depth: usize,
    times: usize,
    frame: &'a TrapFrame,
}

fn runs(frames: &[TrapFrame]) -> Vec<Run<'_>> {
    let place = |frame: &TrapFrame| (frame.module.clone(), frame.offset, frame.function.clone(), frame.line);
    let same = |a: &TrapFrame, b: &TrapFrame| place(a) == place(b) && a.variables == b.variables;
    let mut out: Vec<Run<'_>> = Vec::new();
    for (depth, frame) in frames.iter().enumerate() {
        match out.last_mut().filter(|run| same(run.frame, frame)) {
            Some(run) => run.times += 1,
            None => out.push(Run { depth, times: 1, frame }),
        }
    }
    out
}

fn functions(out: &mut String, document: &Document) -> std::fmt::Result {
    let samples = &document.samples;
    let kinds = [("cpu", &samples.cpu), ("wall", &samples.wall), ("alloc", &samples.alloc)];
    let mut any = false;
    for (kind, counts) in kinds {
        if let Some(counts) = counts {
            any = true;
            one_count(out, kind, counts)?;
        }
    }
    if !any {
        writeln!(out, "no samples were recorded: the sampler was off")?;
    }
    if document.functions.is_empty() {
        return Ok(());
    }
    let rows: Vec<(&Function, String)> =
        document.functions.iter().map(|f| (f, end(&place(f), PLACE))).collect();
    writeln!(out, "{:>8} {:>8}  {:NAME$}  where", "self", "total", "function")?;
    for (function, place) in rows {
        let (own, total) = (units::percent(function.own), units::percent(function.total));
        let name = start(&visible(&short_name(&function.name)), NAME);
        writeln!(out, "{}", format!("{own:>8} {total:>8}  {name:NAME$}  {place}").trim_end())?;
    }
    Ok(())
}

fn one_count(out: &mut String, kind: &str, counts: &Counts) -> std::fmt::Result {
    let rate = counts.hz.map_or_else(String::new, |hz| format!(" at {hz} Hz"));
    let dropped = match counts.dropped {
        0 => String::new(),
        dropped => format!(", {} more dropped", units::count(dropped)),
    };
    writeln!(out, "{kind}: {} samples{rate}{dropped}", units::count(counts.count))?;
    if counts.count > 0 && counts.count < THIN {
        // The half-width of a 95 % interval around a share of one half, the widest there is.
        let points = 98.0 / (counts.count as f64).sqrt();
        writeln!(
            out,
            "  few samples: a share may be off by {points:.0} points; record longer or with more --hz"
        )?;
    }
    Ok(())
}

fn one_memory(out: &mut String, memory: &Memory) -> std::fmt::Result {
    let bytes =
        |label: &str, value: Option<u64>| value.map(|value| format!("{label} {}", units::bytes(value)));
    let times = |label: &str, value: Option<u64>| {
        value.filter(|value| *value > 0).map(|value| format!("{} {label}", units::count(value)))
    };
    let facts: Vec<String> = [
        bytes("peak", memory.peak),
        bytes("resident", memory.resident),
        // Instances that ended have given theirs back, which is no news.
        bytes("at the end", memory.size.filter(|size| *size > 0)),
        bytes("limit", memory.limit),
        times("growths", memory.grows),
        times("growths refused", memory.refused),
    ]
    .into_iter()
    .flatten()
    .collect();
    if facts.is_empty() {
        return Ok(());
    }
    match (memory.instance, memory.index) {
        // The whole has said it all, but for what is resident.
        (Some(0), Some(0)) if memory.resident.is_none() => Ok(()),
        (Some(0), Some(index)) => writeln!(out, "  memory {index}: {}", facts.join(", ")),
        (Some(nth), Some(index)) => {
            writeln!(out, "  memory {index} of instance {nth}: {}", facts.join(", "))
        }
        _ => writeln!(out, "memory of {}: {}", visible(&memory.workload), facts.join(", ")),
    }
}

fn one_stack(out: &mut String, stack: &Stack) -> std::fmt::Result {
    let Some(used) = stack.used_max else { return Ok(()) };
    let at_least = if stack.accuracy.as_deref() == Some("exact") { "" } else { "at least " };
    write!(out, "stack of {}: {at_least}{} used", visible(&stack.workload), units::bytes(used))?;
    if let Some(limit) = stack.limit {
        write!(out, ", limit {}", units::bytes(limit))?;
    }
    if let (Some(used), Some(limit)) = (stack.shadow_max, stack.shadow_limit) {
        write!(out, "; in its memory {} of {}", units::bytes(used), units::bytes(limit))?;
    }
    if stack.deep > 0 {
        write!(out, "; {} calls used more than 80 %", units::count(stack.deep))?;
    }
    writeln!(out)
}

fn one_gc(out: &mut String, gc: &Gc) -> std::fmt::Result {
    let about = if gc.exact { "" } else { "about " };
    let facts: Vec<String> = [
        Some(format!("{about}{} collections", units::count(gc.collections))),
        Some(format!("{} stalled", units::duration(gc.pause_s))),
        gc.max_pause_s.map(|pause| format!("longest {}", units::duration(pause))),
        gc.live.map(|live| format!("{} live", units::bytes(live))),
        gc.capacity.map(|capacity| format!("heap {}", units::bytes(capacity))),
    ]
    .into_iter()
    .flatten()
    .collect();
    writeln!(out, "garbage collection of {} ({}): {}", visible(&gc.workload), gc.collector, facts.join(", "))
}

fn one_site(out: &mut String, site: &Allocation) -> std::fmt::Result {
    let held = |label: &str, bytes: Option<u64>| {
        bytes.filter(|bytes| *bytes > 0).map(|bytes| format!("{} {label}, ", units::bytes(bytes)))
    };
    writeln!(
        out,
        "allocations of {}: {}{}{} in all, {} times",
        visible(&site.workload),
        held("held", site.live).unwrap_or_default(),
        held("held at the peak", site.peak).unwrap_or_default(),
        units::bytes(site.allocated),
        units::count(site.count),
    )?;
    let own = site.stack.iter().filter(|frame| LIBRARY.iter().all(|library| !frame.contains(library)));
    own.take(LOCK_FRAMES).try_for_each(|frame| writeln!(out, "    {}", visible(frame)))
}

fn one_blocked(out: &mut String, call: &Blocked) -> std::fmt::Result {
    let (name, workload) = (visible(&call.name), visible(&call.workload));
    writeln!(out, "blocked in {workload}: {name} since {}", units::duration(call.since_s))?;
    call.stack.iter().take(LOCK_FRAMES).try_for_each(|frame| writeln!(out, "    {}", visible(frame)))
}

fn one_call(out: &mut String, call: &HostCall) -> std::fmt::Result {
    let (name, workload) = (visible(&call.name), visible(&call.workload));
    let time = units::duration(call.time_s);
    let calls = |count: u64| format!("{} {}", units::count(count), if count == 1 { "call" } else { "calls" });
    match (call.count, call.errors.filter(|errors| *errors > 0)) {
        (Some(count), None) => {
            writeln!(out, "host calls of {workload}: {name} {}, {time}", calls(count))
        }
        (Some(count), Some(errors)) => {
            let (calls, errors) = (calls(count), units::count(errors));
            writeln!(out, "host calls of {workload}: {name} {calls}, {errors} failed, {time}")
        }
        (None, _) => writeln!(out, "host calls of {workload}: {name} about {time} of CPU time"),
    }
}

fn one_lock(out: &mut String, lock: &Lock) -> std::fmt::Result {
    let name = lock.name.clone().unwrap_or_else(|| format!("{:#x}", lock.address));
    writeln!(
        out,
        "lock {} of {}: {} waits, {} in all, longest {}",
        visible(&name),
        visible(&lock.workload),
        units::count(lock.contentions.round() as u64),
        units::duration(lock.wait_s),
        units::duration(lock.max_wait_s)
    )?;
    lock.stack.iter().take(LOCK_FRAMES).try_for_each(|frame| writeln!(out, "    {}", visible(frame)))
}

fn one_start(out: &mut String, start: &ColdStart) -> std::fmt::Result {
    let phases = &start.phases;
    let facts: Vec<String> = [
        ("read", phases.read_s),
        ("compile", phases.compile_s),
        ("deserialize", phases.deserialize_s),
        ("link", phases.link_s),
        ("instantiate", phases.instantiate_s),
        ("first call", phases.first_call_s),
    ]
    .into_iter()
    .filter_map(|(phase, seconds)| Some(format!("{phase} {}", units::duration(seconds?))))
    .collect();
    let count = start.count.filter(|count| *count > 1);
    let count =
        count.map_or_else(String::new, |count| format!(", means of {} instances", units::count(count)));
    let cache = if start.cache == "none" { String::new() } else { format!(" (cache {})", start.cache) };
    writeln!(out, "start of {}{cache}: {}{count}", visible(&start.workload), facts.join(", "))
}

fn place(function: &Function) -> String {
    match (&function.file, function.line, &function.module) {
        (Some(file), Some(line), _) => format!("{}:{line}", visible(file)),
        (Some(file), None, _) => visible(file).into_owned(),
        (None, _, Some(_)) => String::new(),
        (None, _, None) => "host".to_owned(),
    }
}

/// The first `width` characters.
fn start(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// The last `width` characters: the end of a path tells more than its start.
fn end(text: &str, width: usize) -> String {
    let len = text.chars().count();
    if len <= width {
        return text.to_owned();
    }
    ['…'].into_iter().chain(text.chars().skip(len - (width - 1))).collect()
}

//! What a recording knows of the moments before a trap: starts, calls, growths, collections, other traps, and lines
//! that guests wrote.

use std::collections::{BTreeMap, HashMap};

use sandscope_model::WorkloadId;
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{LineBatch, PointValue, SpanStatus};
use sandscope_recording::Recording;

use super::json::Event;

/// Events that are told of one trap, and traps that they are told of.
const EVENTS: usize = 10;
const TRAPS: usize = 32;

/// Nanoseconds by which the end of the call that trapped may seem later than its trap: two clocks.
const SLACK: u64 = 1_000_000;

/// The last events before each trap.
pub(super) struct Events {
    of: Vec<Before>,
    started: u64,
    found: u64,
}

/// What came before one trap.
struct Before {
    trapped: u64,
    /// By time, and the order in which they were found.
    events: BTreeMap<(u64, u64), Event>,
}

impl Events {
    pub fn of(recording: &Recording, notes: &mut Vec<String>) -> Self {
        let traps = recording.traps().iter().take(TRAPS);
        let of = traps.map(|trap| Before { trapped: trap.time_unix_nano, events: BTreeMap::new() }).collect();
        let mut out = Self { of, started: recording.head().started_unix_nano, found: 0 };
        if out.of.is_empty() || out.started == 0 {
            return out;
        }
        for start in recording.cold_starts() {
            out.add(start.time_unix_nano, "start", &start.workload, format!("cache {}", start.cache), None);
        }
        for trap in recording.traps() {
            out.add(trap.time_unix_nano, "trap", &trap.workload, trap.code.clone(), None);
        }
        let spans = recording.each_span_batch(|batch| {
            for span in batch.spans {
                let failed = if matches!(span.status, SpanStatus::Error(_)) { ", failed" } else { "" };
                let took = span.end_unix_nano.saturating_sub(span.start_unix_nano);
                let workload = span.workload.as_ref().map_or("", |workload| &*workload.name);
                let what = format!("{}{failed}", span.name);
                out.add(span.end_unix_nano, "call", workload, what, Some(took as f64 / 1e9));
            }
        });
        let mut counts: HashMap<(WorkloadId, &str, String), f64> = HashMap::new();
        let metrics = recording.history(|batch| {
            for point in &batch.points {
                let (kind, count) = match &point.value {
                    PointValue::Counter(count) if point.name == Metric::MemoryGrows.name() => {
                        ("growth", *count)
                    }
                    PointValue::Histogram(times) if point.name == Metric::GcDuration.name() => {
                        ("gc", times.count as f64)
                    }
                    _ => continue,
                };
                let Some(workload) = point.workload.clone() else { continue };
                // Growths that succeeded and those that were refused, and each collector, are streams of their own.
                let stream: Vec<&str> = point.attributes.iter().map(|(_, value)| &**value).collect();
                let (name, stream) = (workload.name.to_string(), stream.join(", "));
                let before = counts.insert((workload, kind, stream.clone()), count).unwrap_or(0.0);
                if count > before {
                    let what = format!("{} ({stream})", count - before);
                    out.add(point.time_unix_nano, kind, &name, what, None);
                }
            }
        });
        let lines = recording.each_log_batch(|request| {
            for line in LineBatch::from_otlp(&request).0.into_iter().flat_map(|batch| batch.lines) {
                let kind = match &*line.stream {
                    "stdout" => "stdout",
                    "stderr" => "stderr",
                    _ => continue,
                };
                let workload = line.workload.as_ref().map_or("", |workload| &*workload.name);
                out.add(line.time_unix_nano, kind, workload, line.text.clone(), None);
            }
        });
        for error in [spans.err(), metrics.err(), lines.err()].into_iter().flatten() {
            notes.push(format!("the last events before traps are incomplete: {error}"));
        }
        out
    }

    fn add(&mut self, time: u64, kind: &'static str, workload: &str, what: String, duration_s: Option<f64>) {
        self.found += 1;
        let event = Event {
            at_s: time.saturating_sub(self.started) as f64 / 1e9,
            kind,
            workload: workload.to_owned(),
            what,
            duration_s,
        };
        // A trap is not told of as what came before itself.
        let is_before = |trapped: u64| if kind == "trap" { time < trapped } else { time <= trapped + SLACK };
        for Before { events, .. } in self.of.iter_mut().filter(|before| is_before(before.trapped)) {
            events.insert((time, self.found), event.clone());
            if events.len() > EVENTS {
                events.pop_first();
            }
        }
    }

    /// What came before a trap, oldest first.
    pub fn before(&mut self, trap: usize) -> Vec<Event> {
        let events =
            self.of.get_mut(trap).map(|before| std::mem::take(&mut before.events)).unwrap_or_default();
        events.into_values().collect()
    }
}

//! What the recorder is fed with, and which of it makes a recording.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sandscope_model::WorkloadId;
use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{LineBatch, MetricBatch, Point, PointValue, Resource, Span, SpanBatch};
use sandscope_proto::recording::Trap;
use sandscope_proto::stacks::StackEncoder;
use sandscope_recording::Cause;

use super::limits::{REPEAT, Signature};
use super::ring::Kind;
use super::trigger::Trigger;
use super::{Flight, HOST, MAX_PLACES, METRICS, News, Pending, Place, SETTLE};
use crate::aggregate::Settled;
use crate::scope::unix_nanos;

impl Flight {
    /// Takes a workload's samples since the last step.
    pub(crate) fn samples(&mut self, owner: u32, id: &WorkloadId, settled: &Settled) {
        let mut batch = StackEncoder::default().profile(&settled.profile);
        settled.kind.name().clone_into(&mut batch.kind);
        batch.hz = settled.hz;
        batch.workload = id.name.to_string();
        batch.workload_version = id.version.to_string();
        batch.start_unix_nano = self.last_step;
        self.keep(owner, Kind::Samples, unix_nanos(SystemTime::now()), &batch);
    }

    /// Takes a span. `p99_ns` is the workload's, if it is known.
    pub(crate) fn span(&mut self, owner: u32, id: &WorkloadId, span: &Span, p99_ns: Option<f64>) {
        let batch = SpanBatch { resource: Resource::default(), spans: vec![span.clone()] };
        self.keep(owner, Kind::Spans, span.end_unix_nano, &batch.to_otlp());
        let took = Duration::from_nanos(span.end_unix_nano.saturating_sub(span.start_unix_nano));
        self.check(owner, id, |trigger| match trigger {
            Trigger::Call(limit) if took > limit => Some(format!("a call took {took:.3?}")),
            Trigger::CallOverP99(times) => {
                let p99 = p99_ns.filter(|p99| took.as_nanos() as f64 > p99 * times)?;
                Some(format!("a call took {took:.3?}, p99 is {:.3?}", Duration::from_nanos(p99 as u64)))
            }
            _ => None,
        });
    }

    /// Takes lines that a workload's guests wrote.
    pub(crate) fn lines(&mut self, owner: u32, batch: &LineBatch) {
        let time = batch.lines.last().map_or(0, |line| line.time_unix_nano);
        self.keep(owner, Kind::Lines, time, &batch.to_otlp());
    }

    /// Takes the points of all workloads.
    pub(crate) fn metrics(&mut self, batch: MetricBatch, owner_of: impl Fn(&WorkloadId) -> Option<u32>) {
        let time = unix_nanos(SystemTime::now());
        let mut by_owner = HashMap::<u32, Vec<Point>>::new();
        for point in batch.points {
            let owner = point.workload.as_ref().map_or(Some(HOST), &owner_of);
            by_owner.entry(owner.unwrap_or(HOST)).or_default().push(point);
        }
        for (owner, points) in by_owner {
            self.exceeded(owner, &points);
            let batch = MetricBatch { resource: Resource::default(), points };
            self.keep(owner, Kind::Metrics, time, &batch.to_otlp());
        }
        self.next_metrics = Instant::now() + METRICS;
    }

    /// Takes a wait for a word of memory.
    pub(crate) fn waited(&mut self, owner: u32, id: &WorkloadId, ns: u64) {
        let took = Duration::from_nanos(ns);
        self.check(owner, id, |trigger| match trigger {
            Trigger::Lock(limit) if took > limit => Some(format!("a wait took {took:.3?}")),
            _ => None,
        });
    }

    /// Takes a stall of the collector.
    pub(crate) fn stalled(&mut self, owner: u32, id: &WorkloadId, ns: u64) {
        let took = Duration::from_nanos(ns);
        self.check(owner, id, |trigger| match trigger {
            Trigger::Gc(limit) if took > limit => Some(format!("a stall took {took:.3?}")),
            _ => None,
        });
    }

    /// Looks at how full a workload's memory is, 0 to 1. It triggers when it gets there, not while it stays.
    pub(crate) fn filled(&mut self, owner: u32, id: &WorkloadId, share: f64) {
        let before = self.kept.as_mut().and_then(|kept| kept.filled.insert(owner, share)).unwrap_or(0.0);
        self.check(owner, id, |trigger| match trigger {
            Trigger::Memory(limit) if share > limit && before <= limit => {
                Some(format!("{:.1} % are in use", share * 100.0))
            }
            _ => None,
        });
    }

    /// Looks at the metrics that triggers name. They trigger when they get there, not while they stay.
    fn exceeded(&mut self, owner: u32, points: &[Point]) {
        let Some(id) = points.iter().find_map(|point| point.workload.clone()) else { return };
        let triggers = self.kept.as_ref().map_or(&[][..], |kept| &kept.triggers);
        let named = triggers.iter().filter_map(|trigger| match trigger {
            Trigger::Metric(metric, _) => Some(*metric),
            _ => None,
        });
        for metric in named.collect::<Vec<Metric>>() {
            let streams = points.iter().filter(|point| point.name == metric.name());
            let values = streams.filter_map(|point| match point.value {
                PointValue::Counter(value) | PointValue::Gauge(value) => Some(value),
                PointValue::Histogram(_) => None,
            });
            let Some(value) = values.max_by(f64::total_cmp) else { continue };
            let before =
                self.kept.as_mut().and_then(|kept| kept.values.insert((owner, metric.name()), value));
            let before = before.unwrap_or(0.0);
            self.check(owner, &id, |trigger| match trigger {
                Trigger::Metric(named, limit) if named == metric && value > limit && before <= limit => {
                    Some(format!("it is {value}"))
                }
                _ => None,
            });
        }
    }

    fn check(&mut self, owner: u32, id: &WorkloadId, met: impl Fn(Trigger) -> Option<String>) {
        let triggers = self.kept.as_ref().map_or(&[][..], |kept| &kept.triggers);
        let met: Vec<_> = triggers.iter().filter_map(|trigger| Some((*trigger, met(*trigger)?))).collect();
        for (trigger, how) in met {
            self.fire(owner, id, &trigger.to_string(), format!("{trigger}: {how}"), None);
        }
    }

    /// Takes a trap that is told for the first time, or again.
    pub(crate) fn trap(&mut self, owner: u32, id: &WorkloadId, trap: &Trap) {
        self.keep(owner, Kind::Trap, trap.time_unix_nano, trap);
        let Some(kept) = &mut self.kept else { return };
        let innermost = trap.frames.first().map_or(0, |frame| frame.offset);
        let again = Instant::now() + REPEAT;
        let known = kept.places.iter_mut().find(|place| place.is(owner, trap));
        if let Some(place) = known {
            place.again = again;
        } else if kept.places.len() < MAX_PLACES {
            let trap = Trap { frames: trap.frames.iter().take(1).cloned().collect(), ..trap.clone() };
            kept.places.push(Place { owner, trap, seen: 1, again });
        }
        let cause = format!("trap {}@{innermost:#x}", trap.code);
        let place = Some((trap.code.clone(), innermost));
        self.fire(owner, id, &cause, format!("trap: {}", trap.code), place);
    }

    /// Takes the core dump of a trap that was told before, for the recording that it makes; without one it is of no
    /// use.
    pub(crate) fn dumped(&mut self, owner: u32, code: &str, offset: u64, dump: Arc<[u8]>) {
        let waits = |pending: &&mut Pending| {
            let place = pending.trapped.as_ref().map(|(code, offset)| (&**code, *offset));
            pending.owner == owner && place == Some((code, offset)) && pending.dump.is_none()
        };
        if let Some(pending) = self.pending.iter_mut().find(waits) {
            pending.dump = Some(dump);
        }
    }

    /// Follows traps that are not told any more. `times` gives how often a workload trapped at a place, `tell` asks
    /// to be told of the next one.
    pub(crate) fn follow(&mut self, times: impl Fn(u32, &Trap) -> u64, tell: impl Fn(u32, &Trap)) {
        let Some(kept) = &mut self.kept else { return };
        let now = Instant::now();
        let mut repeats = 0;
        let mut repeated = None;
        for place in &mut kept.places {
            let count = times(place.owner, &place.trap);
            if count > place.seen {
                repeats += count - place.seen;
                repeated = Some(format!("trap: {}", place.trap.code));
                if now >= place.again {
                    tell(place.owner, &place.trap);
                }
            }
            place.seen = place.seen.max(count);
            place.trap.count = place.seen;
        }
        if let Some(trigger) = repeated {
            self.suppress(repeats, trigger);
        }
    }

    fn fire(
        &mut self,
        owner: u32,
        id: &WorkloadId,
        what: &str,
        trigger: String,
        trapped: Option<(String, u64)>,
    ) {
        let Some(kept) = &mut self.kept else { return };
        let signature = Signature::of(&[&id.name, &id.version, what]);
        let now = Instant::now();
        if !kept.limits.admit(signature, now) {
            self.suppress(1, trigger);
            return;
        }
        let suppressed = std::mem::take(&mut self.untold);
        let cause = Cause { workload: id.clone(), unix_nano: unix_nanos(SystemTime::now()), suppressed };
        self.pending.push(Pending { owner, signature, trigger, cause, trapped, dump: None });
        self.next_step = self.next_step.min(now + SETTLE);
    }

    fn suppress(&mut self, count: u64, trigger: String) {
        if self.suppressed == 0 {
            self.news.push(News::Suppressed { trigger });
        }
        self.suppressed += count;
        self.untold += count;
    }
}

//! Spans on their way from the guests' queue to the recording and the collector, and the exemplars that link
//! histograms to them. This is where a record gets its words.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

use sandscope_model::WorkloadId;
use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::{Exemplar, Point, PointValue, Scalar, Span, SpanKind, SpanStatus};

use crate::clock::Moment;
use crate::scope::unix_nanos;
use crate::span::{Kept, SpanRecord};
use crate::workload::{Figures, Outcome, trap_code};

/// Spans that wait for a collector, and as many for the recording.
const MAX_PENDING: usize = 8192;

/// How long a span is an exemplar: about an export's interval.
const EXEMPLAR: Duration = Duration::from_secs(15);

/// Who wants spans.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub record: bool,
    pub export: bool,
}

/// Spans that were taken out of the queue.
pub(super) struct Spans {
    queue: Receiver<SpanRecord>,
    wanted: Wanted,
    to_record: Vec<Span>,
    to_export: VecDeque<Span>,
    /// The last span of each outcome.
    exemplars: HashMap<WorkloadId, [Option<Exemplar>; Outcome::ALL.len()]>,
    /// Traces of the spans since the last export, and of the time before it: calls end about when their
    /// samples are exported.
    traces: [HashMap<u64, u128>; 2],
    kept: [u64; Kept::ALL.len()],
    /// Spans that found no room here.
    dropped: u64,
}

impl Spans {
    pub(super) fn new(queue: Receiver<SpanRecord>, wanted: Wanted) -> Self {
        Self {
            queue,
            wanted,
            to_record: Vec::new(),
            to_export: VecDeque::new(),
            exemplars: HashMap::new(),
            traces: Default::default(),
            kept: [0; Kept::ALL.len()],
            dropped: 0,
        }
    }

    /// Empties the queue, showing each span to `see`. `figures` are the scope's, by ordinal.
    pub(super) fn drain(&mut self, figures: &[Arc<Figures>], mut see: impl FnMut(&Figures, &Span)) {
        // Monotonic inside the process; one anchor per drain is what the times of its spans are told by.
        let anchor = (Moment::now(), unix_nanos(SystemTime::now()));
        while let Ok(record) = self.queue.try_recv() {
            let Some(figures) = figures.get(record.workload as usize) else { continue };
            self.kept[record.kept as usize] += 1;
            let span = span(&record, figures, anchor);
            see(figures, &span);
            let exemplar = Exemplar {
                trace_id: span.trace_id,
                span_id: span.span_id,
                value: record.duration_ns as f64 * 1e-9,
                time_unix_nano: span.end_unix_nano,
            };
            let exemplars = self.exemplars.entry(figures.id().clone()).or_default();
            exemplars[record.outcome as usize] = Some(exemplar);
            if self.wanted.record {
                if self.to_record.len() < MAX_PENDING {
                    self.to_record.push(span.clone());
                } else {
                    self.dropped += 1;
                }
            }
            if self.wanted.export {
                if self.traces[0].len() < MAX_PENDING {
                    self.traces[0].insert(span.span_id, span.trace_id);
                }
                self.push(span);
            }
        }
    }

    /// Queues a span for the collector. Without room, one that did not fail makes it.
    fn push(&mut self, span: Span) {
        if self.to_export.len() >= MAX_PENDING {
            self.dropped += 1;
            let failed = |span: &Span| matches!(span.status, SpanStatus::Error(_));
            match self.to_export.iter().position(|old| !failed(old)) {
                Some(at) if failed(&span) => drop(self.to_export.remove(at)),
                _ => return,
            }
        }
        self.to_export.push_back(span);
    }

    /// What the recording does not have yet.
    pub(super) fn take_recorded(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.to_record)
    }

    /// The trace of a span that ended since the export before the last.
    pub(super) fn trace(&self, span: u64) -> Option<u128> {
        self.traces.iter().find_map(|traces| traces.get(&span)).copied()
    }

    /// What the collector does not have yet.
    pub(super) fn take(&mut self) -> Vec<Span> {
        self.traces[1] = std::mem::take(&mut self.traces[0]);
        std::mem::take(&mut self.to_export).into()
    }

    /// Links call histograms to spans that ended lately, and adds what became of spans. `lost` are those that
    /// found the queue full.
    pub(super) fn points(&self, figures: &[Arc<Figures>], lost: u64, now: u64, out: &mut Vec<Point>) {
        let oldest = now.saturating_sub(EXEMPLAR.as_nanos() as u64);
        for point in out.iter_mut().filter(|point| point.name == Metric::CallDuration.name()) {
            let of_workload = point.workload.as_ref().and_then(|workload| self.exemplars.get(workload));
            let outcome = point.attribute(attribute::OUTCOME);
            let outcome = Outcome::ALL.into_iter().find(|known| Some(known.name()) == outcome);
            let Some((of_workload, outcome)) = of_workload.zip(outcome) else { continue };
            point.exemplar =
                of_workload[outcome as usize].filter(|exemplar| exemplar.time_unix_nano >= oldest);
        }
        let counter = |metric, key, name, count: u64| {
            Point::of(metric, None, PointValue::Counter(count as f64)).with(key, name)
        };
        let refused: Vec<_> = figures.iter().map(|figures| figures.spans_refused()).collect();
        for kept in Kept::ALL {
            let refused: u64 = refused.iter().map(|refused| refused[kept as usize]).sum();
            out.push(counter(Metric::Spans, attribute::KEPT, kept.name(), self.kept[kept as usize]));
            out.push(counter(Metric::SpansDropped, attribute::REASON, kept.name(), refused));
        }
        out.push(counter(Metric::SpansDropped, attribute::REASON, "no_room", self.dropped + lost));
    }
}

fn span(record: &SpanRecord, figures: &Figures, (now, unix_now): (Moment, u64)) -> Span {
    let age = now.ns_since(record.started);
    let start_unix_nano = unix_now.saturating_sub(age);
    let details = &record.details;
    let seconds = |ns: u64| Scalar::Float(ns as f64 * 1e-9);
    let bytes = |bytes: u64| Scalar::Int(i64::try_from(bytes).unwrap_or(i64::MAX));
    let text = |text: &str| Scalar::Text(text.to_owned());
    let status_code = details.http.and_then(|http| http.status);
    let trap = record.trap.map(trap_code);
    let error = match (record.outcome, &trap, status_code) {
        (_, Some(trap), _) => Some(trap.clone()),
        (_, None, Some(code @ 500..)) => Some(code.to_string()),
        (Outcome::Ok, None, _) => None,
        (_, None, _) => Some(record.outcome.name().to_owned()),
    };
    let known = [
        (attribute::OUTCOME, Some(text(record.outcome.name()))),
        (attribute::KEPT, Some(text(record.kept.name()))),
        (attribute::CALL_QUEUED, details.queued_ns.map(seconds)),
        (attribute::CALL_CPU, details.guest_cpu_ns.map(seconds)),
        (attribute::CALL_OFF_CPU, details.off_cpu_ns.map(seconds)),
        (attribute::MEMORY_PEAK, details.peak_memory.map(bytes)),
        (attribute::STACK_USED, details.stack.map(bytes)),
        (attribute::HTTP_METHOD, details.http.map(|http| text(http.method))),
        (attribute::HTTP_STATUS, status_code.map(|code| Scalar::Int(code.into()))),
        (attribute::TRAP_CODE, trap.map(Scalar::Text)),
        (attribute::ERROR_TYPE, error.clone().map(Scalar::Text)),
    ];
    Span {
        trace_id: record.context.trace_id,
        span_id: record.context.span_id,
        parent_id: record.context.parent,
        remote_parent: record.context.parent != 0,
        flags: record.context.flags,
        trace_state: record.context.state.as_deref().unwrap_or_default().to_owned(),
        name: record.name.to_string(),
        kind: if details.http.is_some() { SpanKind::Server } else { SpanKind::Internal },
        start_unix_nano,
        end_unix_nano: start_unix_nano.saturating_add(record.duration_ns),
        status: error.map_or(SpanStatus::Unset, SpanStatus::Error),
        workload: Some(figures.id().clone()),
        attributes: known
            .into_iter()
            .filter_map(|(key, value)| value.map(|value| (key.into(), value)))
            .collect(),
    }
}

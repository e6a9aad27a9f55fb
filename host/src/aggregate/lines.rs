//! The aggregator's part of guests' output: lines out of their queue, into the recording and the flight recorder.

use std::collections::BTreeMap;
use std::sync::Arc;

use sandscope_proto::otlp::{Line, LineBatch, Resource};

use super::Aggregator;
use crate::workload::Figures;

/// Bytes of lines that are taken each time the queue is looked at, five to twenty times a second: a guest that prints
/// without end does not fill a disk by itself.
const MAX_BYTES: usize = 256 << 10;

impl Aggregator {
    /// Empties the queue; what is too much is lost and counted.
    pub(super) fn drain_lines(&mut self, all: &[Arc<Figures>]) {
        let (Some(queue), Some(shared)) = (&self.lines, &self.shared.output) else { return };
        self.events_dropped += shared.take_lost();
        let mut by_owner = BTreeMap::<u32, Vec<Line>>::new();
        let mut left = MAX_BYTES;
        while let Ok(line) = queue.try_recv() {
            let Some(figures) = all.get(line.owner as usize) else { continue };
            let Some(rest) = left.checked_sub(line.text.len()) else {
                self.events_dropped += 1;
                continue;
            };
            left = rest;
            by_owner.entry(line.owner).or_default().push(Line {
                workload: Some(figures.id().clone()),
                stream: line.stream.name().to_owned(),
                time_unix_nano: line.unix_nano,
                trace_id: 0,
                span_id: line.span,
                text: self.shared.redaction.line(line.text),
            });
        }
        for (owner, lines) in by_owner {
            let batch = LineBatch { resource: Resource::default(), lines };
            if let Some(flight) = self.flight.as_mut().filter(|flight| flight.listens()) {
                flight.lines(owner, &batch);
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.lines(&LineBatch { resource: self.shared.resource.clone(), ..batch });
            }
        }
    }
}

//! What leaves the host: points, and requests that wait until they are sent.

use std::sync::atomic::Ordering;
use std::time::SystemTime;

use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::{MetricBatch, Point, PointValue};

use super::{AT_ONCE, Aggregator};
use crate::export::{Done, Outgoing};
use crate::memories;
use crate::scope::{Warning, unix_nanos};
use crate::spool::Class;

impl Aggregator {
    pub(super) fn metrics(&self) -> MetricBatch {
        let mut points = Vec::new();
        let all = self.shared.all_figures();
        let mut room = memories::ROUND;
        all.iter().for_each(|figures| figures.memories.look(&mut room));
        all.iter().for_each(|figures| figures.points(&mut points));
        let now = unix_nanos(SystemTime::now());
        let lost = self.shared.lost_spans.load(Ordering::Relaxed);
        self.spans.points(&all, lost, now, &mut points);
        self.shared.pools.points(&mut points);
        self.blocked.points(&all, &mut points);
        let counter = |n: u64| PointValue::Counter(n as f64);
        let shed = |class| self.spool.shed(class);
        for (metric, reason, count) in [
            (Metric::SamplesDropped, "no_room", self.dropped),
            (Metric::SamplesDropped, "shed", shed(Class::Profiles)),
            (Metric::SpansDropped, "shed", shed(Class::Spans) + shed(Class::Errors)),
        ] {
            points.push(Point::of(metric, None, counter(count)).with(attribute::REASON, reason));
        }
        points.push(Point::of(Metric::SamplesUnlinked, None, counter(self.unlinked)));
        points.push(Point::of(Metric::EventsDropped, None, counter(self.events_dropped)));
        let unsampled = self.shared.unsampled.load(Ordering::Relaxed);
        points.push(Point::of(Metric::ThreadsUnsampled, None, PointValue::Gauge(unsampled as f64)));
        if let Some(exporter) = &self.exporter {
            exporter.points(&mut points);
        }
        if let Some(flight) = &self.flight {
            flight.points(&mut points);
        }
        for point in &mut points {
            point.time_unix_nano = now;
            point.start_unix_nano = self.started;
        }
        MetricBatch { resource: self.shared.resource.clone(), points }
    }

    /// Makes requests of what there is, and sends unless that is going on.
    pub(super) fn export(&mut self) {
        let Some(exporter) = &mut self.exporter else { return };
        let mut profiles = self.pending.take();
        profiles.iter_mut().for_each(|(_, settled)| settled.link(|span| self.spans.trace(span)));
        let parcels = exporter.pack(&self.shared.resource, self.spans.take(), &profiles);
        parcels.into_iter().for_each(|parcel| self.spool.push(parcel));
        if exporter.is_idle() {
            self.send(true);
        }
    }

    /// Starts to send what waits, `fresh` with the newest points.
    pub(super) fn send(&mut self, fresh: bool) {
        let metrics = fresh.then(|| self.metrics());
        let parcels = self.spool.oldest(AT_ONCE);
        if let Some(exporter) = &mut self.exporter {
            exporter.send(Outgoing { metrics, parcels });
        }
    }

    pub(super) fn exported(&mut self, done: Done) {
        for fate in done.settled {
            self.spool.done(&fate.boot, fate.sequence, fate.refused);
        }
        let Some(failure) = done.failure else {
            if !self.spool.is_empty() {
                self.send(false);
            }
            return;
        };
        if !self.warned {
            self.warned = true;
            let url = self.settings.otlp.clone().unwrap_or_default();
            (self.settings.on_warning)(&Warning::Collector { url, reason: failure });
        }
    }
}

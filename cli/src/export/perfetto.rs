//! A Perfetto trace: spans as slices, metrics as counters, on the wall clock. Field numbers are those of the
//! published `perfetto/trace/trace_packet.proto` and what it imports. Its reader was not run against it.
//!
//! Slices of one track nest. Calls that overlap go to further tracks of their workload.

use std::collections::BTreeMap;

use prost::Message;
use sandscope_model::WorkloadId;
use sandscope_model::text::visible;
use sandscope_proto::otlp::{PointValue, Span};
use sandscope_recording::Recording;

/// Spans that are drawn; a viewer in a browser takes no more.
const MAX_SPANS: usize = 1_000_000;

const SLICE_BEGIN: i32 = 1;
const SLICE_END: i32 = 2;
const COUNTER: i32 = 4;

/// Perfetto's clock of times since 1970, and the one that it draws by if not told otherwise.
const REALTIME: u32 = 1;
const BOOTTIME: u32 = 6;

#[derive(Clone, PartialEq, Message)]
pub struct Trace {
    #[prost(message, repeated, tag = "1")]
    pub packet: Vec<Packet>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Packet {
    #[prost(message, optional, tag = "6")]
    pub clock_snapshot: Option<ClockSnapshot>,
    #[prost(uint64, tag = "8")]
    pub timestamp: u64,
    #[prost(uint32, tag = "10")]
    pub trusted_packet_sequence_id: u32,
    #[prost(message, optional, tag = "11")]
    pub track_event: Option<TrackEvent>,
    #[prost(message, optional, tag = "60")]
    pub track_descriptor: Option<TrackDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ClockSnapshot {
    #[prost(message, repeated, tag = "1")]
    pub clocks: Vec<Clock>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Clock {
    #[prost(uint32, tag = "1")]
    pub clock_id: u32,
    #[prost(uint64, tag = "2")]
    pub timestamp: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct TrackDescriptor {
    #[prost(uint64, tag = "1")]
    pub uuid: u64,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(uint64, optional, tag = "5")]
    pub parent_uuid: Option<u64>,
    #[prost(message, optional, tag = "8")]
    pub counter: Option<CounterDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CounterDescriptor {
    #[prost(string, tag = "6")]
    pub unit_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct TrackEvent {
    #[prost(int32, tag = "9")]
    pub r#type: i32,
    #[prost(uint64, tag = "11")]
    pub track_uuid: u64,
    #[prost(string, tag = "23")]
    pub name: String,
    #[prost(double, optional, tag = "44")]
    pub double_counter_value: Option<f64>,
}

/// The trace.
pub fn trace(recording: &Recording) -> std::io::Result<Vec<u8>> {
    let started = recording.head().started_unix_nano;
    let mut out = Builder { trace: Trace::default(), tracks: 0, started };
    // One clock for all of it, which is then the wall clock.
    let clocks = [REALTIME, BOOTTIME].map(|clock_id| Clock { clock_id, timestamp: started });
    let snapshot = ClockSnapshot { clocks: clocks.to_vec() };
    out.packet(started, |packet| packet.clock_snapshot = Some(snapshot));
    let mut spans: BTreeMap<WorkloadId, Vec<Span>> = BTreeMap::new();
    let mut room = MAX_SPANS;
    recording.each_span_batch(|batch| {
        for span in batch.spans {
            if let Some(left) = room.checked_sub(1) {
                room = left;
                let workload = span.workload.clone().unwrap_or_else(|| WorkloadId::new("host", ""));
                spans.entry(workload).or_default().push(span);
            }
        }
    })?;
    let mut groups: BTreeMap<WorkloadId, u64> = BTreeMap::new();
    for (workload, spans) in spans {
        let group = out.group(&workload, &mut groups);
        out.slices(group, spans);
    }
    let mut counters: BTreeMap<String, u64> = BTreeMap::new();
    recording.history(|batch| {
        for point in &batch.points {
            let (PointValue::Counter(value) | PointValue::Gauge(value)) = point.value else { continue };
            let Some(workload) = &point.workload else { continue };
            let attributes: Vec<&str> = point.attributes.iter().map(|(_, value)| value.as_str()).collect();
            let name = format!("{} {}", point.name, attributes.join(" "));
            let key = format!("{workload:?} {name}");
            let track = match counters.get(&key) {
                Some(&track) => track,
                None => {
                    let group = out.group(workload, &mut groups);
                    let counter = CounterDescriptor { unit_name: point.unit.to_string() };
                    let track = out.track(name.trim(), Some(group), Some(counter));
                    counters.insert(key, track);
                    track
                }
            };
            out.event(point.time_unix_nano, track, COUNTER, "", Some(value));
        }
    })?;
    Ok(out.trace.encode_to_vec())
}

struct Builder {
    trace: Trace,
    tracks: u64,
    started: u64,
}

impl Builder {
    fn packet(&mut self, timestamp: u64, fill: impl FnOnce(&mut Packet)) {
        let mut packet = Packet { timestamp, trusted_packet_sequence_id: 1, ..Packet::default() };
        fill(&mut packet);
        self.trace.packet.push(packet);
    }

    fn track(&mut self, name: &str, parent: Option<u64>, counter: Option<CounterDescriptor>) -> u64 {
        self.tracks += 1;
        let uuid = self.tracks;
        let name = visible(name).into_owned();
        let descriptor = TrackDescriptor { uuid, name, parent_uuid: parent, counter };
        self.packet(self.started, |packet| packet.track_descriptor = Some(descriptor));
        uuid
    }

    /// The track that a workload's others are under.
    fn group(&mut self, workload: &WorkloadId, groups: &mut BTreeMap<WorkloadId, u64>) -> u64 {
        if let Some(&group) = groups.get(workload) {
            return group;
        }
        let version =
            if workload.version.is_empty() { String::new() } else { format!("@{}", workload.version) };
        let group = self.track(&format!("{}{version}", workload.name), None, None);
        groups.insert(workload.clone(), group);
        group
    }

    fn event(&mut self, time: u64, track_uuid: u64, kind: i32, name: &str, value: Option<f64>) {
        let event = TrackEvent {
            r#type: kind,
            track_uuid,
            name: visible(name).into_owned(),
            double_counter_value: value,
        };
        self.packet(time, |packet| packet.track_event = Some(event));
    }

    /// Draws spans on as few tracks as they nest in.
    fn slices(&mut self, group: u64, mut spans: Vec<Span>) {
        spans.sort_by_key(|span| (span.start_unix_nano, std::cmp::Reverse(span.end_unix_nano)));
        let mut lanes: Vec<Lane> = Vec::new();
        for span in &spans {
            let fits = lanes.iter_mut().position(|lane| lane.takes(span));
            let at = fits.unwrap_or_else(|| {
                lanes.push(Lane::default());
                lanes.len() - 1
            });
            let name = if at == 0 { "calls".to_owned() } else { format!("calls {}", at + 1) };
            let Some(lane) = lanes.get_mut(at) else { continue };
            let track = *lane.track.get_or_insert_with(|| self.track(&name, Some(group), None));
            for end in lane.over(span.start_unix_nano) {
                self.event(end, track, SLICE_END, "", None);
            }
            self.event(span.start_unix_nano, track, SLICE_BEGIN, &span.name, None);
            lane.open.push((span.end_unix_nano.max(span.start_unix_nano), span.trace_id));
        }
        for mut lane in lanes {
            let Some(track) = lane.track else { continue };
            for end in lane.over(u64::MAX) {
                self.event(end, track, SLICE_END, "", None);
            }
        }
    }
}

/// A track whose slices nest: those that are open, outermost first, with their ends and traces.
#[derive(Default)]
struct Lane {
    track: Option<u64>,
    open: Vec<(u64, u128)>,
}

impl Lane {
    /// Whether a span can be drawn here: after what is open, or inside a span of its own trace.
    fn takes(&self, span: &Span) -> bool {
        let innermost = self.open.iter().rev().find(|(end, _)| *end > span.start_unix_nano);
        innermost.is_none_or(|&(end, trace)| end >= span.end_unix_nano && trace == span.trace_id)
    }

    /// Closes what ended by a time; innermost first.
    fn over(&mut self, time: u64) -> Vec<u64> {
        let from = self.open.iter().position(|(end, _)| *end <= time).unwrap_or(self.open.len());
        self.open.drain(from..).rev().map(|(end, _)| end).collect()
    }
}

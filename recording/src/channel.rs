//! The channels of a recording: their numbers, topics and schemas. What travels in them is elsewhere.

use sandscope_proto::schemas;

/// MCAP profile of a recording.
pub(crate) const PROFILE: &str = "sandscope";

/// Number of the first channel of samples; each stream takes the next one.
pub(crate) const FIRST_STREAM: u16 = 16;

/// Longest name of an attachment, in bytes.
const MAX_NAME: usize = 512;

/// What a channel carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Modules,
    Metrics,
    MetricChanges,
    Traps,
    Locks,
    ColdStarts,
    Spans,
    Heap,
    Blocked,
    Logs,
    Samples,
}

impl Topic {
    pub(crate) const ALL: [Self; 11] = [
        Self::Modules,
        Self::Metrics,
        Self::MetricChanges,
        Self::Traps,
        Self::ColdStarts,
        Self::Locks,
        Self::Spans,
        Self::Heap,
        Self::Blocked,
        Self::Logs,
        Self::Samples,
    ];

    /// MCAP topic.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Modules => "modules",
            Self::Metrics => "metrics",
            Self::MetricChanges => "metric_changes",
            Self::Traps => "traps",
            Self::Locks => "locks",
            Self::ColdStarts => "cold_starts",
            Self::Spans => "spans",
            Self::Heap => "heap",
            Self::Blocked => "blocked",
            Self::Logs => "logs",
            Self::Samples => "samples",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.name() == name)
    }

    /// Number of the topic's channel, of the first one for samples.
    pub(crate) fn channel(self) -> u16 {
        match self {
            Self::Modules => 1,
            Self::Metrics => 2,
            Self::Traps => 3,
            Self::ColdStarts => 4,
            Self::Locks => 5,
            Self::Spans => 6,
            Self::Heap => 7,
            Self::Blocked => 8,
            Self::MetricChanges => 9,
            Self::Logs => 10,
            Self::Samples => FIRST_STREAM,
        }
    }

    /// What a channel carries whose channel record was lost.
    pub(crate) fn by_number(channel: u16) -> Option<Self> {
        match channel {
            FIRST_STREAM.. => Some(Self::Samples),
            _ => Self::ALL.into_iter().find(|topic| topic.channel() == channel),
        }
    }

    /// Number of the topic's schema, name of the message type, and the descriptors that define it.
    pub(crate) fn schema(self) -> (u16, &'static str, &'static [u8]) {
        match self {
            Self::Modules => (1, "sandscope.recording.v1.Module", schemas::MODULE),
            Self::Metrics | Self::MetricChanges => {
                let name = "opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest";
                (2, name, schemas::METRICS)
            }
            Self::Traps => (3, "sandscope.recording.v1.Trap", schemas::TRAP),
            Self::Samples => (4, "sandscope.recording.v1.Samples", schemas::SAMPLES),
            Self::ColdStarts => (5, "sandscope.recording.v1.ColdStart", schemas::COLD_START),
            Self::Locks => (6, "sandscope.recording.v1.Locks", schemas::LOCKS),
            Self::Spans => {
                let name = "opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest";
                (7, name, schemas::SPANS)
            }
            Self::Heap => (8, "sandscope.recording.v1.Heap", schemas::HEAP),
            Self::Blocked => (9, "sandscope.recording.v1.Blocked", schemas::BLOCKED),
            Self::Logs => {
                let name = "opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest";
                (10, name, schemas::LOGS)
            }
        }
    }
}

/// Name of the attachment with a module's debug info.
pub(crate) fn attachment_name(id: &str) -> String {
    format!("debug/{id}.wasm.zst")
}

/// The module id in the name of an attachment.
pub(crate) fn attachment_id(name: &str) -> Option<&str> {
    name.strip_prefix("debug/")?.strip_suffix(".wasm.zst")
}

/// Name of the attachment with a core dump, by its number from 0.
pub(crate) fn core_dump_name(number: u32) -> String {
    format!("coredump/{number}.wasm.zst")
}

/// The number in the name of an attachment.
pub(crate) fn core_dump_number(name: &str) -> Option<u32> {
    name.strip_prefix("coredump/")?.strip_suffix(".wasm.zst")?.parse().ok()
}

/// Kinds of attachments, by how their names begin.
pub(crate) const ATTACHMENTS: [&str; 3] = ["debug/", "coredump/", "module/"];

/// Whether an attachment is one of ours.
pub(crate) fn is_attachment(name: &str) -> bool {
    name.len() <= MAX_NAME && ATTACHMENTS.iter().any(|kind| name.starts_with(kind))
}

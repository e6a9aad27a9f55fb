//! Messages of chunks, folded into what a recording holds. Bounded: whatever a file contains, a reader's
//! memory has a limit, and what is beyond it is counted.

use std::collections::{HashMap, HashSet};

use mcap::records::op;
use prost::Message as _;
use sandscope_model::{ModuleId, Profile, SampleKind, WorkloadId};
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::collector::metrics::v1::ExportMetricsServiceRequest;
use sandscope_proto::otel::collector::trace::v1::ExportTraceServiceRequest;
use sandscope_proto::otlp::{MetricBatch, SpanBatch};
use sandscope_proto::{MAX_MESSAGE, recording as wire, stacks, start};

use crate::channel::Topic;
use crate::fields::Fields;
use crate::metrics::{MetricFold, Restored};
use crate::samples::SampleFold;

const MAX_MODULES: usize = 10_000;
/// Traps that are kept; the others are counted.
const MAX_TRAPS: usize = 1000;
const MAX_STARTS: usize = 10_000;
const MAX_BLOCKED: usize = 1000;

/// Longest name that is taken from a file, in bytes.
const MAX_TEXT: usize = 1024;

/// A module that ran.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModuleInfo {
    /// What its debug info is found by.
    pub id: ModuleId,
    /// The workload that it is, or is a part of.
    pub workload: WorkloadId,
    /// File or component name, for people. As the guest's author wrote it: not safe to print.
    pub name: String,
}

/// All samples of one kind of one workload.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedProfile {
    /// The workload.
    pub workload: WorkloadId,
    /// What values count.
    pub kind: SampleKind,
    /// Samples per second and thread; 0 if unknown or if they do not come at a rate.
    pub hz: f64,
    /// Samples that the host could not keep.
    pub dropped: u64,
    /// Samples that were written and cannot be read, because the file is damaged.
    pub lost: u64,
    /// Stacks and weights.
    pub profile: Profile,
}

/// What intact chunks hold that is of no use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Samples whose stacks were in a lost chunk.
    pub samples: u64,
    /// Messages that this release does not understand, or that there is no room for.
    pub unreadable: u64,
}

/// The state after some chunks.
#[derive(Default)]
pub(crate) struct Fold {
    topics: HashMap<u16, Option<Topic>>,
    pub samples: SampleFold,
    pub metrics: MetricFold,
    restored: Restored,
    pub modules: Vec<ModuleInfo>,
    known: HashSet<ModuleInfo>,
    pub traps: Vec<wire::Trap>,
    /// Signatures of traps beyond those.
    pub more_traps: u64,
    /// The last message of each workload.
    pub locks: Vec<wire::Locks>,
    /// The last message of each workload.
    pub heaps: Vec<wire::Heap>,
    /// Those of the last message.
    pub blocked: Vec<wire::BlockedCall>,
    pub cold_starts: Vec<wire::ColdStart>,
    pub spans: u64,
    pub logs: u64,
    pub messages: u64,
    pub lost: Lost,
    /// Latest time that a message names, in nanoseconds since 1970.
    pub last_unix_nano: u64,
}

/// A message of a chunk.
pub(crate) struct Message<'a> {
    pub channel: u16,
    pub topic: Option<Topic>,
    pub sequence: u32,
    pub time_unix_nano: u64,
    pub data: &'a [u8],
}

impl Fold {
    /// Takes the records of a chunk.
    pub(crate) fn chunk(&mut self, chunk: &[u8]) {
        let mut topics = std::mem::take(&mut self.topics);
        for_each_message(chunk, &mut topics, |message| {
            self.messages += 1;
            self.last_unix_nano = self.last_unix_nano.max(message.time_unix_nano);
            if self.message(&message).is_none() {
                self.lost.unreadable += 1;
            }
        });
        self.topics = topics;
    }

    /// `None` for a message that is not understood or finds no room.
    fn message(&mut self, message: &Message<'_>) -> Option<()> {
        if message.data.len() > MAX_MESSAGE {
            return None;
        }
        match message.topic? {
            Topic::Samples => {
                let batch = wire::Samples::decode(message.data).ok()?;
                self.samples.add(message.channel, message.sequence, &batch, &mut self.lost);
            }
            Topic::Metrics | Topic::MetricChanges => {
                for batch in metric_batches(message, &mut self.restored)? {
                    self.lost.unreadable += self.metrics.add(batch);
                }
            }
            Topic::Logs => {
                let request = ExportLogsServiceRequest::decode(message.data).ok()?;
                let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
                self.logs += scopes.map(|scope| scope.log_records.len() as u64).sum::<u64>();
            }
            Topic::Modules => {
                let module = wire::Module::decode(message.data).ok()?;
                let info = ModuleInfo {
                    id: ModuleId::parse(&module.id)?,
                    workload: WorkloadId::new(cut(&module.workload), cut(&module.workload_version)),
                    name: cut(&module.name).to_owned(),
                };
                if self.known.len() < MAX_MODULES && self.known.insert(info.clone()) {
                    self.modules.push(info);
                }
            }
            Topic::Traps => {
                let trap = wire::Trap::decode(message.data).ok()?;
                if trap.version > stacks::VERSION {
                    return None;
                }
                self.trap(trap);
            }
            Topic::Spans => {
                for batch in span_batches(message)? {
                    self.spans += batch.spans.len() as u64;
                }
            }
            Topic::Locks => {
                let locks = wire::Locks::decode(message.data).ok()?;
                if locks.version > stacks::VERSION {
                    return None;
                }
                self.locks.retain(|known| {
                    known.workload != locks.workload || known.workload_version != locks.workload_version
                });
                if self.locks.len() >= MAX_MODULES {
                    return None;
                }
                self.locks.push(locks);
            }
            Topic::Heap => {
                let heap = wire::Heap::decode(message.data).ok()?;
                if heap.version > stacks::VERSION {
                    return None;
                }
                self.heaps.retain(|known| {
                    known.workload != heap.workload || known.workload_version != heap.workload_version
                });
                if self.heaps.len() >= MAX_MODULES {
                    return None;
                }
                self.heaps.push(heap);
            }
            Topic::Blocked => {
                let blocked = wire::Blocked::decode(message.data).ok()?;
                if blocked.version > stacks::VERSION {
                    return None;
                }
                self.blocked = blocked.calls;
                self.blocked.truncate(MAX_BLOCKED);
            }
            Topic::ColdStarts => {
                let cold = wire::ColdStart::decode(message.data).ok()?;
                if cold.version > start::VERSION || self.cold_starts.len() >= MAX_STARTS {
                    return None;
                }
                self.cold_starts.push(cold);
            }
        }
        Some(())
    }

    /// Traps of one signature are one entry: the first one's stack, the highest count.
    fn trap(&mut self, mut trap: wire::Trap) {
        fn signature(trap: &wire::Trap) -> impl PartialEq + '_ {
            (&trap.workload, &trap.workload_version, &trap.code, trap.frames.first())
        }
        // Writers without counts wrote each trap by itself.
        if trap.count > 0
            && let Some(known) = self.traps.iter_mut().find(|known| signature(known) == signature(&trap))
        {
            known.count = known.count.max(trap.count);
        } else if self.traps.len() < MAX_TRAPS {
            trap.count = trap.count.max(1);
            self.traps.push(trap);
        } else if trap.count <= 1 || trap.frames.is_empty() {
            // The first message of its signature; those that raise the count of one have a place.
            self.more_traps += 1;
        }
    }
}

/// The batches of a message of spans.
pub(crate) fn span_batches(message: &Message<'_>) -> Option<Vec<SpanBatch>> {
    let request = ExportTraceServiceRequest::decode(message.data).ok()?;
    Some(SpanBatch::from_otlp(&request).0)
}

/// The batches of a message of metrics or of their changes, whole.
pub(crate) fn metric_batches(message: &Message<'_>, restored: &mut Restored) -> Option<Vec<MetricBatch>> {
    let request = ExportMetricsServiceRequest::decode(message.data).ok()?;
    let mut batches = MetricBatch::from_otlp(&request).0;
    if message.topic == Some(Topic::MetricChanges) {
        let changes = batches.pop().unwrap_or_default();
        return Some(vec![restored.changed(message.sequence, message.time_unix_nano, changes)]);
    }
    batches.iter().for_each(|batch| restored.whole(message.sequence, batch));
    Some(batches)
}

/// Calls back for every message of a chunk; `topics` learns from its channel records.
pub(crate) fn for_each_message(
    chunk: &[u8],
    topics: &mut HashMap<u16, Option<Topic>>,
    mut visit: impl FnMut(Message<'_>),
) {
    let mut fields = Fields(chunk);
    while let Some((opcode, data)) = record(&mut fields) {
        match opcode {
            op::CHANNEL => {
                if let Some((channel, topic)) = channel_topic(data) {
                    topics.insert(channel, topic);
                }
            }
            op::MESSAGE => {
                if let Some(message) = message(data, topics) {
                    visit(message);
                }
            }
            _ => {}
        }
    }
}

fn record<'a>(fields: &mut Fields<'a>) -> Option<(u8, &'a [u8])> {
    let opcode = fields.u8()?;
    let len = usize::try_from(fields.u64()?).ok()?;
    Some((opcode, fields.bytes(len)?))
}

fn channel_topic(data: &[u8]) -> Option<(u16, Option<Topic>)> {
    let mut fields = Fields(data);
    let (channel, _schema) = (fields.u16()?, fields.u16()?);
    Some((channel, Topic::parse(fields.text()?)))
}

fn message<'a>(data: &'a [u8], topics: &HashMap<u16, Option<Topic>>) -> Option<Message<'a>> {
    let mut fields = Fields(data);
    let (channel, sequence) = (fields.u16()?, fields.u32()?);
    let (_logged, time_unix_nano) = (fields.u64()?, fields.u64()?);
    let topic = topics.get(&channel).copied().unwrap_or_else(|| Topic::by_number(channel));
    Some(Message { channel, topic, sequence, time_unix_nano, data: fields.0 })
}

pub(crate) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

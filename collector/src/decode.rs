//! What a stored request says, for those who keep it in memory.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;
use sandscope_proto::metric::attribute;
use sandscope_proto::otel::collector::logs::v1::ExportLogsServiceRequest;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otel::common::v1::any_value::Value;
use sandscope_proto::otel::resource::v1::Resource;
use sandscope_proto::otlp::{EventBatch, LineBatch, profiles};
use sandscope_proto::scan;

use crate::live::Batch;
use crate::log::Kind;

/// A request.
#[derive(Default)]
pub(crate) struct Decoded {
    /// What the live state shows. Log records that are neither text nor events are kept in the log alone.
    pub batch: Option<Batch>,
    /// Points, samples and spans that nobody here understands.
    pub unreadable: u64,
    /// Profiles that are left out altogether.
    pub left_out: u64,
    pub spans: u64,
    pub log_records: u64,
    /// Every region that a resource names; empty text is of a resource that names none.
    pub regions: BTreeSet<String>,
}

impl Decoded {
    /// Puts what names no region under this one.
    pub(crate) fn place(&mut self, region: &str) {
        let name = |named: &mut String| {
            if named.is_empty() {
                region.clone_into(named);
            }
        };
        match &mut self.batch {
            Some(Batch::Metrics(batches)) => {
                batches.iter_mut().for_each(|batch| name(&mut batch.resource.region));
            }
            Some(Batch::Profiles(batches)) => {
                batches.iter_mut().for_each(|batch| name(&mut batch.resource.region));
            }
            Some(Batch::Traces { spans, .. }) => {
                spans.iter_mut().for_each(|batch| name(&mut batch.resource.region));
            }
            Some(Batch::Logs { lines, events }) => {
                lines.iter_mut().for_each(|batch| name(&mut batch.resource.region));
                events.iter_mut().for_each(|batch| name(&mut batch.resource.region));
            }
            None => {}
        }
    }
}

/// The regions that resources name. One that is named twice counts twice: others may read the other one. What is no
/// text is the name of no region that anybody may claim.
fn regions<'a>(resources: impl Iterator<Item = &'a Option<Resource>>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for resource in resources {
        let attributes = resource.iter().flat_map(|resource| &resource.attributes);
        let mut is_named = false;
        for named in attributes.filter(|attribute| attribute.key == attribute::REGION) {
            is_named = true;
            found.insert(match named.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Value::StringValue(region)) => region.clone(),
                _ => "(no text)".to_owned(),
            });
        }
        if !is_named {
            found.insert(String::new());
        }
    }
    found
}

/// Reads a request of a signal.
///
/// # Errors
/// Bytes that are no such request.
pub(crate) fn decode(kind: Kind, payload: &Bytes) -> Result<Decoded, prost::DecodeError> {
    Ok(match kind {
        Kind::Metrics => {
            let scan::Points { batches, skipped: unreadable } = scan::points(payload)?;
            let regions = regions(batches.iter().map(|(said, _)| said));
            let batches = batches.into_iter().map(|(_, batch)| batch).collect();
            Decoded { batch: Some(Batch::Metrics(batches)), unreadable, regions, ..Decoded::default() }
        }
        Kind::Profiles => {
            let request = ExportProfilesServiceRequest::decode(&**payload)?;
            let scopes = request.resource_profiles.iter().flat_map(|resource| &resource.scope_profiles);
            let sent: usize = scopes.map(|scope| scope.profiles.len()).sum();
            let (batches, unreadable) = profiles::from_otlp(&request);
            let left_out = sent.saturating_sub(batches.len()) as u64;
            let regions = regions(request.resource_profiles.iter().map(|of| &of.resource));
            let batch = Some(Batch::Profiles(batches));
            Decoded { batch, unreadable, left_out, regions, ..Decoded::default() }
        }
        Kind::Traces => {
            let scan::Spans { batches, sent, skipped, skipped_events } = scan::spans(payload)?;
            let regions = regions(batches.iter().map(|of| &of.said));
            let batch = Some(Batch::Traces { spans: batches, skipped_events });
            Decoded { batch, unreadable: skipped, spans: sent, regions, ..Decoded::default() }
        }
        Kind::Logs => {
            let request = ExportLogsServiceRequest::decode(&**payload)?;
            let scopes = request.resource_logs.iter().flat_map(|resource| &resource.scope_logs);
            let log_records = scopes.map(|scope| scope.log_records.len() as u64).sum();
            let regions = regions(request.resource_logs.iter().map(|of| &of.resource));
            let batch = Batch::Logs {
                lines: LineBatch::from_otlp(&request).0,
                events: EventBatch::of_logs(&request),
            };
            Decoded { batch: Some(batch), log_records, regions, ..Decoded::default() }
        }
    })
}

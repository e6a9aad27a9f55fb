//! Profiles: samples by stack, and the frames of stacks.
//!
//! A stack's id is a hash of its frames, so that it is the same in all partitions and of all senders.

use std::collections::HashMap;

use sandscope_model::id::content_id;
use sandscope_proto::metric::attribute;
use sandscope_proto::otel::collector::profiles::v1development::ExportProfilesServiceRequest;
use sandscope_proto::otel::profiles::v1development::{Location, Profile, ProfilesDictionary, Sample};

use super::{Rows, Who, span, text, trace};
use crate::history::columns::{FrameRow, table};
use crate::log::Entry;

/// Names of all stacks of a request, in bytes: one name may stand in many frames. Samples of stacks beyond are left out
/// and counted.
const MAX_NAMES: usize = 64 << 20;
/// Deepest stack that is kept, in frames; samples of deeper ones are left out and counted.
const MAX_DEPTH: usize = 1024;

table! {
    /// A row is a stack's weight over the time of a profile, which starts at `time`. `module` is the id of the
    /// innermost guest frame's module, `module_offset` that frame's place in it.
    Samples {
        r#type: Names,
        unit: Names,
        module: Names,
        module_offset: Counts,
        stack_id: Names,
        value: Ints,
        trace_id: Texts,
        span_id: Texts,
    }
}

table! {
    /// A row is a stack that was seen in a region and hour: frames leaf first, each with its module's id and offset, or a name.
    Stacks {
        region: Names,
        received: Times,
        stack_id: Texts,
        frames: Frames,
    }
}

impl Rows {
    /// Adds samples, and stacks that are new in their partition; how many samples cannot be understood.
    pub(super) fn add_profiles(&mut self, request: &ExportProfilesServiceRequest, entry: &Entry) -> u64 {
        let empty = ProfilesDictionary::default();
        let tables = Lookup(request.dictionary.as_ref().unwrap_or(&empty));
        let (mut skipped, mut names) = (0, MAX_NAMES);
        // By index: what is sent once is hashed once.
        let mut stacks: HashMap<i32, Option<StackId>> = HashMap::new();
        for resource in &request.resource_profiles {
            let who = Who::new(resource.resource.as_ref(), entry);
            for profile in resource.scope_profiles.iter().flat_map(|scope| &scope.profiles) {
                for sample in &profile.samples {
                    let index = sample.stack_index;
                    let id = stacks.entry(index).or_insert_with(|| tables.stack_id(index, &mut names));
                    let (Some(stack), Some(value)) = (id.clone(), value(sample)) else {
                        skipped += 1;
                        continue;
                    };
                    if self.is_new_stack(&who, &stack.id)
                        && let Some(frames) = tables.frames(sample.stack_index)
                    {
                        let (parts, rows) = self.part(&who);
                        let stacks = parts.stacks.get_or_insert_default();
                        stacks.region.push(&who.resource.region);
                        stacks.received.push(who.received);
                        stacks.stack_id.push(&stack.id);
                        stacks.frames.push(&frames);
                        *rows += 1 + frames.len();
                    }
                    self.add_sample(&who, &tables, profile, sample, (&stack, value));
                }
            }
        }
        skipped
    }

    fn add_sample(
        &mut self,
        who: &Who,
        tables: &Lookup<'_>,
        profile: &Profile,
        sample: &Sample,
        (stack, value): (&StackId, i64),
    ) {
        let (parts, rows) = self.part(who);
        *rows += 1;
        let own = |key| tables.attribute(&sample.attribute_indices, key);
        let attribute = |key| own(key).or_else(|| tables.attribute(&profile.attribute_indices, key));
        let (workload, version) =
            (attribute(attribute::WORKLOAD_NAME), attribute(attribute::WORKLOAD_VERSION));
        let samples = parts.samples.get_or_insert_default();
        let row = samples.row_as(who, workload.as_deref(), version.as_deref(), profile.time_unix_nano);
        let kind = profile.sample_type.unwrap_or_default();
        row.r#type.push(tables.text(kind.type_strindex));
        row.unit.push(tables.text(kind.unit_strindex));
        row.module.push(&stack.module);
        row.module_offset.push(stack.offset);
        row.stack_id.push(&stack.id);
        row.value.push(value);
        let link = at(&tables.0.link_table, sample.link_index);
        row.trace_id.push(&link.map(|link| trace(&link.trace_id)).unwrap_or_default());
        row.span_id.push(&link.map(|link| span(&link.span_id)).unwrap_or_default());
    }
}

/// The id of a stack, and where its innermost guest frame is.
#[derive(Clone)]
struct StackId {
    id: String,
    module: String,
    offset: Option<u64>,
}

/// A sample's weight: the sum of its values, or how often it was seen where it has times alone.
fn value(sample: &Sample) -> Option<i64> {
    match &*sample.values {
        [] if sample.timestamps_unix_nano.is_empty() => None,
        [] => i64::try_from(sample.timestamps_unix_nano.len()).ok(),
        values => Some(values.iter().fold(0, |sum: i64, value| sum.saturating_add(*value))),
    }
}

fn at<T>(table: &[T], index: i32) -> Option<&T> {
    table.get(usize::try_from(index).ok()?)
}

/// The dictionary of a request, whose indices nobody checked.
struct Lookup<'a>(&'a ProfilesDictionary);

impl<'a> Lookup<'a> {
    /// Empty if there is none.
    fn text(&self, index: i32) -> &'a str {
        at(&self.0.string_table, index).map_or("", String::as_str)
    }

    fn attribute(&self, indices: &[i32], key: &str) -> Option<String> {
        let mut attributes = indices.iter().filter_map(|index| at(&self.0.attribute_table, *index));
        text(attributes.find(|attribute| self.text(attribute.key_strindex) == key)?.value.as_ref()?)
    }

    /// The text of an attribute that is one, without a copy.
    fn borrowed(&self, indices: &[i32], key: &str) -> Option<&'a str> {
        use sandscope_proto::otel::common::v1::any_value::Value;
        let mut attributes = indices.iter().filter_map(|index| at(&self.0.attribute_table, *index));
        let found = attributes.find(|attribute| self.text(attribute.key_strindex) == key)?;
        match found.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => Some(text),
            _ => None,
        }
    }

    /// `None` for a stack that names what is not there, or is too deep.
    fn frames(&self, stack: i32) -> Option<Vec<FrameRow<'a>>> {
        let stack = at(&self.0.stack_table, stack)?;
        if stack.location_indices.len() > MAX_DEPTH {
            return None;
        }
        let frames = stack.location_indices.iter();
        frames.map(|location| self.frame(at(&self.0.location_table, *location)?)).collect()
    }

    /// A frame with a mapping is an offset in a module, one without has a name alone: what a host of ours says of
    /// `wasm-function[N]` adds nothing to the offset. Of modules without an id the name is kept.
    fn frame(&self, location: &Location) -> Option<FrameRow<'a>> {
        let function =
            location.lines.first().and_then(|line| at(&self.0.function_table, line.function_index));
        let name = function.map_or("", |function| self.text(function.name_strindex));
        if location.mapping_index == 0 {
            return Some(FrameRow { module: "", offset: None, name });
        }
        let mapping = at(&self.0.mapping_table, location.mapping_index)?;
        let id = |key| self.borrowed(&mapping.attribute_indices, key);
        let ours = id(attribute::MODULE_ID);
        let module =
            ours.or_else(|| id(attribute::BUILD_ID)).unwrap_or_else(|| self.text(mapping.filename_strindex));
        let name = if ours.is_some() { "" } else { name };
        Some(FrameRow { module, offset: Some(location.address), name })
    }

    /// Who a stack is. `names` is what may yet be read.
    fn stack_id(&self, stack: i32, names: &mut usize) -> Option<StackId> {
        let frames = self.frames(stack)?;
        let size = frames.iter().map(|frame| frame.module.len() + frame.name.len() + 32).sum();
        *names = names.checked_sub(size)?;
        let mut bytes = Vec::with_capacity(size);
        for frame in &frames {
            for text in [frame.module, frame.name] {
                bytes.extend((text.len() as u64).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
            bytes.push(frame.offset.is_some().into());
            bytes.extend(frame.offset.unwrap_or(0).to_le_bytes());
        }
        let guest = frames.iter().find(|frame| !frame.module.is_empty());
        let (module, offset) = guest.map_or(("", None), |frame| (frame.module, frame.offset));
        Some(StackId { id: content_id(&bytes), module: module.to_owned(), offset })
    }
}

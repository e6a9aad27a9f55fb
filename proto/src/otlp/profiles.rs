//! Profiles to OTLP (v1development) and back. The signal is still alpha: it is for the wire only.
//!
//! A mapping per module with `memory_start` 0 and `memory_limit` its length; addresses are whole-file
//! offsets, so that a receiver that knows the module needs nothing else to symbolize.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::profiles::v1development as otlp;
use sandscope_model::profile::Weight;
use sandscope_model::{Frame, ModuleId, Profile, SampleKind, WorkloadId};

use super::{Resource, any, cut, text_of};
use crate::metric::attribute;

/// Deepest stack that is taken from a peer, in frames.
const MAX_DEPTH: usize = 1024;

/// Stacks of one workload over one span of time.
#[derive(Clone, Debug, PartialEq)]
pub struct ProfileBatch {
    /// Who measured.
    pub resource: Resource,
    /// Whose stacks; `None` if the sender named no workload.
    pub workload: Option<WorkloadId>,
    /// What values count.
    pub kind: SampleKind,
    /// Start of the span.
    pub time_unix_nano: u64,
    /// Length of the span.
    pub duration_nano: u64,
    /// Nanoseconds (or bytes) between samples; 0 if they do not come at a rate.
    pub period: u64,
    /// The stacks.
    pub profile: Profile,
    /// Parts of the stacks' weights that belong to a span.
    pub links: Vec<Link>,
}

/// Samples that were taken while a call ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index into [`Profile::stacks`].
    pub stack: u32,
    /// The call's trace; 0 if it is not known.
    pub trace_id: u128,
    /// The call's span.
    pub span_id: u64,
    /// Part of the stack's value.
    pub value: u64,
}

/// What the sender knows of modules beyond their ids.
pub trait ModuleNames {
    /// Length of the module's file in bytes; 0 if unknown.
    fn length(&self, module: &ModuleId) -> u64;
    /// Text for the line that every location must have: `wasm-function[N]`.
    fn function(&self, module: &ModuleId, offset: u64) -> Option<String>;
}

/// One request for profiles of one resource.
pub fn to_otlp(
    resource: &Resource,
    batches: &[ProfileBatch],
    names: &dyn ModuleNames,
) -> ExportProfilesServiceRequest {
    let mut tables = Tables::new();
    let profiles = batches.iter().map(|batch| tables.profile(batch, names)).collect();
    ExportProfilesServiceRequest {
        resource_profiles: vec![otlp::ResourceProfiles {
            resource: Some(resource.to_otlp()),
            scope_profiles: vec![otlp::ScopeProfiles { profiles, ..Default::default() }],
            ..Default::default()
        }],
        dictionary: Some(tables.out),
    }
}

/// The dictionary under construction. Entry 0 of each table is its zero value, as the data model demands.
struct Tables {
    out: otlp::ProfilesDictionary,
    strings: HashMap<String, i32>,
    mappings: HashMap<ModuleId, i32>,
    locations: HashMap<(i32, u64, i32), i32>,
    functions: HashMap<i32, i32>,
    attributes: HashMap<(String, String), i32>,
    stacks: HashMap<Vec<i32>, i32>,
    links: HashMap<(u128, u64), i32>,
}

impl Tables {
    fn new() -> Self {
        Self {
            out: otlp::ProfilesDictionary {
                mapping_table: vec![Default::default()],
                location_table: vec![Default::default()],
                function_table: vec![Default::default()],
                link_table: vec![Default::default()],
                string_table: vec![String::new()],
                attribute_table: vec![Default::default()],
                stack_table: vec![Default::default()],
            },
            strings: HashMap::from([(String::new(), 0)]),
            mappings: HashMap::new(),
            locations: HashMap::new(),
            functions: HashMap::new(),
            attributes: HashMap::new(),
            stacks: HashMap::from([(Vec::new(), 0)]),
            links: HashMap::new(),
        }
    }

    fn string(&mut self, text: &str) -> i32 {
        if let Some(&index) = self.strings.get(text) {
            return index;
        }
        let index = self.out.string_table.len() as i32;
        self.out.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }

    fn attribute(&mut self, key: &str, value: &str) -> i32 {
        let entry = (key.to_owned(), value.to_owned());
        if let Some(&index) = self.attributes.get(&entry) {
            return index;
        }
        let key_strindex = self.string(key);
        let index = self.out.attribute_table.len() as i32;
        self.out.attribute_table.push(otlp::KeyValueAndUnit {
            key_strindex,
            value: Some(any(value)),
            unit_strindex: 0,
        });
        self.attributes.insert(entry, index);
        index
    }

    fn mapping(&mut self, id: &ModuleId, length: u64) -> i32 {
        if let Some(&index) = self.mappings.get(id) {
            return index;
        }
        let hex = id.as_str().split_once(':').map_or(id.as_str(), |(_, hex)| hex).to_owned();
        let attribute_indices = vec![
            self.attribute(attribute::BUILD_ID, &hex),
            self.attribute("process.executable.build_id.htlhash", &hex),
            self.attribute(attribute::MODULE_ID, id.as_str()),
        ];
        let index = self.out.mapping_table.len() as i32;
        self.out.mapping_table.push(otlp::Mapping {
            memory_limit: length,
            attribute_indices,
            ..Default::default()
        });
        self.mappings.insert(id.clone(), index);
        index
    }

    fn location(&mut self, mapping: i32, address: u64, function: &str, frame_type: &str) -> i32 {
        let name = self.string(function);
        if let Some(&index) = self.locations.get(&(mapping, address, name)) {
            return index;
        }
        let function_index = *self.functions.entry(name).or_insert_with(|| {
            self.out.function_table.push(otlp::Function { name_strindex: name, ..Default::default() });
            self.out.function_table.len() as i32 - 1
        });
        let attribute_indices = vec![self.attribute(attribute::FRAME_TYPE, frame_type)];
        let index = self.out.location_table.len() as i32;
        self.out.location_table.push(otlp::Location {
            mapping_index: mapping,
            address,
            lines: vec![otlp::Line { function_index, ..Default::default() }],
            attribute_indices,
        });
        self.locations.insert((mapping, address, name), index);
        index
    }

    fn link(&mut self, link: &Link) -> i32 {
        *self.links.entry((link.trace_id, link.span_id)).or_insert_with(|| {
            self.out.link_table.push(otlp::Link {
                trace_id: link.trace_id.to_be_bytes().to_vec(),
                span_id: link.span_id.to_be_bytes().to_vec(),
            });
            self.out.link_table.len() as i32 - 1
        })
    }

    fn profile(&mut self, batch: &ProfileBatch, names: &dyn ModuleNames) -> otlp::Profile {
        let profile = &batch.profile;
        let locations: Vec<i32> = profile
            .frames
            .iter()
            .map(|frame| match frame {
                Frame::Guest { module, offset } => {
                    let id = &profile.modules[*module as usize];
                    let mapping = self.mapping(id, names.length(id));
                    let function =
                        names.function(id, *offset).unwrap_or_else(|| "wasm-function[?]".to_owned());
                    self.location(mapping, *offset, &function, "wasm")
                }
                Frame::Host(name) => self.location(0, 0, name, "native"),
            })
            .collect();
        let mut samples = Vec::with_capacity(profile.stacks.len());
        let mut links: Vec<&Link> = batch.links.iter().filter(|link| link.trace_id != 0).collect();
        links.sort_by_key(|link| link.stack);
        for (index, (stack, weight)) in profile.iter().enumerate() {
            let location_indices: Vec<i32> = stack.iter().map(|&frame| locations[frame as usize]).collect();
            let stack_index = *self.stacks.entry(location_indices.clone()).or_insert_with(|| {
                self.out.stack_table.push(otlp::Stack { location_indices });
                self.out.stack_table.len() as i32 - 1
            });
            let mut sample = |value: u64, link_index| {
                let values = vec![i64::try_from(value).unwrap_or(i64::MAX)];
                samples.push(otlp::Sample { stack_index, values, link_index, ..Default::default() });
            };
            let first = links.partition_point(|link| (link.stack as usize) < index);
            let mut rest = weight.value;
            for link in links[first..].iter().take_while(|link| link.stack as usize == index) {
                let value = link.value.min(rest);
                rest -= value;
                sample(value, self.link(link));
            }
            if rest > 0 || weight.value == 0 {
                sample(rest, 0);
            }
        }
        let sample_type = Some(otlp::ValueType {
            type_strindex: self.string(batch.kind.name()),
            unit_strindex: self.string(batch.kind.unit()),
        });
        let mut attribute_indices = Vec::new();
        if let Some(workload) = &batch.workload {
            attribute_indices.push(self.attribute(attribute::WORKLOAD_NAME, &workload.name));
            attribute_indices.push(self.attribute(attribute::WORKLOAD_VERSION, &workload.version));
        }
        otlp::Profile {
            sample_type,
            samples,
            time_unix_nano: batch.time_unix_nano,
            duration_nano: batch.duration_nano,
            period_type: sample_type,
            period: i64::try_from(batch.period).unwrap_or(i64::MAX),
            attribute_indices,
            ..Default::default()
        }
    }
}

/// The profiles of a request. What cannot be read (indices outside their tables, types that are not ours,
/// modules without an id) is left out and counted in the second value.
pub fn from_otlp(request: &ExportProfilesServiceRequest) -> (Vec<ProfileBatch>, u64) {
    let empty = otlp::ProfilesDictionary::default();
    let tables = Lookup { dictionary: request.dictionary.as_ref().unwrap_or(&empty) };
    let mut skipped = 0;
    let mut out = Vec::new();
    for resource_profiles in &request.resource_profiles {
        let resource = Resource::from_otlp(resource_profiles.resource.as_ref());
        for profile in resource_profiles.scope_profiles.iter().flat_map(|scope| &scope.profiles) {
            match tables.profile(profile, &resource) {
                Some((batch, bad)) => {
                    skipped += bad;
                    out.push(batch);
                }
                None => skipped += profile.samples.len() as u64,
            }
        }
    }
    (out, skipped)
}

struct Lookup<'a> {
    dictionary: &'a otlp::ProfilesDictionary,
}

fn at<T>(table: &[T], index: i32) -> Option<&T> {
    table.get(usize::try_from(index).ok()?)
}

impl Lookup<'_> {
    fn text(&self, index: i32) -> Option<&str> {
        at(&self.dictionary.string_table, index).map(|text| cut(text))
    }

    fn attribute(&self, indices: &[i32], key: &str) -> Option<String> {
        indices
            .iter()
            .filter_map(|&index| at(&self.dictionary.attribute_table, index))
            .find(|entry| self.text(entry.key_strindex) == Some(key))
            .and_then(|entry| text_of(entry.value.as_ref()))
    }

    fn profile(&self, profile: &otlp::Profile, resource: &Resource) -> Option<(ProfileBatch, u64)> {
        let kind = SampleKind::parse(self.text(profile.sample_type.as_ref()?.type_strindex)?)?;
        let name = self.attribute(&profile.attribute_indices, attribute::WORKLOAD_NAME);
        let version = self.attribute(&profile.attribute_indices, attribute::WORKLOAD_VERSION);
        let mut out = Profile::new();
        let mut frames: HashMap<i32, Option<u32>> = HashMap::new();
        // Many samples may share a deep stack: each is resolved once.
        let mut stacks: HashMap<i32, Option<Vec<u32>>> = HashMap::new();
        let mut skipped = 0;
        for sample in &profile.samples {
            let value = sample.values.first().and_then(|&value| u64::try_from(value).ok());
            let stack = stacks.entry(sample.stack_index).or_insert_with(|| {
                let stack = at(&self.dictionary.stack_table, sample.stack_index)?;
                if stack.location_indices.len() > MAX_DEPTH {
                    return None;
                }
                let locations = stack.location_indices.iter();
                locations.map(|&l| *frames.entry(l).or_insert_with(|| self.frame(l, &mut out))).collect()
            });
            let (Some(value), Some(stack)) = (value, stack) else {
                skipped += 1;
                continue;
            };
            let period = u64::try_from(profile.period).unwrap_or(0);
            let samples = value.checked_div(period).unwrap_or(1).max(1);
            out.add(stack, Weight { samples, value });
        }
        let batch = ProfileBatch {
            resource: resource.clone(),
            workload: name.map(|name| WorkloadId::new(&name, version.as_deref().unwrap_or_default())),
            kind,
            links: Vec::new(),
            time_unix_nano: profile.time_unix_nano,
            duration_nano: profile.duration_nano,
            period: u64::try_from(profile.period).unwrap_or(0),
            profile: out,
        };
        Some((batch, skipped))
    }

    fn frame(&self, location: i32, out: &mut Profile) -> Option<u32> {
        let location = at(&self.dictionary.location_table, location)?;
        if location.mapping_index != 0 {
            let mapping = at(&self.dictionary.mapping_table, location.mapping_index)?;
            let id = [attribute::MODULE_ID, attribute::BUILD_ID]
                .iter()
                .find_map(|key| ModuleId::parse(&self.attribute(&mapping.attribute_indices, key)?))?;
            let module = out.module(&id);
            return Some(out.frame(Frame::Guest { module, offset: location.address }));
        }
        let function = at(&self.dictionary.function_table, location.lines.first()?.function_index)?;
        let name = self.text(function.name_strindex)?;
        Some(out.frame(Frame::Host(name.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names;
    impl ModuleNames for Names {
        fn length(&self, _: &ModuleId) -> u64 {
            4096
        }
        fn function(&self, _: &ModuleId, offset: u64) -> Option<String> {
            Some(format!("wasm-function[{}]", offset / 100))
        }
    }

    fn batch() -> ProfileBatch {
        let mut profile = Profile::new();
        let module = profile.module(&ModuleId::parse("sha256:00ff").unwrap());
        let frames = [
            profile.frame(Frame::Host("[host]".into())),
            profile.frame(Frame::Guest { module, offset: 120 }),
            profile.frame(Frame::Guest { module, offset: 340 }),
        ];
        profile.add(&frames, Weight { samples: 2, value: 20 });
        profile.add(&frames[1..], Weight { samples: 3, value: 30 });
        ProfileBatch {
            links: Vec::new(),
            resource: Resource { region: "eu-1".into(), ..Resource::default() },
            workload: Some(WorkloadId::new("image", "1")),
            kind: SampleKind::Cpu,
            time_unix_nano: 7,
            duration_nano: 10,
            period: 10,
            profile,
        }
    }

    #[test]
    fn a_profile_survives_the_wire() {
        let batch = batch();
        let request = to_otlp(&batch.resource, std::slice::from_ref(&batch), &Names);
        assert_eq!(from_otlp(&request), (vec![batch], 0));
    }

    /// Samples of a kept call name its span, the rest of a stack's weight names none, and nothing is counted twice.
    #[test]
    fn samples_name_their_spans() {
        let (trace_id, span_id) = (0xabc, 0xdef);
        let links = vec![
            Link { stack: 1, trace_id, span_id, value: 10 },
            Link { stack: 1, trace_id: 0, span_id: 5, value: 10 },
        ];
        let batch = ProfileBatch { links, ..batch() };
        let request = to_otlp(&batch.resource, std::slice::from_ref(&batch), &Names);
        let linked = |index: i32| {
            let link = &request.dictionary.as_ref().unwrap().link_table[index as usize];
            (link.trace_id.last().copied(), link.span_id.last().copied())
        };
        let samples = &request.resource_profiles[0].scope_profiles[0].profiles[0].samples;
        let seen: Vec<_> =
            samples.iter().map(|sample| (sample.values[0], linked(sample.link_index))).collect();
        assert_eq!(seen, [(20, (None, None)), (10, (Some(0xbc), Some(0xef))), (20, (None, None))]);
        assert_eq!(from_otlp(&request).0[0].profile, batch.profile);
    }

    /// A peer's indices are never trusted: samples with bad ones are counted, the others kept.
    #[test]
    fn indices_outside_their_tables_are_counted() {
        let batch = batch();
        let mut request = to_otlp(&batch.resource, std::slice::from_ref(&batch), &Names);
        request.dictionary.as_mut().unwrap().stack_table[1].location_indices[0] = 999;
        request.resource_profiles[0].scope_profiles[0].profiles[0].samples.push(otlp::Sample {
            stack_index: -5,
            values: vec![1],
            ..Default::default()
        });
        let (batches, skipped) = from_otlp(&request);
        assert_eq!(skipped, 2);
        assert_eq!(batches[0].profile.samples(), 3);
    }
}

//! pprof's `profile.proto`: one profile in which each thing that was sampled is a sample type of its own
//! (`go tool pprof -sample_index=…`). Field numbers are those of the published
//! `github.com/google/pprof/proto/profile.proto`.

use std::collections::HashMap;

use prost::Message;
use sandscope_model::{ModuleId, SampleKind, WorkloadId};
use sandscope_proto::recording::TrapFrame;

use super::{Named, Names, at, modules_of, named, title};
use crate::Recording;

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// The columns of a sample: what it may be a sample of. Those that a recording has nothing of are left out.
const COLUMNS: [(&str, &str); 10] = [
    ("samples", "count"),
    ("cpu", "nanoseconds"),
    ("off_cpu_samples", "count"),
    ("off_cpu", "nanoseconds"),
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
    ("contentions", "count"),
    ("delay", "nanoseconds"),
];

const CPU: usize = 0;
const OFF_CPU: usize = 2;
const ALLOC: usize = 4;
const IN_USE: usize = 6;
const LOCKS: usize = 8;

/// All stacks of a recording: CPU samples, waits and long host calls (`off_cpu`), allocations, lock waits
/// (`contentions`, `delay`, as Go's mutex profile). Not compressed; readers take it as it is and gzipped.
pub fn pprof(recording: &Recording, names: &dyn Names) -> Vec<u8> {
    let mut out = Builder::new(names);
    for recorded in recording.profiles() {
        let column = match recorded.kind {
            SampleKind::Cpu => CPU,
            SampleKind::Wall => OFF_CPU,
            SampleKind::Alloc => ALLOC,
        };
        let profile = &recorded.profile;
        let labels = out.labels(&recorded.workload);
        let locations: Vec<u64> =
            profile.frames.iter().map(|frame| out.location(&named(frame, profile, names))).collect();
        for (stack, weight) in profile.iter() {
            let stack = stack.iter().filter_map(|&frame| locations.get(frame as usize)).copied().collect();
            out.sample(stack, &labels, &[(column, weight.samples), (column + 1, weight.value)]);
        }
    }
    // What was allocated is among the profiles; what is held of it is not.
    for heap in recording.heaps().iter().filter(|heap| heap.live_known) {
        let labels = out.labels(&WorkloadId::new(&heap.workload, &heap.workload_version));
        for site in &heap.sites {
            let stack = out.stack(&site.stack);
            out.sample(stack, &labels, &[(IN_USE, site.live_count), (IN_USE + 1, site.live_bytes)]);
        }
    }
    for locks in recording.locks() {
        let labels = out.labels(&WorkloadId::new(&locks.workload, &locks.workload_version));
        for lock in &locks.locks {
            let stack = out.stack(&lock.stack);
            out.sample(stack, &labels, &[(LOCKS, lock.contentions as u64), (LOCKS + 1, lock.wait_ns)]);
        }
    }
    out.finish(recording).encode_to_vec()
}

/// Mapping, address, and (function, line) of each line.
type Place = (u64, u64, Vec<(u64, i64)>);

struct Builder<'a> {
    names: &'a dyn Names,
    profile: Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64, i64), u64>,
    /// By mapping, address and lines.
    locations: HashMap<Place, u64>,
    mappings: HashMap<ModuleId, u64>,
    /// Columns that anything is in.
    used: [bool; COLUMNS.len()],
}

impl<'a> Builder<'a> {
    fn new(names: &'a dyn Names) -> Self {
        let mut out = Self {
            names,
            profile: Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
            mappings: HashMap::new(),
            used: [false; COLUMNS.len()],
        };
        // The format wants the empty string first.
        out.string("");
        out
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(&known) = self.strings.get(text) {
            return known;
        }
        let index = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), index);
        index
    }

    fn labels(&mut self, workload: &WorkloadId) -> Vec<Label> {
        let (key, str) = (self.string("workload"), self.string(&title(workload)));
        vec![Label { key, str }]
    }

    fn sample(&mut self, location_id: Vec<u64>, label: &[Label], values: &[(usize, u64)]) {
        let mut value = vec![0; COLUMNS.len()];
        for &(column, amount) in values {
            if let (Some(value), Some(used)) = (value.get_mut(column), self.used.get_mut(column)) {
                *value = i64::try_from(amount).unwrap_or(i64::MAX);
                *used |= amount > 0;
            }
        }
        self.profile.sample.push(Sample { location_id, value, label: label.to_vec() });
    }

    /// A stack that a probe told of.
    fn stack(&mut self, frames: &[TrapFrame]) -> Vec<u64> {
        let names = self.names;
        let modules = modules_of(frames);
        modules
            .iter()
            .map(|(module, offset, function)| {
                self.location(&at(Some(module), *offset, Some(*function), names))
            })
            .collect()
    }

    fn location(&mut self, frame: &Named<'_>) -> u64 {
        let lines: Vec<(u64, i64)> = frame
            .functions
            .iter()
            .map(|function| {
                let name = self.string(&function.name);
                let system = self.string(function.linkage.unwrap_or(&function.name));
                let file = self.string(function.file.unwrap_or_default());
                let next = self.functions.len() as u64 + 1;
                let id = *self.functions.entry((name, system, file)).or_insert(next);
                if id == next {
                    let function = Function { id, name, system_name: system, filename: file };
                    self.profile.function.push(function);
                }
                (id, function.line.map_or(0, i64::from))
            })
            .collect();
        let (mapping_id, address) = frame.place.map_or((0, 0), |(module, at)| (self.mapping(module, at), at));
        let next = self.locations.len() as u64 + 1;
        let id = *self.locations.entry((mapping_id, address, lines.clone())).or_insert(next);
        if id == next {
            let line = lines.into_iter().map(|(function_id, line)| Line { function_id, line }).collect();
            self.profile.location.push(Location { id, mapping_id, address, line });
        }
        id
    }

    /// A module is a mapping of its file to address 0, as long as the offsets that were seen in it.
    fn mapping(&mut self, module: &ModuleId, offset: u64) -> u64 {
        let next = self.mappings.len() as u64 + 1;
        let id = *self.mappings.entry(module.clone()).or_insert(next);
        if id == next {
            let build_id = self.string(module.as_str());
            self.profile.mapping.push(Mapping {
                id,
                build_id,
                has_functions: true,
                has_filenames: true,
                has_line_numbers: true,
                has_inline_frames: true,
                ..Mapping::default()
            });
        }
        if let Some(mapping) = self.profile.mapping.get_mut(id as usize - 1) {
            mapping.memory_limit = mapping.memory_limit.max(offset.saturating_add(1));
        }
        id
    }

    fn finish(mut self, recording: &Recording) -> Profile {
        for module in recording.modules() {
            let name = self.string(&sandscope_model::text::visible(&module.name));
            if let Some(&id) = self.mappings.get(&module.id)
                && let Some(mapping) = self.profile.mapping.get_mut(id as usize - 1)
            {
                mapping.filename = name;
            }
        }
        // Samples of a recording without any still have a type: readers refuse a profile that has none.
        if !self.used.contains(&true) {
            self.used[CPU] = true;
            self.used[CPU + 1] = true;
        }
        let used = self.used;
        for sample in &mut self.profile.sample {
            let mut column = used.iter();
            sample.value.retain(|_| column.next() == Some(&true));
        }
        for ((kind, unit), _) in COLUMNS.iter().zip(used).filter(|(_, used)| *used) {
            let (r#type, unit) = (self.string(kind), self.string(unit));
            self.profile.sample_type.push(ValueType { r#type, unit });
        }
        let head = recording.head();
        let (cpu, nanoseconds) = (self.string("cpu"), self.string("nanoseconds"));
        if used[CPU] && head.hz > 0.0 {
            self.profile.period_type = Some(ValueType { r#type: cpu, unit: nanoseconds });
            self.profile.period = (1e9 / head.hz) as i64;
            self.profile.default_sample_type = cpu;
        }
        self.profile.time_nanos = i64::try_from(head.started_unix_nano).unwrap_or(0);
        self.profile.duration_nanos = (recording.duration_s().unwrap_or(0.0) * 1e9) as i64;
        if let Some(missing) = recording.missing() {
            let comment = self.string(missing);
            self.profile.comment.push(comment);
        }
        self.profile
    }
}

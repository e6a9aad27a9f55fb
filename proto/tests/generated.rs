//! The committed code is what the .proto files give. `BLESS=1 cargo test -p sandscope-proto` rewrites it.

use std::collections::HashSet;
use std::path::Path;

use protox::prost::Message as _;
use protox::prost_reflect::prost_types::{DescriptorProto, FileDescriptorSet};

/// The messages that travel in recordings.
const RECORDED: [&str; 10] = [
    "sandscope.recording.v1.Module",
    "sandscope.recording.v1.Samples",
    "sandscope.recording.v1.Trap",
    "sandscope.recording.v1.ColdStart",
    "sandscope.recording.v1.Locks",
    "sandscope.recording.v1.Heap",
    "sandscope.recording.v1.Blocked",
    "opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest",
    "opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest",
    "opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest",
];

#[test]
fn generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [
        "query/v1/query",
        "query/v1/live",
        "query/v1/recordings",
        "query/v1/selection",
        "agent/v1/agent",
        "recording/v1/profile",
        "recording/v1/coldstart",
        "recording/v1/contention",
        "recording/v1/heap",
        "recording/v1/blocked",
        "recording/v1/coredump",
        "module/v1/sidecar",
    ]
    .map(|name| format!("sandscope/{name}.proto"));
    let descriptors = protox::compile(&files, [root.join("proto")]).expect("the .proto files compile");
    let out = tempfile_dir();
    tonic_prost_build::configure()
        .out_dir(&out)
        // The generated `connect` would clash with the method of that name.
        .build_transport(false)
        .compile_fds(descriptors.clone())
        .expect("code generation");
    let mut all = descriptors;
    all.merge(opentelemetry_proto::DESCRIPTORS).expect("OTLP's descriptors");
    for name in RECORDED {
        std::fs::write(out.join(format!("{name}.desc")), schema(&all, name).encode_to_vec()).unwrap();
    }

    let committed = root.join("src/generated");
    for entry in std::fs::read_dir(&out).unwrap() {
        let entry = entry.unwrap();
        let fresh = std::fs::read(entry.path()).unwrap();
        let path = committed.join(entry.file_name());
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &fresh).unwrap();
        } else {
            assert!(
                std::fs::read(&path).is_ok_and(|old| old == fresh),
                "{} is stale: run BLESS=1 cargo test -p sandscope-proto",
                path.display()
            );
        }
    }
    std::fs::remove_dir_all(out).unwrap();
}

fn tempfile_dir() -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("sandscope-generated-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// What a message is made of and nothing else: every recording holds it twice.
fn schema(all: &FileDescriptorSet, name: &str) -> FileDescriptorSet {
    let mut wanted = vec![format!(".{name}")];
    let mut seen: HashSet<String> = wanted.iter().cloned().collect();
    let mut out = all.clone();
    while let Some(name) = wanted.pop() {
        for file in &all.file {
            for message in &file.message_type {
                let own = format!(".{}.{}", file.package(), message.name());
                if name == own || name.starts_with(&format!("{own}.")) {
                    let new = uses(message).into_iter().chain([own]).filter(|name| seen.insert(name.clone()));
                    wanted.extend(new);
                }
            }
        }
    }
    for file in &mut out.file {
        let package = file.package().to_owned();
        file.message_type.retain(|message| seen.contains(&format!(".{package}.{}", message.name())));
        file.message_type.iter_mut().for_each(forget_json_names);
        file.enum_type.retain(|kind| seen.contains(&format!(".{package}.{}", kind.name())));
        file.service.clear();
        (file.options, file.source_code_info) = (None, None);
    }
    out.file.retain(|file| !file.message_type.is_empty() || !file.enum_type.is_empty());
    let kept: HashSet<String> = out.file.iter().map(|file| file.name().to_owned()).collect();
    for file in &mut out.file {
        file.dependency.retain(|name| kept.contains(name));
        file.public_dependency.clear();
        file.weak_dependency.clear();
    }
    out
}

/// Names that follow from the fields' own.
fn forget_json_names(message: &mut DescriptorProto) {
    message.field.iter_mut().for_each(|field| field.json_name = None);
    message.nested_type.iter_mut().for_each(forget_json_names);
}

/// Names of the types of a message's fields, those of nested messages included.
fn uses(message: &DescriptorProto) -> Vec<String> {
    let own = message.field.iter().filter_map(|field| field.type_name.clone());
    own.chain(message.nested_type.iter().flat_map(uses)).collect()
}

//! The committed code is what the .proto files give. `BLESS=1 cargo test -p sandscope-proto` rewrites it.

use std::path::Path;

#[test]
fn generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = [
        "query/v1/query",
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
        .file_descriptor_set_path(out.join("descriptors.bin"))
        .compile_fds(descriptors.clone())
        .expect("code generation");
    let mut recorded = descriptors;
    recorded.file.retain(|file| file.package() == "sandscope.recording.v1");
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&recorded)).unwrap();

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

//! The sample guests, rewritten: they do what they did.

use bytes::Bytes;
use wasmtime::{Engine, Linker, Module, Store};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder};

use super::super::{NotLive, instrument};
use super::{check_offsets, sample};
use crate::runner::{Ended, Grants, GuestFile, Runner, Stdio};
use crate::{Sandscope, WorkloadId};

/// Bytes between samples: many, for a test.
const PERIOD: u32 = 8192;

/// Output and exit code of a WASI 0.1 command.
pub(super) fn run(
    engine: &Engine,
    module: &Module,
    args: &[&str],
    stdin: &[u8],
    dir: &std::path::Path,
) -> (Bytes, i32) {
    let out = MemoryOutputPipe::new(64 << 20);
    let mut wasi = WasiCtxBuilder::new();
    wasi.args(args).stdin(MemoryInputPipe::new(stdin.to_vec())).stdout(out.clone());
    wasi.preopened_dir(dir, "out", FsPerms::ReadWrite).unwrap();
    let mut store = Store::new(engine, wasi.build_p1());
    let mut linker: Linker<WasiP1Ctx> = Linker::new(engine);
    p1::add_to_linker_sync(&mut linker, |wasi| wasi).unwrap();
    let instance = linker.instantiate(&mut store, module).unwrap();
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start").unwrap();
    let code = start.call(&mut store, ()).map_or_else(|error| error.downcast::<I32Exit>().unwrap().0, |()| 0);
    (out.contents(), code)
}

/// Commands print the same, write the same files and end with the same code.
#[test]
fn commands_do_what_they_did() {
    let engine = Engine::default();
    for (name, args, stdin) in [
        ("analytics", &["analytics", "--generate", "3000", "3"][..], vec![]),
        ("inference", &["inference", "--batch", "5"], vec![]),
        ("pricing", &["pricing", "--generate", "3000", "1"], vec![]),
        ("image", &["image", "-", "out/small.jpg", "32"], sample("data/photo.jpg")),
        ("crash", &["crash", "ok"], vec![]),
        ("crash-debug", &["crash", "exit", "7"], vec![]),
    ] {
        let original = sample(&format!("{name}.wasm"));
        let rewritten = instrument(&original, PERIOD).unwrap();
        check_offsets(&original, &rewritten);
        assert_eq!(rewritten.modules[0].live, Ok(()), "{name}");
        let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let module = |bytes: &[u8]| Module::new(&engine, bytes).unwrap();
        let expected = run(&engine, &module(&original), args, &stdin, before.path());
        let seen = run(&engine, &module(&rewritten.bytes), args, &stdin, after.path());
        assert_eq!(seen, expected, "{name}");
        let files: Vec<_> = std::fs::read_dir(before.path()).unwrap().map(Result::unwrap).collect();
        assert!(
            !expected.0.is_empty() || !files.is_empty() || name.starts_with("crash"),
            "{name} did nothing"
        );
        for file in files {
            let written = std::fs::read(after.path().join(file.file_name())).unwrap();
            assert!(written == std::fs::read(file.path()).unwrap(), "{name} wrote another {file:?}");
        }
    }
}

fn runner() -> Runner {
    let scope = Sandscope::builder().region("test").hz(0.0).build().unwrap();
    Runner::new(&scope).unwrap()
}

fn file(name: &str, bytes: Vec<u8>) -> GuestFile {
    GuestFile {
        bytes,
        name: name.to_owned(),
        workload: WorkloadId::new(name, "1"),
        read_in: std::time::Duration::ZERO,
    }
}

/// A component that the host calls with strings, through `cabi_realloc`, answers the same.
#[test]
fn a_component_answers_what_it_answered() {
    let original = sample("session.wasm");
    let rewritten = instrument(&original, PERIOD).unwrap();
    check_offsets(&original, &rewritten);
    assert_eq!(rewritten.modules.len(), 1);
    assert!(rewritten.modules[0].allocators.contains(&"cabi_realloc".to_owned()));
    let (runner, runtime) = (runner(), tokio::runtime::Runtime::new().unwrap());
    let answers = [original, rewritten.bytes].map(|bytes| {
        let guest = runner.http(&file("session", bytes)).unwrap();
        let grants = Grants { stdio: Stdio::Given { stdin: Bytes::new() }, ..Grants::default() };
        let request = hyper::Request::get("http://localhost/work?n=200").header("host", "localhost");
        let request = request.body(Bytes::new()).unwrap();
        let answer = runtime.block_on(guest.request(request, &grants)).unwrap();
        (answer.status, answer.body)
    });
    assert_eq!(answers[0].0, 200);
    assert_eq!(answers[0], answers[1]);
}

/// Threads share a heap; each has a budget of its own, and frees are not followed.
#[test]
fn threads_run_on() {
    let original = sample("parallel.wasm");
    let rewritten = instrument(&original, PERIOD).unwrap();
    check_offsets(&original, &rewritten);
    assert_eq!(rewritten.modules[0].live, Err(NotLive::SharedMemory));
    let (runner, runtime) = (runner(), tokio::runtime::Runtime::new().unwrap());
    let command = runner.command(&file("parallel", rewritten.bytes)).unwrap();
    let args = ["parallel", "4", "2000"].map(str::to_owned).to_vec();
    let grants = Grants { args, stdio: Stdio::Given { stdin: Bytes::new() }, ..Grants::default() };
    let ended = runtime.block_on(command.run(&grants)).unwrap();
    assert!(matches!(ended, Ended::Exit(0)), "{ended:?}");
}

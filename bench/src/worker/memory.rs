//! A process with many workloads loaded, for what sandscope itself holds in memory.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sandscope_host::{Loaded, Sandscope, WorkloadId};
use wasmtime::{Config, Engine, Linker, Module, Store};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::pipe::MemoryOutputPipe;

use super::Side;
use super::guest::plain;
use crate::workloads;

/// Threads that run guests.
pub const THREADS: usize = 4;
/// Time that guests are called after all are loaded: a few exports, and debug info on its way.
const CALLING: Duration = Duration::from_secs(5);

/// Loads `count` versions of a guest, calls all of them on all threads for a while, and says the resident set
/// in KiB.
pub fn run(side: &str, otlp: &str, count: &str) -> Result<()> {
    let count: u32 = count.parse().context("a number of workloads")?;
    let mut config = Config::new();
    let scope = match Side::parse(side)? {
        Side::Observed | Side::Allocations => {
            let builder = Sandscope::builder().service("bench").otlp(otlp);
            Some(builder.interval(Duration::from_secs(1)).build()?)
        }
        Side::Bare | Side::Epochs => None,
    };
    if let Some(scope) = &scope {
        scope.configure(&mut config);
    }
    let engine = Engine::new(&config).map_err(plain)?;
    let path = workloads::folder().join("crash.wasm");
    let guest = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let versions = (0..count).map(|number| {
        let bytes = workloads::version(&guest, number);
        match &scope {
            Some(scope) => {
                let id = WorkloadId::new("crash", &number.to_string());
                Ok(Version::Observed(scope.load_module(&engine, &bytes, &id, "crash.wasm").map_err(plain)?))
            }
            None => Ok(Version::Bare(Module::new(&engine, &bytes).map_err(plain)?)),
        }
    });
    let versions: Vec<Version> = versions.collect::<Result<_>>()?;
    std::thread::scope(|threads| {
        let callers: Vec<_> = (0..THREADS).map(|_| threads.spawn(|| call_all(&engine, &versions))).collect();
        for caller in callers {
            match caller.join() {
                Ok(result) => result.map_err(plain)?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        let mut out = std::io::stdout().lock();
        Ok(writeln!(out, "{}", resident_kib().context("VmRSS in /proc/self/status")?)?)
    })
}

enum Version {
    Bare(Module),
    Observed(Loaded<Module>),
}

fn call_all(engine: &Engine, versions: &[Version]) -> wasmtime::Result<()> {
    let mut linker: Linker<WasiP1Ctx> = Linker::new(engine);
    p1::add_to_linker_sync(&mut linker, |wasi| wasi)?;
    let started = Instant::now();
    for version in versions.iter().cycle() {
        if started.elapsed() > CALLING {
            break;
        }
        let mut wasi = WasiCtxBuilder::new();
        wasi.arg("crash").arg("ok").stdout(MemoryOutputPipe::new(1 << 20));
        let mut store = Store::new(engine, wasi.build_p1());
        let call = |module: &Module, store: &mut Store<WasiP1Ctx>| {
            let instance = linker.instantiate(&mut *store, module)?;
            instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(store, ())
        };
        match version {
            Version::Bare(module) => call(module, &mut store),
            Version::Observed(loaded) => loaded.workload().call(|| call(loaded, &mut store)),
        }
        .or_else(|error| match error.downcast_ref::<wasmtime_wasi::I32Exit>() {
            Some(exit) if exit.0 == 0 => Ok(()),
            _ => Err(error),
        })?;
    }
    Ok(())
}

fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

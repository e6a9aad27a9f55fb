//! One process of a benchmark: an engine, bare or instrumented, that runs blocks of calls on request.
//!
//! Protocol: a line on stdin is a number of calls; the answer on stdout is one line of wall nanoseconds of the
//! calls, CPU nanoseconds of the whole process during the block, and its peak resident set in KiB.

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sandscope_host::Sandscope;
use sandscope_host::runner::{Command, Grants, GuestFile, Runner, Stdio};
use wasmtime::{Engine, InstancePre, Linker, Module, Store, Val};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};

use crate::guests::{self, Guest};

/// Serves blocks until stdin ends.
pub fn run(guest: &str, mode: &str, otlp: &str) -> Result<()> {
    let guest = guests::ALL.iter().find(|known| known.name == guest).context("no such guest")?;
    let photo = std::fs::read(guests::folder().join("data/photo.jpg")).context("read data/photo.jpg")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match mode {
        "bare" => {
            let bare = Bare::new(guest).map_err(plain)?;
            serve(|| runtime.block_on(bare.call(guest, &photo)).map_err(plain))
        }
        "instrumented" => {
            let scope =
                Sandscope::builder().service("bench").otlp(otlp).interval(Duration::from_secs(2)).build()?;
            let path = guests::folder().join(format!("{}.wasm", guest.name));
            let command = Runner::new(&scope)?.command(&GuestFile::read(&path, None, None)?)?;
            serve(|| runtime.block_on(instrumented(&command, guest, &photo)))
        }
        other => bail!("no mode {other}"),
    }
}

fn serve(mut call: impl FnMut() -> Result<()>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let calls: u32 = line?.trim().parse().context("a number of calls")?;
        let (cpu, started) = (cpu_ns(), Instant::now());
        for _ in 0..calls {
            call()?;
        }
        let wall = started.elapsed().as_nanos();
        writeln!(out, "{wall} {} {}", cpu_ns() - cpu, peak_kib())?;
        out.flush()?;
    }
    Ok(())
}

async fn instrumented(command: &Command, guest: &Guest, photo: &[u8]) -> Result<()> {
    let mut args = vec![guest.name.to_owned()];
    args.extend(guest.args.iter().map(|arg| (*arg).to_owned()));
    let stdio = Stdio::Given { stdin: photo.to_vec().into() };
    match guest.function {
        None => {
            command.run(&Grants { args, stdio, ..Grants::default() }).await?;
        }
        Some(function) => {
            command.invoke(function, &args[1..], &Grants { stdio, ..Grants::default() }).await?;
        }
    }
    Ok(())
}

/// The engine's error, which is no `std::error::Error`, as ours.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn plain(error: wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// The engine as an embedder without sandscope has it.
struct Bare {
    pre: InstancePre<WasiP1Ctx>,
}

impl Bare {
    fn new(guest: &Guest) -> wasmtime::Result<Self> {
        let mut config = wasmtime::Config::new();
        config.wasm_gc(true).wasm_function_references(true).wasm_exceptions(true);
        let engine = Engine::new(&config)?;
        let module = Module::from_file(&engine, guests::folder().join(format!("{}.wasm", guest.name)))?;
        let mut linker: Linker<WasiP1Ctx> = Linker::new(&engine);
        p1::add_to_linker_async(&mut linker, |ctx| ctx)?;
        Ok(Self { pre: linker.instantiate_pre(&module)? })
    }

    async fn call(&self, guest: &Guest, photo: &[u8]) -> wasmtime::Result<()> {
        let mut wasi = WasiCtxBuilder::new();
        wasi.arg(guest.name).args(guest.args);
        wasi.stdin(MemoryInputPipe::new(photo.to_vec()));
        wasi.stdout(MemoryOutputPipe::new(4 << 20)).stderr(MemoryOutputPipe::new(4 << 20));
        let mut store = Store::new(self.pre.module().engine(), wasi.build_p1());
        let instance = self.pre.instantiate_async(&mut store).await?;
        match guest.function {
            None => {
                let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
                start.call_async(&mut store, ()).await?;
            }
            Some(function) => {
                let function = instance
                    .get_func(&mut store, function)
                    .ok_or_else(|| wasmtime::Error::msg("no such function"))?;
                let args: Vec<Val> = guest
                    .args
                    .iter()
                    .map(|arg| arg.parse().map(Val::I32))
                    .collect::<std::result::Result<_, _>>()?;
                function.call_async(&mut store, &args, &mut [Val::I32(0)]).await?;
            }
        }
        Ok(())
    }
}

/// CPU time of all threads of this process, nanoseconds.
fn cpu_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` lives across the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Peak resident set of this process, KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

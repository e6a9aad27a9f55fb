//! Time off the CPU: a guest waits in two functions, its host takes what of each wait was no CPU time of the thread,
//! and the wall profile is asked.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandscope_host::{Sandscope, WorkloadId};
use sandscope_model::{Frame, Profile, SampleKind};
use sandscope_recording::Recording;
use wasmparser::{Parser, Payload};
use wasmtime::{Caller, Config, Engine, Linker, MemoryType, SharedMemory, Store};

use crate::clock;
use crate::stats::Random;
use crate::worker::plain;

/// The guest's text.
const TEXT: &str = include_str!("../kernels/waits.wat");
/// Functions that wait.
pub const FUNCTIONS: usize = 2;
/// Of so many waits one is in the first function.
const PARTS: usize = 4;
/// Shortest wait, and how many times longer the longest is: 0.2 to 30 ms.
const SHORTEST_NS: f64 = 200_000.0;
const SPAN: f64 = 150.0;

/// Time of the waits in each function.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    /// By the thread's own clocks.
    pub clocked: [Duration; FUNCTIONS],
    /// As the recording has it.
    pub recorded: [Duration; FUNCTIONS],
}

impl Waits {
    /// Clocked and recorded time of each function.
    pub fn each(self) -> impl Iterator<Item = (Duration, Duration)> {
        self.clocked.into_iter().zip(self.recorded)
    }
}

struct Marks {
    began: Instant,
    /// CPU time of the thread then.
    cpu: Duration,
    waits: [Duration; FUNCTIONS],
}

/// Lets the guest wait for about as long as `planned` in all, short and long waits alike in number per octave.
pub fn run(planned: Duration, random: &mut Random) -> Result<Waits> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("recording.mcap");
    let scope = Sandscope::builder().service("bench").record(&path).build()?;
    let text = wat::parse_str(TEXT)?;
    let clocked = guest(&scope, &text, planned, random).map_err(plain)?;
    scope.shutdown();
    let bodies = bodies(&text)?;
    let recording = Recording::open(&path)?;
    let of_waits = |profile: &&sandscope_recording::RecordedProfile| profile.kind == SampleKind::Wall;
    let profile = recording.profiles().iter().find(of_waits).context("no waits were recorded")?;
    Ok(Waits { clocked, recorded: recorded(&profile.profile, &bodies) })
}

fn guest(
    scope: &Sandscope,
    text: &[u8],
    planned: Duration,
    random: &mut Random,
) -> wasmtime::Result<[Duration; FUNCTIONS]> {
    let mut config = Config::new();
    scope.configure(&mut config);
    config.shared_memory(true);
    let engine = Engine::new(&config)?;
    let guest = scope.load_module(&engine, text, &WorkloadId::new("waits", "1"), "waits.wasm")?;
    let mut linker = Linker::new(&engine);
    linker.func_wrap("bench", "mark", |mut caller: Caller<'_, Marks>, boundary: i32| {
        let marks = caller.data_mut();
        let waited = marks.began.elapsed().saturating_sub(clock::thread().saturating_sub(marks.cpu));
        if let Some(wait) = usize::try_from(boundary - 1).ok().and_then(|i| marks.waits.get_mut(i)) {
            *wait += waited;
        }
        (marks.began, marks.cpu) = (Instant::now(), clock::thread());
    })?;
    let marks = Marks { began: Instant::now(), cpu: Duration::ZERO, waits: Default::default() };
    let mut store = Store::new(&engine, marks);
    linker.define(&store, "bench", "memory", SharedMemory::new(&engine, MemoryType::shared(1, 1))?)?;
    let workload = guest.workload();
    let instance = workload.instantiate(|| linker.instantiate(&mut store, &guest))?;
    let run = instance.get_typed_func::<(i32, i64), ()>(&mut store, "run")?;
    let started = Instant::now();
    while started.elapsed() < planned {
        let ns = SHORTEST_NS * SPAN.powf(random.below(1000) as f64 / 1000.0);
        let second = i32::from(random.below(PARTS) > 0);
        workload.call(|| run.call(&mut store, (second, ns as i64)))?;
    }
    Ok(store.data().waits)
}

/// Where the functions that wait are in the file.
fn bodies(module: &[u8]) -> Result<[Range<u64>; FUNCTIONS]> {
    let mut bodies = Vec::new();
    for payload in Parser::new(0).parse_all(module) {
        if let Payload::CodeSectionEntry(body) = payload? {
            bodies.push(body.range().start as u64..body.range().end as u64);
        }
    }
    ensure!(bodies.len() == FUNCTIONS + 1, "the guest has {} functions", bodies.len());
    bodies.truncate(FUNCTIONS);
    bodies.try_into().ok().context("the functions that wait")
}

/// Time of a wall profile by the function that left for the host.
fn recorded(profile: &Profile, bodies: &[Range<u64>; FUNCTIONS]) -> [Duration; FUNCTIONS] {
    let mut times = [Duration::ZERO; FUNCTIONS];
    for (stack, weight) in profile.iter() {
        let guest = stack.iter().find_map(|&frame| match &profile.frames[frame as usize] {
            Frame::Guest { offset, .. } => Some(offset),
            Frame::Host(_) => None,
        });
        if let Some(index) = guest.and_then(|offset| bodies.iter().position(|body| body.contains(offset))) {
            times[index] += Duration::from_nanos(weight.value);
        }
    }
    times
}

//! The process under stress: generations of a scope and an engine, in which threads do everything at random.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use sandscope_host::Sandscope;
use wasmtime::Trap;

use super::check::{self, Facts, Seen, Truth};
use super::guests::{self, Guest, VERSIONS};

/// What lines of progress begin with.
pub const BEAT: &str = "stress: ";
/// What the last of them holds.
pub const DONE: &str = "all of it";

/// Highest rate that a scope takes. The kernel checks CPU timers at its ticks, so signals are fewer; the
/// missed expirations come as weight.
const HZ: f64 = 10_000.0;
const THREADS: u64 = 4;
/// Life of a scope and its engine.
const GENERATION: Duration = Duration::from_secs(3);

/// Runs for so long.
pub fn run(time: Duration) {
    let started = Instant::now();
    let mut seen = Seen::default();
    let mut generation = 0;
    while started.elapsed() < time || generation == 0 {
        seen.merge(live(generation));
        generation += 1;
        println!("{BEAT}generation {generation}: {:?}", seen.0);
    }
    assert!(seen.0.get("guest").is_some_and(|&samples| samples > 50), "hardly a sample: {:?}", seen.0);
    println!("{BEAT}{DONE}: {generation} generations in {:.0} s", started.elapsed().as_secs_f64());
}

/// One generation, from the scope's start to the check of its recording.
fn live(generation: u64) -> Seen {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("recording.mcap");
    // A recording is flushed at each trap, so a storm of them comes only where there is none.
    let recorded = generation % 3 < 2;
    let builder = Sandscope::builder().hz(HZ);
    let builder = if recorded { builder.record(&path) } else { builder };
    let scope = builder.build().expect("a scope");
    let engine = guests::engine(&scope, generation % 2 == 1);
    let mazes: Vec<Vec<u8>> = (0..VERSIONS).map(guests::maze).collect();
    let mut truth = Truth::default();
    let mut load = |bytes: &[u8], name: &str, inner| {
        let guest = Guest::load(&scope, &engine, bytes, name, inner).expect("a guest");
        let module = guest.loaded.workload().module().clone();
        truth.facts.entry(module.clone()).or_insert_with(|| Facts::of(bytes));
        truth.workloads.insert(name.to_owned(), module);
        Arc::new(guest)
    };
    let inner = load(&mazes[0], "inner", None);
    let maze = load(&mazes[0], "maze", Some(Arc::clone(&inner)));
    let heap = load(&guests::heap(), "heap", None);
    for (version, bytes) in mazes.iter().enumerate() {
        // Dropped at once: their threads load them again and again.
        load(bytes, &format!("version {version}"), None);
    }
    let traps = if recorded { 3 } else { 200 };
    let stage = Stage { traps, scope: &scope, engine: &engine, mazes: &mazes, maze: &maze, heap: &heap };
    let until = Instant::now() + GENERATION;
    std::thread::scope(|threads| {
        let progress: Vec<Arc<AtomicU64>> = (0..THREADS).map(|_| Arc::default()).collect();
        for (seed, done) in progress.iter().enumerate() {
            let (stage, done) = (&stage, Arc::clone(done));
            threads.spawn(move || {
                let mut random = Random(generation << 8 | seed as u64);
                while Instant::now() < until {
                    stage.job(&mut random);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Says something only when every thread has got on, so that one that hangs makes a silence.
        let mut before = vec![0; progress.len()];
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(500));
            let now: Vec<u64> = progress.iter().map(|done| done.load(Ordering::Relaxed)).collect();
            if now.iter().zip(&before).all(|(now, before)| now > before) {
                println!("{BEAT}jobs of each thread: {now:?}");
                before = now;
            }
        }
    });
    scope.shutdown();
    drop((inner, maze, heap));
    drop(engine);
    if recorded { check::recording(&path, &truth) } else { Seen::default() }
}

/// What threads share.
struct Stage<'a> {
    /// Traps in a row.
    traps: u64,
    scope: &'a Sandscope,
    engine: &'a wasmtime::Engine,
    mazes: &'a [Vec<u8>],
    maze: &'a Guest,
    heap: &'a Guest,
}

impl Stage<'_> {
    /// One thing at random.
    ///
    /// # Panics
    /// If it ends otherwise than it must.
    fn job(&self, random: &mut Random) {
        let maze = self.maze;
        match random.below(10) {
            0 => maze.call("calls", 1_000_000).expect("calls"),
            1 => maze.call("tails", 2_000_000).expect("tails"),
            2 => {
                for _ in 0..self.traps {
                    let (depth, kind) = (random.below(100) as i32, random.below(4) as i32);
                    let traps = [
                        Trap::UnreachableCodeReached,
                        Trap::MemoryOutOfBounds,
                        Trap::IntegerDivisionByZero,
                        Trap::IndirectCallToNull,
                    ];
                    expect(maze.call("trap", (depth, kind)), traps[kind as usize]);
                }
            }
            3 => expect(maze.call("overflow", ()), Trap::StackOverflow),
            4 => maze.call("nest", ()).expect("a nested call"),
            5 => maze.call("fork", ()).expect("fork and exec"),
            6 => self.heap.call("collect", 10_000).expect("garbage"),
            7 => run_to_end(maze.call_async("wait", random.below(60) as i32)),
            8 => {
                for _ in 0..20 {
                    cancel(maze.call_async("wait", random.below(60) as i32), random.below(8));
                }
            }
            _ => {
                let version = random.below(VERSIONS as u64) as usize;
                let name = format!("version {version}");
                let guest = Guest::load(self.scope, self.engine, &self.mazes[version], &name, None);
                let guest = guest.expect("a module");
                guest.call("calls", 100_000).expect("calls");
                expect(guest.call("trap", (20, 1)), Trap::MemoryOutOfBounds);
            }
        }
    }
}

#[track_caller]
fn expect(result: wasmtime::Result<()>, trap: Trap) {
    let error = result.expect_err("a trap");
    assert_eq!(error.downcast_ref::<Trap>(), Some(&trap), "{error:?}");
}

fn run_to_end(call: impl Future<Output = wasmtime::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(call).expect("an async call");
}

/// Polls a call a few times and drops it where it is.
fn cancel(call: impl Future<Output = wasmtime::Result<()>>, polls: u64) {
    let mut call = pin!(call);
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if call.as_mut().poll(&mut context).is_ready() {
            break;
        }
    }
}

/// Small numbers without a pattern (an LCG's upper half).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % bound
    }
}

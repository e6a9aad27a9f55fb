//! What benchmarks run: the compute guests and small kernels, and what one call of each is.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Something to run, bare or instrumented.
pub struct Workload {
    /// Unique, for tables and command lines.
    pub name: &'static str,
    /// Where the module comes from.
    code: Code,
    /// What one call is.
    pub call: Call,
    /// Whether each call gets a store of its own, as in a host that serves requests.
    pub store_per_call: bool,
    /// Whether making a store and an instance is timed by itself.
    pub starts: bool,
    /// Whether the engine pools instances.
    pub pooled: bool,
    /// Whether the bounds on overhead hold for it.
    pub bounded: bool,
    /// Whether it is measured with `--alloc` too.
    pub allocations: bool,
}

enum Code {
    /// A file of tests/guests, without its ending.
    Guest(&'static str),
    /// A kernel's text.
    Kernel(&'static str),
}

/// What one call is.
#[derive(Clone, Copy)]
pub enum Call {
    /// `_start` with these arguments, the photo as standard input.
    Command(&'static [&'static str]),
    /// The export `run`.
    Run(&'static [i32]),
    /// The export `run` on each of two threads that share a memory.
    Threads(i32),
}

const KERNEL: Workload = Workload {
    name: "",
    code: Code::Kernel(""),
    call: Call::Run(&[]),
    store_per_call: false,
    starts: false,
    pooled: false,
    bounded: true,
    allocations: false,
};

const fn guest(name: &'static str, args: &'static [&'static str]) -> Workload {
    Workload { name, code: Code::Guest(name), call: Call::Command(args), store_per_call: true, ..KERNEL }
}

const fn kernel(name: &'static str, text: &'static str, args: &'static [i32]) -> Workload {
    Workload { name, code: Code::Kernel(text), call: Call::Run(args), ..KERNEL }
}

const fn short(name: &'static str, steps: &'static [i32], pooled: bool) -> Workload {
    Workload {
        store_per_call: true,
        starts: true,
        pooled,
        ..kernel(name, include_str!("kernels/short.wat"), steps)
    }
}

/// All of them. Calls of guests take some milliseconds, of kernels about one.
pub const ALL: &[Workload] = &[
    Workload { allocations: true, ..guest("image", &["-", "-", "160"]) },
    Workload { allocations: true, ..guest("analytics", &["--generate", "2500", "1"]) },
    guest("inference", &["--batch", "150"]),
    guest("pricing", &["--generate", "2000", "1"]),
    Workload { call: Call::Run(&[50]), ..guest("gc", &[]) },
    kernel("fib", include_str!("kernels/fib.wat"), &[23]),
    kernel("sieve", include_str!("kernels/sieve.wat"), &[200_000]),
    kernel("matmul", include_str!("kernels/matmul.wat"), &[96]),
    kernel("indirect calls", include_str!("kernels/indirect.wat"), &[300_000]),
    kernel("GC structs", include_str!("kernels/structs.wat"), &[1000]),
    Workload {
        call: Call::Threads(5000),
        ..kernel("locks, 2 threads", include_str!("kernels/locks.wat"), &[])
    },
    short("10 µs calls, on demand", &[7_500], false),
    short("10 µs calls, pooled", &[7_500], true),
    short("100 µs calls, on demand", &[75_000], false),
    short("100 µs calls, pooled", &[75_000], true),
    kernel("host calls, 1 M/s", include_str!("kernels/host_calls.wat"), &[1000, 740]),
    Workload {
        bounded: false,
        ..kernel("host calls, nothing else", include_str!("kernels/host_calls.wat"), &[200_000, 0])
    },
];

impl Workload {
    /// By its name.
    pub fn named(name: &str) -> Result<&'static Self> {
        ALL.iter().find(|known| known.name == name).with_context(|| format!("no workload is called {name}"))
    }

    /// The module, binary.
    pub fn module(&self) -> Result<Vec<u8>> {
        match self.code {
            Code::Guest(name) => {
                let path = folder().join(format!("{name}.wasm"));
                std::fs::read(&path).with_context(|| format!("read {}", path.display()))
            }
            Code::Kernel(text) => Ok(wat::parse_str(text)?),
        }
    }
}

/// The folder of the built guests.
pub fn folder() -> PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests")
}

/// Versions of one guest that differ in a custom section, and so in their module ids.
pub fn version(module: &[u8], number: u32) -> Vec<u8> {
    let mut bytes = module.to_vec();
    // A custom section (id 0) of 7 bytes: a name of 2, then the number.
    bytes.extend([0, 7, 2, b'v', b'n']);
    bytes.extend(number.to_le_bytes());
    bytes
}

//! The guest `crash`: ends in every way in which a guest can end, by argument.
//!
//! What a mode does is real: `oob`, `div0` and `recurse` are traps of the engine, not
//! checks of Rust, because they are what has no message and needs a core dump. The
//! values that the mode `structs` leaves in memory are in `structs.rs`.

#![feature(asm_experimental_arch)]

mod structs;

use std::arch::{asm, wasm32};
use std::hint::black_box;
use std::process::ExitCode;

const USAGE: &str = "usage: crash MODE

  panic [MESSAGE]   a Rust panic: a message on stderr, then `unreachable`
  unreachable       the instruction `unreachable`
  oob               reads behind the end of linear memory
  div0              divides an integer by zero
  recurse           recurses until the engine's stack is exhausted
  shadow            recurses until the stack in linear memory is exhausted
  memory            allocates until memory is refused, then aborts
  structs [DEPTH]   traps under DEPTH frames with values to look at (default 12)
  exit N            exits with code N
  ok                returns normally";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_default();
    let argument = args.next();
    match (mode.as_str(), argument) {
        ("panic", message) => {
            let message = message.as_deref().unwrap_or("the order book has no bids");
            panic!("{message}")
        }
        ("unreachable", _) => wasm32::unreachable(),
        ("oob", _) => println!("read {}", read_out_of_bounds()),
        ("div0", _) => println!("divided: {}", divide(black_box(1_000), black_box(0))),
        ("recurse", _) => println!("returned {}", recurse(black_box(1))),
        ("shadow", _) => println!("returned {}", fill_shadow_stack(black_box(1))),
        ("memory", _) => exhaust_memory(),
        ("structs", depth) => match depth.map_or(Ok(12), |depth| depth.parse()) {
            Ok(depth) => println!("settled {}", structs::trap_below(depth)),
            Err(_) => return usage(),
        },
        ("exit", Some(code)) => match code.parse() {
            Ok(code) => std::process::exit(code),
            Err(_) => return usage(),
        },
        ("ok", _) => println!("nothing crashed"),
        _ => return usage(),
    }
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}

/// Reads the last word of the 32-bit address space, which no memory here reaches.
#[inline(never)]
fn read_out_of_bounds() -> u32 {
    let value: u32;
    // SAFETY: only reads, through an instruction that traps; in assembly because
    // reading a wild pointer in Rust would let the compiler remove it.
    unsafe {
        asm!(
            "local.get {address}",
            "i32.load 0",
            "local.set {value}",
            address = in(local) 0xffff_fff0_u32,
            value = out(local) value,
        );
    }
    value
}

/// Divides without the check that Rust would make first.
#[inline(never)]
fn divide(dividend: i32, divisor: i32) -> i32 {
    let quotient: i32;
    // SAFETY: the instruction touches no memory; by zero it traps.
    unsafe {
        asm!(
            "local.get {dividend}",
            "local.get {divisor}",
            "i32.div_s",
            "local.set {quotient}",
            dividend = in(local) dividend,
            divisor = in(local) divisor,
            quotient = out(local) quotient,
        );
    }
    quotient
}

/// Keeps everything in wasm locals: linear memory's stack stays as it is.
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    if depth == 0 {
        return 0;
    }
    // Not a tail call, and `depth` never comes back to 0.
    recurse(depth.wrapping_mul(6_364_136_223_846_793_005) | 1).rotate_left(7) ^ depth
}

/// Needs 4 KiB of linear memory's stack per call, so that one ends first.
#[inline(never)]
fn fill_shadow_stack(depth: u32) -> u64 {
    let page = black_box([depth; 1024]);
    if depth == 0 {
        return 0;
    }
    fill_shadow_stack(depth + 1) + u64::from(black_box(&page)[7])
}

/// Takes memory by the MiB and uses it, until the allocator has to give up.
#[inline(never)]
fn exhaust_memory() {
    const MIB: usize = 1 << 20;
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(vec![0xA5; MIB]);
        black_box(&hoard);
    }
}

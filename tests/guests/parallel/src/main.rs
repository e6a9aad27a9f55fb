//! The guest `parallel`: threads that parse telemetry under one hot lock.
//!
//! `parallel THREADS ITEMS` lets THREADS threads parse ITEMS payloads in all and fold
//! them into one table. Each of them parses while it holds the lock of the table, which
//! is the mistake that a view of lock contention is there to show. The result does not
//! depend on who came first: the last line is a checksum.
//!
//! There is no threaded libc to build with, so this has none at all: std for
//! `wasm32-unknown-unknown` with atomics, WASI by its raw imports (`wasi_io.rs`), threads
//! by those of wasi-threads (`thread.rs`), and a heap with a lock of its own (`heap.rs`).

#![no_main]
#![feature(asm_experimental_arch, stdarch_wasm_atomic_wait)]

mod heap;
mod payload;
mod thread;
mod wasi_io;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::payload::{Reading, Statistics};

#[global_allocator]
static HEAP: heap::LockedHeap = heap::LockedHeap::new();

/// The hot lock: every payload of every thread is parsed under it.
static HOT_TABLE: Mutex<BTreeMap<String, Statistics>> = Mutex::new(BTreeMap::new());

/// The next payload to take.
static NEXT: AtomicU64 = AtomicU64::new(0);

const MOST_THREADS: u64 = 32;

/// What WASI calls to run a command.
#[unsafe(no_mangle)]
extern "C" fn _start() {
    wasi_io::report_panics();
    match run(&wasi_io::args()) {
        Ok(summary) => wasi_io::print(wasi_io::STDOUT, &summary),
        Err((message, code)) => {
            wasi_io::print(wasi_io::STDERR, &format!("parallel: {message}\n"));
            wasi_io::exit(code);
        }
    }
}

fn run(args: &[String]) -> Result<String, (String, u32)> {
    let numbers: Option<Vec<u64>> = args.iter().skip(1).map(|arg| arg.parse().ok()).collect();
    let Some(&[threads @ 1..=MOST_THREADS, items]) = numbers.as_deref() else {
        let usage = format!("usage: parallel THREADS ITEMS, with 1 to {MOST_THREADS} threads");
        return Err((usage, 2));
    };

    let mut running = Vec::new();
    for number in 0..threads {
        let thread = thread::spawn(move || work(items))
            .map_err(|code| (format!("the host refused thread {number}: {code}"), 1))?;
        running.push(thread);
    }
    for thread in running {
        thread.join();
    }
    Ok(summarize(items))
}

fn summarize(items: u64) -> String {
    let table = HOT_TABLE.lock().expect("no thread panicked");
    let mut summary = String::new();
    for (device, statistics) in table.iter().take(3) {
        summary += &format!("{device}: {statistics}\n");
    }
    let readings: u64 = table.values().map(|statistics| statistics.count).sum();
    summary += &format!("{} devices, {readings} readings from {items} payloads\n", table.len());
    summary += &format!("checksum {:016x}\n", checksum(&table));
    summary
}

/// A thread's life: takes payloads until there are none.
#[inline(never)]
fn work(items: u64) {
    loop {
        let item = NEXT.fetch_add(1, Ordering::Relaxed);
        if item >= items {
            return;
        }
        fold(&payload::text_of(item));
    }
}

/// Parses a payload into the table, holding the lock all the time.
#[inline(never)]
fn fold(text: &str) {
    let mut table = HOT_TABLE.lock().expect("no thread panicked");
    for line in text.lines() {
        if let Some(Reading { device, value }) = payload::parse_line(line) {
            // Looked up first: a new key is the only thing that allocates here.
            match table.get_mut(device) {
                Some(statistics) => statistics.add(value),
                None => table.entry(device.to_owned()).or_default().add(value),
            }
        }
    }
}

/// FNV-1a over the table in the order of its keys.
fn checksum(table: &BTreeMap<String, Statistics>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    for (device, statistics) in table {
        add(device.as_bytes());
        add(&statistics.count.to_le_bytes());
        add(&statistics.sum.to_le_bytes());
    }
    hash
}

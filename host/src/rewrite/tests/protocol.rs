//! What allocators report, and what the answers do.

use wasmtime::{Instance, Module, Store};

use super::super::protocol::{Report, filter_bit};
use super::super::{NotInstrumented, NotLive, instrument};
use super::{ALLOCATORS, Guest, IMPORT, engine};

/// A report of an allocation: its size rounded up, and where it is.
fn sample(size: u64, pointer: i32) -> Vec<Report> {
    vec![Report::Size(size), Report::Allocated(pointer as u64)]
}

/// With a budget of one byte every allocation is reported once, whichever allocators it passes on its way,
/// with the size and the pointer that the outermost one was asked for and returned.
#[test]
fn every_allocation_is_reported_once() {
    let (mut guest, module) = Guest::new(ALLOCATORS, 1);
    assert_eq!(module.allocators.len(), 9, "{:?}", module.allocators);
    assert_eq!(module.live, Ok(()));

    let (p, reports) = guest.call("malloc", &[20]);
    assert_eq!(p, 1024);
    assert_eq!(reports, [vec![Report::First], sample(24, p)].concat());
    for (export, args, size) in [
        ("malloc", &[8][..], 8),
        ("calloc", &[10, 8], 80),
        ("realloc", &[0, 48], 48),
        ("aligned_alloc", &[8, 40], 40),
        ("cabi_realloc", &[0, 0, 1, 16], 16),
        ("cabi_realloc", &[2048, 8, 1, 24], 24),
        ("through_table", &[72], 72),
    ] {
        let (p, reports) = guest.call(export, args);
        assert_eq!(reports, sample(size, p), "{export}");
    }
    let (failed, reports) = guest.call("posix_memalign", &[64, 8, 88]);
    let memory = guest.instance.get_memory(&mut guest.store, "memory").unwrap();
    let p = i32::from_le_bytes(memory.data(&guest.store)[64..68].try_into().unwrap());
    assert_eq!((failed, reports), (0, sample(88, p)));
}

/// Allocations are counted down from the budget that the host gave; the one that spends it is the sample.
#[test]
fn the_host_decides_when_the_next_sample_is_taken() {
    let (mut guest, _) = Guest::new(ALLOCATORS, 1000);
    guest.answers([2]); // 128 bytes.
    assert_eq!(guest.call("malloc", &[64]).1, [Report::First]);
    assert_eq!(guest.call("malloc", &[63]).1, []);
    guest.answers([-1, 10]); // 640 bytes, after the sample.
    let (p, reports) = guest.call("malloc", &[1]);
    assert_eq!(reports, sample(8, p));
    assert_eq!(guest.call("calloc", &[9, 71]).1, []);
    // No answer: the period.
    let (p, reports) = guest.call("malloc", &[5000]);
    assert_eq!(reports, sample(5000, p));
    assert_eq!(guest.call("malloc", &[999]).1, []);
    assert_eq!(guest.call("malloc", &[1]).1.len(), 2);
}

/// Frees of sampled pointers are reported, and only those, until the host says that a pointer is gone.
#[test]
fn frees_of_samples_are_reported() {
    let (mut guest, _) = Guest::new(ALLOCATORS, 1 << 20);
    guest.answers([1, -1, 1 << 10]);
    let (a, reports) = guest.call("malloc", &[64]);
    assert_eq!(reports.len(), 3);
    let (b, reports) = guest.call("malloc", &[64]);
    assert_eq!(reports, []);
    assert_eq!(guest.call("free", &[b]).1, []);
    assert_eq!(guest.call("free", &[a]).1, [Report::Freed(a as u64)]);
    guest.answers([0]);
    assert_eq!(guest.call("free", &[a]).1, [Report::Freed(a as u64)]);
    assert_eq!(guest.call("free", &[a]).1, []);
    assert_eq!(guest.global("freed"), 4, "the guest's own free ran each time");
}

/// The host can tell which pointers share a bit of the filter.
#[test]
fn the_host_knows_the_filter() {
    let (mut guest, _) = Guest::new(ALLOCATORS, 1 << 20);
    guest.answers([1, -1, 1 << 10]);
    let (a, _) = guest.call("malloc", &[64]);
    let bit = filter_bit(a as u64, false);
    let mut reported = 0;
    for pointer in (a as u32 & !15..).step_by(16).take(1 << 17) {
        let hit = guest.call("free", &[pointer as i32]).1.len();
        assert_eq!(hit == 1, filter_bit(u64::from(pointer), false) == bit, "{pointer:#x}");
        reported += hit;
    }
    assert!(reported > 1 && reported < 16, "{reported} of {}", 1 << 17);
}

/// `realloc` allocates the new size and frees the old block, unless it failed.
#[test]
fn realloc_frees_and_allocates() {
    for (export, args) in [("realloc", vec![]), ("cabi_realloc", vec![64, 8])] {
        let (mut guest, _) = Guest::new(ALLOCATORS, 1 << 20);
        guest.answers([1, -1, 2]);
        let (a, _) = guest.call("malloc", &[64]);
        let realloc = |guest: &mut Guest, size| guest.call(export, &[&[a], &args[..], &[size]].concat());
        assert_eq!(realloc(&mut guest, 1 << 20), (0, vec![]), "{export} fails");
        guest.answers([0]);
        let (b, reports) = realloc(&mut guest, 128);
        assert_eq!(reports, [vec![Report::Freed(a as u64)], sample(128, b)].concat(), "{export}");
    }
}

/// An allocation that fails is none, however much it asked for.
#[test]
fn failed_allocations_do_not_count() {
    let (mut guest, _) = Guest::new(ALLOCATORS, 1 << 20);
    guest.answers([1]);
    assert_eq!(guest.call("malloc", &[-1]), (0, vec![]));
    assert_eq!(guest.call("malloc", &[32]).1, [Report::First]);
    assert_eq!(guest.call("calloc", &[1 << 15, 1 << 4]), (0, vec![]));
    assert_eq!(guest.call("posix_memalign", &[64, 8, 1 << 30]), (1, vec![]));
    assert_eq!(guest.call("malloc", &[31]).1, []);
    assert_eq!(guest.call("malloc", &[1]).1.len(), 2);
}

/// When there is no room for the filter, samples are taken all the same.
#[test]
fn a_full_heap_has_samples_but_no_filter() {
    let (mut guest, _) = Guest::new(ALLOCATORS, 1);
    let (p, reports) = guest.call("malloc", &[64 << 10]);
    assert_eq!(reports.len(), 3);
    assert_eq!(guest.call("free", &[p]).1, [Report::Freed(p as u64)]);

    let (mut guest, _) = Guest::new(ALLOCATORS, 1);
    let (p, reports) = guest.call("malloc", &[126 << 10]);
    assert_eq!(reports.len(), 3);
    assert_eq!(guest.call("free", &[p]).1, []);
}

/// An allocator that is none returns numbers that are no addresses: nothing is written there.
#[test]
fn a_function_that_is_only_called_malloc_is_left_unharmed() {
    let (mut guest, _) = Guest::new(
        r#"(module (import "host" "report" (func (param i32) (result i32))) (memory (export "memory") 1)
            (func (export "malloc") (param i32) (result i32) (i32.const -7))
            (func (export "free") (param i32)))"#,
        1,
    );
    assert_eq!(guest.call("malloc", &[10]).0, -7);
    assert_eq!(guest.call("free", &[-7]).1, []);
    let memory = guest.instance.get_memory(&mut guest.store, "memory").unwrap();
    assert!(memory.data(&guest.store).iter().all(|byte| *byte == 0));
}

/// On an engine that knows nothing of reports the guest does what it did: all of them fail as growth does.
#[test]
fn nothing_happens_on_a_plain_engine() {
    let wat = ALLOCATORS.replace(IMPORT, "");
    let rewritten = instrument(&wat::parse_str(wat).unwrap(), 1).unwrap();
    let engine = engine();
    let mut store = Store::new(&engine, ());
    let module = Module::new(&engine, &rewritten.bytes).unwrap();
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let malloc = instance.get_typed_func::<i32, i32>(&mut store, "malloc").unwrap();
    let free = instance.get_typed_func::<i32, ()>(&mut store, "free").unwrap();
    for _ in 0..100 {
        let pointer = malloc.call(&mut store, 100).unwrap();
        assert!(pointer > 0);
        free.call(&mut store, pointer).unwrap();
    }
    assert_eq!(instance.get_memory(&mut store, "memory").unwrap().size(&store), 2);
}

/// Start functions allocate before anything of the host is there.
#[test]
fn start_functions_may_allocate() {
    let (mut guest, _) = Guest::new(
        r#"(module (import "host" "report" (func (param i32) (result i32))) (memory 1)
            (func $malloc (param i32) (result i32) (i32.const 4096))
            (func (export "free") (param i32))
            (func $start (drop (call $malloc (i32.const 100))))
            (start $start))"#,
        64,
    );
    assert_eq!(guest.call("free", &[8]).1, [Report::First, Report::Size(104), Report::Allocated(4096)]);
}

/// Rust's allocator functions, mangled, call C's: one report, of what Rust asked for.
#[test]
fn rust_on_top_of_c() {
    let (mut guest, module) = Guest::new(
        r#"(module (import "host" "report" (func (param i32) (result i32))) (memory 1)
            (func $malloc (param i32) (result i32) (i32.const 4096))
            (func $free (param i32))
            (func $_RNvCsfgHYwM92fyn_7___rustc11___rdl_alloc (param i32 i32) (result i32)
                (call $malloc (i32.add (local.get 0) (i32.const 64))))
            (func $_RNvCsfgHYwM92fyn_7___rustc12___rust_alloc (export "alloc") (param i32 i32) (result i32)
                (call $_RNvCsfgHYwM92fyn_7___rustc11___rdl_alloc (local.get 0) (local.get 1)))
            (func $_RNvCsfgHYwM92fyn_7___rustc14___rust_dealloc (export "dealloc") (param i32 i32 i32)
                (call $free (local.get 0))))"#,
        1,
    );
    assert_eq!(module.allocators.len(), 5);
    assert_eq!(guest.call("alloc", &[40, 8]).1, [vec![Report::First], sample(40, 4096)].concat());
    assert_eq!(guest.call("dealloc", &[4096, 40, 8]).1, [Report::Freed(4096)]);
}

/// In 64-bit memories sizes and addresses are 64 bits wide, on a plain engine at least: nothing is different.
#[test]
fn wide_memories() {
    let wat = r#"(module (memory (export "memory") i64 2)
        (global $at (mut i64) (i64.const 1024))
        (func (export "malloc") (param $n i64) (result i64) (local $p i64)
            (if (i64.gt_u (local.get $n) (i64.const 65536)) (then (return (i64.const 0))))
            (local.set $p (global.get $at))
            (global.set $at (i64.add (local.get $p) (local.get $n)))
            (local.get $p))
        (func (export "free") (param i64)))"#;
    let rewritten = instrument(&wat::parse_str(wat).unwrap(), 1).unwrap();
    assert_eq!(rewritten.modules[0].live, Ok(()));
    let engine = engine();
    let mut store = Store::new(&engine, ());
    let module = Module::new(&engine, &rewritten.bytes).unwrap();
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    let malloc = instance.get_typed_func::<i64, i64>(&mut store, "malloc").unwrap();
    let free = instance.get_typed_func::<i64, ()>(&mut store, "free").unwrap();
    assert_eq!(malloc.call(&mut store, -1).unwrap(), 0);
    assert_eq!(malloc.call(&mut store, 64).unwrap(), 1024);
    // Behind the filter.
    assert_eq!(malloc.call(&mut store, 64).unwrap(), 1024 + 64 + 4096);
    free.call(&mut store, 1024).unwrap();
}

/// A delta is read as what it was written from; growth that a guest could mean is no report.
#[test]
fn deltas() {
    assert_eq!(Report::from_delta(0x8000_0000 | 24 >> 3), Some(Report::Size(24)));
    assert_eq!(Report::from_delta(0xa000_0000 | 0xffff_fff8 >> 3), Some(Report::Allocated(0xffff_fff8)));
    assert_eq!(Report::from_delta(1 << 63 | 2 << 61 | 1 << 40), Some(Report::Freed(1 << 43)));
    assert_eq!(Report::from_delta(0xe000_0000), Some(Report::First));
    for delta in [0, 1, 65_536, 0x7fff_ffff, 1 << 32, 1 << 62] {
        assert_eq!(Report::from_delta(delta), None);
    }
}

/// Where frees cannot be followed the reason is given, and only allocations are reported.
#[test]
fn reasons_why_live_bytes_are_unknown() {
    let live = |wat: &str| {
        let rewritten = instrument(&wat::parse_str(wat).unwrap(), 1).unwrap();
        Module::new(&engine(), &rewritten.bytes).unwrap();
        assert_eq!(
            rewritten.modules[0].reporters.len(),
            if rewritten.modules[0].live.is_ok() { 2 } else { 1 }
        );
        rewritten.modules[0].live
    };
    let malloc = r#"(func (export "malloc") (param i32) (result i32) i32.const 8)"#;
    let free = r#"(func (export "free") (param i32))"#;
    assert_eq!(live(&format!("(module (memory 1) {malloc} {free})")), Ok(()));
    let shared = format!("(module (memory 1 2 shared) {malloc} {free})");
    assert_eq!(live(&shared), Err(NotLive::SharedMemory));
    assert_eq!(live(&format!("(module (memory 1) {malloc})")), Err(NotLive::NoFree));
    let managed = format!(
        r#"(module (memory 1) {free} (func (export "runtime.alloc") (param i32 i32) (result i32) i32.const 8))"#
    );
    assert_eq!(live(&managed), Err(NotLive::Managed));
    let odd = format!(
        r#"(module (memory 1) {free} (func (export "posix_memalign") (param i32 i32 i32) (result i32) i32.const 1))"#
    );
    assert_eq!(live(&odd), Err(NotLive::NoSource));
}

/// Guests that cannot report say why.
#[test]
fn reasons_why_a_guest_is_left_alone() {
    let refused = |wat: &str| instrument(&wat::parse_str(wat).unwrap(), 1).unwrap_err();
    let malloc = r#"(func (export "malloc") (param i32) (result i32) i32.const 8)"#;
    assert!(matches!(refused("(module (memory 1))"), NotInstrumented::NoAllocator));
    assert!(matches!(refused("(component)"), NotInstrumented::NoAllocator));
    let other = r#"(module (memory 1) (func (export "malloc") (param i64) (result i32) i32.const 8))"#;
    assert!(matches!(refused(other), NotInstrumented::NoAllocator));
    let imported = r#"(module (import "env" "malloc" (func $malloc (param i32) (result i32))) (memory 1)
        (export "malloc" (func $malloc)))"#;
    assert!(matches!(refused(imported), NotInstrumented::NoAllocator));
    assert!(matches!(refused(&format!("(module {malloc})")), NotInstrumented::NoMemory));
    let small_pages = format!("(module (memory 1 (pagesize 1)) {malloc})");
    assert!(matches!(refused(&small_pages), NotInstrumented::CustomPageSize { log2: 0 }));
    assert!(matches!(instrument(b"MZ", 1).unwrap_err(), NotInstrumented::Malformed(_)));
}

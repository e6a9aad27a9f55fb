//! Variables of guests that trapped in the real engine, from the core dumps that it writes: the values that the guest
//! `crash` plants, in every frame.

mod dumps;

use dumps::{Trap, command, show};
use sandscope_symbols::{CoreDump, FrameGap, FrameTable, FrameVariables, SymbolFile, Value};
use sandscope_tests::guest;

/// Enough for any of the guests, in bytes.
const MEMORY: usize = 64 << 20;

/// The guest's types as its source has them: what Rust's own `{:?}` writes is what is expected.
#[derive(Debug)]
#[expect(dead_code, reason = "only written")]
struct Account {
    id: u32,
    owner: String,
    balance_cents: i64,
    address: Address,
}

#[derive(Debug)]
#[expect(dead_code, reason = "only written")]
struct Address {
    city: &'static str,
    postcode: [u8; 5],
}

#[derive(Debug)]
#[expect(dead_code, reason = "only written")]
enum Event {
    Deposit { cents: u64, note: String },
    Transfer(u32, u32, Currency),
    Closed,
}

#[derive(Debug)]
enum Currency {
    Eur,
    Usd,
}

fn account(level: u32) -> String {
    let address = Address { city: "Bergen", postcode: *b"N5003" };
    let owner = format!("owner-{level}");
    format!("{:?}", Account { id: 7_000 + level, owner, balance_cents: -i64::from(level), address })
}

fn event(level: u32) -> String {
    let event = match level % 3 {
        0 => Event::Deposit { cents: u64::from(level) * 250, note: format!("note {level}") },
        1 if level.is_multiple_of(2) => Event::Transfer(level, level + 1, Currency::Eur),
        1 => Event::Transfer(level, level + 1, Currency::Usd),
        _ => Event::Closed,
    };
    format!("{event:?}")
}

/// What `settle` holds at a level, from the table in the guest's `structs.rs`.
fn planted(level: u32, depth: u32) -> Vec<(&'static str, String)> {
    let signed = i16::try_from(level).unwrap();
    let parent = (level < depth).then(|| format!("level-{:03}", level + 1));
    vec![
        ("marker", (0xC0FF_EE00_0000_0000 + u64::from(level)).to_string()),
        ("label", format!("{:?}", format!("level-{level:03}"))),
        ("prices", format!("{:?}", [level, level * 10, level * 100])),
        ("account", account(level)),
        ("event", event(level)),
        ("limits", format!("{:?}", [signed, -signed, signed + 1000, -1])),
        ("ratio", format!("{:?}", f64::from(level) / 8.0)),
        ("parent", format!("{parent:?}")),
    ]
}

/// The variables of each wasm frame of a trap, innermost first.
fn variables(trap: &Trap, bytes: &[u8]) -> Vec<Vec<FrameVariables>> {
    let file = SymbolFile::parse(bytes).unwrap();
    let dump = CoreDump::parse(&trap.dump).unwrap();
    assert_eq!(dump.notes(), []);
    let frames: Vec<_> = file.place(&dump, &dump.stacks[0]).into_iter().map(Option::unwrap).collect();
    trap.check(&frames);
    let found = file.variables(&FrameTable::read(bytes), &dump, &frames);
    assert_eq!(found.len(), frames.len());
    found
}

fn value<'a>(frame: &'a FrameVariables, name: &str) -> Option<&'a Value> {
    frame.variables.iter().rev().find(|variable| variable.name == name).map(|variable| &variable.value)
}

fn settles(found: &[Vec<FrameVariables>]) -> Vec<&FrameVariables> {
    found.iter().flatten().filter(|frame| frame.frame.function == "crash::structs::settle").collect()
}

/// Traps below frames of `settle`, and demands in each of them every value that was planted, and no other: `black_box`
/// has the addresses of all of them, so that no compiler keeps them elsewhere.
#[track_caller]
fn settled(name: &str) -> Vec<Vec<FrameVariables>> {
    const DEPTH: u32 = 100;
    let bytes = std::fs::read(guest(name)).unwrap();
    let trap = command(&bytes, &["crash", "structs", &DEPTH.to_string()], MEMORY);
    let found = variables(&trap, &bytes);
    let settles = settles(&found);
    assert_eq!(settles.len(), DEPTH as usize);
    for (frame, level) in settles.iter().zip(1..) {
        let planted = planted(level, DEPTH).into_iter().chain([("level", level.to_string())]);
        let count = planted.map(|(name, expected)| {
            assert_eq!(value(frame, name), Some(&Value::Known(expected)), "{name}: {}", show(frame));
        });
        assert_eq!(count.count(), frame.variables.len(), "{}", show(frame));
        assert_eq!(frame.gap, None);
    }
    found
}

/// The frame of a function that is there once.
fn only<'a>(found: &'a [Vec<FrameVariables>], function: &str) -> &'a FrameVariables {
    let mut of = found.iter().flatten().filter(|frame| frame.frame.function == function);
    let only = of.next().filter(|_| of.next().is_none());
    only.unwrap_or_else(|| panic!("{function} is not there once"))
}

/// Unoptimized: every variable is in memory, so every one has its value, a hundred frames deep.
#[test]
fn unoptimized_frames_show_everything() {
    let found = settled("crash-debug");
    let post = only(&found, "crash::structs::post");
    let expected = [
        ("account", account(1)),
        ("event", event(1)),
        ("prices", "[1, 10, 100]".to_owned()),
        ("total", "111".to_owned()),
        ("reason", "\"account 7001 has no ledger\"".to_owned()),
    ];
    for (name, expected) in expected {
        assert_eq!(value(post, name), Some(&Value::Known(expected)), "{name}: {}", show(post));
    }
    let types = [
        ("marker", "u64"),
        ("label", "String"),
        ("prices", "Vec<u32, alloc::alloc::Global>"),
        ("account", "Account"),
        ("limits", "[i16; 4]"),
        ("parent", "Option<&str>"),
    ];
    for (name, ty) in types {
        let variable = settles(&found)[0].variables.iter().find(|variable| variable.name == name).unwrap();
        assert_eq!(variable.ty, ty, "{name}");
    }
}

/// `-O1`: what is in memory has its value, a hundred frames deep; what is in wasm locals has none, not a wrong one.
#[test]
fn slightly_optimized_frames_show_what_is_in_memory() {
    let found = settled("crash-o1");
    let known = |text: &str| Value::Known(text.to_owned());
    let (post, below, main) = (
        only(&found, "crash::structs::post"),
        only(&found, "crash::structs::trap_below"),
        only(&found, "crash::main"),
    );
    for (frame, name, expected) in [
        (post, "account", Value::NotRecorded),
        (post, "event", Value::NotRecorded),
        (post, "prices", Value::NotRecorded),
        (post, "total", known("111")),
        (post, "reason", known("\"account 7001 has no ledger\"")),
        (below, "depth", Value::NotRecorded),
        (main, "mode", Value::NotRecorded),
        (main, "depth", Value::NotRecorded),
    ] {
        assert_eq!(value(frame, name), Some(&expected), "{name}: {}", show(frame));
    }
    assert_eq!((post.variables.len(), below.variables.len()), (5, 1));
}

/// `-O3`: the same, and what the compiler kept nowhere says so.
#[test]
fn optimized_frames_show_what_is_in_memory() {
    let found = settled("crash");
    let all = found.iter().flatten().flat_map(|frame| &frame.variables);
    assert!(all.filter(|variable| variable.value == Value::OptimizedOut).count() > 0);
}

/// The stack in linear memory ended: the last frame would lie below address 0, its callers are whole.
#[test]
fn an_overflowed_stack_shows_the_callers() {
    let bytes = std::fs::read(guest("crash-debug")).unwrap();
    let trap = command(&bytes, &["crash", "shadow"], MEMORY);
    let found = variables(&trap, &bytes);
    let fills: Vec<&FrameVariables> =
        found.iter().flatten().filter(|frame| frame.frame.function == "crash::fill_shadow_stack").collect();
    assert_eq!(value(fills[0], "depth"), Some(&Value::NotRecorded));
    assert_eq!(fills[0].gap, Some(FrameGap::Outside));
    assert!(fills.len() > 100);
    for (frame, depth) in fills.iter().skip(1).rev().zip(1..) {
        assert_eq!(value(frame, "depth"), Some(&Value::Known(format!("{depth}"))));
        let Some(Value::Known(page)) = value(frame, "page") else { panic!("{}", show(frame)) };
        assert!(page.starts_with(&format!("[{depth}, {depth}")) && page.ends_with(", … 960 more]"), "{page}");
    }
}

/// C++, optimized, out of memory in the middle of its work: locals of `main` that are in memory.
#[test]
fn cpp_frames_show_what_is_in_memory() {
    let bytes = std::fs::read(guest("pricing")).unwrap();
    let trap = command(&bytes, &["pricing", "--generate", "200000"], 3 << 20);
    let found = variables(&trap, &bytes);
    let main = found.iter().flatten().find(|frame| frame.frame.function == "main").unwrap();
    assert_eq!(value(main, "count"), Some(&Value::Known("200000".to_owned())));
    assert_eq!(value(main, "seed"), Some(&Value::Known("1".to_owned())));
    let Some(Value::Known(market)) = value(main, "market") else { panic!("{}", show(main)) };
    assert!(market.starts_with("{.books = {") && market.ends_with(", .rejected = 0}"), "{market}");
    assert_eq!(value(main, "args"), Some(&Value::OptimizedOut));
}

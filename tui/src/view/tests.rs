//! Keys in, cells out: what a user sees after a few keys, on terminals of several sizes, and with hostile
//! input. Data arrives as the messages that sources send.

use std::collections::HashMap;
use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Modifier;
use sandscope_model::{Profile, SampleKind};

use super::{Theme, draw};
use crate::app::key::{Key, Mouse, MouseAction};
use crate::app::{Effect, Message, State, update};
use crate::data::{Delta, FlameQuery, Link, Pipeline, Row, RowKey, Shown};
use crate::fold::fake::{Table, frame, profile};
use crate::fold::{Order, fold};

const COLORS: Theme = Theme { plain: false };

fn key(region: &str, workload: &str, version: &str) -> RowKey {
    RowKey {
        region: region.into(),
        workload: workload.into(),
        version: version.into(),
        service: "edge".into(),
    }
}

fn rows() -> Vec<Row> {
    let mut out = Vec::new();
    let regions = ["ap-south", "eu-central", "us-east"];
    let workloads = ["analytics", "gc", "image", "parallel", "session"];
    for (r, region) in regions.into_iter().enumerate() {
        for (w, workload) in workloads.into_iter().enumerate() {
            let n = (r * workloads.len() + w) as u64;
            let mut row = Row::new(key(region, workload, &format!("1.{w}.0")));
            row.hosts = r as u32 + 1;
            row.calls = Some(12_345 * (n + 1));
            row.calls_per_second = Some(3.5 * n as f64);
            row.p50 = Some(0.001 * (n + 1) as f64);
            row.p95 = Some(0.004 * (n + 1) as f64);
            row.p99 = Some(0.009 * (n + 1) as f64);
            row.memory = (workload != "gc").then_some((n + 1) << 21);
            row.cpu = Some(0.07 * ((n * 7) % 15) as f64);
            row.traps = Some(if w == 3 { n } else { 0 });
            row.samples = Some(99 * n);
            row.cold_starts = Some(n / 3);
            row.age = Some(0.5);
            out.push(row);
        }
    }
    out
}

fn pipeline() -> Pipeline {
    Pipeline { acked: 120, delivered: 4_000, dropped: 0, hosts: 6, modules: 5 }
}

fn live(rows: Vec<Row>) -> State {
    let mut state = State::new("127.0.0.1:4320", Link::Connecting);
    send(&mut state, Delta::Link(Link::Connected));
    send(&mut state, Delta::Rows { snapshot: true, rows, removed: Vec::new(), pipeline: Some(pipeline()) });
    state
}

fn send(state: &mut State, delta: Delta) {
    assert_eq!(update(state, Message::Delta(delta)), Effect::None);
}

fn press(state: &mut State, keys: &str) -> Effect {
    let mut last = Effect::None;
    for c in keys.chars() {
        let key = match c {
            '\n' => Key::Enter,
            '\u{1b}' => Key::Esc,
            '↓' => Key::Down,
            '↑' => Key::Up,
            '→' => Key::Right,
            '←' => Key::Left,
            c => Key::Char(c),
        };
        last = update(state, Message::Key(key));
    }
    last
}

fn screen(state: &mut State, width: u16, height: u16, theme: Theme) -> Terminal<TestBackend> {
    update(state, Message::Resize { width, height });
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, theme)).unwrap();
    terminal
}

fn text(state: &mut State, width: u16, height: u16) -> String {
    let terminal = screen(state, width, height, COLORS);
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

/// Names of a small image service.
fn names() -> Table {
    let own = |function: &str, line, inlined| frame(function, "image/src/main.rs", line, inlined);
    let jpeg =
        |function: &str, line, inlined| frame(function, "/rust/deps/zune-jpeg/src/idct.rs", line, inlined);
    Table(HashMap::from([
        (1, vec![own("_start", 1, false)]),
        (2, vec![own("image::main", 24, false)]),
        (3, vec![own("image::thumbnail::<image::Rgb<u8>>", 51, true), own("image::handle", 40, false)]),
        (4, vec![jpeg("zune_jpeg::idct::scalar::idct_int", 118, false)]),
        (5, vec![jpeg("zune_jpeg::bitstream::BitStream::decode_mcu_block", 77, false)]),
        (6, vec![own("<image::Rgb<u8> as image::Pixel>::blend", 9, true), own("image::resize", 88, false)]),
    ]))
}

fn stacks() -> Profile {
    profile(&[
        (&[4, 3, 2, 1], 420),
        (&[5, 3, 2, 1], 230),
        (&[6, 3, 2, 1], 120),
        (&[3, 2, 1], 30),
        (&[0, 2, 1], 55),
        (&[99, 2, 1], 12),
        (&[2, 1], 3),
    ])
}

fn query(order: Order) -> FlameQuery {
    FlameQuery { key: key("eu-central", "image", "1.2.0"), kind: SampleKind::Cpu, order }
}

fn answer(profile: &Profile, names: &mut Table, order: Order) -> Delta {
    let flame = Arc::new(fold(profile, SampleKind::Cpu, order, names));
    Delta::Flame { query: query(order), flame }
}

/// The state after a user opened `image` in eu-central and its graph came.
fn flame() -> State {
    let mut state = live(rows());
    press(&mut state, "/region:eu-* image\n");
    assert_eq!(press(&mut state, "\n"), Effect::Ask(Some(query(Order::Callees))));
    send(&mut state, answer(&stacks(), &mut names(), Order::Callees));
    state
}

#[test]
fn table_on_usual_terminals() {
    let mut state = live(rows());
    insta::assert_snapshot!("table_80x24", text(&mut state, 80, 24));
    insta::assert_snapshot!("table_120x40", text(&mut state, 120, 40));
}

#[test]
fn flame_on_usual_terminals() {
    let mut state = flame();
    press(&mut state, "↓↓↓↓");
    insta::assert_snapshot!("flame_80x24", text(&mut state, 80, 24));
    press(&mut state, "↓");
    insta::assert_snapshot!("flame_120x40", text(&mut state, 120, 40));
}

#[test]
fn help_names_every_key_on_a_low_terminal() {
    let mut state = live(rows());
    press(&mut state, "?");
    insta::assert_snapshot!("help_table_80x15", text(&mut state, 80, 15));
    press(&mut state, "q");
    let mut state = flame();
    press(&mut state, "?");
    insta::assert_snapshot!("help_flame_80x24", text(&mut state, 80, 24));
}

/// Every empty screen says why it is empty and what to do.
#[test]
fn empty_screens_say_what_to_do() {
    let mut state = State::new("127.0.0.1:4320", Link::Connecting);
    assert!(text(&mut state, 80, 24).contains("connecting to 127.0.0.1:4320"));
    let waiting = Link::Waiting { reason: Shown::new("Connection refused"), retry_s: 3.0 };
    send(&mut state, Delta::Link(waiting));
    let shown = text(&mut state, 80, 24);
    assert!(shown.contains("no collector at 127.0.0.1:4320: Connection refused"), "{shown}");
    assert!(shown.contains("sandscope collect") && shown.contains("next try in 3 s"), "{shown}");
    let mut state = live(Vec::new());
    let shown = text(&mut state, 80, 24);
    assert!(shown.contains("waiting for hosts") && shown.contains("sandscope run --otlp"), "{shown}");
    let mut state = live(rows());
    press(&mut state, "/nothing like it\n");
    let shown = text(&mut state, 80, 24);
    assert!(shown.contains("no workload matches") && shown.contains("15 are hidden: Esc"), "{shown}");
    let mut state = live(rows());
    press(&mut state, "\n");
    assert!(text(&mut state, 80, 24).contains("asking for samples of"));
    let cut = Link::Recording { missing: Some(Shown::new("its end is cut off")), duration_s: Some(12.0) };
    let mut state = State::new("night.mcap", cut);
    let shown = text(&mut state, 100, 24);
    assert!(shown.contains("! incomplete: its end is cut off"), "{shown}");
    assert!(shown.contains("this recording holds no workload"), "{shown}");
}

/// A broken connection must not look like a live one.
#[test]
fn stale_data_is_called_stale() {
    let mut state = live(rows());
    update(&mut state, Message::Tick(10.0));
    let reason = Shown::new("Connection refused");
    send(&mut state, Delta::Link(Link::Waiting { reason, retry_s: 4.0 }));
    update(&mut state, Message::Tick(12.0));
    let shown = text(&mut state, 160, 24);
    assert!(shown.contains("! not connected · ! data is 12 s old · next try in 2 s"), "{shown}");
    assert!(shown.lines().nth(2).unwrap().ends_with("12 s"), "{shown}");
    update(&mut state, Message::Tick(40.0));
    let narrow = text(&mut state, 80, 24);
    assert!(narrow.lines().nth(2).unwrap().contains("!image"), "{narrow}");
}

/// Escape sequences and direction overrides of a guest never reach a cell.
#[test]
fn hostile_names_are_shown_harmless() {
    let evil = "\u{1b}[2J\u{202e}txt.exe\u{7}\n";
    let mut state = live(vec![Row::new(key("eu\u{9b}1m", evil, "\u{200b}1"))]);
    let mut table = Table(HashMap::from([(1, vec![frame(evil, evil, 1, false)])]));
    for open in [false, true] {
        if open {
            press(&mut state, "\n");
            let asked = match &state.flame {
                Some(screen) => screen.query().clone(),
                None => panic!("the row opens"),
            };
            let flame = Arc::new(fold(&profile(&[(&[1], 5)]), SampleKind::Cpu, Order::Callees, &mut table));
            send(&mut state, Delta::Flame { query: asked, flame });
            press(&mut state, "↓");
        }
        let shown = text(&mut state, 120, 24);
        assert!(shown.contains('␛'), "{shown}");
        let harmful = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{200b}' | '\u{202e}');
        assert!(!shown.contains(harmful), "{shown:?}");
    }
}

#[test]
fn sorting_and_filtering() {
    let mut state = live(rows());
    let first = |state: &mut State| text(state, 80, 24).lines().nth(2).unwrap().to_owned();
    assert!(first(&mut state).contains("98 %"), "most CPU first: {}", first(&mut state));
    press(&mut state, "1");
    assert!(first(&mut state).starts_with("ap-south"), "{}", first(&mut state));
    press(&mut state, "r");
    assert!(first(&mut state).starts_with("us-east"), "{}", first(&mut state));
    press(&mut state, ">");
    assert!(first(&mut state).contains("analytics"), "{}", first(&mut state));
    press(&mut state, "/region:us-* workload:im*\n");
    let shown = text(&mut state, 80, 24);
    assert!(shown.contains("1/1") && shown.contains("(1 of 15)"), "{shown}");
    press(&mut state, "\u{1b}");
    assert!(text(&mut state, 80, 24).contains("/15"));
}

/// The row that a user chose stays chosen when others overtake it.
#[test]
fn the_cursor_stays_on_its_row() {
    let mut state = live(rows());
    press(&mut state, "↓↓");
    let opened = |state: &mut State| match press(state, "\n") {
        Effect::Ask(Some(query)) => query.key,
        other => panic!("{other:?}"),
    };
    let before = opened(&mut state);
    press(&mut state, "q");
    let mut changed = rows();
    for row in &mut changed {
        row.cpu = row.cpu.map(|cpu| 1.0 - cpu);
    }
    send(&mut state, Delta::Rows { snapshot: false, rows: changed, removed: Vec::new(), pipeline: None });
    assert_eq!(opened(&mut state), before);
}

#[test]
fn zooming_searching_inverting() {
    let mut state = flame();
    let graph = text(&mut state, 80, 24);
    assert!(graph.contains("⌂[h"), "{graph}");
    press(&mut state, "↓↓↓\n");
    let zoomed = text(&mut state, 80, 24);
    assert!(!zoomed.contains("⌂[h") && zoomed.contains("▶image::handle"), "{zoomed}");
    press(&mut state, "u");
    assert!(text(&mut state, 80, 24).contains("⌂[h"));
    press(&mut state, "/idct\n");
    let found = text(&mut state, 80, 24);
    assert!(found.contains("2 functions, 74.7 % of all"), "{found}");
    press(&mut state, "n");
    assert!(
        text(&mut state, 120, 24)
            .contains("zune_jpeg::idct::scalar::idct_int  /rust/deps/zune-jpeg/src/idct.rs:118")
    );
    assert_eq!(press(&mut state, "i"), Effect::Ask(Some(query(Order::Callers))));
    assert!(text(&mut state, 80, 24).contains("! showing the one before"));
    send(&mut state, answer(&stacks(), &mut names(), Order::Callers));
    let inverted = text(&mut state, 80, 24);
    assert!(inverted.contains("inverted") && !inverted.contains("the one before"), "{inverted}");
    assert_eq!(press(&mut state, "\u{1b}q"), Effect::Ask(None));
    assert_eq!(press(&mut state, "\u{1b}q"), Effect::Quit);
}

/// Names fill in while one looks, and one stays where one was.
#[test]
fn symbols_fill_in() {
    let mut state = live(rows());
    press(&mut state, "/region:eu-* image\n\n");
    send(&mut state, answer(&stacks(), &mut Table::default(), Order::Callees));
    let shown = text(&mut state, 80, 24);
    assert!(shown.contains("symbols: 0 of 1 modules") && shown.contains("?wasm-function[1]"), "{shown}");
    send(&mut state, answer(&stacks(), &mut names(), Order::Callees));
    press(&mut state, "↓↓");
    send(&mut state, answer(&stacks(), &mut names(), Order::Callees));
    let shown = text(&mut state, 80, 24);
    assert!(!shown.contains("symbols:") && shown.contains("▶image::main"), "{shown}");
}

/// Without colour everything is still told apart.
#[test]
fn no_color_means_none() {
    let mut state = flame();
    press(&mut state, "/idct\n↓");
    for screens in 0..2 {
        let terminal = screen(&mut state, 100, 30, Theme { plain: true });
        let cells = terminal.backend().buffer().content();
        let reset = ratatui::style::Color::Reset;
        assert!(cells.iter().all(|cell| cell.fg == reset && cell.bg == reset), "screen {screens}");
        assert!(cells.iter().any(|cell| cell.modifier.contains(Modifier::REVERSED)));
        press(&mut state, "q");
    }
}

/// A click chooses, a second one opens; a click on a heading sorts.
#[test]
fn the_mouse_does_what_it_points_at() {
    let mut state = live(rows());
    let click =
        |state: &mut State, x, y| update(state, Message::Mouse(Mouse { x, y, action: MouseAction::Press }));
    text(&mut state, 80, 24);
    click(&mut state, 1, 1);
    assert!(text(&mut state, 80, 24).lines().nth(1).unwrap().starts_with("region▲"));
    assert_eq!(click(&mut state, 5, 4), Effect::None);
    match click(&mut state, 5, 4) {
        Effect::Ask(Some(query)) => assert_eq!(query.key, key("ap-south", "image", "1.2.0")),
        other => panic!("{other:?}"),
    }
}

/// Random keys, clicks, news and sizes: nothing panics, and no cell holds a control character.
#[test]
fn random_use_never_panics() {
    let mut seed = 0x5eed_u64;
    let mut random = move |below: u64| {
        // splitmix64
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    };
    let keys: Vec<char> = "\n\u{1b}↓↑→←jkhlgGuinNt/?r<>1290qab:*é日".chars().collect();
    let mut state = flame();
    let (mut width, mut height) = (80, 24);
    for step in 0..6_000 {
        match random(20) {
            0 => (width, height) = (random(301) as u16, random(101) as u16),
            1 => {
                let (x, y) = (random(310) as u16, random(110) as u16);
                let action =
                    [MouseAction::Press, MouseAction::WheelUp, MouseAction::WheelDown][random(3) as usize];
                update(&mut state, Message::Mouse(Mouse { x, y, action }));
            }
            2 => {
                let rows = rows().into_iter().filter(|_| random(2) == 0).collect();
                send(
                    &mut state,
                    Delta::Rows { snapshot: random(2) == 0, rows, removed: vec![], pipeline: None },
                );
            }
            3 => {
                if let Some(query) = state.flame.as_ref().map(|screen| screen.query().clone()) {
                    let stacks: Vec<(Vec<u64>, u64)> = (0..random(30))
                        .map(|_| ((0..random(40)).map(|_| random(8)).collect(), random(100)))
                        .collect();
                    let stacks: Vec<(&[u64], u64)> = stacks.iter().map(|(s, n)| (&**s, *n)).collect();
                    let flame = Arc::new(fold(&profile(&stacks), query.kind, query.order, &mut names()));
                    send(&mut state, Delta::Flame { query, flame });
                }
            }
            4 => {
                update(&mut state, Message::Tick(f64::from(step)));
            }
            _ => {
                let c = keys[random(keys.len() as u64) as usize];
                press(&mut state, &c.to_string());
            }
        }
        if step % 3 == 0 && width > 0 && height > 0 {
            let shown = text(&mut state, width, height);
            assert!(!shown.contains(|c: char| c.is_control() && c != '\n'));
        }
    }
}

//! Draws the flame graph: root at the top, one block per call path.

use ratatui::style::Style;
use sandscope_model::{FlameTree, SampleKind, units};
use unicode_width::UnicodeWidthStr as _;

use super::canvas::{Canvas, fit, fit_end};
use super::chrome;
use super::theme::{Theme, mark};
use crate::app::State;
use crate::app::flame::{FOOT, FlameScreen, HEAD};
use crate::app::key::Binding;
use crate::app::layout::Block;
use crate::data::Link;
use crate::fold::{Flame, Kind, Order};

const HINTS: &[Binding] = &[
    ("?", "help"),
    ("Enter", "zoom"),
    ("u", "out"),
    ("/", "search"),
    ("i", "invert"),
    ("t", "type"),
    ("q", "back"),
];

/// Draws the screen.
pub fn draw(canvas: &mut Canvas<'_>, state: &State, screen: &FlameScreen, theme: Theme) {
    subject(canvas, screen, theme);
    let height = canvas.height().saturating_sub(HEAD + FOOT);
    match screen.flame() {
        Some(flame) if flame.samples > 0 => graph(canvas, screen, flame, theme),
        Some(flame) => canvas.message(HEAD, height, &no_samples(flame.kind, &state.link, theme)),
        None => {
            let said = match screen.failure() {
                Some(reason) => vec![
                    (format!("no flame graph: {reason}"), theme.warning()),
                    ("it is asked for again by itself".to_owned(), theme.faint()),
                ],
                None => vec![(format!("asking for samples of {}", screen.subject()), Style::new())],
            };
            canvas.message(HEAD, height, &said);
        }
    }
    let (search, typing) = screen.search_line();
    let mut said = Vec::new();
    if typing || !search.is_empty() {
        said.push((format!("/{search}{}", if typing { "█" } else { "" }), theme.key()));
    }
    if let Some(found) = screen.search() {
        let functions = match found.functions {
            1 => "1 function".to_owned(),
            n => format!("{n} functions"),
        };
        said.push((format!("{functions}, {} of all", units::percent(found.share)), Style::new()));
    }
    let hints = if typing { &[("Enter", "keep"), ("Esc", "clear")][..] } else { HINTS };
    chrome::keys(canvas, &said, hints, theme);
}

fn subject(canvas: &mut Canvas<'_>, screen: &FlameScreen, theme: Theme) {
    let plain = Style::new();
    let query = screen.query();
    let mut said = vec![(format!(" {}", screen.subject()), plain), (query.kind.name().to_owned(), plain)];
    if query.order == Order::Callers {
        said.push(("inverted".to_owned(), theme.key()));
    }
    if let Some(flame) = screen.flame() {
        if (flame.order, flame.kind) != (query.order, query.kind) {
            said.push(("! showing the one before".to_owned(), theme.warning()));
        }
        if let Some(reason) = screen.failure() {
            said.push((format!("! not refreshed: {reason}"), theme.warning()));
        }
        if flame.modules_known < flame.modules {
            let note = format!("symbols: {} of {} modules", flame.modules_known, flame.modules);
            said.push((note, theme.warning()));
        }
        said.push((format!("{} samples", units::count(flame.samples)), plain));
        if flame.truncated > 0 {
            said.push((
                format!("! {} rare stacks are left out", units::count(flame.truncated)),
                theme.warning(),
            ));
        }
    }
    canvas.segments(0, 1, canvas.width(), " · ", &said);
}

fn graph(canvas: &mut Canvas<'_>, screen: &FlameScreen, flame: &Flame, theme: Theme) {
    let (width, height) = (canvas.width(), canvas.height());
    let (blocks, above, below) = screen.blocks(width, height);
    let (_, cursor) = screen.place();
    let mut row_start = 0;
    for (i, block) in blocks.iter().enumerate() {
        if i > 0 && blocks.get(i - 1).is_some_and(|before| before.row != block.row) {
            row_start = i;
        }
        draw_block(canvas, screen, flame, block, (i - row_start) % 2 == 1, theme);
    }
    if height > HEAD + FOOT {
        status(canvas, flame, cursor, (above, below), theme);
    }
}

fn draw_block(
    canvas: &mut Canvas<'_>,
    screen: &FlameScreen,
    flame: &Flame,
    block: &Block,
    odd: bool,
    theme: Theme,
) {
    let y = HEAD + block.row as u16;
    let under_cursor = block.node == screen.place().1;
    let edge = if under_cursor { "▶" } else { "│" };
    let (kind, text, hit) = match function(flame, block.node) {
        None => {
            (Kind::Cut, format!("all, {} {}", weight(flame, flame.tree.node(0).total), noun(flame)), false)
        }
        Some(function) => {
            let key = flame.tree.node(block.node).key;
            let hit = screen.search().is_some_and(|search| search.hits(key));
            (function.kind, format!("{}{}", mark(function.kind), function.short), hit)
        }
    };
    let style = theme.block(kind, odd, hit, under_cursor);
    canvas.fill(block.x, y, block.width, style);
    let x = canvas.put(block.x, y, block.width, edge, style);
    if block.width > 2 {
        canvas.put(x, y, block.width - 1, &text, style);
    }
}

/// Two lines: what is under the cursor and where it is written; how much of all it is.
fn status(canvas: &mut Canvas<'_>, flame: &Flame, cursor: u32, more: (bool, bool), theme: Theme) {
    let (width, y) = (canvas.width(), canvas.height() - FOOT);
    let node = flame.tree.node(cursor);
    let all = flame.tree.node(FlameTree::ROOT).total;
    let part = |n: u64| {
        let share = if all == 0 { 0.0 } else { n as f64 / all as f64 };
        format!("{} ({})", weight(flame, n), units::percent(share))
    };
    let mut said = Vec::new();
    match function(flame, cursor) {
        None => {
            canvas.put(1, y, width.saturating_sub(1), "all stacks of this workload", Style::new());
            said.push((format!(" total {} {}", weight(flame, all), noun(flame)), Style::new()));
        }
        Some(function) => {
            let place = function.place().unwrap_or_else(|| match function.kind {
                Kind::Host => "host code".to_owned(),
                Kind::Cut => String::new(),
                Kind::Guest | Kind::Inlined | Kind::Unknown => "no source line".to_owned(),
            });
            let inlined = if function.kind == Kind::Inlined { " (inlined)" } else { "" };
            let name = format!(" {}{}{inlined}", mark(function.kind), function.name);
            // The place keeps a third of the line at least, and its end rather than its beginning.
            let for_place = (width / 3).max(width.saturating_sub(name.width() as u16 + 2));
            let place = fit_end(&place, for_place);
            let for_name = width.saturating_sub(place.width() as u16 + 2);
            let x = canvas.put(0, y, for_name, &fit(&name, for_name), theme.key());
            canvas.put(x + 2, y, width, &place, Style::new());
            said.push((format!(" self {}", part(node.own)), Style::new()));
            said.push((format!("total {}", part(node.total)), Style::new()));
            if more.1 {
                said.push(("▼ more below".to_owned(), theme.key()));
            }
            let everywhere = format!("function: self {}, total {}", part(function.own), part(function.total));
            said.push((everywhere, theme.faint()));
        }
    }
    if more.0 {
        said.push(("▲ more above".to_owned(), theme.key()));
    }
    if more.1 && function(flame, cursor).is_none() {
        said.push(("▼ more below".to_owned(), theme.key()));
    }
    canvas.segments(0, y + 1, width, " · ", &said);
}

fn function(flame: &Flame, node: u32) -> Option<&crate::fold::Function> {
    if node == FlameTree::ROOT { None } else { flame.functions.get(flame.tree.node(node).key as usize) }
}

fn weight(flame: &Flame, n: u64) -> String {
    match flame.kind {
        SampleKind::Cpu | SampleKind::Wall => units::count(n),
        SampleKind::Alloc => units::bytes(n),
    }
}

fn noun(flame: &Flame) -> &'static str {
    match flame.kind {
        SampleKind::Cpu | SampleKind::Wall => "samples",
        SampleKind::Alloc => "allocated",
    }
}

fn no_samples(kind: SampleKind, link: &Link, theme: Theme) -> Vec<(String, Style)> {
    let why = match (kind, link) {
        (SampleKind::Cpu, _) => "samples come while the guest computes; an idle one has none",
        (SampleKind::Wall, _) => "record them with: sandscope run --clock wall",
        (SampleKind::Alloc, _) => "record them with: sandscope run --alloc",
    };
    vec![
        (format!("no {} samples yet", kind.name()), Style::new()),
        (why.to_owned(), theme.faint()),
        ("t shows another type of samples".to_owned(), theme.faint()),
    ]
}

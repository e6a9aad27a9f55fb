//! Draws the table of workloads.

use ratatui::style::{Modifier, Style};
use unicode_width::UnicodeWidthStr as _;

use super::canvas::{Canvas, fit};
use super::chrome;
use super::theme::Theme;
use crate::app::State;
use crate::app::columns::{Column, Placed};
use crate::app::key::Binding;
use crate::app::table::{FOOT, HEAD};
use crate::data::{Link, Row};

const HINTS: &[Binding] = &[
    ("?", "help"),
    ("Enter", "flame graph"),
    ("/", "filter"),
    ("< >", "sort"),
    ("r", "reverse"),
    ("q", "quit"),
];

/// Age of a row's newest point, in seconds, from which it counts as silent: hosts send every 10 s.
const SILENT_S: f64 = 35.0;

/// Draws the screen.
pub fn draw(canvas: &mut Canvas<'_>, state: &State, theme: Theme) {
    let (shown, held, refused) = state.table.counts();
    let columns = state.table.columns(canvas.width());
    headings(canvas, state, &columns, theme);
    if shown == 0 {
        let lines = empty(state, held, theme);
        let height = canvas.height().saturating_sub(HEAD + FOOT);
        canvas.message(HEAD, height, &lines);
    }
    let height = canvas.height();
    for (line, (cursor, row, idle)) in state.table.visible(state.now, height).enumerate() {
        let y = HEAD + line as u16;
        let base = if cursor { theme.cursor() } else { Style::new() };
        canvas.fill(0, y, canvas.width(), base);
        let silent = row.age.is_some_and(|age| age + idle > SILENT_S);
        for placed in &columns {
            let mut style = base.patch(cell_style(placed.column, row, theme));
            let mut text = placed.column.cell(row, idle);
            if silent {
                style = style.patch(theme.faint());
                if placed.column == Column::Workload {
                    text.insert(0, '!');
                }
            }
            cell(canvas, y, placed, &text, style);
        }
    }
    let mut said = Vec::new();
    let (filter, typing) = state.table.filter_line();
    if typing {
        said.push((format!("/{filter}█"), theme.key()));
        said.push((format!("{shown} of {held}"), Style::new()));
        chrome::keys(canvas, &said, &[("Enter", "keep"), ("Esc", "clear")], theme);
        return;
    }
    if held > 0 {
        said.push((format!("{}/{shown}", state.table.position()), Style::new()));
    }
    if !filter.is_empty() {
        said.push((format!("filter: {filter} ({shown} of {held})"), theme.key()));
    }
    if refused > 0 {
        said.push((format!("! {refused} more rows are not held"), theme.warning()));
    }
    chrome::keys(canvas, &said, HINTS, theme);
}

fn headings(canvas: &mut Canvas<'_>, state: &State, columns: &[Placed], theme: Theme) {
    let (sort, descending) = state.table.sorted_by();
    canvas.fill(0, HEAD - 1, canvas.width(), theme.heading());
    for placed in columns {
        let arrow = match (placed.column == sort, descending) {
            (true, true) => "▼",
            (true, false) => "▲",
            (false, _) => "",
        };
        cell(canvas, HEAD - 1, placed, &format!("{}{arrow}", placed.column.title()), theme.heading());
    }
}

fn cell(canvas: &mut Canvas<'_>, y: u16, placed: &Placed, text: &str, style: Style) {
    let text = fit(text, placed.width);
    let indent = if placed.column.is_text() { 0 } else { placed.width.saturating_sub(text.width() as u16) };
    canvas.put(placed.x + indent, y, placed.width - indent.min(placed.width), &text, style);
}

fn cell_style(column: Column, row: &Row, theme: Theme) -> Style {
    match column {
        Column::Traps if row.traps.is_some_and(|n| n > 0) => theme.warning(),
        Column::Workload => Style::new().add_modifier(Modifier::BOLD),
        _ => Style::new(),
    }
}

/// What to say where no row is, and what to do next.
fn empty(state: &State, held: usize, theme: Theme) -> Vec<(String, Style)> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    if held > 0 {
        let (filter, _) = state.table.filter_line();
        return vec![
            (format!("no workload matches “{filter}”"), bold),
            (format!("{held} are hidden: Esc clears the filter"), theme.faint()),
        ];
    }
    let (what, next): (String, &[&str]) = match &state.link {
        Link::Connecting => (format!("connecting to {}", state.title), &[]),
        Link::Connected => (
            "waiting for hosts".to_owned(),
            &["start one: sandscope run --otlp http://127.0.0.1:4317 MODULE", "or try: sandscope demo"],
        ),
        Link::Waiting { reason, .. } => (
            format!("no collector at {}: {reason}", state.title),
            &["start one: sandscope collect", "or name another: sandscope top --connect URL"],
        ),
        Link::Recording { .. } => (
            "this recording holds no workload".to_owned(),
            &[
                "its guest may have ended before the first second",
                "record again: sandscope run --record FILE MODULE",
            ],
        ),
    };
    let next = next.iter().map(|line| ((*line).to_owned(), theme.faint()));
    std::iter::once((what, bold)).chain(next).collect()
}

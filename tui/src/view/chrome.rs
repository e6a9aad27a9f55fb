//! What every screen has: the title line, the line of keys, and help. It never says that data is fresh when
//! it is not.

use ratatui::style::Style;
use sandscope_model::units;

use super::canvas::Canvas;
use super::theme::Theme;
use crate::app::State;
use crate::app::columns::seconds;
use crate::app::key::{self, Binding};
use crate::data::Link;

/// The title line: where the data is from, how fresh it is, what was dropped.
pub fn title(canvas: &mut Canvas<'_>, state: &State, theme: Theme) {
    canvas.fill(0, 0, canvas.width(), theme.title());
    let style = theme.title();
    let mut segments = vec![(format!(" sandscope  {}", source(state)), style)];
    segments.extend(link(state).into_iter().map(|text| (text, style)));
    if let Some(pipeline) = &state.pipeline {
        let dropped = match pipeline.dropped {
            0 => "nothing dropped".to_owned(),
            n => format!("! {} dropped", units::count(n)),
        };
        segments.push((dropped, style));
        segments.push((format!("{} hosts", pipeline.hosts), style));
        segments.push((format!("{} modules", pipeline.modules), style));
    }
    canvas.segments(0, 0, canvas.width(), " · ", &segments);
    // Separators were drawn without a style of their own.
    canvas.fill(0, 0, canvas.width(), theme.title());
}

fn source(state: &State) -> String {
    match state.link {
        Link::Connecting | Link::Connected | Link::Waiting { .. } => format!("live {}", state.title),
        Link::Recording { .. } => format!("replay {}", state.title),
    }
}

fn link(state: &State) -> Vec<String> {
    let since = |at: f64| seconds((state.now - at).max(0.0));
    let updated = state.rows_at.map(|at| match since(at).as_str() {
        "now" => "updated now".to_owned(),
        ago => format!("updated {ago} ago"),
    });
    match &state.link {
        Link::Connecting => vec!["connecting".to_owned()],
        Link::Connected => vec!["connected".to_owned(), updated.unwrap_or_else(|| "no data yet".to_owned())],
        Link::Waiting { retry_s, .. } => {
            let left = (retry_s - (state.now - state.link_since)).max(0.0).ceil();
            let old = state.rows_at.map(|at| format!("! data is {} old", since(at).replace("now", "0 s")));
            [Some("! not connected".to_owned()), old, Some(format!("next try in {left:.0} s"))]
                .into_iter()
                .flatten()
                .collect()
        }
        Link::Recording { missing, duration_s } => vec![
            duration_s.map(units::duration).unwrap_or_default(),
            missing.as_ref().map_or_else(|| "complete".to_owned(), |what| format!("! incomplete: {what}")),
        ],
    }
}

/// The last line: a text of the screen, then keys, as many as fit.
pub fn keys(canvas: &mut Canvas<'_>, said: &[(String, Style)], hints: &[Binding], theme: Theme) {
    let y = canvas.height().saturating_sub(1);
    let width = canvas.width();
    let mut x = canvas.segments(0, y, width, "  ", said);
    for (keys, what) in hints {
        let cells = (keys.chars().count() + 1 + what.chars().count()) as u16;
        let gap = if x == 0 { 0 } else { 3 };
        if x + gap + cells > width {
            break;
        }
        x = canvas.put(x + gap, y, width, keys, theme.key());
        x = canvas.put(x + 1, y, width, what, theme.faint());
    }
}

/// All keys, over everything else, from the second line on.
pub fn help(canvas: &mut Canvas<'_>, state: &State, theme: Theme) {
    let (screen, bindings) = match state.flame {
        Some(_) => ("Flame graph", key::FLAME),
        None => ("Table", key::TABLE),
    };
    let mut lines: Vec<(&str, &str)> = vec![(screen, "")];
    lines.extend(bindings);
    lines.push(("Everywhere", ""));
    lines.extend(key::EVERYWHERE);
    if state.flame.is_some() {
        lines.push(("Marks", ""));
        lines.extend(key::MARKS);
    }
    // Two columns where one would not fit, so that no key is hidden on a low terminal.
    let height = usize::from(canvas.height().saturating_sub(2)).max(1);
    let columns = lines.len().div_ceil(height).max(1) as u16;
    let width = canvas.width() / columns;
    for y in 1..canvas.height() {
        let blank = " ".repeat(usize::from(canvas.width()));
        canvas.fill(0, y, canvas.width(), Style::reset());
        canvas.put(0, y, canvas.width(), &blank, Style::reset());
    }
    for (i, (keys, what)) in lines.iter().enumerate() {
        let (x, y) = ((i / height) as u16 * width, (i % height) as u16 + 1);
        if what.is_empty() {
            canvas.put(x + 1, y, width.saturating_sub(1), keys, theme.heading());
        } else {
            canvas.put(x + 2, y, width.saturating_sub(2), keys, theme.key());
            canvas.put(x + 18, y, width.saturating_sub(18), what, Style::new());
        }
    }
    let foot = canvas.height().saturating_sub(1);
    canvas.put(1, foot, canvas.width(), "any key closes this help", theme.faint());
}

//! Draws the state, and only that: no I/O, and nothing changes by being drawn. One file per screen.

mod canvas;
mod chrome;
mod flame;
mod table;
#[cfg(test)]
mod tests;
mod theme;

use ratatui::Frame;

pub use theme::Theme;

use crate::app::State;
use canvas::Canvas;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, state: &State, theme: Theme) {
    let area = frame.area();
    let canvas = &mut Canvas { buffer: frame.buffer_mut(), area };
    if area.width < 20 || area.height < 6 {
        canvas.put(0, 0, area.width, "too small", theme.warning());
        return;
    }
    match &state.flame {
        Some(screen) => flame::draw(canvas, state, screen, theme),
        None => table::draw(canvas, state, theme),
    }
    chrome::title(canvas, state, theme);
    if state.help {
        chrome::help(canvas, state, theme);
    }
}

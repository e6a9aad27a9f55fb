//! Text onto the screen, clipped: nothing here writes outside the area, however small the terminal is.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Cells of a cut warning that still say something.
const READABLE: u16 = 16;

/// A buffer and the part of it that may be drawn on; coordinates count from its top left.
pub struct Canvas<'a> {
    /// The screen.
    pub buffer: &'a mut Buffer,
    /// The part to draw on.
    pub area: Rect,
}

impl Canvas<'_> {
    /// Columns.
    pub fn width(&self) -> u16 {
        self.area.width
    }

    /// Rows.
    pub fn height(&self) -> u16 {
        self.area.height
    }

    /// Puts a text, at most `max` cells of it, and returns the column after it.
    pub fn put(&mut self, x: u16, y: u16, max: u16, text: &str, style: Style) -> u16 {
        if x >= self.area.width || y >= self.area.height {
            return x;
        }
        let max = max.min(self.area.width - x);
        let (left, top) = (self.area.x + x, self.area.y + y);
        let (end, _) = self.buffer.set_stringn(left, top, fit(text, max), usize::from(max), style);
        end - self.area.x
    }

    /// Fills a line from a column on.
    pub fn fill(&mut self, x: u16, y: u16, width: u16, style: Style) {
        let wanted =
            Rect { x: self.area.x.saturating_add(x), y: self.area.y.saturating_add(y), width, height: 1 };
        self.buffer.set_style(wanted.intersection(self.area), style);
    }

    /// Puts texts in a row, those that fit whole: a cut number would be another number. The first one, and
    /// warnings (which begin with `!`), are cut rather than left out.
    pub fn segments(&mut self, x: u16, y: u16, max: u16, between: &str, segments: &[(String, Style)]) -> u16 {
        let end = x.saturating_add(max).min(self.area.width);
        let mut at = x;
        for (i, (text, style)) in segments.iter().filter(|(text, _)| !text.is_empty()).enumerate() {
            let gap = if i == 0 { 0 } else { between.width() as u16 };
            let left = end.saturating_sub(at).saturating_sub(gap);
            let may_cut = i == 0 || (text.starts_with('!') && left >= READABLE);
            if left == 0 || (!may_cut && text.width() > usize::from(left)) {
                continue;
            }
            if i > 0 {
                let plain = Style { underline_color: None, ..Style::new() };
                at = self.put(at, y, gap, between, plain);
            }
            at = self.put(at, y, left, text, *style);
        }
        at
    }

    /// Puts paragraphs in the middle of an area that begins at a line, the first one bold.
    pub fn message(&mut self, y: u16, height: u16, lines: &[(String, Style)]) {
        let width = usize::from(self.width().saturating_sub(4)).max(1);
        let wrapped: Vec<(String, Style)> = lines
            .iter()
            .flat_map(|(text, style)| wrap(text, width).into_iter().map(|l| (l, *style)))
            .collect();
        let top = y + height.saturating_sub(wrapped.len() as u16) / 2;
        for (line, (text, style)) in (top..y.saturating_add(height)).zip(&wrapped) {
            let x = self.width().saturating_sub(text.width() as u16) / 2;
            self.put(x, line, self.width(), text, *style);
        }
    }
}

/// The text in at most `width` cells; `…` stands for what had to go at its end.
pub fn fit(text: &str, width: u16) -> String {
    let width = usize::from(width);
    if text.width() <= width {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let cells = c.width().unwrap_or(0);
        if used + cells + 1 > width {
            break;
        }
        used += cells;
        out.push(c);
    }
    if width > 0 {
        out.push('…');
    }
    out
}

/// The text in at most `width` cells; `…` stands for what had to go at its beginning. For paths, whose end
/// says more.
pub fn fit_end(text: &str, width: u16) -> String {
    let width = usize::from(width);
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = Vec::new();
    let mut used = 0;
    for c in text.chars().rev() {
        let cells = c.width().unwrap_or(0);
        if used + cells + 1 > width {
            break;
        }
        used += cells;
        kept.push(c);
    }
    if width > 0 {
        kept.push('…');
    }
    kept.into_iter().rev().collect()
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let fits =
            lines.last().is_none_or(|line| line.is_empty() || line.width() + 1 + word.width() <= width);
        if !fits {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_by_cells() {
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(fit("abc", 0), "");
        assert_eq!(fit_end("src/codec/jpeg.rs:12", 12), "…/jpeg.rs:12");
        for width in 0..30 {
            for text in ["日本語 abc 日本語", "e\u{301}e\u{301}e\u{301}", "plain text"] {
                assert!(fit(text, width).width() <= usize::from(width));
                assert!(fit_end(text, width).width() <= usize::from(width));
            }
        }
    }
}

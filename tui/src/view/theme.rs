//! Styles. Sixteen colours that people with any colour vision tell apart (yellow, cyan, blue, magenta,
//! grey), so a terminal's own scheme stays in force; every meaning also has a mark or an attribute.

use ratatui::style::{Color, Modifier, Style};

use crate::fold::Kind;

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// Attributes only, as `NO_COLOR` asks.
    pub plain: bool,
}

impl Theme {
    fn color(self, style: Style, otherwise: Style) -> Style {
        if self.plain { otherwise } else { style }
    }

    /// The line at the top.
    pub fn title(self) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        self.color(bold.fg(Color::White).bg(Color::Blue), bold.add_modifier(Modifier::REVERSED))
    }

    /// Column headings.
    pub fn heading(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
    }

    /// The row under the cursor.
    pub fn cursor(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// What matters less.
    pub fn faint(self) -> Style {
        self.color(Style::new().fg(Color::DarkGray), Style::new().add_modifier(Modifier::DIM))
    }

    /// What needs a look. The text says so too.
    pub fn warning(self) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        self.color(bold.fg(Color::Magenta), bold)
    }

    /// A key in hints and help.
    pub fn key(self) -> Style {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        self.color(bold.fg(Color::Cyan), bold)
    }

    /// A block of the flame graph; `odd` ones differ from their neighbours.
    pub fn block(self, kind: Kind, odd: bool, hit: bool, cursor: bool) -> Style {
        let on = |background, text| Style::new().bg(background).fg(text);
        let colored = match (hit, kind, odd) {
            (true, ..) => {
                on(Color::Magenta, Color::White).add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
            }
            (_, Kind::Guest, false) => on(Color::Yellow, Color::Black),
            (_, Kind::Guest, true) => on(Color::LightYellow, Color::Black),
            (_, Kind::Inlined, false) => on(Color::Cyan, Color::Black),
            (_, Kind::Inlined, true) => on(Color::LightCyan, Color::Black),
            (_, Kind::Host, _) => on(Color::Blue, Color::White),
            (_, Kind::Unknown | Kind::Cut, _) => on(Color::Gray, Color::Black),
        };
        let attributes = if hit {
            Style::new().add_modifier(Modifier::REVERSED | Modifier::UNDERLINED | Modifier::BOLD)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        };
        match (self.plain, cursor) {
            (_, false) => self.color(colored, attributes),
            (true, true) => Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED),
            (false, true) => {
                on(Color::Black, Color::White).add_modifier(Modifier::BOLD | Modifier::UNDERLINED)
            }
        }
    }
}

/// The mark before a frame's name.
pub fn mark(kind: Kind) -> &'static str {
    match kind {
        Kind::Guest => "",
        Kind::Inlined => "↳",
        Kind::Host => "⌂",
        Kind::Unknown => "?",
        Kind::Cut => "…",
    }
}

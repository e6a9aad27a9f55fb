//! Keys and mouse events as this program knows them, and the list of what they do: help, hints and tests
//! take it from here. What a terminal library calls them is the loop's business.

/// A key press.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character, shifted if it was.
    Char(char),
    /// A character with Ctrl.
    Ctrl(char),
    /// Return.
    Enter,
    /// Escape.
    Esc,
    /// Backspace.
    Backspace,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Arrow left.
    Left,
    /// Arrow right.
    Right,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Home.
    Home,
    /// End.
    End,
}

/// A mouse event at a cell, from 0 at the top left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mouse {
    /// Column.
    pub x: u16,
    /// Row.
    pub y: u16,
    /// What it did.
    pub action: MouseAction,
}

/// What a mouse did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MouseAction {
    /// The left button went down.
    Press,
    /// The wheel turned towards the user's back.
    WheelUp,
    /// The wheel turned the other way.
    WheelDown,
}

/// Keys and what they do, as help shows them.
pub type Binding = (&'static str, &'static str);

/// Keys of every screen.
pub const EVERYWHERE: &[Binding] =
    &[("?", "this help"), ("q  Esc", "back; in the table: quit"), ("Ctrl-C", "quit")];

/// Keys of the table.
pub const TABLE: &[Binding] = &[
    ("↑ ↓  k j", "row"),
    ("PgUp PgDn  g G", "page, first, last"),
    ("Enter", "flame graph of the row"),
    ("< >", "sort by the column to the left, right"),
    ("1 … 9  0", "sort by the first … ninth, tenth column shown"),
    ("r", "reverse the order"),
    ("/", "filter: image  region:eu-*  version:2  -workload:gc"),
    ("mouse", "row, column to sort by, wheel"),
    ("!workload", "its hosts have been silent for 35 s"),
];

/// Keys of the flame graph.
pub const FLAME: &[Binding] = &[
    ("↑ ↓  k j", "caller, heaviest callee"),
    ("← →  h l", "neighbour in the same row"),
    ("Enter", "zoom into the frame"),
    ("u  Backspace", "zoom out"),
    ("g", "zoom out all the way"),
    ("/", "search names and files"),
    ("n N", "next, previous match"),
    ("i", "invert: from leaves to callers"),
    ("t", "type of samples: cpu, wall, alloc"),
    ("mouse", "frame, again to zoom in, wheel"),
];

/// Marks of the flame graph.
pub const MARKS: &[Binding] =
    &[("↳", "inlined into its caller"), ("⌂", "host code"), ("?", "no name for this code"), ("▶", "cursor")];

/// A line of text that is being typed. Bounded; control characters do not get in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    text: String,
}

/// What a key did to an [`Input`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typed {
    /// The text may have changed.
    Edited,
    /// Done, keep it.
    Accepted,
    /// Done, forget it.
    Cancelled,
    /// Not for the input.
    Ignored,
}

impl Input {
    const MAX_CHARS: usize = 200;

    /// An input that starts with a text.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned() }
    }

    /// What was typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes a key.
    pub fn key(&mut self, key: Key) -> Typed {
        match key {
            Key::Char(c) if !c.is_control() && self.text.chars().count() < Self::MAX_CHARS => {
                self.text.push(c);
            }
            Key::Char(_) => {}
            Key::Backspace => {
                self.text.pop();
            }
            Key::Ctrl('u') => self.text.clear(),
            Key::Ctrl('w') => {
                let kept = self.text.trim_end().rfind(' ').map_or(0, |at| at + 1);
                self.text.truncate(kept);
            }
            Key::Enter => return Typed::Accepted,
            Key::Esc => return Typed::Cancelled,
            _ => return Typed::Ignored,
        }
        Typed::Edited
    }
}

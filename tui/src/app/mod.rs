//! The program's state and what every message does to it: pure, with neither terminal nor I/O. What must
//! happen outside comes back as an [`Effect`]; the loop in `run` does it.

pub mod columns;
pub mod filter;
pub mod flame;
pub mod key;
pub mod layout;
pub mod table;

use sandscope_model::SampleKind;

use crate::data::{Delta, FlameQuery, Link, Pipeline, RowKey, Shown};
use crate::fold::Order;
use flame::FlameScreen;
use key::{Key, Mouse};
use table::Table;

/// Everything that can happen.
#[derive(Debug)]
pub enum Message {
    /// A key.
    Key(Key),
    /// The mouse.
    Mouse(Mouse),
    /// The terminal has this size in cells.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
    /// Seconds since the program started.
    Tick(f64),
    /// The source has news.
    Delta(Delta),
}

/// What the loop has to do after a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing but drawing.
    None,
    /// Ask the source for this flame graph from now on; none if no screen shows one.
    Ask(Option<FlameQuery>),
    /// End.
    Quit,
}

/// The state of the whole program.
#[derive(Debug)]
pub struct State {
    /// Where the data is from, for the title.
    pub title: Shown,
    /// Columns and rows of the terminal.
    pub size: (u16, u16),
    /// Seconds since the program started.
    pub now: f64,
    /// The source.
    pub link: Link,
    /// When `link` came, in seconds since the program started.
    pub link_since: f64,
    /// When rows came last.
    pub rows_at: Option<f64>,
    /// The collector's account.
    pub pipeline: Option<Pipeline>,
    /// Whether help is shown.
    pub help: bool,
    /// The table.
    pub table: Table,
    /// The flame graph over it.
    pub flame: Option<FlameScreen>,
}

impl State {
    /// A program that has just started.
    pub fn new(title: &str, link: Link) -> Self {
        Self {
            title: Shown::new(title),
            size: (80, 24),
            now: 0.0,
            link,
            link_since: 0.0,
            rows_at: None,
            pipeline: None,
            help: false,
            table: Table::default(),
            flame: None,
        }
    }
}

/// Takes a message.
pub fn update(state: &mut State, message: Message) -> Effect {
    match message {
        Message::Key(Key::Ctrl('c')) => Effect::Quit,
        Message::Key(key) => on_key(state, key),
        Message::Mouse(mouse) => on_mouse(state, mouse),
        Message::Resize { width, height } => {
            state.size = (width, height);
            state.table.settle(height);
            if let Some(flame) = &mut state.flame {
                flame.settle(width, height);
            }
            Effect::None
        }
        Message::Tick(now) => {
            state.now = now.max(state.now);
            Effect::None
        }
        Message::Delta(delta) => {
            on_delta(state, delta);
            Effect::None
        }
    }
}

fn on_key(state: &mut State, key: Key) -> Effect {
    let (width, height) = state.size;
    if state.help {
        state.help = false;
        return Effect::None;
    }
    let typing = match &state.flame {
        Some(flame) => flame.search_line().1,
        None => state.table.filter_line().1,
    };
    if key == Key::Char('?') && !typing {
        state.help = true;
        return Effect::None;
    }
    match &mut state.flame {
        Some(flame) => match flame.key(key, width, height) {
            flame::Wish::None => Effect::None,
            flame::Wish::Ask => Effect::Ask(Some(flame.query().clone())),
            flame::Wish::Back => {
                state.flame = None;
                Effect::Ask(None)
            }
        },
        None => {
            let wish = state.table.key(key, width, height);
            on_table_wish(state, wish)
        }
    }
}

fn on_mouse(state: &mut State, mouse: Mouse) -> Effect {
    let (width, height) = state.size;
    if state.help {
        state.help = mouse.action != key::MouseAction::Press;
        return Effect::None;
    }
    match &mut state.flame {
        Some(flame) => {
            flame.mouse(mouse, width, height);
            Effect::None
        }
        None => {
            let wish = state.table.mouse(mouse, width, height);
            on_table_wish(state, wish)
        }
    }
}

fn on_table_wish(state: &mut State, wish: table::Wish) -> Effect {
    match wish {
        table::Wish::None => Effect::None,
        table::Wish::Back => Effect::Quit,
        table::Wish::Open(key) => open_flame(state, key),
    }
}

fn open_flame(state: &mut State, key: RowKey) -> Effect {
    let mut subject = format!("{} {}", key.workload, key.version);
    if !key.region.is_empty() {
        subject = format!("{subject} in {}", key.region);
    }
    let query = FlameQuery { key, kind: SampleKind::Cpu, order: Order::default() };
    state.flame = Some(FlameScreen::new(query.clone(), Shown::new(&subject)));
    Effect::Ask(Some(query))
}

fn on_delta(state: &mut State, delta: Delta) {
    let (width, height) = state.size;
    match delta {
        Delta::Rows { snapshot, rows, removed, pipeline } => {
            state.table.apply(snapshot, rows, &removed, state.now, height);
            state.rows_at = Some(state.now);
            state.pipeline = pipeline.or(state.pipeline);
        }
        Delta::Link(link) => {
            state.link = link;
            state.link_since = state.now;
        }
        Delta::Flame { query, flame } => {
            if let Some(screen) = &mut state.flame {
                screen.show(&query, flame, width, height);
            }
        }
        Delta::FlameFailed { query, reason } => {
            if let Some(screen) = &mut state.flame {
                screen.fail(&query, reason);
            }
        }
    }
}

//! The table screen's state: rows, their order, the filter, the cursor. Opening a row is the app's business.

use std::collections::BTreeMap;

use unicode_width::UnicodeWidthStr as _;

use super::columns::{Column, Placed, TextWidths, place};
use super::filter::Filter;
use super::key::{Input, Key, Mouse, MouseAction, Typed};
use crate::data::{Row, RowKey};

/// Most rows that are held; what is beyond is counted and the screen says so.
const MAX_ROWS: usize = 20_000;

/// Lines above the first row: title, headings.
pub const HEAD: u16 = 2;

/// Lines below the last row: keys.
pub const FOOT: u16 = 1;

/// What a key on the table asks of the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    None,
    /// A row's flame graph.
    Open(RowKey),
    /// Leave.
    Back,
}

/// The table screen.
#[derive(Debug)]
pub struct Table {
    rows: BTreeMap<RowKey, Held>,
    /// Rows that the filter keeps, in the order shown.
    order: Vec<RowKey>,
    sort: Column,
    descending: bool,
    at: usize,
    /// Whether the user chose the row under the cursor: from then on the cursor follows it.
    chosen: bool,
    top: usize,
    filter: Filter,
    filter_text: String,
    input: Option<Input>,
    texts: TextWidths,
    refused: u64,
}

#[derive(Debug)]
struct Held {
    row: Row,
    as_of: f64,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            order: Vec::new(),
            sort: Column::Cpu,
            descending: true,
            at: 0,
            chosen: false,
            top: 0,
            filter: Filter::default(),
            filter_text: String::new(),
            input: None,
            texts: TextWidths::default(),
            refused: 0,
        }
    }
}

impl Table {
    /// Takes changed rows at a time (seconds).
    pub fn apply(&mut self, snapshot: bool, rows: Vec<Row>, removed: &[RowKey], now: f64, height: u16) {
        if snapshot {
            self.rows.clear();
            self.refused = 0;
        }
        for key in removed {
            self.rows.remove(key);
        }
        for row in rows {
            if self.rows.len() < MAX_ROWS || self.rows.contains_key(&row.key) {
                self.rows.insert(row.key.clone(), Held { row, as_of: now });
            } else {
                self.refused += 1;
            }
        }
        let widest = |text: fn(&Row) -> &str| {
            self.rows.values().map(|held| text(&held.row).width()).max().unwrap_or(0).min(99) as u16
        };
        self.texts = TextWidths {
            region: widest(|row| row.region.as_str()),
            workload: widest(|row| row.workload.as_str()),
            version: widest(|row| row.version.as_str()),
        };
        self.arrange(height);
    }

    /// Filters and sorts again; the cursor stays on its row if that is still there.
    fn arrange(&mut self, height: u16) {
        let under = self.chosen.then(|| self.order.get(self.at).cloned()).flatten();
        let mut order: Vec<&Held> = self.rows.values().filter(|held| self.filter.keeps(&held.row)).collect();
        // Stable over the map's order, so equal rows never change places.
        order.sort_by(|a, b| self.sort.compare(&a.row, &b.row, self.descending));
        self.order = order.into_iter().map(|held| held.row.key.clone()).collect();
        if let Some(at) = under.and_then(|key| self.order.iter().position(|k| *k == key)) {
            self.at = at;
        }
        self.settle(height);
    }

    /// Keeps the cursor on a row and the row on the screen.
    pub fn settle(&mut self, height: u16) {
        let lines = lines(height);
        self.at = self.at.min(self.order.len().saturating_sub(1));
        let last_top = self.order.len().saturating_sub(lines);
        self.top = self.top.min(self.at).min(last_top).max((self.at + 1).saturating_sub(lines));
    }

    /// Takes a key.
    pub fn key(&mut self, key: Key, width: u16, height: u16) -> Wish {
        if self.input.is_some() {
            self.type_filter(key, height);
            return Wish::None;
        }
        let page = lines(height).max(1);
        match key {
            Key::Up | Key::Char('k') => self.move_to(self.at.saturating_sub(1), height),
            Key::Down | Key::Char('j') => self.move_to(self.at + 1, height),
            Key::PageUp | Key::Ctrl('b') => self.move_to(self.at.saturating_sub(page), height),
            Key::PageDown | Key::Ctrl('f') => self.move_to(self.at + page, height),
            Key::Home | Key::Char('g') => self.move_to(0, height),
            Key::End | Key::Char('G') => self.move_to(usize::MAX, height),
            Key::Char('<' | ',') => self.sort_beside(-1, width, height),
            Key::Char('>' | '.') => self.sort_beside(1, width, height),
            Key::Char(digit @ '0'..='9') => {
                let nth = (digit as usize - '0' as usize + 9) % 10;
                if let Some(placed) = self.columns(width).get(nth) {
                    self.sort_by(placed.column, height);
                }
            }
            Key::Char('r') => {
                self.descending = !self.descending;
                self.arrange(height);
            }
            Key::Char('/') => self.input = Some(Input::new(&self.filter_text)),
            Key::Enter => return self.order.get(self.at).cloned().map_or(Wish::None, Wish::Open),
            Key::Esc if !self.filter_text.is_empty() => self.filter_by("", height),
            Key::Esc | Key::Char('q') => return Wish::Back,
            _ => {}
        }
        Wish::None
    }

    /// Takes a mouse event.
    pub fn mouse(&mut self, mouse: Mouse, width: u16, height: u16) -> Wish {
        match mouse.action {
            MouseAction::WheelUp => self.move_to(self.at.saturating_sub(1), height),
            MouseAction::WheelDown => self.move_to(self.at + 1, height),
            MouseAction::Press if mouse.y == HEAD - 1 => {
                let hit = self.columns(width).into_iter().find(|p| (p.x..p.x + p.width).contains(&mouse.x));
                if let Some(placed) = hit {
                    self.sort_by(placed.column, height);
                }
            }
            MouseAction::Press if mouse.y >= HEAD && usize::from(mouse.y - HEAD) < lines(height) => {
                let at = self.top + usize::from(mouse.y - HEAD);
                if at == self.at && self.chosen {
                    return self.order.get(at).cloned().map_or(Wish::None, Wish::Open);
                }
                if at < self.order.len() {
                    self.move_to(at, height);
                }
            }
            MouseAction::Press => {}
        }
        Wish::None
    }

    fn move_to(&mut self, at: usize, height: u16) {
        self.at = at;
        self.chosen = true;
        self.settle(height);
    }

    fn sort_by(&mut self, column: Column, height: u16) {
        self.descending = if self.sort == column { !self.descending } else { !column.is_text() };
        self.sort = column;
        self.arrange(height);
    }

    fn sort_beside(&mut self, step: isize, width: u16, height: u16) {
        let columns = self.columns(width);
        // A sort column that is not shown any more counts as the first one.
        let at = columns.iter().position(|p| p.column == self.sort).unwrap_or(0);
        let beside = at.checked_add_signed(step).and_then(|at| columns.get(at));
        if let Some(placed) = beside {
            self.sort_by(placed.column, height);
        }
    }

    fn type_filter(&mut self, key: Key, height: u16) {
        let Some(input) = &mut self.input else { return };
        match input.key(key) {
            Typed::Edited => {
                let text = input.text().to_owned();
                self.filter_by(&text, height);
            }
            Typed::Accepted => self.input = None,
            Typed::Cancelled => {
                self.input = None;
                self.filter_by("", height);
            }
            Typed::Ignored => {}
        }
    }

    fn filter_by(&mut self, text: &str, height: u16) {
        self.filter = Filter::parse(text);
        text.clone_into(&mut self.filter_text);
        self.arrange(height);
    }

    /// Columns that fit.
    pub fn columns(&self, width: u16) -> Vec<Placed> {
        place(width, self.texts)
    }

    /// Rows on the screen: whether the cursor is on it, the row, and the seconds since it arrived.
    pub fn visible(&self, now: f64, height: u16) -> impl Iterator<Item = (bool, &Row, f64)> {
        let shown = self.order.iter().enumerate().skip(self.top).take(lines(height));
        shown.filter_map(move |(i, key)| {
            let held = self.rows.get(key)?;
            Some((i == self.at, &held.row, (now - held.as_of).max(0.0)))
        })
    }

    /// Column and direction of the sort order.
    pub fn sorted_by(&self) -> (Column, bool) {
        (self.sort, self.descending)
    }

    /// Rows that the filter keeps, rows that are held, rows that found no room.
    pub fn counts(&self) -> (usize, usize, u64) {
        (self.order.len(), self.rows.len(), self.refused)
    }

    /// The filter's text, and whether it is being typed.
    pub fn filter_line(&self) -> (&str, bool) {
        (&self.filter_text, self.input.is_some())
    }

    /// Position of the cursor, from 1, among the rows shown.
    pub fn position(&self) -> usize {
        if self.order.is_empty() { 0 } else { self.at + 1 }
    }
}

/// Lines that rows have.
fn lines(height: u16) -> usize {
    usize::from(height.saturating_sub(HEAD + FOOT))
}

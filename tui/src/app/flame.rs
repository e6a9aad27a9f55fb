//! The flame screen's state: which graph, where one is in it, what is searched. Folding happens beside the
//! UI (`fold`), geometry in `layout`.

use std::sync::Arc;

use sandscope_model::{FlameTree, SampleKind};

use super::key::{Input, Key, Mouse, MouseAction, Typed};
use super::layout::{Block, block_of, icicle, path};
use crate::data::{FlameQuery, Shown};
use crate::fold::{Flame, Function};

/// Lines above the first block: title, subject.
pub const HEAD: u16 = 2;

/// Lines below the last block: name, numbers, keys.
pub const FOOT: u16 = 3;

/// What a key on the flame graph asks of the app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    None,
    /// Ask the source for what the query says now.
    Ask,
    /// Leave.
    Back,
}

/// The flame screen.
#[derive(Debug)]
pub struct FlameScreen {
    query: FlameQuery,
    subject: Shown,
    flame: Option<Arc<Flame>>,
    failed: Option<Shown>,
    zoom: u32,
    cursor: u32,
    /// First row shown, as a depth of the tree.
    top: usize,
    search: Option<Search>,
    input: Option<Input>,
}

/// What is searched, and what that found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Search {
    text: String,
    /// Per function of the graph.
    matched: Vec<bool>,
    /// Functions that match.
    pub functions: usize,
    /// Share of all weight in stacks with at least one match, 0..=1.
    pub share: f64,
}

impl Search {
    fn new(text: &str, flame: Option<&Flame>) -> Self {
        let Some(flame) = flame else { return Self { text: text.to_owned(), ..Self::default() } };
        let needle = text.to_lowercase();
        let has = |shown: &Shown| shown.as_str().to_lowercase().contains(&needle);
        let matched: Vec<bool> = flame
            .functions
            .iter()
            .map(|f| !needle.is_empty() && (has(&f.name) || f.file.as_ref().is_some_and(has)))
            .collect();
        // Only the outermost match of a path counts, so a stack counts once.
        let (mut weight, mut open) = (0u64, vec![FlameTree::ROOT]);
        while let Some(node) = open.pop() {
            let at = flame.tree.node(node);
            let hit = node != FlameTree::ROOT && matched.get(at.key as usize) == Some(&true);
            if hit {
                weight = weight.saturating_add(at.total);
            } else {
                open.extend(&at.children);
            }
        }
        let total = flame.tree.node(FlameTree::ROOT).total.max(1);
        let functions = matched.iter().filter(|&&hit| hit).count();
        Self { text: text.to_owned(), matched, functions, share: weight as f64 / total as f64 }
    }

    /// Whether a function matches.
    pub fn hits(&self, key: u32) -> bool {
        self.matched.get(key as usize) == Some(&true)
    }
}

impl FlameScreen {
    /// A screen that waits for a graph.
    pub fn new(query: FlameQuery, subject: Shown) -> Self {
        Self {
            query,
            subject,
            flame: None,
            failed: None,
            zoom: FlameTree::ROOT,
            cursor: FlameTree::ROOT,
            top: 0,
            search: None,
            input: None,
        }
    }

    /// Takes a graph, if it is the one asked for. One stays where one was, as far as that path still exists.
    pub fn show(&mut self, query: &FlameQuery, flame: Arc<Flame>, width: u16, height: u16) {
        if *query != self.query {
            return;
        }
        let find = |node| self.flame.as_deref().map_or(FlameTree::ROOT, |old| same_path(old, node, &flame));
        (self.zoom, self.cursor) = (find(self.zoom), find(self.cursor));
        self.flame = Some(flame);
        self.failed = None;
        if let Some(search) = &self.search {
            self.search = Some(Search::new(&search.text, self.flame.as_deref()));
        }
        self.settle(width, height);
    }

    /// Notes that a graph could not be had; one that is shown stays.
    pub fn fail(&mut self, query: &FlameQuery, reason: Shown) {
        if *query == self.query {
            self.failed = Some(reason);
        }
    }

    /// Keeps the cursor on a block that is drawn, and that block on the screen.
    pub fn settle(&mut self, width: u16, height: u16) {
        let Some(flame) = self.flame.clone() else { return };
        let tree = &flame.tree;
        while self.cursor != FlameTree::ROOT && block_of(tree, self.zoom, width, self.cursor).is_none() {
            self.cursor = tree.node(self.cursor).parent;
        }
        let row = path(tree, self.cursor).len() - 1;
        let lines = lines(height);
        self.top = self.top.min(row).max((row + 1).saturating_sub(lines));
    }

    /// Takes a key.
    pub fn key(&mut self, key: Key, width: u16, height: u16) -> Wish {
        if self.input.is_some() {
            self.type_search(key);
            return Wish::None;
        }
        match key {
            Key::Char('i') => {
                self.query.order = self.query.order.inverted();
                return Wish::Ask;
            }
            Key::Char('t') => {
                self.query.kind = match self.query.kind {
                    SampleKind::Cpu => SampleKind::Wall,
                    SampleKind::Wall => SampleKind::Alloc,
                    SampleKind::Alloc => SampleKind::Cpu,
                };
                return Wish::Ask;
            }
            Key::Char('/') => self.input = Some(Input::new(self.search.as_ref().map_or("", |s| &s.text))),
            Key::Esc if self.search.is_some() => self.search = None,
            Key::Esc | Key::Char('q') => return Wish::Back,
            _ => self.walk(key, width),
        }
        self.settle(width, height);
        Wish::None
    }

    fn walk(&mut self, key: Key, width: u16) {
        let Some(flame) = self.flame.clone() else { return };
        let tree = &flame.tree;
        match key {
            Key::Up | Key::Char('k') => self.cursor = tree.node(self.cursor).parent,
            Key::Down | Key::Char('j') => self.descend(tree, width),
            Key::Left | Key::Char('h') => self.step(tree, width, -1),
            Key::Right | Key::Char('l') => self.step(tree, width, 1),
            Key::Enter => self.zoom = self.cursor,
            Key::Char('u') | Key::Backspace => {
                self.cursor = self.zoom;
                self.zoom = tree.node(self.zoom).parent;
            }
            Key::Char('g') | Key::Home => (self.zoom, self.cursor) = (FlameTree::ROOT, FlameTree::ROOT),
            Key::Char('n') => self.next_match(tree, width, true),
            Key::Char('N') => self.next_match(tree, width, false),
            _ => {}
        }
    }

    /// To the heaviest callee; above the zoomed frame, along the way to it.
    fn descend(&mut self, tree: &FlameTree, width: u16) {
        let way = path(tree, self.zoom);
        let row = path(tree, self.cursor).len();
        let below = match way.get(row) {
            Some(&next) => Some(next),
            None => tree.node(self.cursor).children.first().copied(),
        };
        if let Some(child) = below.filter(|&c| block_of(tree, self.zoom, width, c).is_some()) {
            self.cursor = child;
        }
    }

    /// To the neighbour in the row, of whatever parent.
    fn step(&mut self, tree: &FlameTree, width: u16, step: isize) {
        let row = path(tree, self.cursor).len() - 1;
        let blocks = icicle(tree, self.zoom, width, row..row + 1);
        let at = blocks.iter().position(|b| b.node == self.cursor);
        if let Some(block) = at.and_then(|at| at.checked_add_signed(step)).and_then(|at| blocks.get(at)) {
            self.cursor = block.node;
        }
    }

    /// To the next block that matches, row by row, around the end.
    fn next_match(&mut self, tree: &FlameTree, width: u16, forward: bool) {
        let Some(search) = &self.search else { return };
        let mut blocks = icicle(tree, self.zoom, width, 0..usize::MAX);
        if !forward {
            blocks.reverse();
        }
        let at = blocks.iter().position(|b| b.node == self.cursor).unwrap_or(0);
        let hit = |b: &&Block| b.node != FlameTree::ROOT && search.hits(tree.node(b.node).key);
        if let Some(block) = blocks.iter().skip(at + 1).chain(blocks.iter().take(at)).find(hit) {
            self.cursor = block.node;
        }
    }

    fn type_search(&mut self, key: Key) {
        let Some(input) = &mut self.input else { return };
        match input.key(key) {
            Typed::Edited => {
                let text = input.text();
                self.search = (!text.is_empty()).then(|| Search::new(text, self.flame.as_deref()));
            }
            Typed::Accepted => self.input = None,
            Typed::Cancelled => (self.input, self.search) = (None, None),
            Typed::Ignored => {}
        }
    }

    /// Takes a mouse event.
    pub fn mouse(&mut self, mouse: Mouse, width: u16, height: u16) {
        match mouse.action {
            MouseAction::WheelUp => self.walk(Key::Up, width),
            MouseAction::WheelDown => self.walk(Key::Down, width),
            MouseAction::Press => {
                let hit = mouse.y.checked_sub(HEAD).filter(|&line| usize::from(line) < lines(height));
                let (Some(line), Some(flame)) = (hit, self.flame.clone()) else { return };
                let row = self.top + usize::from(line);
                let blocks = icicle(&flame.tree, self.zoom, width, row..row + 1);
                if let Some(block) = blocks.iter().find(|b| (b.x..b.x + b.width).contains(&mouse.x)) {
                    if block.node == self.cursor {
                        self.zoom = self.cursor;
                    }
                    self.cursor = block.node;
                }
            }
        }
        self.settle(width, height);
    }

    /// What is asked for.
    pub fn query(&self) -> &FlameQuery {
        &self.query
    }

    /// Whose graph it is.
    pub fn subject(&self) -> &Shown {
        &self.subject
    }

    /// The graph, if one came. It may still be of another order or type than the query's.
    pub fn flame(&self) -> Option<&Flame> {
        self.flame.as_deref()
    }

    /// Why the newest request failed.
    pub fn failure(&self) -> Option<&Shown> {
        self.failed.as_ref()
    }

    /// The search, if there is one.
    pub fn search(&self) -> Option<&Search> {
        self.search.as_ref()
    }

    /// What is searched, and whether that is being typed.
    pub fn search_line(&self) -> (&str, bool) {
        let text = self.input.as_ref().map(Input::text).or(self.search.as_ref().map(|s| s.text.as_str()));
        (text.unwrap_or(""), self.input.is_some())
    }

    /// Node that takes the whole width, and node under the cursor.
    pub fn place(&self) -> (u32, u32) {
        (self.zoom, self.cursor)
    }

    /// Blocks on the screen, with rows counted from the first line of the graph, and whether there are more
    /// above and below.
    pub fn blocks(&self, width: u16, height: u16) -> (Vec<Block>, bool, bool) {
        let Some(flame) = &self.flame else { return (Vec::new(), false, false) };
        let lines = lines(height);
        let mut blocks = icicle(&flame.tree, self.zoom, width, self.top..self.top + lines + 1);
        for block in &mut blocks {
            block.row -= self.top;
        }
        let below = blocks.iter().any(|block| block.row == lines);
        blocks.retain(|block| block.row < lines);
        (blocks, self.top > 0, below)
    }
}

/// The node of another graph that the same functions lead to, as far as they do.
fn same_path(old: &Flame, node: u32, new: &Flame) -> u32 {
    let identity = |flame: &Flame, node: u32| {
        let function: Option<&Function> = flame.functions.get(flame.tree.node(node).key as usize);
        function.map(|f| (f.name.clone(), f.file.clone(), f.kind))
    };
    let mut at = FlameTree::ROOT;
    for step in path(&old.tree, node).into_iter().skip(1) {
        let wanted = identity(old, step);
        match new.tree.node(at).children.iter().find(|&&child| identity(new, child) == wanted) {
            Some(&child) => at = child,
            None => break,
        }
    }
    at
}

/// Lines that blocks have.
fn lines(height: u16) -> usize {
    usize::from(height.saturating_sub(HEAD + FOOT))
}

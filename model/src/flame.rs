//! Flame trees: stacks folded by whatever key the caller chose (function, line, module).

use std::collections::HashMap;

/// A tree of nodes over keys of the caller. Node 0 is the root and has no key of its own.
#[derive(Clone, Debug)]
pub struct FlameTree {
    nodes: Vec<FlameNode>,
    edges: HashMap<(u32, u32), u32>,
}

/// One node: a call path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlameNode {
    /// The caller's key; meaningless at the root.
    pub key: u32,
    /// Parent node; the root is its own parent.
    pub parent: u32,
    /// Value of stacks that end here.
    pub own: u64,
    /// Value of stacks that pass through or end here.
    pub total: u64,
    /// Child nodes in order of first sight.
    pub children: Vec<u32>,
}

impl Default for FlameTree {
    fn default() -> Self {
        Self { nodes: vec![FlameNode::default()], edges: HashMap::new() }
    }
}

impl FlameTree {
    /// The root's index.
    pub const ROOT: u32 = 0;

    /// Adds a stack given root first.
    pub fn add(&mut self, stack: impl IntoIterator<Item = u32>, value: u64) {
        let mut at = Self::ROOT;
        add(&mut self.nodes[0].total, value);
        for key in stack {
            at = match self.edges.get(&(at, key)) {
                Some(&child) => child,
                None => {
                    let child = self.nodes.len() as u32;
                    self.nodes.push(FlameNode { key, parent: at, ..FlameNode::default() });
                    self.nodes[at as usize].children.push(child);
                    self.edges.insert((at, key), child);
                    child
                }
            };
            add(&mut self.nodes[at as usize].total, value);
        }
        add(&mut self.nodes[at as usize].own, value);
    }

    /// A node by index.
    pub fn node(&self, index: u32) -> &FlameNode {
        &self.nodes[index as usize]
    }

    /// Nodes, root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Sorts the children of every node, largest total first; equal totals by key, so that a picture
    /// drawn twice is the same picture.
    pub fn sort(&mut self) {
        for index in 0..self.nodes.len() {
            let mut children = std::mem::take(&mut self.nodes[index].children);
            children.sort_by_key(|&c| {
                let node = &self.nodes[c as usize];
                (std::cmp::Reverse(node.total), node.key)
            });
            self.nodes[index].children = children;
        }
    }

    /// The child of `parent` with `key`.
    pub fn child(&self, parent: u32, key: u32) -> Option<u32> {
        self.edges.get(&(parent, key)).copied()
    }
}

/// Values come from peers: sums saturate.
fn add(sum: &mut u64, value: u64) {
    *sum = sum.saturating_add(value);
}

/// Self and total of each key over stacks given root first; a key that recurs counts once per stack.
pub fn totals<'a>(stacks: impl IntoIterator<Item = (&'a [u32], u64)>) -> HashMap<u32, (u64, u64)> {
    let mut out: HashMap<u32, (u64, u64)> = HashMap::new();
    let mut seen = Vec::new();
    for (stack, value) in stacks {
        seen.clear();
        seen.extend_from_slice(stack);
        seen.sort_unstable();
        seen.dedup();
        for &key in &seen {
            add(&mut out.entry(key).or_default().1, value);
        }
        if let Some(&leaf) = stack.last() {
            add(&mut out.entry(leaf).or_default().0, value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_share_prefixes() {
        let mut tree = FlameTree::default();
        tree.add([1, 2, 3], 5);
        tree.add([1, 2], 2);
        tree.add([1, 4], 9);
        tree.sort();
        let main = tree.node(tree.node(FlameTree::ROOT).children[0]);
        assert_eq!((main.key, main.own, main.total), (1, 0, 16));
        assert_eq!(tree.node(main.children[0]).key, 4);
        let two = tree.node(main.children[1]);
        assert_eq!((two.own, two.total), (2, 7));
    }

    /// Recursion must not count a stack twice in a function's total.
    #[test]
    fn recursion_counts_once() {
        let out = totals([(&[1, 2, 1, 2][..], 3), (&[1][..], 1)]);
        assert_eq!(out[&1], (1, 4));
        assert_eq!(out[&2], (3, 3));
    }
}

//! Where a flame graph's blocks stand: only those that are visible, in cells. Pure arithmetic.
//!
//! ```text
//! row 0  |all                          |  the root and the path to the zoomed node take the whole width
//! row 1  |main                         |  <- zoomed node
//! row 2  |decode            |resize    |  children, largest first, each as wide as its share of the zoom
//! row 3  |idct      |huffman|          |  what is left over is the parent's own weight
//! ```

use std::ops::Range;

use sandscope_model::FlameTree;

/// A node's rectangle; its height is one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Node of the tree.
    pub node: u32,
    /// Depth of the node in the tree; the root is row 0.
    pub row: usize,
    /// First cell.
    pub x: u16,
    /// Cells; never 0.
    pub width: u16,
}

/// The path from the root to a node, both included.
pub fn path(tree: &FlameTree, node: u32) -> Vec<u32> {
    let mut out = vec![node];
    let mut at = node;
    while at != FlameTree::ROOT {
        at = tree.node(at).parent;
        out.push(at);
    }
    out.reverse();
    out
}

/// The visible blocks of some rows when `zoom` takes the whole width. Nodes narrower than a cell may have
/// none. Blocks of a row are ordered by `x`, and never overlap.
pub fn icicle(tree: &FlameTree, zoom: u32, width: u16, rows: Range<usize>) -> Vec<Block> {
    let mut out = Vec::new();
    if width == 0 {
        return out;
    }
    let path = path(tree, zoom);
    for (row, &node) in path.iter().enumerate() {
        if rows.contains(&row) {
            out.push(Block { node, row, x: 0, width });
        }
    }
    let scale = Scale { total: tree.node(zoom).total, width };
    let mut level = vec![(zoom, 0u64)];
    let mut row = path.len();
    while row < rows.end && !level.is_empty() {
        let mut next = Vec::new();
        for (node, start) in level {
            let mut start = start;
            for &child in &tree.node(node).children {
                let end = start.saturating_add(tree.node(child).total);
                let (x, x_end) = (scale.cell(start), scale.cell(end));
                if x_end > x {
                    if rows.contains(&row) {
                        out.push(Block { node: child, row, x, width: x_end - x });
                    }
                    next.push((child, start));
                }
                start = end;
            }
        }
        level = next;
        row += 1;
    }
    out
}

/// The block of one node; `None` if it is narrower than a cell or outside the zoomed part.
pub fn block_of(tree: &FlameTree, zoom: u32, width: u16, node: u32) -> Option<Block> {
    let down = path(tree, node);
    let row = down.len() - 1;
    let up = path(tree, zoom);
    if up.get(row) == Some(&node) {
        return (width > 0).then_some(Block { node, row, x: 0, width });
    }
    if down.get(up.len() - 1) != Some(&zoom) {
        return None;
    }
    let mut start = 0u64;
    for pair in down.windows(2).skip(up.len() - 1) {
        let &[parent, child] = pair else { continue };
        let before = tree.node(parent).children.iter().take_while(|&&c| c != child);
        start = before.fold(start, |sum, &c| sum.saturating_add(tree.node(c).total));
    }
    let scale = Scale { total: tree.node(zoom).total, width };
    let (x, x_end) = (scale.cell(start), scale.cell(start.saturating_add(tree.node(node).total)));
    (x_end > x).then_some(Block { node, row, x, width: x_end - x })
}

struct Scale {
    total: u64,
    width: u16,
}

impl Scale {
    /// The cell in which a weight ends: cells are cut from sums, so rounding never adds up.
    fn cell(&self, weight: u64) -> u16 {
        let cells =
            u128::from(weight.min(self.total)) * u128::from(self.width) / u128::from(self.total.max(1));
        u16::try_from(cells).unwrap_or(self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> FlameTree {
        let mut tree = FlameTree::default();
        tree.add([1, 2], 60);
        tree.add([1, 3, 4], 25);
        tree.add([1], 10);
        tree.add([5], 5);
        tree.sort();
        tree
    }

    #[test]
    fn widths_are_shares() {
        let tree = tree();
        let got: Vec<(u32, usize, u16, u16)> = icicle(&tree, FlameTree::ROOT, 100, 0..10)
            .iter()
            .map(|b| (tree.node(b.node).key, b.row, b.x, b.width))
            .collect();
        assert_eq!(
            got,
            [(0, 0, 0, 100), (1, 1, 0, 95), (5, 1, 95, 5), (2, 2, 0, 60), (3, 2, 60, 25), (4, 3, 60, 25)]
        );
    }

    #[test]
    fn a_zoomed_node_takes_the_whole_width() {
        let tree = tree();
        let one = tree.child(FlameTree::ROOT, 1).unwrap();
        let blocks = icicle(&tree, one, 95, 1..3);
        assert_eq!(blocks[0], Block { node: one, row: 1, x: 0, width: 95 });
        assert_eq!((blocks[1].x, blocks[1].width), (0, 60));
    }

    /// The two ways to a block agree, at any width, and blocks of a row stay inside their parents.
    #[test]
    fn one_block_is_where_the_rows_put_it() {
        let tree = tree();
        for width in 0..130 {
            for zoom in 0..tree.len() as u32 {
                let all = icicle(&tree, zoom, width, 0..9);
                for node in 0..tree.len() as u32 {
                    let in_rows = all.iter().find(|b| b.node == node).copied();
                    assert_eq!(block_of(&tree, zoom, width, node), in_rows, "{width} {zoom} {node}");
                }
                for pair in all.windows(2).filter(|p| p[0].row == p[1].row) {
                    assert!(pair[0].x + pair[0].width <= pair[1].x);
                }
            }
        }
    }
}

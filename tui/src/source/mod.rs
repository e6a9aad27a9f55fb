//! Where data comes from: a collector (`live`) or a recording (`replay`), behind one [`Handle`]. Sources
//! send deltas and take one kind of request, which flame graph to keep up to date; they know nothing of
//! screens.

pub mod collector;
pub mod live;
pub mod names;
pub mod replay;
pub mod sql;
#[cfg(test)]
mod testing;

pub use replay::LoadSymbols;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::data::{Delta, FlameQuery};

/// Deltas that wait for the UI; when it is full the source waits, and what it holds stays with the peer.
const QUEUE: usize = 64;

/// A running source. It ends when this is dropped.
pub struct Handle {
    /// What changed. Ends only if the source stopped by itself.
    pub deltas: mpsc::Receiver<Delta>,
    asked: watch::Sender<Option<FlameQuery>>,
    _tasks: JoinSet<()>,
}

/// The source's ends of the channels.
#[derive(Clone)]
struct Ends {
    deltas: mpsc::Sender<Delta>,
    asked: watch::Receiver<Option<FlameQuery>>,
}

impl Handle {
    fn start(spawn: impl FnOnce(&mut JoinSet<()>, Ends)) -> Self {
        let (delta_in, deltas) = mpsc::channel(QUEUE);
        let (asked, asked_out) = watch::channel(None);
        let mut tasks = JoinSet::new();
        spawn(&mut tasks, Ends { deltas: delta_in, asked: asked_out });
        Self { deltas, asked, _tasks: tasks }
    }

    /// Keeps this flame graph up to date from now on, and no other.
    pub fn ask(&self, query: Option<FlameQuery>) {
        // Without a receiver the source has ended, and `deltas` says so.
        let _ = self.asked.send(query);
    }
}

//! What can go wrong for the terminal UI as a whole. What goes wrong while it runs is shown in it instead.

use std::io;

/// Why the terminal UI could not be shown, or a collector not be read.
#[derive(Debug, thiserror::Error)]
pub enum TuiError {
    /// Standard output or input is not a terminal.
    #[error("use this terminal: input or output is not one (in scripts, use the commands with --json)")]
    NoTerminal,
    /// The terminal refused something.
    #[error("use this terminal")]
    Terminal {
        /// What it said.
        source: io::Error,
    },
    /// An address that is none.
    #[error("read the collector's address “{url}”: it looks like http://127.0.0.1:4320")]
    Address {
        /// As given.
        url: String,
    },
    /// What is to be shown to the collector cannot be used.
    #[error(transparent)]
    Credentials(sandscope_proto::connect::ConnectError),
    /// The collector did not answer in the whole time given.
    #[error("reach the collector at {url}: {reason}")]
    Unreachable {
        /// As given.
        url: String,
        /// The last thing that went wrong.
        reason: String,
    },
    /// A part of the program stopped by itself: a fault of ours.
    #[error("keep {task} running: it ended by itself, which is a fault of sandscope")]
    Ended {
        /// Which part.
        task: &'static str,
    },
}

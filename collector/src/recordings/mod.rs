//! Recordings of hosts: asking for them, taking them in, keeping them.
//!
//! ```text
//! Capture ──▶ fleet ──Capture──▶ host ──Upload, Piece──▶ fleet ──▶ store: <data>/recordings
//! Watch   ──▶ fleet ──Lease────▶ hosts                     Recordings, Recording ◀──┘
//! ```
//! `store` is the directory, without a clock; `fleet` knows who is connected and who waits for what.

mod fleet;
mod store;

pub(crate) use fleet::{Fleet, Progress};
pub(crate) use store::{Store, StoreError};

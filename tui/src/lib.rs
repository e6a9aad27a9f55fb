//! The terminal UI over two sources, live (a collector's query service) and replay (a recording).
//!
//! `source` does I/O and sends deltas, `app` is the state and what keys do to it, `view` draws the state,
//! `run` is the loop that connects them; `headless` is the live source without a terminal. `app` knows
//! neither ratatui nor crossterm nor tokio; `view` changes nothing; nothing here knows a wire type beyond
//! `source`.

mod app;
mod data;
mod error;
mod fold;
mod headless;
mod run;
mod source;
mod view;

pub use data::{Pipeline, Row, RowKey, Shown};
pub use error::TuiError;
pub use headless::{Headless, TopFunction, WorkloadSamples, collect_for};
pub use run::{TopOptions, open, top};
pub use source::LoadSymbols;
pub use source::sql::{SqlAnswer, SqlError, sql};

//! Why history cannot be kept for now, or not at all.

use std::io;
use std::path::PathBuf;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;

use crate::log::{CursorError, ReadError};

/// Why the history cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The directory cannot be made or written to.
    #[error("use {path} for the history")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A place that is no bucket, or one without credentials.
    #[error("use {url} for the history")]
    Bucket {
        /// The place.
        url: String,
        /// What the client said.
        source: object_store::Error,
    },
    /// The query engine does not start.
    #[error("start the query engine")]
    Engine(#[from] DataFusionError),
    /// Whose log it is cannot be read or written down.
    #[error("read or write history-writer beside the log")]
    Writer(#[source] io::Error),
    /// The log's cursor for history cannot be moved.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// The system gave no thread.
    #[error("start the history's threads")]
    Thread(#[source] io::Error),
}

/// Why a step failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    #[error("reach the store: {0}")]
    Store(#[from] object_store::Error),
    #[error("make files durable: {0}")]
    Sync(#[from] io::Error),
    #[error("write Parquet: {0}")]
    Parquet(#[from] ParquetError),
    #[error("build rows: {0}")]
    Arrow(#[from] ArrowError),
    #[error("merge files: {0}")]
    Merge(#[from] DataFusionError),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Cursor(#[from] CursorError),
}

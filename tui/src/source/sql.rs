//! Questions to a collector's history: the answer as the bytes that came, an Arrow IPC stream in pieces.

use std::error::Error as _;

use sandscope_proto::connect::Credentials;
use sandscope_proto::query::{SqlChunk, SqlRequest};
use tonic::{Status, Streaming};

use super::collector::{Collector, reason};
use crate::data::Shown;
use crate::error::TuiError;

/// Why a question has no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// An address that is none.
    #[error(transparent)]
    Address(#[from] TuiError),
    /// Nobody answers there.
    #[error("reach a collector at {url}: {reason}")]
    Unreachable {
        /// As given.
        url: String,
        /// What went wrong.
        reason: Shown,
    },
    /// The collector refuses, or the query is wrong.
    #[error("get an answer: {0}")]
    Refused(Shown),
}

/// An answer. Dropping it ends the query in the collector too.
pub struct SqlAnswer {
    url: String,
    chunks: Streaming<SqlChunk>,
}

/// Asks the collector at a URL.
///
/// # Errors
/// If it cannot be reached or refuses.
pub async fn sql(url: &str, credentials: &Credentials, sql: &str) -> Result<SqlAnswer, SqlError> {
    let request = SqlRequest { sql: sql.to_owned() };
    let chunks =
        Collector::new(url, credentials)?.sql(request).await.map_err(|status| failed(url, &status))?;
    Ok(SqlAnswer { url: url.to_owned(), chunks })
}

impl SqlAnswer {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// If the query failed, or the connection.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, SqlError> {
        let chunk = self.chunks.message().await.map_err(|status| failed(&self.url, &status))?;
        Ok(chunk.map(|chunk| chunk.data))
    }
}

/// What failed on the way here has a cause that the transport knows; what a collector says has none.
fn failed(url: &str, status: &Status) -> SqlError {
    let reason = reason(status);
    if status.source().is_some() {
        SqlError::Unreachable { url: url.to_owned(), reason }
    } else {
        SqlError::Refused(reason)
    }
}

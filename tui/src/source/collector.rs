//! The query service of a collector: its messages to our data and back. What a peer sent is checked here and
//! nowhere behind; when and how often to ask is `live`'s business.

use std::error::Error as _;
use std::io::Read as _;
use std::time::Duration;

use sandscope_model::{ModuleId, Profile, SampleKind};
use sandscope_proto::connect::{ConnectError, Connection, Credentials, connect, endpoint};
use sandscope_proto::query::query_client::QueryClient;
use sandscope_proto::stacks::{StackDecoder, StackError};
use sandscope_proto::{MAX_DEBUG_INFO, MAX_MESSAGE, query as wire};
use tonic::{Code, Status, Streaming};

use crate::data::{Delta, Pipeline, Row, RowKey, Shown};
use crate::error::TuiError;

/// Longest name of a row's key that is taken, in bytes.
const MAX_KEY: usize = 4096;

/// Why an answer could not be had or used.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The call failed.
    #[error("{}", reason(.0))]
    Call(Status),
    /// Stacks that contradict themselves.
    #[error("the collector's stacks are unreadable: {0}")]
    Stacks(#[from] StackError),
    /// Debug info that is larger than it may be.
    #[error("debug info is larger than {} MiB", MAX_DEBUG_INFO >> 20)]
    TooLarge,
    /// Debug info that does not decompress.
    #[error("debug info does not decompress")]
    Compression,
}

impl From<Status> for QueryError {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

/// A client of one collector. Clones share the connection, which is made when it is first needed.
#[derive(Clone)]
pub struct Collector {
    client: QueryClient<Connection>,
}

impl Collector {
    /// A client of `host:port` or a URL.
    ///
    /// # Errors
    /// If that is none, or the credentials cannot be used.
    pub fn new(url: &str, credentials: &Credentials) -> Result<Self, TuiError> {
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let endpoint = endpoint(&full, credentials).map_err(|error| match error {
            ConnectError::Url { .. } => TuiError::Address { url: url.to_owned() },
            error => TuiError::Credentials(error),
        })?;
        if endpoint.uri().authority().is_none() {
            return Err(TuiError::Address { url: url.to_owned() });
        }
        let endpoint = endpoint
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        let client = QueryClient::new(connect(&endpoint, credentials)).max_decoding_message_size(MAX_MESSAGE);
        Ok(Self { client })
    }

    /// The stream of all rows.
    ///
    /// # Errors
    /// If the collector cannot be reached or refuses.
    pub async fn watch(&self) -> Result<Streaming<wire::WatchUpdate>, QueryError> {
        let request = wire::WatchRequest { selection: None };
        Ok(self.client.clone().watch(request).await?.into_inner())
    }

    /// All held stacks of a row, and how many were left out of the answer.
    ///
    /// # Errors
    /// If the collector cannot be reached, refuses, or sends stacks that contradict themselves.
    pub async fn stacks(&self, key: &RowKey, kind: SampleKind) -> Result<(Profile, u64), QueryError> {
        let selection = wire::Selection {
            region: key.region.to_string(),
            workload: key.workload.to_string(),
            version: key.version.to_string(),
            service: key.service.to_string(),
            ..wire::Selection::default()
        };
        let request =
            wire::FlameRequest { selection: Some(selection), kind: kind.name().to_owned(), seconds: 0.0 };
        let response = self.client.clone().flame(request).await?.into_inner();
        let mut profile = Profile::new();
        if let Some(samples) = &response.samples {
            let mut decoder = StackDecoder::default();
            decoder.learn(samples)?;
            decoder.add_to(&mut profile, samples)?;
        }
        Ok((profile, response.truncated))
    }

    /// The answer to a query of the history.
    pub(super) async fn sql(&self, request: wire::SqlRequest) -> Result<Streaming<wire::SqlChunk>, Status> {
        Ok(self.client.clone().sql(request).await?.into_inner())
    }

    /// A module's debug info as the collector keeps it, compressed; `None` if it has none.
    ///
    /// # Errors
    /// If the collector cannot be reached, or sends more than it may.
    pub async fn debug_info(&self, module: &ModuleId) -> Result<Option<Vec<u8>>, QueryError> {
        let request = wire::DebugInfoRequest { module_id: module.as_str().to_owned() };
        let mut chunks = match self.client.clone().debug_info(request).await {
            Ok(response) => response.into_inner(),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(status.into()),
        };
        let mut out = Vec::new();
        loop {
            match chunks.message().await {
                Ok(Some(chunk)) => {
                    if chunk.size > MAX_DEBUG_INFO || (out.len() + chunk.data.len()) as u64 > MAX_DEBUG_INFO {
                        return Err(QueryError::TooLarge);
                    }
                    out.extend_from_slice(&chunk.data);
                }
                Ok(None) => return Ok((!out.is_empty()).then_some(out)),
                Err(status) if status.code() == Code::NotFound => return Ok(None),
                Err(status) => return Err(status.into()),
            }
        }
    }
}

/// Debug info as it was before compression; blocks for as long as that takes.
///
/// # Errors
/// If it is no zstd, or larger than debug info may be.
pub fn decompress(compressed: &[u8]) -> Result<Vec<u8>, QueryError> {
    let decoder =
        zstd::stream::read::Decoder::with_buffer(compressed).map_err(|_| QueryError::Compression)?;
    let mut out = Vec::new();
    decoder.take(MAX_DEBUG_INFO + 1).read_to_end(&mut out).map_err(|_| QueryError::Compression)?;
    if out.len() as u64 > MAX_DEBUG_INFO { Err(QueryError::TooLarge) } else { Ok(out) }
}

/// An update as a delta. Rows without a usable key are left out.
pub fn delta(update: wire::WatchUpdate) -> Delta {
    Delta::Rows {
        snapshot: update.snapshot,
        rows: update.rows.into_iter().filter_map(row).collect(),
        removed: update.removed.into_iter().filter_map(key).collect(),
        pipeline: update.pipeline.map(|p| Pipeline {
            acked: p.acked,
            delivered: p.delivered,
            dropped: p.dropped,
            hosts: p.hosts,
            modules: p.modules,
        }),
    }
}

fn key(key: wire::RowKey) -> Option<RowKey> {
    let longest = [&key.region, &key.service, &key.workload, &key.version].map(String::len);
    longest.into_iter().all(|len| len <= MAX_KEY).then(|| RowKey {
        region: key.region.into(),
        workload: key.workload.into(),
        version: key.version.into(),
        service: key.service.into(),
    })
}

fn row(row: wire::WorkloadRow) -> Option<Row> {
    // A peer's NaN or negative duration is as good as unknown.
    let number = |n: Option<f64>| n.filter(|n| n.is_finite() && *n >= 0.0);
    Some(Row {
        hosts: row.hosts,
        calls: row.calls,
        calls_per_second: number(row.calls_per_second),
        errors: row.errors,
        p50: number(row.p50_s),
        p95: number(row.p95_s),
        p99: number(row.p99_s),
        memory: row.memory,
        cpu: number(row.cpu),
        traps: row.traps,
        samples: row.samples,
        samples_dropped: row.samples_dropped,
        cold_starts: row.cold_starts,
        age: number(Some(row.age_s)),
        ..Row::new(key(row.key?)?)
    })
}

/// The end of an error's chain, which is where transports say what happened; safe to draw.
pub(super) fn reason(status: &Status) -> Shown {
    let mut text = status.message().to_owned();
    let mut at = status.source();
    while let Some(error) = at {
        text = error.to_string();
        at = error.source();
    }
    Shown::new(if text.is_empty() { status.code().description() } else { &text })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer's nonsense is unknown, not a number on the screen.
    #[test]
    fn numbers_of_peers_are_checked() {
        let wire = wire::WorkloadRow {
            key: Some(wire::RowKey::default()),
            p95_s: Some(f64::NAN),
            cpu: Some(-1.0),
            age_s: f64::INFINITY,
            ..wire::WorkloadRow::default()
        };
        let row = row(wire).unwrap();
        assert_eq!((row.p95, row.cpu, row.age), (None, None, None));
    }

    #[test]
    fn rows_without_a_usable_key_are_left_out() {
        assert!(row(wire::WorkloadRow::default()).is_none());
        let long = wire::RowKey { region: "x".repeat(MAX_KEY + 1), ..wire::RowKey::default() };
        assert!(row(wire::WorkloadRow { key: Some(long), ..wire::WorkloadRow::default() }).is_none());
    }

    #[test]
    fn addresses_are_checked_before_anything_is_drawn() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        for good in ["127.0.0.1:4320", "http://localhost:4320", "http://[::1]:4320"] {
            assert!(Collector::new(good, &Credentials::default()).is_ok(), "{good}");
        }
        for bad in ["", "http://", "not a url", "http://a b"] {
            assert!(
                matches!(Collector::new(bad, &Credentials::default()), Err(TuiError::Address { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn bombs_and_garbage_do_not_decompress() {
        assert!(matches!(decompress(b"garbage"), Err(QueryError::Compression)));
        let whole = zstd::stream::encode_all(&b"debug info"[..], 3).unwrap();
        assert_eq!(decompress(&whole).unwrap(), b"debug info");
        assert!(decompress(&whole[..whole.len() - 3]).is_err());
    }
}

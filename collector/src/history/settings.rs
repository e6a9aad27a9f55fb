//! Where history is, for how long, and what queries may take.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::table::Table;

/// Settings of a history.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where files go.
    pub place: Place,
    /// How long they stay.
    pub keep: Keep,
    /// What queries may take.
    pub queries: Queries,
    /// Rows are written this often.
    pub flush_every: Duration,
    /// Or when they are so many, in bytes.
    pub flush_bytes: usize,
}

impl Settings {
    /// A week of everything at a place.
    pub fn new(place: Place) -> Self {
        Self {
            place,
            keep: Keep::default(),
            queries: Queries::default(),
            flush_every: Duration::from_secs(10),
            flush_bytes: 64 << 20,
        }
    }
}

/// Bounds of queries.
#[derive(Clone, Debug)]
pub struct Queries {
    /// Memory of all together, in bytes. A query that needs more fails.
    pub memory: usize,
    /// Longest time for an answer, until its last row was taken.
    pub deadline: Duration,
    /// Most at once; who asks for more is told to come again.
    pub at_once: usize,
}

impl Default for Queries {
    fn default() -> Self {
        Self { memory: 128 << 20, deadline: Duration::from_secs(30), at_once: 8 }
    }
}

/// Where files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory, which is made.
    Directory(PathBuf),
    /// A bucket of S3 or what speaks its language; the rest is in the variables `AWS_*`.
    Bucket {
        /// Its name.
        bucket: String,
        /// The folder in it; empty for all of it.
        prefix: String,
    },
}

impl FromStr for Place {
    type Err = NotAPlace;

    /// `s3://BUCKET[/PREFIX]`, or a directory.
    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Self::Directory(text.into())) };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if scheme != "s3" || bucket.is_empty() {
            return Err(NotAPlace { text: text.to_owned() });
        }
        Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: prefix.trim_matches('/').to_owned() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// A text that is no place for a history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither a directory nor s3://BUCKET[/PREFIX]")]
pub struct NotAPlace {
    text: String,
}

/// How long rows of each table stay after they were received. Whole hours go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep([Duration; Table::ALL.len()]);

impl Default for Keep {
    /// A week.
    fn default() -> Self {
        Self::all(Duration::from_secs(7 * 24 * 3600))
    }
}

impl Keep {
    /// As long for every table.
    pub fn all(time: Duration) -> Self {
        Self([time; Table::ALL.len()])
    }

    /// Another time for a table; stacks stay as long as samples.
    pub fn set(&mut self, table: Table, time: Duration) {
        self.0[table as usize] = time;
    }

    pub(super) fn of(&self, table: Table) -> Duration {
        let table = if table == Table::Stacks { Table::Samples } else { table };
        self.0[table as usize]
    }
}

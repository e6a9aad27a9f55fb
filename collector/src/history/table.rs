//! The tables: their names, their columns, how their rows are sorted.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{Schema, SchemaRef};

use super::rows::{Common, Events, Logs, Metrics, Samples, Spans, Stacks};

/// A table of the history: a folder of the store, and a name in queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Calls, and what others send as spans.
    Spans,
    /// Points of metrics.
    Metrics,
    /// Lines of guests, and log records of others.
    Logs,
    /// Profiles' samples, by stack.
    Samples,
    /// The frames of stacks.
    Stacks,
    /// Moments: traps, events of spans, log records that are events.
    Events,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Spans, Self::Metrics, Self::Logs, Self::Samples, Self::Stacks, Self::Events];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spans => "spans",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
            Self::Samples => "samples",
            Self::Stacks => "stacks",
            Self::Events => "events",
        }
    }

    /// The table of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// Its columns, as files have them.
    pub(super) fn schema(self) -> SchemaRef {
        static SCHEMAS: LazyLock<[SchemaRef; Table::ALL.len()]> = LazyLock::new(|| {
            Table::ALL.map(|table| {
                let own = match table {
                    Table::Spans => Spans::fields(),
                    Table::Metrics => Metrics::fields(),
                    Table::Logs => Logs::fields(),
                    Table::Samples => Samples::fields(),
                    Table::Events => Events::fields(),
                    Table::Stacks => return Arc::new(Schema::new(Stacks::fields())),
                };
                Arc::new(Schema::new([Common::fields(), own].concat()))
            })
        });
        SCHEMAS[self as usize].clone()
    }

    /// The columns by which the rows of a file are sorted: what people filter by first.
    pub(super) fn sorted_by(self) -> &'static [&'static str] {
        match self {
            Self::Spans | Self::Metrics => &["workload", "name", "time"],
            Self::Logs => &["workload", "time"],
            Self::Samples => &["workload", "type", "time"],
            Self::Stacks => &["stack_id"],
            Self::Events => &["workload", "kind", "name", "time"],
        }
    }
}

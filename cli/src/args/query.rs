//! The flags of `sandscope query`.

use clap::Args;

use super::Reach;

#[derive(Debug, Args)]
pub struct QueryArgs {
    /// The query; without one, the tables and their columns are listed.
    pub sql: Option<String>,
    /// The collector's query address.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4320")]
    pub connect: String,
    #[command(flatten)]
    pub reach: Reach,
    /// How the answer is written.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Columns for people, as wide as the first rows need.
    Table,
    /// One array of objects.
    Json,
    /// A header and a line per row; what nests is text.
    Csv,
    /// An object per line.
    Ndjson,
}

//! The flags of how a collector is reached: what is shown to it, and which certificate it may have.

use std::path::PathBuf;

use clap::Args;

/// For people.
#[derive(Debug, Clone, Default, Args)]
pub struct Reach {
    /// A file with the token to show the collector.
    #[arg(long, value_name = "FILE", env = "SANDSCOPE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Whose certificate the collector may have, in PEM, for https addresses; by default the system's roots.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A certificate to show the collector, in PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,
}

/// For hosts, which also read what OpenTelemetry's exporters read. Its headers are not a flag, because other users of
/// a machine see flags.
#[derive(Debug, Clone, Default, Args)]
pub struct HostReach {
    /// A file with the token to show the collector. OTEL_EXPORTER_OTLP_HEADERS may have one instead.
    #[arg(long, value_name = "FILE", env = "SANDSCOPE_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Whose certificate the collector may have, in PEM, for https addresses; by default the system's roots.
    #[arg(long, value_name = "FILE", env = "OTEL_EXPORTER_OTLP_CERTIFICATE")]
    pub ca: Option<PathBuf>,
    /// A certificate to show the collector, in PEM.
    #[arg(long, value_name = "FILE", requires = "key", env = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")]
    pub cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "cert", env = "OTEL_EXPORTER_OTLP_CLIENT_KEY")]
    pub key: Option<PathBuf>,
}

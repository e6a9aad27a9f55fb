//! The wire: the query and agent API, OTLP to model and back, and the one list of metric names.
//!
//! Only this crate and the generated code know protobuf shapes of peers; what a peer sent becomes a model
//! type here, or an error that says which field was wrong.

pub mod connect;
pub mod metric;
pub mod otlp;
pub mod scan;
pub mod stacks;
pub mod start;

/// Generated from `proto/proto`; a test keeps it up to date.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unused_qualifications,
    rust_2018_idioms,
    reason = "generated"
)]
pub mod generated {
    /// `sandscope.recording`.
    pub mod recording {
        /// `sandscope.recording.v1`.
        pub mod v1 {
            include!("generated/sandscope.recording.v1.rs");
        }
    }
    /// `sandscope.module`.
    pub mod module {
        /// `sandscope.module.v1`.
        pub mod v1 {
            include!("generated/sandscope.module.v1.rs");
        }
    }
    /// `sandscope.query`.
    pub mod query {
        /// `sandscope.query.v1`.
        pub mod v1 {
            include!("generated/sandscope.query.v1.rs");
        }
    }
    /// `sandscope.agent`.
    pub mod agent {
        /// `sandscope.agent.v1`.
        pub mod v1 {
            include!("generated/sandscope.agent.v1.rs");
        }
    }
}

pub use generated::agent::v1 as agent;
pub use generated::module::v1 as module;
pub use generated::query::v1 as query;
pub use generated::recording::v1 as recording;
pub use opentelemetry_proto::tonic as otel;

/// Schemas of what recordings hold, for readers that know none of ours: per message a `FileDescriptorSet` with
/// what it is made of and nothing else, since every recording carries them all.
#[allow(missing_docs, reason = "each is the message of its name")]
pub mod schemas {
    pub static MODULE: &[u8] = include_bytes!("generated/sandscope.recording.v1.Module.desc");
    pub static SAMPLES: &[u8] = include_bytes!("generated/sandscope.recording.v1.Samples.desc");
    pub static TRAP: &[u8] = include_bytes!("generated/sandscope.recording.v1.Trap.desc");
    pub static COLD_START: &[u8] = include_bytes!("generated/sandscope.recording.v1.ColdStart.desc");
    pub static LOCKS: &[u8] = include_bytes!("generated/sandscope.recording.v1.Locks.desc");
    pub static HEAP: &[u8] = include_bytes!("generated/sandscope.recording.v1.Heap.desc");
    pub static BLOCKED: &[u8] = include_bytes!("generated/sandscope.recording.v1.Blocked.desc");
    pub static METRICS: &[u8] =
        include_bytes!("generated/opentelemetry.proto.collector.metrics.v1.ExportMetricsServiceRequest.desc");
    pub static SPANS: &[u8] =
        include_bytes!("generated/opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest.desc");
    pub static LOGS: &[u8] =
        include_bytes!("generated/opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest.desc");
}

/// Metadata of an OTLP request that makes it the same when it is sent again, for collectors of ours. Others ignore it.
pub mod dedup {
    /// Name of the sending host.
    pub const HOST: &str = "sandscope-host";
    /// Its boot: `service.instance.id`.
    pub const BOOT: &str = "sandscope-boot";
    /// Number of the request in that boot, decimal, of all signals together.
    pub const SEQUENCE: &str = "sandscope-sequence";
}

/// Protocol version that `Hello` and `Welcome` carry.
pub const AGENT_PROTOCOL: u32 = 1;

/// Largest debug info that travels, in bytes before compression.
pub const MAX_DEBUG_INFO: u64 = 256 << 20;

/// Size of a chunk of debug info on a stream, in bytes: well under gRPC's default limit of 4 MiB a message.
pub const DEBUG_INFO_CHUNK: usize = 1 << 20;

/// Largest gRPC message that our peers accept, in bytes.
pub const MAX_MESSAGE: usize = 16 << 20;

//! The wire: the query and agent API, OTLP to model and back, and the one list of metric names.
//!
//! Only this crate and the generated code know protobuf shapes of peers; what a peer sent becomes a model
//! type here, or an error that says which field was wrong.

pub mod metric;
pub mod otlp;
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

/// A `FileDescriptorSet` of what recordings hold of ours, for readers that know no schema of ours. Every
/// channel of every recording carries it, so it holds nothing else.
pub static DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

/// A `FileDescriptorSet` of OTLP.
pub static OTLP_DESCRIPTORS: &[u8] = opentelemetry_proto::DESCRIPTORS;

/// Protocol version that `Hello` and `Welcome` carry.
pub const AGENT_PROTOCOL: u32 = 1;

/// Largest debug info that travels, in bytes before compression.
pub const MAX_DEBUG_INFO: u64 = 256 << 20;

/// Size of a chunk of debug info on a stream, in bytes: well under gRPC's default limit of 4 MiB a message.
pub const DEBUG_INFO_CHUNK: usize = 1 << 20;

/// Largest gRPC message that our peers accept, in bytes.
pub const MAX_MESSAGE: usize = 16 << 20;

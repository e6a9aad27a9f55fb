//! The flags of `sandscope capture`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Reach;
use crate::values::{capture_hz, capture_time};

#[derive(Debug, Args)]
pub struct CaptureArgs {
    /// Name of the workload; all its versions are recorded.
    #[arg(long, value_name = "NAME")]
    pub workload: String,
    /// How long, up to 10 minutes.
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = capture_time)]
    pub duration: Duration,
    /// Samples per second of CPU time and thread while it lasts, where that is more than the host takes anyway.
    #[arg(long, value_parser = capture_hz)]
    pub hz: Option<f64>,
    /// Insist on allocations, which are in the recording if the host was started with --alloc.
    #[arg(long)]
    pub alloc: bool,
    /// What of the guest's memory the recording may hold. Of a guest that runs on, nothing can be held.
    #[arg(long, value_enum, default_value_t = CaptureMemory::None)]
    pub memory: CaptureMemory,
    /// Have a host of this collector record, by its query address, such as http://127.0.0.1:4320, instead of one of this
    /// machine.
    #[arg(long, value_name = "URL", conflicts_with_all = ["pid", "socket", "alloc"])]
    pub connect: Option<String>,
    /// With --connect: a host of this region.
    #[arg(long, requires = "connect")]
    pub region: Option<String>,
    #[command(flatten)]
    pub reach: Reach,
    /// The host's process, if there are several.
    #[arg(long)]
    pub pid: Option<u32>,
    /// The host's socket; by default the one in XDG_RUNTIME_DIR/sandscope.
    #[arg(long, value_name = "PATH", conflicts_with = "pid")]
    pub socket: Option<PathBuf>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
}

/// What of a guest's memory a capture holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CaptureMemory {
    /// Nothing.
    None,
    /// Stacks.
    Stack,
    /// All of it.
    All,
}

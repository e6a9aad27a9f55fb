//! A region of the demo: one host process. It ends when its standard input does, so that it cannot outlive
//! the demo however that ends.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, ChildStdin, Command};

use crate::problem::Problem;

/// How long a host may take to send what is left.
const GRACE: Duration = Duration::from_secs(4);

/// A running region.
pub struct Region {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Region {
    /// Starts a region's host.
    pub fn start(name: &str, otlp: &str, guests: &Path, seed: u64) -> Result<Self, Problem> {
        let program = std::env::current_exe()
            .map_err(|error| Problem::internal(format!("find the program itself: {error}")))?;
        let mut command = Command::new(program);
        command
            .args(["demo-host", "--region", name, "--otlp", otlp, "--seed", &seed.to_string(), "--guests"])
            .arg(guests)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        // A process group of its own: Ctrl-C in the terminal is the demo's to handle, in order.
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| Problem::internal(format!("start the host of region {name}: {error}")))?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin })
    }

    /// Ends the host: first by its standard input, then by force.
    pub async fn stop(mut self) {
        drop(self.stdin.take());
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            // Gone already is as good as killed.
            let _ = self.child.kill().await;
        }
    }
}

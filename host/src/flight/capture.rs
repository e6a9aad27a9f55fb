//! Asking a running host of this user to record one of its workloads: the other end of the host's socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// First line of a request.
pub(super) const GREETING: &str = "sandscope-capture/1\n";
/// Longest recording that can be asked for.
pub const MAX_DURATION: Duration = Duration::from_secs(600);
/// Time for a host to put a recording together.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest text that a host answers with, in bytes.
const MAX_TEXT: u64 = 1 << 20;

/// Why a host did not do what it was asked. Fragments that complete "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// Nobody answers there.
    #[error("connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("talk to the host at {}", path.display())]
    Talk {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host said no.
    #[error("record: {reason}")]
    Refused {
        /// As it said.
        reason: String,
    },
    /// What came is no answer.
    #[error("understand the host at {}", path.display())]
    Garbled {
        /// The socket.
        path: PathBuf,
    },
    /// The file takes no bytes.
    #[error("write the recording")]
    Write(#[source] io::Error),
}

/// What a host says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct HostInfo {
    /// `service.name`.
    pub service: String,
    /// `cloud.region`.
    pub region: String,
    /// Samples per second of CPU time and thread; 0 if it takes none.
    pub hz: f64,
    /// Whether its guests report allocations.
    pub alloc: bool,
    /// Name and version of each workload, with a space between.
    pub workloads: Vec<String>,
}

/// Where hosts put their sockets, named `<process>.sock`: `sandscope` in `XDG_RUNTIME_DIR`. `None` without one.
pub fn directory() -> Option<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute())?;
    Some(runtime.join("sandscope"))
}

/// The sockets in a directory, with the ids of their processes, some of which may be gone.
pub fn sockets(directory: &Path) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.strip_suffix(".sock")?.parse().ok()?;
            Some((pid, entry.path()))
        })
        .collect();
    found.sort();
    found
}

/// Asks a host what runs in it.
///
/// # Errors
/// See [`CaptureError`].
pub fn list(socket: &Path) -> Result<HostInfo, CaptureError> {
    let mut text = String::new();
    let (mut answer, len) = ask(socket, "list", PATIENCE)?;
    answer
        .by_ref()
        .take(len.min(MAX_TEXT))
        .read_to_string(&mut text)
        .map_err(|source| talk(socket, source))?;
    let mut lines = text.lines().map(str::to_owned);
    let mut next = || lines.next().ok_or_else(|| CaptureError::Garbled { path: socket.to_owned() });
    let (service, region, probes) = (next()?, next()?, next()?);
    let (hz, alloc) = probes.split_once(' ').unwrap_or((&probes, ""));
    let (hz, alloc) = (hz.parse().unwrap_or(0.0), alloc == "true");
    Ok(HostInfo { service, region, hz, alloc, workloads: lines.collect() })
}

/// Has a host record a workload for a time, with `hz` samples a second if that is more than usual, and writes the recording to `out`; its length in bytes.
///
/// # Errors
/// See [`CaptureError`].
pub fn record(
    socket: &Path,
    workload: &str,
    duration: Duration,
    hz: f64,
    out: &mut impl Write,
) -> Result<u64, CaptureError> {
    let request = format!("capture {} {hz} {workload}", duration.as_millis());
    let (mut answer, len) = ask(socket, &request, duration + PATIENCE)?;
    let mut buffer = [0; 1 << 16];
    let mut left = len;
    while left > 0 {
        let room = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = answer.read(&mut buffer[..room]).map_err(|source| talk(socket, source))?;
        if read == 0 {
            return Err(talk(socket, io::ErrorKind::UnexpectedEof.into()));
        }
        out.write_all(&buffer[..read]).map_err(CaptureError::Write)?;
        left -= read as u64;
    }
    Ok(len)
}

fn talk(path: &Path, source: io::Error) -> CaptureError {
    CaptureError::Talk { path: path.to_owned(), source }
}

/// Sends a request; the rest of the answer and how long it is.
#[cfg(unix)]
fn ask(path: &Path, request: &str, patience: Duration) -> Result<(impl Read + use<>, u64), CaptureError> {
    use std::os::unix::net::UnixStream;
    let connect = |source| CaptureError::Connect { path: path.to_owned(), source };
    let failed = |source| talk(path, source);
    let mut stream = UnixStream::connect(path).map_err(connect)?;
    stream.set_read_timeout(Some(patience)).map_err(failed)?;
    // The request is a line; what has none of its own cannot add another.
    let request: String = request.chars().filter(|c| !c.is_control()).collect();
    stream.write_all(format!("{GREETING}{request}\n").as_bytes()).map_err(failed)?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.by_ref().take(4096).read_line(&mut line).map_err(failed)?;
    if let Some(reason) = line.strip_prefix("error ") {
        return Err(CaptureError::Refused { reason: reason.trim_end().to_owned() });
    }
    let len = line.strip_prefix("ok ").and_then(|len| len.trim_end().parse().ok());
    len.map(|len| (answer, len)).ok_or_else(|| CaptureError::Garbled { path: path.to_owned() })
}

#[cfg(not(unix))]
fn ask(path: &Path, _: &str, _: Duration) -> Result<(io::Empty, u64), CaptureError> {
    Err(CaptureError::Connect { path: path.to_owned(), source: io::ErrorKind::Unsupported.into() })
}

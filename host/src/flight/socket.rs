//! The host's end of captures: a socket of this user's, on which a host is asked what runs in it and to record it.
//!
//! ```text
//! asked:    sandscope-capture/1 LF  "list" LF | "capture " milliseconds " " hz " " workload LF
//! (hz: samples per second while it lasts, if that is more than usual)
//!
//! answered: "ok " bytes LF, then as many bytes | "error " text LF
//! ```
//!
//! # Security
//! The socket has mode 0600 in a directory that nobody else can write to, and the other end's user is asked of the
//! kernel. Requests are bounded in size, time and number; a recording holds what [`super`] says.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Capture;
use super::capture::{GREETING, MAX_DURATION};
use crate::aggregate::Command;
use crate::cache::private;
use crate::sampler::MAX_HZ;
use crate::scope::Shared;

/// Connections at a time; more wait.
const MAX_CLIENTS: usize = 8;
/// Longest request, in bytes.
const MAX_REQUEST: u64 = 4096;
/// Time for a request to come in.
const ASK: Duration = Duration::from_secs(5);
/// Time for an answer to go out.
const ANSWER: Duration = Duration::from_secs(120);

/// A bound socket, gone from the file system with this.
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Binds. What a host that is gone left at the path is replaced, a socket in use is not.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            private::directory(folder).map_err(io::Error::other)?;
        }
        let old = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if old && std::os::unix::net::UnixStream::connect(path).is_err() {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        let listener = Self { listener, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// Answers until the runtime ends.
    pub(crate) async fn serve(self, shared: Arc<Shared>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                    Ok((stream, _)) => drop(clients.spawn(client(stream, Arc::clone(&shared)))),
                    // Out of descriptors: others may close some.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Some(_) = clients.join_next(), if !clients.is_empty() => {}
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn client(mut stream: UnixStream, shared: Arc<Shared>) {
    // SAFETY: reads an id of the process; it has no preconditions and cannot fail.
    let own = unsafe { libc::geteuid() };
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own) {
        return;
    }
    let Ok(Some(request)) = timeout(ASK, request(&mut stream)).await else { return };
    let answer = async {
        match answer(&mut stream, &request, &shared).await {
            Ok(Answer::Text(text)) => stream.write_all(format!("ok {}\n{text}", text.len()).as_bytes()).await,
            Ok(Answer::File(file, len)) => {
                stream.write_all(format!("ok {len}\n").as_bytes()).await?;
                tokio::io::copy(&mut tokio::fs::File::from_std(file).take(len), &mut stream).await.map(drop)
            }
            Ok(Answer::Gone) => Ok(()),
            Err(reason) => stream.write_all(format!("error {reason}\n").as_bytes()).await,
        }
    };
    // Whoever does not listen gets nothing.
    let _ = timeout(ANSWER + MAX_DURATION, answer).await;
}

/// The line after the greeting; `None` if it is no request.
async fn request(stream: &mut UnixStream) -> Option<String> {
    let mut text = Vec::new();
    while text.iter().filter(|byte| **byte == b'\n').count() < 2 {
        if text.len() as u64 >= MAX_REQUEST || stream.read_buf(&mut text).await.ok()? == 0 {
            return None;
        }
    }
    let text = String::from_utf8(text).ok()?;
    text.strip_prefix(GREETING)?.lines().next().map(str::to_owned)
}

enum Answer {
    Text(String),
    File(std::fs::File, u64),
    /// Whoever asked went away.
    Gone,
}

fn asked(request: &str, reply: oneshot::Sender<Result<std::fs::File, String>>) -> Option<Capture> {
    let mut words = request.strip_prefix("capture ")?.splitn(3, ' ');
    let duration = Duration::from_millis(words.next()?.parse().ok()?);
    let hz: f64 = words.next()?.parse().ok()?;
    let workload = words.next()?.to_owned();
    let sound = duration <= MAX_DURATION && (0.0..=MAX_HZ).contains(&hz);
    sound.then_some(Capture { workload, duration, hz, reply })
}

async fn answer(stream: &mut UnixStream, request: &str, shared: &Shared) -> Result<Answer, String> {
    if request == "list" {
        let resource = &shared.resource;
        let (hz, alloc) = (shared.rate.usual(), shared.alloc);
        let mut text = format!("{}\n{}\n{hz} {alloc}\n", resource.service, resource.region);
        for figures in shared.all_figures() {
            text.push_str(&format!("{} {}\n", figures.id().name, figures.id().version));
        }
        return Ok(Answer::Text(text));
    }
    let (reply, recorded) = oneshot::channel();
    let capture = asked(request, reply).ok_or("this is no request of this version")?;
    shared.tell(Command::Capture(capture));
    let file = tokio::select! {
        recorded = recorded => recorded.unwrap_or_else(|_| Err("the host is busy or ending".to_owned()))?,
        // Nothing more is sent by who waits, so anything that can be read is the end.
        _ = stream.read_u8() => return Ok(Answer::Gone),
    };
    let len = file.metadata().map_err(|error| error.to_string())?.len();
    Ok(Answer::File(file, len))
}

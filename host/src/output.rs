//! What guests write to standard output and error, as lines for recordings: only where the builder allows it.
//!
//! ```text
//! guest --write--> GuestOutput --> the writer that is wrapped
//!                       \--line--> bounded queue --> aggregator --> recording, flight recorder
//! ```
//! # Accuracy
//! A line is complete at its end, at [`MAX_LINE`] bytes (the rest is cut, with `…`), or with the writer. What finds the
//! queue full is lost and counted with other events. A line carries the span of the call on whose thread it was written.
//!
//! # Cost
//! Nothing where it is not allowed; else a copy of what is written.
//!
//! # Security
//! Lines hold what guests say, secrets included. They leave the process with recordings, never by themselves.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use sandscope_proto::otlp::MAX_LINE;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::load::Workload;
use crate::sampler;
use crate::scope::unix_nanos;

/// Lines that may wait for the aggregator.
const QUEUE: usize = 1024;

/// A stream that guests write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl GuestStream {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A line on its way.
pub(crate) struct Line {
    /// Ordinal of the workload.
    pub owner: u32,
    pub stream: GuestStream,
    pub unix_nano: u64,
    /// 0 if it is of no call, or nobody knows of which.
    pub span: u64,
    pub text: String,
}

/// Where lines go.
#[derive(Debug)]
pub(crate) struct LineQueue {
    queue: SyncSender<Line>,
    lost: AtomicU64,
}

impl LineQueue {
    pub(crate) fn new() -> (Arc<Self>, Receiver<Line>) {
        let (queue, lines) = sync_channel(QUEUE);
        (Arc::new(Self { queue, lost: AtomicU64::new(0) }), lines)
    }

    /// Lines that were lost since the last call.
    pub(crate) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// A writer of a guest, with the lines of it kept for recordings where [`Builder::guest_output`] allows that. It is
/// what the one inside is: [`io::Write`], or a stream of WASI.
///
/// [`Builder::guest_output`]: crate::Builder::guest_output
#[derive(Debug)]
pub struct GuestOutput<W> {
    inner: W,
    lines: Option<Lines>,
}

impl Workload {
    /// Wraps a writer that calls of this workload write to.
    pub fn output<W>(&self, stream: GuestStream, inner: W) -> GuestOutput<W> {
        let lines = self.shared.output.as_ref().map(|queue| {
            let pending = Pending {
                owner: self.figures.ordinal,
                stream,
                queue: Arc::clone(queue),
                bytes: Vec::new(),
                is_cut: false,
            };
            Lines(Arc::new(Mutex::new(pending)))
        });
        GuestOutput { inner, lines }
    }
}

/// The line that is being written, shared by all handles of a stream.
#[derive(Clone, Debug)]
struct Lines(Arc<Mutex<Pending>>);

#[derive(Debug)]
struct Pending {
    owner: u32,
    stream: GuestStream,
    queue: Arc<LineQueue>,
    bytes: Vec<u8>,
    is_cut: bool,
}

impl Lines {
    fn see(&self, bytes: &[u8]) {
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_LINE - pending.bytes.len();
            pending.is_cut |= part.len() > room;
            pending.bytes.extend(part.iter().take(room));
            if part.ends_with(b"\n") {
                pending.end();
            }
        }
    }
}

impl Pending {
    fn end(&mut self) {
        let mut text = String::from_utf8_lossy(&self.bytes).trim_end_matches(['\r', '\n']).to_owned();
        if std::mem::take(&mut self.is_cut) {
            text.truncate(text.floor_char_boundary(MAX_LINE - '…'.len_utf8()));
            text.push('…');
        }
        self.bytes.clear();
        let line = Line {
            owner: self.owner,
            stream: self.stream,
            unix_nano: unix_nanos(SystemTime::now()),
            span: sampler::active_span().unwrap_or(0),
            text,
        };
        if self.queue.queue.try_send(line).is_err() {
            self.queue.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.end();
        }
    }
}

impl<W: Write> Write for GuestOutput<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        if let Some(lines) = &self.lines {
            lines.see(bytes.get(..written).unwrap_or(bytes));
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: IsTerminal> IsTerminal for GuestOutput<W> {
    fn is_terminal(&self) -> bool {
        self.inner.is_terminal()
    }
}

impl<W: StdoutStream> StdoutStream for GuestOutput<W> {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        let inner = self.inner.async_stream();
        match self.lines.clone() {
            Some(lines) => Box::new(Writer { inner: Pin::from(inner), lines }),
            None => inner,
        }
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        let inner = self.inner.p2_stream();
        match self.lines.clone() {
            Some(lines) => Box::new(Stream { inner, lines }),
            None => inner,
        }
    }
}

struct Writer {
    inner: Pin<Box<dyn AsyncWrite + Send + Sync>>,
    lines: Lines,
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = self.inner.as_mut().poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.lines.see(bytes.get(..*written).unwrap_or(bytes));
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.as_mut().poll_shutdown(cx)
    }
}

struct Stream {
    inner: Box<dyn OutputStream>,
    lines: Lines,
}

#[async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait]
impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let written = bytes.clone();
        self.inner.write(bytes)?;
        self.lines.see(&written);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

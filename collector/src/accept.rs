//! Connections of a listener: taken from the kernel at once, held to say something within a time, and then given to
//! the server, so many at a time.
//!
//! A connection that says nothing holds no place: those that have yet to finish the TLS handshake (or, without TLS, to
//! send a byte) wait in a pool of their own, and when that is full the one that has waited longest goes. So thousands
//! of half-open connections cost an honest sender nothing but that thousands more would have to arrive while it shakes
//! hands.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::access::{Access, Peer, Speaks, names};
use crate::account::{Account, Connection as Counted};

/// Connections of one listener that have yet to say something.
const HALF_OPEN: usize = 256;
/// Time for the handshake, or the first byte, and then for HTTP/2's preface.
const GREETING: Duration = Duration::from_secs(10);
/// What an HTTP/2 connection begins with, in bytes (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Connections that were greeted and that the server has not taken yet.
const READY: usize = 16;

/// A listener and what its connections are held to.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) speaks: Speaks,
    /// Connections at the same time; further ones wait half open.
    pub(crate) most: usize,
    pub(crate) access: Arc<Access>,
    pub(crate) account: Arc<Account>,
}

impl Door {
    /// Lets connections in until told to stop.
    pub(crate) fn open(
        self,
        stop: watch::Receiver<bool>,
    ) -> (mpsc::Receiver<Connection>, impl Future<Output = ()> + Send + 'static) {
        let (ready, connections) = mpsc::channel(READY);
        (connections, self.keep(ready, stop))
    }

    async fn keep(self, ready: mpsc::Sender<Connection>, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(self.most));
        let mut greeted = JoinSet::new();
        let mut waiting: VecDeque<AbortHandle> = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = greeted.join_next() => continue,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            // Out of descriptors, or a peer that is gone already: neither ends the server.
            let Ok((stream, addr)) = accepted else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            waiting.retain(|greeting| !greeting.is_finished());
            if waiting.len() >= HALF_OPEN
                && let Some(longest) = waiting.pop_front()
            {
                longest.abort();
                self.account.connection(Counted::Evicted);
            }
            let greeting = Greeting {
                tls: self.access.acceptor(self.speaks),
                speaks: self.speaks,
                places: Arc::clone(&places),
                account: Arc::clone(&self.account),
            };
            let ready = ready.clone();
            waiting.push_back(greeted.spawn(async move {
                let account = Arc::clone(&greeting.account);
                match tokio::time::timeout(GREETING, greeting.greet(stream, addr)).await {
                    // The server that is gone has no use for it.
                    Ok(Ok(connection)) => drop(ready.send(connection).await),
                    Ok(Err(_)) => account.connection(Counted::Failed),
                    Err(_) => account.connection(Counted::Silent),
                }
            }));
        }
    }
}

/// What happens to a connection before a server sees it.
struct Greeting {
    tls: Option<tokio_rustls::TlsAcceptor>,
    speaks: Speaks,
    places: Arc<Semaphore>,
    account: Arc<Account>,
}

impl Greeting {
    async fn greet(self, stream: TcpStream, addr: SocketAddr) -> io::Result<Connection> {
        // Answers are small and waited for.
        stream.set_nodelay(true)?;
        let (io, names) = match self.tls {
            None => {
                if stream.peek(&mut [0]).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                (Io::Plain(stream), Vec::new())
            }
            Some(tls) => {
                let stream = tls.accept(stream).await?;
                let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let names = shown.map(|certificate| names(certificate)).unwrap_or_default();
                (Io::Tls(Box::new(stream)), names)
            }
        };
        let place = self.places.acquire_owned().await.map_err(io::Error::other)?;
        let preface =
            (self.speaks == Speaks::Http2).then(|| (PREFACE, Box::pin(tokio::time::sleep(GREETING))));
        let peer = Peer { addr, names: names.into() };
        Ok(Connection { io, peer, preface, _place: Place::new(place, self.account) })
    }
}

/// A place among a listener's connections.
struct Place {
    account: Arc<Account>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn new(permit: OwnedSemaphorePermit, account: Arc<Account>) -> Self {
        account.connection(Counted::Opened);
        Self { account, _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.account.connection(Counted::Closed);
    }
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that may be served.
pub(crate) struct Connection {
    io: Io,
    peer: Peer,
    /// Bytes of the preface that have not come, and until when they have to: servers do not look.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    _place: Place,
}

impl Connection {
    /// Who is at its other end.
    pub(crate) fn peer(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let read = match &mut this.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        if let Some((missing, until)) = &mut this.preface {
            *missing = missing.saturating_sub(buf.filled().len() - before);
            if *missing == 0 {
                this.preface = None;
            } else if read.is_pending() {
                ready!(until.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Gives each connection of a door to `serve` until told to stop; open ones end with this.
pub(crate) async fn serve_each<F>(
    door: Door,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(Connection) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut connections, keep) = door.open(stop.clone());
    let mut open = JoinSet::new();
    open.spawn(keep);
    loop {
        tokio::select! {
            Some(connection) = connections.recv() => drop(open.spawn(serve(connection))),
            Some(_) = open.join_next() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

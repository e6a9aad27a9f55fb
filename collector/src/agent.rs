//! The stream that hosts open: takes their offers and chunks to the store of debug info, and the store's
//! messages back. What is asked of whom is decided in `debug::store`.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sandscope_model::ModuleId;
use sandscope_proto::AGENT_PROTOCOL;
use sandscope_proto::agent::agent_server::Agent;
use sandscope_proto::agent::{
    CollectorMessage, Have, Hello, HostMessage, Want, Welcome, collector_message, host_message,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::access::{Access, Grant, granted};
use crate::account::Account;
use crate::debug::{Candidate, Effect, Found, HostId, Input, Message, Shelf, Store, Stored, verify};
use crate::recordings::Fleet;

/// Messages that may wait for a host: more than an honest one has offers. One that reads nothing is cut off.
const OUTBOX: usize = 8192;
/// Time between looks at stalled uploads.
const TICK: Duration = Duration::from_secs(5);
/// Longest time to wait for debug info that a host has yet to send.
const FETCH: Duration = Duration::from_secs(10);
/// Time for a host to say who it is.
const GREETING: Duration = Duration::from_secs(10);

type Outbox = mpsc::Sender<Result<CollectorMessage, Status>>;

/// One connected host.
struct Peer {
    outbox: Outbox,
    /// Told when the host is cut off.
    cut: Arc<Notify>,
}

struct Inner {
    store: Store,
    hosts: HashMap<HostId, Peer>,
    next: HostId,
}

/// The store of debug info with the hosts that fill it.
pub(crate) struct DebugInfo {
    // One lock for both, so that a host gets its messages in the order in which they were decided.
    inner: Mutex<Inner>,
    stored: Notify,
    start: Instant,
    account: Arc<Account>,
    max_hosts: usize,
    /// `None` without a data directory.
    shelf: Option<Arc<Shelf>>,
}

impl DebugInfo {
    /// A store of so many (compressed) bytes of so many hosts, with what the directory has.
    ///
    /// # Errors
    /// A directory that cannot be listed.
    pub(crate) fn new(
        shelf: Option<Shelf>,
        max_bytes: u64,
        max_hosts: usize,
        account: Arc<Account>,
    ) -> io::Result<Arc<Self>> {
        let kept = shelf.as_ref().map(Shelf::list).transpose()?.unwrap_or_default();
        let store = Store::new(max_bytes, shelf.is_some());
        let inner = Inner { store, hosts: HashMap::new(), next: 0 };
        let (stored, start) = (Notify::new(), Instant::now());
        let shelf = shelf.map(Arc::new);
        let debug = Arc::new(Self { inner: Mutex::new(inner), stored, start, account, max_hosts, shelf });
        for Stored { id, bytes, size } in kept {
            debug.handle(Input::Kept { id, bytes, size });
        }
        Ok(debug)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing inside is left half done by a panic that would be worse than going on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Modules held.
    pub(crate) fn modules(&self) -> u32 {
        u32::try_from(self.lock().store.len()).unwrap_or(u32::MAX)
    }

    /// Debug info in one zstd frame and its size after decompression. If a host offers it, waits for it.
    pub(crate) async fn fetch(self: &Arc<Self>, id: &ModuleId) -> Option<(Bytes, u64)> {
        let arrival = async {
            loop {
                let stored = self.stored.notified();
                tokio::pin!(stored);
                stored.as_mut().enable();
                let found = self.lock().store.get(id);
                if let Some((found, size)) = found {
                    match self.read(id, found).await {
                        Some(data) => return Some((data, size)),
                        None => self.handle(Input::Lost { id: id.clone() }),
                    }
                }
                self.handle(Input::Missed { id: id.clone() });
                if !self.lock().store.expects(id) {
                    return None;
                }
                stored.await;
            }
        };
        tokio::time::timeout(FETCH, arrival).await.ok().flatten()
    }

    async fn read(&self, id: &ModuleId, found: Found) -> Option<Bytes> {
        let (shelf, id) = match (found, &self.shelf) {
            (Found::Here(data), _) => return Some(data),
            (Found::Kept, Some(shelf)) => (shelf.clone(), id.clone()),
            (Found::Kept, None) => return None,
        };
        // A runtime that shuts down has nobody who waits.
        tokio::task::spawn_blocking(move || shelf.get(&id).ok()).await.ok().flatten()
    }

    /// Writes what was checked to the directory, if there is one.
    fn keep(&self, id: &ModuleId, frame: &[u8], size: u64) -> io::Result<()> {
        match &self.shelf {
            Some(shelf) if self.lock().store.takes(frame.len() as u64) => shelf.put(id, frame, size),
            Some(_) | None => Ok(()),
        }
    }

    /// Ids of what is held, sorted, with sizes in bytes before compression.
    pub(crate) fn list(&self) -> Vec<(ModuleId, u64)> {
        self.lock().store.list()
    }

    /// Takes debug info that was checked, in one zstd frame and its size after decompression. Takes as long as the
    /// disk does.
    ///
    /// # Errors
    /// What the disk said.
    pub(crate) fn push(self: &Arc<Self>, id: ModuleId, data: Bytes, size: u64) -> io::Result<()> {
        self.keep(&id, &data, size)?;
        self.handle(Input::Pushed { id, data, size });
        Ok(())
    }

    /// Takes a host in, if there is room: its id, and what is told when it is cut off.
    fn join(&self, outbox: Outbox) -> Option<(HostId, Arc<Notify>)> {
        let mut inner = self.lock();
        if inner.hosts.len() >= self.max_hosts {
            return None;
        }
        inner.next += 1;
        let id = inner.next;
        let cut = Arc::new(Notify::new());
        inner.hosts.insert(id, Peer { outbox, cut: cut.clone() });
        Some((id, cut))
    }

    fn leave(self: &Arc<Self>, host: HostId) {
        self.lock().hosts.remove(&host);
        self.handle(Input::Left { host });
    }

    /// Takes an input to the store and does what it says.
    fn handle(self: &Arc<Self>, input: Input) {
        let mut inner = self.lock();
        let mut stored = false;
        let mut changed = false;
        for effect in inner.store.handle(self.start.elapsed(), input) {
            match effect {
                Effect::Send(host, message) => {
                    let Some(peer) = inner.hosts.get(&host) else { continue };
                    if peer.outbox.try_send(Ok(wire(&message))).is_err() {
                        peer.cut.notify_one();
                        inner.hosts.remove(&host);
                    }
                }
                Effect::Check(candidate) => self.check(candidate),
                Effect::Stored => stored = true,
                Effect::Forget(id) => {
                    if let Some(shelf) = &self.shelf {
                        shelf.remove(&id);
                    }
                }
                Effect::Refused => {
                    self.account.module_refused();
                    changed = true;
                }
            }
        }
        drop(inner);
        if stored || changed {
            self.stored.notify_waiters();
        }
    }

    fn check(self: &Arc<Self>, candidate: Candidate) {
        let debug = self.clone();
        tokio::task::spawn_blocking(move || {
            let Candidate { id, data, size, .. } = &candidate;
            let sound = verify(id, data, *size).is_ok() && debug.keep(id, data, *size).is_ok();
            debug.handle(Input::Checked { candidate, sound });
        });
    }

    /// Looks after stalled uploads, for ever.
    pub(crate) async fn watch_over(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            ticks.tick().await;
            self.handle(Input::Tick);
        }
    }
}

fn wire(message: &Message) -> CollectorMessage {
    let message = match message {
        Message::Want(id) => collector_message::Message::Want(Want { module_id: id.as_str().to_owned() }),
        Message::Have(id) => collector_message::Message::Have(Have { module_id: id.as_str().to_owned() }),
    };
    CollectorMessage { message: Some(message) }
}

/// The service `sandscope.agent.v1.Agent`.
pub(crate) struct AgentService {
    pub(crate) debug: Arc<DebugInfo>,
    pub(crate) access: Arc<Access>,
    pub(crate) fleet: Arc<Fleet>,
    /// Becomes true, or is dropped, when the collector stops.
    pub(crate) stop: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl Agent for AgentService {
    type ConnectStream = Pin<Box<dyn Stream<Item = Result<CollectorMessage, Status>> + Send>>;

    async fn connect(
        &self,
        request: Request<Streaming<HostMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let (grant, access) = (granted(&request)?, self.access.clone());
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let Some((host, cut)) = self.debug.join(outbox.clone()) else {
            return Err(Status::resource_exhausted("too many hosts are connected"));
        };
        let (debug, fleet, mut stop) = (self.debug.clone(), self.fleet.clone(), self.stop.clone());
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            let status = tokio::select! {
                status = converse(&debug, &fleet, host, &mut incoming, &outbox, (&access, &grant)) => status,
                _ = stop.wait_for(|stop| *stop) => {
                    Err(Status::unavailable("the collector is shutting down"))
                }
                () = outbox.closed() => Ok(()),
                () = cut.notified() => Err(Status::resource_exhausted("too many messages wait to be read")),
            };
            debug.leave(host);
            fleet.leave(host);
            if let Err(status) = status {
                // A host that is gone needs no reason, and one that reads nothing gets the end of the stream.
                let _ = outbox.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

/// Reads what a host says until it ends.
async fn converse(
    debug: &Arc<DebugInfo>,
    fleet: &Arc<Fleet>,
    host: HostId,
    incoming: &mut Streaming<HostMessage>,
    outbox: &Outbox,
    (access, grant): (&Access, &Grant),
) -> Result<(), Status> {
    let greeting = tokio::time::timeout(GREETING, incoming.message()).await;
    let first = greeting.map_err(|_| Status::deadline_exceeded("no Hello came"))??;
    let Some(HostMessage { message: Some(host_message::Message::Hello(hello)) }) = first else {
        return Err(Status::invalid_argument("a stream begins with Hello"));
    };
    if grant.claims(&hello.region).is_err() {
        let reason = format!("a host of the region {:?} is not this sender's", hello.region);
        access.refuse(grant, "agent stream", &reason);
        return Err(Status::permission_denied(reason));
    }
    let welcome = CollectorMessage { message: Some(collector_message::Message::Welcome(agree(&hello)?)) };
    if outbox.send(Ok(welcome)).await.is_err() {
        return Ok(());
    }
    fleet.join(host, &hello, outbox.clone());
    while let Some(HostMessage { message }) = incoming.message().await? {
        match message {
            Some(host_message::Message::Offer(offer)) => {
                let id = module(&offer.module_id)?;
                fleet.loaded(host, &offer.workload);
                debug.handle(Input::Offered { host, id, size: offer.size });
            }
            Some(host_message::Message::Chunk(chunk)) => {
                let id = module(&chunk.module_id)?;
                debug.handle(Input::Chunk { host, id, data: chunk.data, last: chunk.last });
            }
            Some(
                said @ (host_message::Message::Refused(_)
                | host_message::Message::Upload(_)
                | host_message::Message::Piece(_)),
            ) => fleet.handle(host, said).await,
            // A later release may say more than we know.
            Some(host_message::Message::Hello(_)) | None => {}
        }
    }
    Ok(())
}

/// The protocol to speak: the older of both.
fn agree(hello: &Hello) -> Result<Welcome, Status> {
    match hello.protocol {
        0 => Err(Status::invalid_argument("Hello names no protocol")),
        protocol => Ok(Welcome { protocol: protocol.min(AGENT_PROTOCOL) }),
    }
}

fn module(id: &str) -> Result<ModuleId, Status> {
    ModuleId::parse(id).ok_or_else(|| Status::invalid_argument("a module id is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that offers and never reads is cut off, instead of having its answers pile up.
    #[tokio::test]
    async fn a_host_that_reads_nothing_is_cut_off() {
        let debug = DebugInfo::new(None, 1 << 20, 1, Arc::default()).unwrap();
        let (outbox, _unread) = mpsc::channel(2);
        let (host, cut) = debug.join(outbox.clone()).unwrap();
        assert!(debug.join(outbox.clone()).is_none(), "the only place is taken");
        for id in ["aa", "bb", "cc"] {
            assert_eq!(debug.lock().hosts.len(), 1);
            debug.handle(Input::Offered { host, id: module(id).unwrap(), size: 0 });
        }
        cut.notified().await;
        debug.leave(host);
        assert!(debug.join(outbox).is_some());
    }
}

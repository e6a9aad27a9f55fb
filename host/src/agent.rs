//! The stream to the collector beside OTLP: offers debug info of loaded code, sends what is asked for; has workloads
//! recorded and uploads the recordings; passes on that somebody watches.
//!
//! # Security
//! Whoever is the collector may have workloads recorded: what a recording holds is said in [`crate::flight`]. How much,
//! how long and how often is bounded here and there.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sandscope_model::{ModuleId, WorkloadId};
use sandscope_proto::agent as wire;
use sandscope_proto::agent::agent_client::AgentClient;
use sandscope_proto::agent::{
    Chunk, CollectorMessage, Hello, HostMessage, Offer, Refused, Want, collector_message, host_message,
};
use sandscope_proto::connect::Connection;
use sandscope_proto::{AGENT_PROTOCOL, DEBUG_INFO_CHUNK, MAX_DEBUG_INFO};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;

use crate::aggregate::Command;
use crate::flight::Capture;
use crate::flight::capture::MAX_DURATION;
use crate::sampler::MAX_HZ;
use crate::scope::Shared;
use crate::shelf::Kept;
use crate::uploads::Uploads;

/// Messages that may wait for a slow collector.
const OUTBOX: usize = 8;
/// Modules that may wait to be offered.
const BACKLOG: usize = 4096;
/// Captures that may be under way for the collector.
const MAX_CAPTURES: usize = 4;
/// Longest pause between attempts to connect.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Debug info that can be sent.
pub(crate) struct Available {
    pub id: ModuleId,
    pub workload: WorkloadId,
    /// One zstd frame.
    pub debug: Kept,
    /// Bytes after decompression.
    pub size: u64,
}

/// What the collector is to have.
pub(crate) enum Given {
    /// Debug info, if it lacks it.
    Debug(Available),
    /// A recording that this host made by itself.
    Recording { path: PathBuf, workload: String, trigger: String },
}

/// Starts the stream's task on the current runtime. Code is offered through the channel.
pub(crate) fn spawn(channel: Connection, shared: &Arc<Shared>) -> (mpsc::Sender<Given>, JoinHandle<()>) {
    let (sender, inbox) = mpsc::channel(BACKLOG);
    let resource = &shared.resource;
    let hello = Hello {
        protocol: AGENT_PROTOCOL,
        region: resource.region.clone(),
        service: resource.service.clone(),
        instance: resource.instance.clone(),
        host: resource.host.clone(),
        commands: true,
    };
    let agent = Agent {
        channel,
        hello,
        inbox,
        shared: Arc::clone(shared),
        offered: HashMap::new(),
        unanswered: HashSet::new(),
        captures: JoinSet::new(),
        uploads: Uploads::default(),
    };
    (sender, tokio::spawn(agent.run()))
}

/// Ends the stream once every offer is answered. May take as long as the collector does.
pub(crate) async fn finish(agent: Option<mpsc::Sender<Given>>, done: Option<JoinHandle<()>>) {
    drop(agent);
    if let Some(done) = done {
        // The task does not panic; a cancelled one has nothing left to wait for.
        let _ = done.await;
    }
}

struct Agent {
    channel: Connection,
    hello: Hello,
    inbox: mpsc::Receiver<Given>,
    shared: Arc<Shared>,
    offered: HashMap<ModuleId, Available>,
    /// Offers of this stream that the collector has not answered.
    unanswered: HashSet<ModuleId>,
    /// Captures that the collector asked for: id, workload, what came of it.
    captures: JoinSet<(String, String, Result<File, String>)>,
    uploads: Uploads,
}

enum End {
    /// The host is shutting down.
    Finished,
    /// The stream broke or the collector has no such service.
    Broken,
}

impl Agent {
    async fn run(mut self) {
        let mut pause = Duration::from_millis(250);
        loop {
            match self.stream(&mut pause).await {
                Ok(End::Finished) => return,
                // A collector of somebody else: there is nobody to offer to, but modules keep coming.
                Err(status) if status.code() == tonic::Code::Unimplemented => {
                    while self.inbox.recv().await.is_some() {}
                    return;
                }
                Ok(End::Broken) | Err(_) => {}
            }
            tokio::time::sleep(jitter(pause)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn stream(&mut self, pause: &mut Duration) -> Result<End, tonic::Status> {
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let hello = message(host_message::Message::Hello(self.hello.clone()));
        if outbox.send(hello).await.is_err() {
            return Ok(End::Broken);
        }
        let mut incoming =
            AgentClient::new(self.channel.clone()).connect(ReceiverStream::new(messages)).await?.into_inner();
        *pause = Duration::from_millis(250);
        for available in self.offered.values() {
            if outbox.send(offer(available)).await.is_err() {
                return Ok(End::Broken);
            }
            self.unanswered.insert(available.id.clone());
        }
        if !announce(&mut self.uploads, &outbox).await {
            return Ok(End::Broken);
        }
        let mut ending = false;
        loop {
            let idle = self.captures.is_empty() && self.uploads.is_empty();
            if ending && idle && self.unanswered.is_empty() {
                return Ok(End::Finished);
            }
            tokio::select! {
                given = self.inbox.recv(), if !ending => {
                    let available = match given {
                        Some(Given::Debug(available)) => available,
                        Some(Given::Recording { path, workload, trigger }) => {
                            // One that is gone, or finds no room, stays where the host keeps it.
                            let file = File::open(path).map_err(|error| error.to_string());
                            let pushed =
                                file.and_then(|file| self.uploads.push(String::new(), workload, trigger, file));
                            if pushed == Ok(true) && !announce(&mut self.uploads, &outbox).await {
                                return Ok(End::Broken);
                            }
                            continue;
                        }
                        None => {
                            ending = true;
                            continue;
                        }
                    };
                    if available.size > MAX_DEBUG_INFO || self.offered.contains_key(&available.id) {
                        continue;
                    }
                    if outbox.send(offer(&available)).await.is_err() {
                        return Ok(End::Broken);
                    }
                    self.unanswered.insert(available.id.clone());
                    self.offered.insert(available.id.clone(), available);
                }
                Some(done) = self.captures.join_next(), if !self.captures.is_empty() => {
                    // Nothing there panics, and nobody cancels it.
                    let Ok((id, workload, recorded)) = done else { continue };
                    let pushed = recorded.and_then(|file| {
                        self.uploads.push(id.clone(), workload, "capture".to_owned(), file)
                    });
                    let sent = match pushed {
                        Ok(true) => announce(&mut self.uploads, &outbox).await,
                        Ok(false) => true,
                        Err(reason) => outbox.send(refused(id, reason)).await.is_ok(),
                    };
                    if !sent {
                        return Ok(End::Broken);
                    }
                }
                place = outbox.reserve(), if self.uploads.is_sending() => {
                    let Ok(place) = place else { return Ok(End::Broken) };
                    match self.uploads.piece() {
                        Ok(Some(piece)) => place.send(message(host_message::Message::Piece(piece))),
                        Ok(None) => {}
                        // The device lost it: the next one.
                        Err(_) => {
                            if !announce(&mut self.uploads, &outbox).await {
                                return Ok(End::Broken);
                            }
                        }
                    }
                }
                message = incoming.message() => {
                    let Some(message) = message? else { return Ok(End::Broken) };
                    if !self.answer(&message, &outbox).await {
                        return Ok(End::Broken);
                    }
                }
            }
        }
    }

    /// Does what the collector says; false if the stream broke.
    async fn answer(&mut self, message: &CollectorMessage, outbox: &mpsc::Sender<HostMessage>) -> bool {
        match &message.message {
            Some(collector_message::Message::Want(want)) => return self.send_debug(want, outbox).await,
            Some(collector_message::Message::Have(have)) => {
                if let Some(id) = ModuleId::parse(&have.module_id) {
                    self.unanswered.remove(&id);
                }
            }
            Some(collector_message::Message::Lease(lease)) => {
                self.shared.tell(Command::Lease(Duration::from_secs(lease.seconds.into())));
            }
            Some(collector_message::Message::Capture(order)) => {
                if let Err(reason) = self.capture(order) {
                    return outbox.send(refused(order.capture_id.clone(), reason)).await.is_ok();
                }
            }
            Some(collector_message::Message::Resume(resume)) => {
                self.uploads.resume(resume.number, resume.offset);
            }
            Some(collector_message::Message::Stored(stored)) => {
                if self.uploads.stored(stored.number) {
                    return announce(&mut self.uploads, outbox).await;
                }
            }
            Some(collector_message::Message::Welcome(_)) | None => {}
        }
        true
    }

    /// Has a workload recorded; why not, if it is not done.
    fn capture(&mut self, order: &wire::Capture) -> Result<(), String> {
        let duration = Duration::from_millis(order.milliseconds.into());
        if duration > MAX_DURATION || !(0.0..=MAX_HZ).contains(&order.hz) {
            return Err("a capture has 600 s and 10000 Hz at most".to_owned());
        }
        if self.captures.len() >= MAX_CAPTURES || self.uploads.is_full() {
            return Err("enough captures are under way".to_owned());
        }
        let (reply, recorded) = oneshot::channel();
        let workload = order.workload.clone();
        self.shared.tell(Command::Capture(Capture { workload, duration, hz: order.hz, reply }));
        let (id, workload) = (order.capture_id.clone(), order.workload.clone());
        self.captures.spawn(async move {
            let recorded = recorded.await.unwrap_or_else(|_| Err("the host is busy or ending".to_owned()));
            (id, workload, recorded)
        });
        Ok(())
    }

    /// Sends debug info; false if the stream broke.
    async fn send_debug(&mut self, want: &Want, outbox: &mpsc::Sender<HostMessage>) -> bool {
        let Some(available) = ModuleId::parse(&want.module_id).and_then(|id| self.offered.get(&id)) else {
            return true;
        };
        let mut sent = 0;
        loop {
            let Ok(piece) = available.debug.part(sent, DEBUG_INFO_CHUNK) else {
                // The disk lost it. The collector goes on without names of this module.
                self.unanswered.remove(&available.id);
                return true;
            };
            sent += piece.len();
            let last = sent >= available.debug.len();
            let chunk = Chunk { module_id: available.id.as_str().to_owned(), data: piece.into(), last };
            if outbox.send(message(host_message::Message::Chunk(chunk))).await.is_err() {
                return false;
            }
            if last {
                return true;
            }
        }
    }
}

fn message(message: host_message::Message) -> HostMessage {
    HostMessage { message: Some(message) }
}

fn refused(capture_id: String, reason: String) -> HostMessage {
    message(host_message::Message::Refused(Refused { capture_id, reason }))
}

/// Says what recording is next, if there is one; false if the stream broke.
async fn announce(uploads: &mut Uploads, outbox: &mpsc::Sender<HostMessage>) -> bool {
    let Some(upload) = uploads.announce() else { return true };
    outbox.send(message(host_message::Message::Upload(upload))).await.is_ok()
}

fn offer(available: &Available) -> HostMessage {
    message(host_message::Message::Offer(Offer {
        module_id: available.id.as_str().to_owned(),
        workload: available.workload.name.to_string(),
        workload_version: available.workload.version.to_string(),
        size: available.size,
    }))
}

/// Full jitter: anything from nothing to the pause, so that hosts do not return all at once.
fn jitter(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0) as f64 / u64::MAX as f64;
    pause.mul_f64(random)
}

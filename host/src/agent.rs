//! The stream to the collector beside OTLP: offers debug info of loaded code, sends what is asked for.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sandscope_model::{ModuleId, WorkloadId};
use sandscope_proto::agent::agent_client::AgentClient;
use sandscope_proto::agent::{
    Chunk, CollectorMessage, Hello, HostMessage, Offer, collector_message, host_message,
};
use sandscope_proto::otlp::Resource;
use sandscope_proto::{AGENT_PROTOCOL, DEBUG_INFO_CHUNK, MAX_DEBUG_INFO};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::shelf::Kept;

/// Messages that may wait for a slow collector.
const OUTBOX: usize = 8;
/// Modules that may wait to be offered.
const BACKLOG: usize = 4096;
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

/// Starts the stream's task on the current runtime. Code is offered through the channel.
pub(crate) fn spawn(channel: Channel, resource: &Resource) -> (mpsc::Sender<Available>, JoinHandle<()>) {
    let (sender, inbox) = mpsc::channel(BACKLOG);
    let hello = Hello {
        protocol: AGENT_PROTOCOL,
        region: resource.region.clone(),
        service: resource.service.clone(),
        instance: resource.instance.clone(),
        host: resource.host.clone(),
        commands: false,
    };
    let agent = Agent { channel, hello, inbox, offered: HashMap::new(), unanswered: HashSet::new() };
    (sender, tokio::spawn(agent.run()))
}

/// Ends the stream once every offer is answered. May take as long as the collector does.
pub(crate) async fn finish(agent: Option<mpsc::Sender<Available>>, done: Option<JoinHandle<()>>) {
    drop(agent);
    if let Some(done) = done {
        // The task does not panic; a cancelled one has nothing left to wait for.
        let _ = done.await;
    }
}

struct Agent {
    channel: Channel,
    hello: Hello,
    inbox: mpsc::Receiver<Available>,
    offered: HashMap<ModuleId, Available>,
    /// Offers of this stream that the collector has not answered.
    unanswered: HashSet<ModuleId>,
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
        let mut ending = false;
        loop {
            if ending && self.unanswered.is_empty() {
                return Ok(End::Finished);
            }
            tokio::select! {
                available = self.inbox.recv(), if !ending => {
                    let Some(available) = available else {
                        ending = true;
                        continue;
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
                message = incoming.message() => {
                    let Some(message) = message? else { return Ok(End::Broken) };
                    if !self.answer(&message, &outbox).await {
                        return Ok(End::Broken);
                    }
                }
            }
        }
    }

    /// Sends what the collector wants; false if the stream broke.
    async fn answer(&mut self, message: &CollectorMessage, outbox: &mpsc::Sender<HostMessage>) -> bool {
        let want = match &message.message {
            Some(collector_message::Message::Want(want)) => want,
            Some(collector_message::Message::Have(have)) => {
                if let Some(id) = ModuleId::parse(&have.module_id) {
                    self.unanswered.remove(&id);
                }
                return true;
            }
            Some(_) | None => return true,
        };
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
            if outbox.send(self::message(host_message::Message::Chunk(chunk))).await.is_err() {
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

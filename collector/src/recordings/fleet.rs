//! The hosts that are connected: who is asked to report every second, who is asked for a recording, who waits for it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandscope_proto::agent::collector_message::Message as ToHost;
use sandscope_proto::agent::host_message::Message as FromHost;
use sandscope_proto::agent::{Capture, CollectorMessage, Hello, Lease, Resume, Stored, Upload};
use sandscope_proto::query::RecordingInfo;
use tokio::sync::{mpsc, watch};
use tonic::Status;

use super::store::{Sender, Store, StoreError};
use crate::live::Selected;

/// Seconds of a lease.
const LEASE: u32 = 30;
/// Hosts that one watcher makes report every second.
const MAX_LEASED: usize = 256;
/// Captures that somebody waits for.
const MAX_WAITING: usize = 256;
/// Workloads that are remembered of a host.
const MAX_WORKLOADS: usize = 4096;
/// Longest text that is kept of a host, in bytes.
const MAX_TEXT: usize = 256;

/// Number of a connection.
pub(crate) type HostId = u64;
type Outbox = mpsc::Sender<Result<CollectorMessage, Status>>;

struct Member {
    sender: Sender,
    /// Whether it follows leases and captures.
    commands: bool,
    /// Names of what it offered debug info of.
    workloads: HashSet<Box<str>>,
    outbox: Outbox,
}

/// How a capture goes on.
#[derive(Clone, Debug)]
pub(crate) enum Progress {
    Recording,
    Uploading(RecordingInfo),
    Done(RecordingInfo),
    /// As the host or the store says it.
    Refused(String),
}

struct Waiting {
    /// The boot that was asked: nobody else's answer counts.
    instance: String,
    progress: watch::Sender<Progress>,
}

/// Connected hosts and kept recordings.
pub(crate) struct Fleet {
    members: Mutex<HashMap<HostId, Member>>,
    waiting: Mutex<HashMap<String, Waiting>>,
    /// `None` without a data directory.
    store: Option<Arc<Mutex<Store>>>,
    random: RandomState,
}

/// A capture that somebody waits for; forgotten when this is dropped.
pub(crate) struct Ordered {
    fleet: Arc<Fleet>,
    pub id: String,
    pub host: Sender,
    pub progress: watch::Receiver<Progress>,
}

impl Drop for Ordered {
    fn drop(&mut self) {
        lock(&self.fleet.waiting).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing inside is left half done by a panic that would be worse than going on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default().to_owned()
}

fn message(message: ToHost) -> Result<CollectorMessage, Status> {
    Ok(CollectorMessage { message: Some(message) })
}

/// An error with its causes, on one line.
fn chain(error: &StoreError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl Fleet {
    pub(crate) fn new(store: Option<Store>) -> Self {
        Self {
            members: Mutex::default(),
            waiting: Mutex::default(),
            store: store.map(|store| Arc::new(Mutex::new(store))),
            random: RandomState::new(),
        }
    }

    /// A host has said who it is.
    pub(crate) fn join(&self, host: HostId, hello: &Hello, outbox: Outbox) {
        let sender = Sender {
            region: cut(&hello.region),
            service: cut(&hello.service),
            host: cut(&hello.host),
            instance: cut(&hello.instance),
        };
        let member = Member { sender, commands: hello.commands, workloads: HashSet::new(), outbox };
        lock(&self.members).insert(host, member);
    }

    pub(crate) fn leave(&self, host: HostId) {
        lock(&self.members).remove(&host);
    }

    /// A host has loaded code of a workload.
    pub(crate) fn loaded(&self, host: HostId, workload: &str) {
        if let Some(member) = lock(&self.members).get_mut(&host)
            && member.workloads.len() < MAX_WORKLOADS
        {
            member.workloads.insert(cut(workload).into());
        }
    }

    /// `service.instance.id` of the hosts that are connected.
    pub(crate) fn instances(&self) -> HashSet<String> {
        lock(&self.members).values().map(|member| member.sender.instance.clone()).collect()
    }

    /// Hosts that follow commands, are selected, and run the selection's workload, if it names one: by what they offered, or
    /// by what they reported, which is `boots`.
    fn chosen<'a>(
        members: &'a HashMap<HostId, Member>,
        selected: &'a Selected,
        boots: &'a [Box<str>],
    ) -> impl Iterator<Item = &'a Member> {
        members.values().filter(move |member| {
            let Sender { region, service, host, instance } = &member.sender;
            let runs = |workload: &str| {
                member.workloads.contains(workload) || boots.iter().any(|boot| **boot == **instance)
            };
            member.commands
                && selected.is_host(region, service, host, instance)
                && selected.workload().is_none_or(runs)
        })
    }

    /// Asks the hosts of a selection to report every second for a while.
    pub(crate) fn lease(&self, selected: &Selected, boots: &[Box<str>]) {
        let members = lock(&self.members);
        for member in Self::chosen(&members, selected, boots).take(MAX_LEASED) {
            // One whose outbox is full is cut off by the next message that matters.
            let _ = member.outbox.try_send(message(ToHost::Lease(Lease { seconds: LEASE })));
        }
    }

    /// Asks one of the hosts of a selection, which names the workload, for a recording.
    pub(crate) fn capture(
        self: &Arc<Self>,
        selected: &Selected,
        boots: &[Box<str>],
        milliseconds: u32,
        hz: f64,
    ) -> Result<Ordered, Status> {
        if self.store.is_none() {
            return Err(Status::failed_precondition(
                "this collector keeps no recordings: it has no data directory",
            ));
        }
        let members = lock(&self.members);
        let workload = selected.workload().unwrap_or_default();
        let member = Self::chosen(&members, selected, boots).next();
        let member =
            member.ok_or_else(|| Status::not_found("no host that is connected runs this workload there"))?;
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= MAX_WAITING {
            return Err(Status::resource_exhausted("too many captures are under way"));
        }
        let id = format!("{:016x}", self.random.hash_one(std::time::SystemTime::now()));
        let order = Capture { capture_id: id.clone(), workload: workload.to_owned(), milliseconds, hz };
        member
            .outbox
            .try_send(message(ToHost::Capture(order)))
            .map_err(|_| Status::unavailable("the host does not listen"))?;
        let (sender, progress) = watch::channel(Progress::Recording);
        let host = member.sender.clone();
        waiting.insert(id.clone(), Waiting { instance: host.instance.clone(), progress: sender });
        Ok(Ordered { fleet: self.clone(), id, host, progress })
    }

    fn tell(&self, instance: &str, capture_id: &str, progress: Progress) {
        let waiting = lock(&self.waiting);
        if let Some(waiting) = waiting.get(capture_id).filter(|waiting| waiting.instance == instance) {
            waiting.progress.send_replace(progress);
        }
    }

    /// Handles what a host says of recordings. Takes as long as the disk does, so that the host waits for it.
    pub(crate) async fn handle(self: &Arc<Self>, host: HostId, said: FromHost) {
        let fleet = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let member = lock(&fleet.members).get(&host).map(|m| (m.sender.clone(), m.outbox.clone()));
            let Some((sender, outbox)) = member else { return };
            if let Some(answer) = fleet.answer(&sender, said) {
                // A host that reads nothing is cut off by what matters more.
                let _ = outbox.try_send(message(answer));
            }
        });
        // Nothing there panics; a runtime that shuts down cancels it.
        let _ = done.await;
    }

    fn answer(&self, sender: &Sender, said: FromHost) -> Option<ToHost> {
        match said {
            FromHost::Refused(refused) => {
                let reason = Progress::Refused(cut(&refused.reason));
                self.tell(&sender.instance, &refused.capture_id, reason);
                None
            }
            FromHost::Upload(upload) => Some(self.announced(sender, &upload)),
            FromHost::Piece(piece) => {
                let Some(store) = &self.store else { return None };
                let taken = lock(store).piece(sender, piece.number, piece.offset, &piece.data);
                match taken {
                    Ok(info) if !info.complete => {
                        self.tell(&sender.instance, &info.capture_id.clone(), Progress::Uploading(info));
                        None
                    }
                    Ok(info) => {
                        self.tell(&sender.instance, &info.capture_id.clone(), Progress::Done(info));
                        Some(stored(piece.number, None))
                    }
                    // Of a stream that broke off: the host is told where to go on by the one that it has now.
                    Err(StoreError::Misplaced { .. }) => None,
                    Err(error) => {
                        lock(store).give_up(sender, piece.number);
                        Some(stored(piece.number, Some(chain(&error))))
                    }
                }
            }
            FromHost::Hello(_) | FromHost::Offer(_) | FromHost::Chunk(_) => None,
        }
    }

    fn announced(&self, sender: &Sender, upload: &Upload) -> ToHost {
        let Some(store) = &self.store else {
            return stored(upload.number, Some("this collector keeps no recordings".to_owned()));
        };
        match lock(store).announce(crate::log::now(), sender, upload) {
            Ok(info) if info.complete => {
                self.tell(&sender.instance, &upload.capture_id, Progress::Done(info));
                stored(upload.number, None)
            }
            Ok(info) => {
                let offset = info.received;
                self.tell(&sender.instance, &upload.capture_id, Progress::Uploading(info));
                ToHost::Resume(Resume { number: upload.number, offset })
            }
            Err(error) => {
                let reason = chain(&error);
                self.tell(&sender.instance, &upload.capture_id, Progress::Refused(reason.clone()));
                stored(upload.number, Some(reason))
            }
        }
    }

    /// Recordings of a selection, newest first, those that are on their way too.
    pub(crate) fn recordings(&self, selected: &Selected, capture_id: &str) -> Vec<RecordingInfo> {
        let Some(store) = &self.store else { return Vec::new() };
        let store = lock(store);
        let wanted = store
            .list()
            .filter(|info| is_of(info, selected) && (capture_id.is_empty() || info.capture_id == capture_id));
        wanted.cloned().collect()
    }

    /// A recording of a selection, from a byte on.
    pub(crate) fn open(
        &self,
        id: &str,
        offset: u64,
        selected: &Selected,
    ) -> Result<impl Read + use<>, StoreError> {
        let store = lock(self.store.as_ref().ok_or(StoreError::Unknown)?);
        if store.list().any(|info| info.id == id && is_of(info, selected)) {
            store.read(id, offset)
        } else {
            Err(StoreError::Unknown)
        }
    }
}

fn is_of(info: &RecordingInfo, selected: &Selected) -> bool {
    selected.is_host(&info.region, &info.service, &info.host, &info.instance)
        && selected.workload().is_none_or(|workload| workload == info.workload)
}

fn stored(number: u64, refused: Option<String>) -> ToHost {
    ToHost::Stored(Stored { number, taken: refused.is_none(), reason: refused.unwrap_or_default() })
}

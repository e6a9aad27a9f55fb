//! What debug info is held, who offers more, and which host is asked next. A core: messages and uploads to check
//! are returned, never sent or read here.
//!
//! Every offer is answered by one `Have`: at once, or after the host (or another one) was asked and has sent.
//! One host at a time is asked for a module; if it leaves, stalls, or sends what does not hold up, the next that
//! offers it is asked.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sandscope_model::ModuleId;
use sandscope_proto::MAX_DEBUG_INFO;

/// Uploads that run at the same time; more wait.
const MAX_UPLOADS: usize = 8;
/// Bytes of unfinished uploads together.
const MAX_UNFINISHED: u64 = 512 << 20;
/// Offers of one host that are remembered.
const MAX_OFFERS: usize = 4096;
/// Offers of all hosts that are remembered.
const MAX_ALL_OFFERS: usize = 200_000;
/// Time after which a host that was asked and sends nothing is given up.
const STALL: Duration = Duration::from_secs(30);
/// Longest time for one upload.
const MAX_UPLOAD: Duration = Duration::from_secs(600);
/// Bytes that an entry costs beyond its data.
const ENTRY_BYTES: u64 = 512;

/// One connection of a host.
pub(crate) type HostId = u64;

/// What the store is told.
pub(crate) enum Input {
    /// A host has a module's debug info, so large before compression.
    Offered { host: HostId, id: ModuleId, size: u64 },
    /// A piece of what was asked for.
    Chunk { host: HostId, id: ModuleId, data: Vec<u8>, last: bool },
    /// Somebody put debug info in, checked and in one zstd frame; it takes the place of what is held.
    Pushed { id: ModuleId, data: Bytes, size: u64 },
    /// A finished upload was checked.
    Checked { candidate: Candidate, sound: bool },
    /// Somebody wants to read a module that is not held.
    Missed { id: ModuleId },
    /// What should be in the directory is not.
    Lost { id: ModuleId },
    /// What the directory had at the start, the oldest first.
    Kept { id: ModuleId, bytes: u64, size: u64 },
    /// A host is gone.
    Left { host: HostId },
    /// Time has passed.
    Tick,
}

/// What has to be done.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Send a message to a host.
    Send(HostId, Message),
    /// Check a finished upload and come back with [`Input::Checked`].
    Check(Candidate),
    /// Debug info came in that was not held before.
    Stored,
    /// An upload was given up.
    Refused,
    /// Remove it from the directory.
    Forget(ModuleId),
}

/// A message to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Send it.
    Want(ModuleId),
    /// It is held, or will not be taken.
    Have(ModuleId),
}

/// A finished upload that nobody has looked at yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub host: HostId,
    pub id: ModuleId,
    pub data: Bytes,
    /// Bytes after decompression, as offered.
    pub size: u64,
}

/// Where debug info is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// Here, in one zstd frame.
    Here(Bytes),
    /// In the directory.
    Kept,
}

struct Held {
    found: Found,
    /// Of the frame.
    bytes: u64,
    /// After decompression.
    size: u64,
    used: u64,
}

struct Offer {
    host: HostId,
    size: u64,
    /// Whether the host has its `Have`.
    answered: bool,
    /// Whether it was asked and failed.
    failed: bool,
}

struct Upload {
    host: HostId,
    size: u64,
    data: Vec<u8>,
    started: Duration,
    progress: Duration,
    /// The last chunk came and it is being checked.
    finished: bool,
}

/// All debug info.
pub(crate) struct Store {
    held: HashMap<ModuleId, Held>,
    bytes: u64,
    max_bytes: u64,
    /// Whether what is checked is in the directory already.
    is_kept: bool,
    /// Counts uses, for the order of eviction.
    clock: u64,
    offers: HashMap<ModuleId, Vec<Offer>>,
    offered: HashMap<HostId, HashSet<ModuleId>>,
    all_offers: usize,
    uploads: HashMap<ModuleId, Upload>,
    unfinished: u64,
    /// Modules to ask for when an upload ends.
    waiting: VecDeque<ModuleId>,
    /// What is in `waiting`.
    waits: HashSet<ModuleId>,
}

impl Store {
    /// An empty store of so many (compressed) bytes, in a directory or here.
    pub(crate) fn new(max_bytes: u64, is_kept: bool) -> Self {
        Self {
            held: HashMap::new(),
            bytes: 0,
            max_bytes,
            is_kept,
            clock: 0,
            offers: HashMap::new(),
            offered: HashMap::new(),
            all_offers: 0,
            uploads: HashMap::new(),
            unfinished: 0,
            waiting: VecDeque::new(),
            waits: HashSet::new(),
        }
    }

    /// Modules held.
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Ids of what is held, sorted, with sizes in bytes before compression.
    pub(crate) fn list(&self) -> Vec<(ModuleId, u64)> {
        let mut held: Vec<_> = self.held.iter().map(|(id, held)| (id.clone(), held.size)).collect();
        held.sort_unstable();
        held
    }

    /// Whether so many compressed bytes are not too many for any module.
    pub(crate) fn takes(&self, bytes: u64) -> bool {
        bytes + ENTRY_BYTES <= self.max_bytes
    }

    /// Where debug info is, and its size after decompression.
    pub(crate) fn get(&mut self, id: &ModuleId) -> Option<(Found, u64)> {
        self.clock += 1;
        let held = self.held.get_mut(id)?;
        held.used = self.clock;
        Some((held.found.clone(), held.size))
    }

    /// Whether it is on its way, or will be asked for.
    pub(crate) fn expects(&self, id: &ModuleId) -> bool {
        self.uploads.contains_key(id) || self.waits.contains(id)
    }

    /// Takes an input in; `now` never falls.
    pub(crate) fn handle(&mut self, now: Duration, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Offered { host, id, size } => self.offer(now, host, id, size, &mut effects),
            Input::Chunk { host, id, data, last } => self.chunk(now, host, &id, &data, last, &mut effects),
            Input::Checked { candidate, sound } => self.checked(now, candidate, sound, &mut effects),
            Input::Pushed { id, data, size } => {
                if self.takes(data.len() as u64) {
                    self.hold(&id, data, size, &mut effects);
                }
            }
            Input::Missed { id } => self.ask(now, id, &mut effects),
            Input::Lost { id } => {
                self.drop_held(&id);
            }
            Input::Kept { id, bytes, .. } if !self.takes(bytes) => effects.push(Effect::Forget(id)),
            Input::Kept { id, bytes, size } => self.insert(&id, Found::Kept, bytes, size, &mut effects),
            Input::Left { host } => self.left(now, host, &mut effects),
            Input::Tick => {
                let stalled = |upload: &Upload| {
                    let (idle, all) =
                        (now.saturating_sub(upload.progress), now.saturating_sub(upload.started));
                    !upload.finished && (idle > STALL || all > MAX_UPLOAD)
                };
                let stalled = self.uploads.iter().filter(|(_, upload)| stalled(upload));
                for id in stalled.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                    self.give_up(now, &id, &mut effects);
                }
            }
        }
        effects
    }

    fn offer(&mut self, now: Duration, host: HostId, id: ModuleId, size: u64, effects: &mut Vec<Effect>) {
        let mine = self.offered.entry(host).or_default();
        let refused = size == 0 || size > MAX_DEBUG_INFO;
        let crowded = mine.len() >= MAX_OFFERS || self.all_offers >= MAX_ALL_OFFERS;
        if refused || (crowded && !mine.contains(&id)) {
            effects.push(Effect::Send(host, Message::Have(id)));
            return;
        }
        let held = self.held.contains_key(&id);
        if mine.insert(id.clone()) {
            self.all_offers += 1;
            let offer = Offer { host, size, answered: held, failed: false };
            self.offers.entry(id.clone()).or_default().push(offer);
        }
        if held {
            effects.push(Effect::Send(host, Message::Have(id)));
        } else {
            self.ask(now, id, effects);
        }
    }

    /// Asks the first host that offers a module and has not failed; later, if too many uploads run.
    fn ask(&mut self, now: Duration, id: ModuleId, effects: &mut Vec<Effect>) {
        if self.held.contains_key(&id) || self.expects(&id) {
            return;
        }
        let offers = self.offers.get_mut(&id);
        let Some(offer) = offers.and_then(|offers| offers.iter_mut().find(|offer| !offer.failed)) else {
            return;
        };
        if self.uploads.len() >= MAX_UPLOADS {
            self.waits.insert(id.clone());
            self.waiting.push_back(id);
            return;
        }
        let upload = Upload {
            host: offer.host,
            size: offer.size,
            data: Vec::new(),
            started: now,
            progress: now,
            finished: false,
        };
        effects.push(Effect::Send(offer.host, Message::Want(id.clone())));
        self.uploads.insert(id, upload);
    }

    /// Asks for what waits, as far as uploads may run.
    fn go_on(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        while self.uploads.len() < MAX_UPLOADS
            && let Some(id) = self.waiting.pop_front()
        {
            self.waits.remove(&id);
            self.ask(now, id, effects);
        }
    }

    fn chunk(
        &mut self,
        now: Duration,
        host: HostId,
        id: &ModuleId,
        data: &[u8],
        last: bool,
        effects: &mut Vec<Effect>,
    ) {
        // Chunks of an upload that was given up are still on their way: nobody waits for them.
        let Some(upload) = self.uploads.get_mut(id).filter(|u| u.host == host && !u.finished) else { return };
        if !data.is_empty() {
            upload.progress = now;
        }
        let grown = upload.data.len() as u64 + data.len() as u64;
        // zstd adds less than this to what it cannot compress.
        let most = upload.size + upload.size / 128 + 1024;
        if grown > most || self.unfinished + data.len() as u64 > MAX_UNFINISHED {
            return self.give_up(now, id, effects);
        }
        upload.data.extend_from_slice(data);
        self.unfinished += data.len() as u64;
        if last {
            upload.finished = true;
            let (data, size) = (Bytes::from(std::mem::take(&mut upload.data)), upload.size);
            effects.push(Effect::Check(Candidate { host, id: id.clone(), data, size }));
        }
    }

    fn checked(&mut self, now: Duration, candidate: Candidate, sound: bool, effects: &mut Vec<Effect>) {
        let Candidate { host, id, data, size } = candidate;
        self.unfinished = self.unfinished.saturating_sub(data.len() as u64);
        if !sound || !self.takes(data.len() as u64) {
            self.uploads.remove(&id);
            self.failed(host, &id, effects);
            self.ask(now, id, effects);
            return self.go_on(now, effects);
        }
        self.uploads.remove(&id);
        self.hold(&id, data, size, effects);
        self.go_on(now, effects);
    }

    /// Makes room, keeps debug info that fits, and answers those who offered it.
    fn hold(&mut self, id: &ModuleId, data: Bytes, size: u64, effects: &mut Vec<Effect>) {
        let bytes = data.len() as u64;
        let found = if self.is_kept { Found::Kept } else { Found::Here(data) };
        self.insert(id, found, bytes, size, effects);
        effects.push(Effect::Stored);
        for offer in self.offers.get_mut(id).into_iter().flatten().filter(|offer| !offer.answered) {
            offer.answered = true;
            effects.push(Effect::Send(offer.host, Message::Have(id.clone())));
        }
    }

    fn insert(&mut self, id: &ModuleId, found: Found, bytes: u64, size: u64, effects: &mut Vec<Effect>) {
        let cost = bytes + ENTRY_BYTES;
        self.drop_held(id);
        while self.bytes + cost > self.max_bytes {
            let oldest = self.held.iter().min_by_key(|(_, held)| held.used).map(|(id, _)| id.clone());
            let Some(oldest) = oldest else { break };
            self.drop_held(&oldest);
            if self.is_kept {
                effects.push(Effect::Forget(oldest));
            }
        }
        self.clock += 1;
        self.bytes += cost;
        self.held.insert(id.clone(), Held { found, bytes, size, used: self.clock });
    }

    fn drop_held(&mut self, id: &ModuleId) {
        if let Some(held) = self.held.remove(id) {
            self.bytes = self.bytes.saturating_sub(held.bytes + ENTRY_BYTES);
        }
    }

    /// A host was asked and did not deliver.
    fn failed(&mut self, host: HostId, id: &ModuleId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Refused);
        let offers = self.offers.get_mut(id).into_iter().flatten();
        for offer in offers.filter(|offer| offer.host == host) {
            offer.failed = true;
            if !offer.answered {
                offer.answered = true;
                effects.push(Effect::Send(host, Message::Have(id.clone())));
            }
        }
    }

    fn give_up(&mut self, now: Duration, id: &ModuleId, effects: &mut Vec<Effect>) {
        let Some(upload) = self.uploads.remove(id) else { return };
        self.unfinished = self.unfinished.saturating_sub(upload.data.len() as u64);
        self.failed(upload.host, id, effects);
        self.ask(now, id.clone(), effects);
        self.go_on(now, effects);
    }

    fn left(&mut self, now: Duration, host: HostId, effects: &mut Vec<Effect>) {
        for id in self.offered.remove(&host).into_iter().flatten() {
            self.all_offers = self.all_offers.saturating_sub(1);
            if let Some(offers) = self.offers.get_mut(&id) {
                offers.retain(|offer| offer.host != host);
                if offers.is_empty() {
                    self.offers.remove(&id);
                }
            }
            // What arrived in full is checked and kept although its sender is gone.
            if self.uploads.get(&id).is_some_and(|upload| upload.host == host && !upload.finished) {
                self.give_up(now, &id, effects);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn id(text: &str) -> ModuleId {
        ModuleId::parse(text).unwrap()
    }

    fn offer(store: &mut Store, host: HostId, module: &str) -> Vec<Effect> {
        store.handle(NOW, Input::Offered { host, id: id(module), size: 1000 })
    }

    fn upload(store: &mut Store, host: HostId, module: &str, bytes: usize, sound: bool) -> Vec<Effect> {
        let chunk = Input::Chunk { host, id: id(module), data: vec![7; bytes], last: true };
        let mut effects = store.handle(NOW, chunk);
        match effects.pop() {
            Some(Effect::Check(candidate)) => store.handle(NOW, Input::Checked { candidate, sound }),
            other => panic!("{other:?}"),
        }
    }

    fn want(host: HostId, module: &str) -> Effect {
        Effect::Send(host, Message::Want(id(module)))
    }

    fn have(host: HostId, module: &str) -> Effect {
        Effect::Send(host, Message::Have(id(module)))
    }

    /// What is pushed replaces what is held, and who offered the same need not send it.
    #[test]
    fn a_push_answers_those_who_offered() {
        let mut store = Store::new(10_000, false);
        offer(&mut store, 1, "aa");
        let push = |bytes: usize| Input::Pushed { id: id("aa"), data: vec![0; bytes].into(), size: 5000 };
        assert_eq!(store.handle(NOW, push(100)), [Effect::Stored, have(1, "aa")]);
        assert_eq!(store.handle(NOW, push(9000)), [Effect::Stored]);
        assert_eq!(store.handle(NOW, push(9200)), [Effect::Stored]);
        assert_eq!(store.handle(NOW, push(10_000)), [], "larger than the store");
        let Some((Found::Here(data), _)) = store.get(&id("aa")) else { panic!("it is held here") };
        assert_eq!((data.len(), store.list()), (9200, vec![(id("aa"), 5000)]));
    }

    /// One host is asked, everybody who offered is answered when it is there.
    #[test]
    fn one_host_uploads_for_all() {
        let mut store = Store::new(10_000, false);
        assert_eq!(offer(&mut store, 1, "aa"), [want(1, "aa")]);
        assert_eq!(offer(&mut store, 2, "aa"), []);
        let effects = upload(&mut store, 1, "aa", 100, true);
        assert_eq!(effects, [Effect::Stored, have(1, "aa"), have(2, "aa")]);
        assert_eq!(offer(&mut store, 3, "aa"), [have(3, "aa")]);
    }

    /// Hosts that leave halfway, stall or send rubbish are replaced by the next, and answered.
    #[test]
    fn the_next_host_is_asked_when_one_fails() {
        let mut store = Store::new(10_000, false);
        for host in 1..=4 {
            offer(&mut store, host, "aa");
        }
        store.handle(NOW, Input::Chunk { host: 1, id: id("aa"), data: vec![1; 50], last: false });
        assert_eq!(store.handle(NOW, Input::Left { host: 1 }), [Effect::Refused, want(2, "aa")]);
        let later = NOW + STALL + NOW;
        assert_eq!(store.handle(later, Input::Tick), [Effect::Refused, have(2, "aa"), want(3, "aa")]);
        let late = Input::Chunk { host: 2, id: id("aa"), data: vec![1; 50], last: true };
        assert_eq!(store.handle(later, late), [], "nobody waits for it any more");
        let effects = upload(&mut store, 3, "aa", 100, false);
        assert_eq!(effects, [Effect::Refused, have(3, "aa"), want(4, "aa")]);
        let too_much = Input::Chunk { host: 4, id: id("aa"), data: vec![1; 5000], last: false };
        assert_eq!(store.handle(later, too_much), [Effect::Refused, have(4, "aa")]);
        assert_eq!((store.unfinished, store.len()), (0, 0));
    }

    /// The least recently used goes, and can be asked for again as long as somebody offers it.
    #[test]
    fn the_least_recently_used_makes_room() {
        let mut store = Store::new(2 * (100 + ENTRY_BYTES), false);
        for module in ["aa", "bb"] {
            offer(&mut store, 1, module);
            upload(&mut store, 1, module, 100, true);
        }
        assert!(store.get(&id("aa")).is_some());
        offer(&mut store, 1, "cc");
        upload(&mut store, 1, "cc", 100, true);
        assert_eq!(store.len(), 2);
        assert!(store.get(&id("bb")).is_none());
        assert_eq!(store.handle(NOW, Input::Missed { id: id("bb") }), [want(1, "bb")]);
    }

    /// What the directory had counts against its bound, what makes room leaves it, and what is not there any more is
    /// asked for again.
    #[test]
    fn the_directory_is_bounded() {
        let mut store = Store::new(2 * (100 + ENTRY_BYTES), true);
        let kept = |module| Input::Kept { id: id(module), bytes: 100, size: 1000 };
        assert_eq!(store.handle(NOW, kept("aa")), []);
        assert_eq!(store.handle(NOW, kept("bb")), []);
        assert_eq!(store.get(&id("aa")), Some((Found::Kept, 1000)));
        offer(&mut store, 1, "cc");
        let effects = upload(&mut store, 1, "cc", 100, true);
        assert_eq!(effects, [Effect::Forget(id("bb")), Effect::Stored, have(1, "cc")]);
        assert_eq!(store.handle(NOW, Input::Lost { id: id("cc") }), []);
        assert_eq!(store.handle(NOW, Input::Missed { id: id("cc") }), [want(1, "cc")]);
        assert_eq!((store.len(), store.bytes), (1, 100 + ENTRY_BYTES));
    }

    /// A host with thousands of modules fills neither the queue of uploads nor memory.
    #[test]
    fn offers_and_uploads_are_bounded() {
        let mut store = Store::new(10_000, false);
        let wants = |effects: Vec<Effect>| {
            effects.iter().filter(|e| matches!(e, Effect::Send(_, Message::Want(_)))).count()
        };
        let asked: usize =
            (0..2 * MAX_OFFERS).map(|i| wants(offer(&mut store, 1, &format!("{i:06x}")))).sum();
        assert_eq!(asked, MAX_UPLOADS);
        assert_eq!(store.all_offers, MAX_OFFERS);
        assert_eq!(wants(upload(&mut store, 1, "000000", 100, true)), 1, "one ends, one begins");
        assert_eq!(store.handle(NOW, Input::Offered { host: 2, id: id("ff"), size: 0 }), [have(2, "ff")]);
        let huge = Input::Offered { host: 2, id: id("ff"), size: MAX_DEBUG_INFO + 1 };
        assert_eq!(store.handle(NOW, huge), [have(2, "ff")]);
        store.handle(NOW, Input::Left { host: 1 });
        assert_eq!((store.all_offers, store.uploads.len(), store.offers.len()), (0, 0, 0));
    }
}

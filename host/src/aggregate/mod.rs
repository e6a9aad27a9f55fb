//! The aggregator: one thread per scope that drains the rings, folds samples, exports and records. Guests
//! never wait for it.
//!
//! ```text
//! rings --50 ms--> RawFold --interval--> per-workload profiles --> OTLP
//!                                    \--1 s--> recording
//! spans --100 ms--> Spans --interval, 1 s-------^
//! commands (loaded code, traps, stop) ----------^--2 s--> flight recorder
//! ```

mod blocked;
mod delay;
mod exports;
mod flight;
mod fold;
mod heap;
mod lines;
mod locks;
mod outgoing;
mod pace;
mod record;
mod spans;
mod traps;

use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use sandscope_model::{ModuleId, SampleKind, WorkloadId};
use sandscope_proto::connect::connect;
use sandscope_proto::otlp::SpanBatch;
use tokio::sync::mpsc;
use tokio::task::JoinHandle as JoinTask;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::cache::CacheError;
use crate::code::{Code, CodeView};
use crate::cold::Start;
use crate::dump::{Dumped, FrameSizes};
use crate::engine::Doubt;
use crate::export::Exporter;
use crate::flight::{Capture, Flight, chain};
use crate::output::Line;
use crate::sampler::Unavailable;
use crate::scope::{BuildError, Builder, Shared, Warning, unix_nanos};
use crate::shape::shadow_stack;
use crate::shelf::Shelf;
use crate::sites::Sites;
use crate::span::SpanRecord;
use crate::spool::{IN_MEMORY, Spool};
use crate::trap::TrapReport;
use crate::{agent, debug_info, facade, sampler};

use blocked::Blocked;
use delay::Delays;
use exports::Exports;
pub(crate) use fold::Settled;
use fold::{Pending, RawFold};
use heap::Heap;
use locks::Locks;
use pace::Pace;
use record::Recorder;
use spans::{Spans, Wanted};
use traps::TrapLog;

/// Time between writes to a recording: what a power cut may take.
const RECORD: Duration = Duration::from_secs(1);
/// Time between two writes for the sake of traps, which come in storms.
const AFTER_TRAP: Duration = Duration::from_millis(250);
/// Longest time that the last export may take.
const LAST_EXPORT: Duration = Duration::from_secs(3);
/// Bytes that wait and are sent in one export.
const AT_ONCE: u64 = 8 << 20;

/// What the embedder's threads tell the aggregator.
pub(crate) enum Command {
    /// New code: offer its debug info.
    Loaded(NewCode),
    /// A module could not be put into the cache.
    CacheFailed(CacheError),
    /// A guest's engine cannot be sampled.
    Unsampled(Unavailable),
    /// What is not seen of a guest's allocations, and why.
    Allocations(String),
    /// So many functions of a linker are not observed, and why.
    Unobserved(usize, Doubt),
    /// A call trapped at a place where none did before.
    Trapped(Arc<TrapReport>),
    /// The core dump of a call that trapped.
    Dumped(Dumped),
    /// Record a workload for somebody.
    Capture(Capture),
    /// Somebody watches for so long.
    Lease(Duration),
    /// Send what is left and end.
    Stop,
}

/// Code that was loaded.
pub(crate) struct NewCode {
    pub id: ModuleId,
    pub workload: WorkloadId,
    pub name: String,
    pub code: Arc<Code>,
    /// The file, if it is here.
    pub bytes: Option<Arc<[u8]>>,
    /// How it comes up.
    pub start: Arc<Start>,
    /// Whether its engine takes memories out of a pool.
    pub pooled: bool,
    /// For core dumps.
    pub frame_sizes: Arc<FrameSizes>,
}

/// What comes from calls through queues of its own.
pub(crate) struct Ended {
    pub spans: Receiver<SpanRecord>,
    pub lines: Option<Receiver<Line>>,
}

/// Opens the recording and starts the thread.
pub(crate) fn start(
    shared: Arc<Shared>,
    inbox: mpsc::Receiver<Command>,
    ended: Ended,
    settings: Builder,
) -> Result<JoinHandle<()>, BuildError> {
    let recorder = settings.record.as_deref().map(|path| Recorder::create(path, &shared)).transpose()?;
    let endpoint = |url| crate::export::endpoint(url, &settings.credentials);
    let endpoint = settings.otlp.as_deref().map(endpoint).transpose()?;
    let spool = Spool::open(&settings.spool).unwrap_or_else(|error| {
        let path = settings.spool.directory.clone().unwrap_or_default();
        (settings.on_warning)(&Warning::Spool { path, reason: chain(&error) });
        Spool::in_memory(IN_MEMORY)
    });
    std::thread::Builder::new()
        .name("sandscope".to_owned())
        .spawn(move || {
            let _closed = CloseOnEnd(Arc::clone(&shared));
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                // Without a reactor there is nothing to aggregate for; guests run on.
                Err(_) => return,
            };
            runtime.block_on(async move {
                let collector = endpoint.as_ref().map(|endpoint| (endpoint, &settings.credentials));
                let exporter = collector.map(|(endpoint, credentials)| {
                    Exporter::new(connect(endpoint, credentials), &shared.resource)
                });
                let agent = exporter.as_ref().map(|exporter| agent::spawn(exporter.channel(), &shared));
                let (agent, agent_done) = agent.unzip();
                let facade = settings.facade.then(|| facade::install(collector, &shared.resource));
                let facade = match facade {
                    Some(Ok(facade)) => Some(facade),
                    Some(Err(facade::Installed)) => {
                        (settings.on_warning)(&Warning::Facade);
                        None
                    }
                    None => None,
                };
                let started = unix_nanos(SystemTime::now());
                let (now, pace) = (Instant::now(), Pace::new(shared.rate.usual()));
                let flight = flight::start(&settings, &shared);
                let wanted = Wanted { record: recorder.is_some(), export: exporter.is_some() };
                let mut aggregator = Aggregator {
                    exports: Exports::new(now, settings.interval),
                    shared,
                    settings,
                    recorder,
                    flight,
                    modules: flight::Modules::default(),
                    exporter,
                    spool,
                    agent,
                    agent_done,
                    shelf: Shelf::default(),
                    raw: RawFold::default(),
                    pending: Pending::default(),
                    locks: Locks::default(),
                    heap: Heap::default(),
                    blocked: Blocked::default(),
                    delays: Delays::default(),
                    pace,
                    spans: Spans::new(ended.spans, wanted),
                    lines: ended.lines,
                    traps: TrapLog::default(),
                    waiting: Vec::new(),
                    dropped: 0,
                    events_dropped: 0,
                    unlinked: 0,
                    started,
                    wrote: now,
                    next_record: now + RECORD,
                    warned: false,
                    warned_of_cache: false,
                    warned_of_engine: false,
                    warned_of_linker: false,
                };
                aggregator.run(inbox).await;
                if let Some(facade) = facade {
                    facade.shutdown(if aggregator.warned { Duration::ZERO } else { LAST_EXPORT }).await;
                }
            });
        })
        .map_err(BuildError::Thread)
}

/// Ends observation with the aggregator, however it ends: nobody else empties what calls fill.
struct CloseOnEnd(Arc<Shared>);

impl Drop for CloseOnEnd {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
    }
}

struct Aggregator {
    exports: Exports,
    shared: Arc<Shared>,
    settings: Builder,
    recorder: Option<Recorder>,
    flight: Option<Flight>,
    modules: flight::Modules,
    exporter: Option<Exporter>,
    /// What the collector does not have yet.
    spool: Spool,
    agent: Option<mpsc::Sender<agent::Given>>,
    agent_done: Option<JoinTask<()>>,
    /// Debug info for the agent to send.
    shelf: Shelf,
    raw: RawFold,
    pending: Pending,
    locks: Locks,
    heap: Heap,
    blocked: Blocked,
    delays: Delays,
    pace: Pace,
    spans: Spans,
    /// What guests wrote, if that is kept.
    lines: Option<Receiver<Line>>,
    traps: TrapLog,
    /// Retired code that a handler might still have been reading at the last settling.
    waiting: Vec<Arc<Code>>,
    /// Samples that found no room, since the start.
    dropped: u64,
    /// The same of waits, collections, allocations and other events.
    events_dropped: u64,
    /// Samples that may be of any of several calls.
    unlinked: u64,
    started: u64,
    /// When the recording was brought up to date, and when it will be.
    wrote: Instant,
    next_record: Instant,
    warned: bool,
    warned_of_cache: bool,
    warned_of_engine: bool,
    warned_of_linker: bool,
}

impl Aggregator {
    async fn run(&mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut look = interval(blocked::LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => {
                        if !self.handle(command) {
                            break;
                        }
                    }
                    None => break,
                },
                () = sleep_until(self.pace.next()) => {
                    self.drain();
                    let ticks = self.pace.drained();
                    self.shared.all_figures().iter().for_each(|figures| figures.refill(ticks));
                    if self.shared.closed.load(Ordering::Acquire) && inbox.is_empty() {
                        break;
                    }
                }
                _ = look.tick() => self.blocked.look(self.shared.scope, &self.shared.codes),
                () = sleep_until(self.next_record), if self.recorder.is_some() => {
                    self.settle();
                    self.write(false);
                }
                () = sleep_until(self.next_step()), if self.flight.as_ref().is_some_and(Flight::is_awake) => {
                    self.step(false);
                }
                () = sleep_until(self.exports.next()) => {
                    self.exports.exported(Instant::now());
                    self.settle();
                    self.export();
                }
                done = Exporter::finished(&mut self.exporter) => self.exported(done),
            }
        }
        while let Ok(command) = inbox.try_recv() {
            self.handle(command);
        }
        self.finish().await;
    }

    /// Returns false when it is time to stop.
    fn handle(&mut self, command: Command) -> bool {
        match command {
            Command::Loaded(code) => self.loaded(&code),
            Command::Trapped(report) => {
                if self.recorder.is_none() && self.flight.is_none() {
                    return true;
                }
                let trap = self.traps.first(&report);
                self.flight_trap(&report.workload, &trap);
                if let Some(recorder) = &mut self.recorder {
                    recorder.trap(&trap);
                    // At once, unless it was just done: the process may be about to end.
                    self.next_record = self.next_record.min(self.wrote + AFTER_TRAP);
                }
            }
            Command::Dumped(Dumped { owner, code, offset, record, flight }) => {
                if let (Some(recorder), Some(dump)) = (&mut self.recorder, record) {
                    recorder.core_dump(&dump);
                    self.next_record = self.next_record.min(self.wrote + AFTER_TRAP);
                }
                if let (Some(recorder), Some(dump)) = (&mut self.flight, flight) {
                    recorder.dumped(owner, &code, offset, dump);
                }
            }
            Command::Unsampled(reason) => {
                if !std::mem::replace(&mut self.warned_of_engine, true) {
                    (self.settings.on_warning)(&Warning::Sampler(reason));
                }
            }
            Command::Allocations(reason) => (self.settings.on_warning)(&Warning::Allocations(reason)),
            Command::Unobserved(functions, reason) => {
                if !std::mem::replace(&mut self.warned_of_linker, true) {
                    (self.settings.on_warning)(&Warning::HostCalls { functions, reason });
                }
            }
            Command::CacheFailed(error) => {
                if !std::mem::replace(&mut self.warned_of_cache, true) {
                    (self.settings.on_warning)(&Warning::Cache(error));
                }
            }
            Command::Capture(capture) => self.capture(capture),
            Command::Lease(time) => self.exports.lease(Instant::now(), time),
            Command::Stop => return false,
        }
        true
    }

    fn loaded(&mut self, code: &NewCode) {
        if let Some(bytes) = &code.bytes {
            code.code.sites.get_or_init(|| Sites::of(bytes));
            // Slots of a pool keep pages of earlier guests: what was touched there says nothing.
            if let Some(size) = shadow_stack(bytes).filter(|_| !code.pooled) {
                self.shared.figures(&code.workload).runtime.stack.shadow_limited(size);
            }
        }
        if self.flight.is_some() {
            self.modules.add(code);
        }
        let shelved = (self.agent.is_some() || self.flight.is_some()) && !self.shelf.knows(&code.id);
        if self.recorder.is_none() && !shelved {
            return;
        }
        // Now rather than when it traps: then the file can go.
        code.frame_sizes.get();
        let debug = code.bytes.as_deref().and_then(debug_info::compress);
        if let Some(recorder) = &mut self.recorder {
            recorder.module(code, debug.as_ref());
        }
        let Some(debug) = debug.filter(|_| shelved) else { return };
        // Without room, or with thousands of modules at once, the collector shows unnamed functions.
        let kept = self.shelf.put(&code.id, &debug.data);
        let Some(agent) = &self.agent else { return };
        let sent = kept.is_some_and(|kept| {
            let (id, workload) = (code.id.clone(), code.workload.clone());
            let available = agent::Available { id, workload, debug: kept, size: debug.size };
            agent.try_send(agent::Given::Debug(available)).is_ok()
        });
        if !sent {
            self.shared.lost_commands.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn drain(&mut self) {
        let all = self.shared.all_figures();
        let (raw, delays) = (&mut self.raw, &mut self.delays);
        let mut flight = self.flight.as_mut().filter(|flight| flight.listens());
        let found = sampler::drain(self.shared.scope, |thread, record| {
            raw.add(record);
            delays.add(thread, record);
            if let Some(flight) = &mut flight {
                flight::see(flight, &all, record);
            }
        });
        self.dropped += found.dropped_samples;
        self.events_dropped += found.dropped_events;
        self.pace.saw(found.crowded);
        self.spans.drain(&all, |figures, span| {
            if let Some(flight) = &mut flight {
                flight.span(figures.ordinal, figures.id(), span, figures.gate.p99_ns());
            }
        });
        if let Some(flight) = flight {
            for figures in &all {
                if let Some(share) = figures.memory_share() {
                    flight.filled(figures.ordinal, figures.id(), share);
                }
            }
        }
        self.drain_lines(&all);
    }

    /// Turns program counters into offsets and lets go of code that nothing refers to any more.
    fn settle(&mut self) {
        // Order matters: code retired before the tables are checked, tables before the last drain. A handler
        // that could still see the code has then published its sample, and the drain has it.
        let mut retired = self.shared.codes.take_retired();
        retired.append(&mut self.waiting);
        let mut all = self.shared.codes.all();
        all.extend(retired.iter().map(Arc::clone));
        let quiet = sampler::reclaim_tables();
        // Before the drain: whatever an instance that ended has recorded is in the rings now.
        let mut ended = Vec::new();
        for figures in self.shared.all_figures() {
            let mut numbers = figures.runtime.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.extend(numbers.drain(..).map(|instance| (figures.ordinal, instance)));
        }
        self.drain();
        let figures = self.shared.all_figures();
        figures.iter().for_each(|figures| figures.learn());
        let rate = &self.shared.rate;
        self.delays.share_out(rate.period_ns(), &figures);
        let settled = self.raw.settle(&CodeView::new(all), rate);
        for (ordinal, profile) in settled.profiles {
            let Some(figures) = figures.get(ordinal as usize) else { continue };
            if profile.kind == SampleKind::Cpu {
                figures.samples.fetch_add(profile.samples(), Ordering::Relaxed);
                figures.cpu_ns.fetch_add(profile.value(), Ordering::Relaxed);
            }
            if let Some(recorder) = &mut self.recorder {
                recorder.samples(figures.id(), &profile);
            }
            if let Some(flight) = self.flight.as_mut().filter(|flight| flight.listens()) {
                flight.samples(ordinal, figures.id(), &profile);
            }
            if self.exporter.is_some() {
                self.dropped += self.pending.add(figures.id(), profile);
            }
        }
        self.events_dropped += settled.dropped;
        self.unlinked += settled.unlinked;
        for wait in settled.waits {
            self.locks.add(wait);
        }
        self.heap.add(settled.heap);
        ended.into_iter().for_each(|(ordinal, instance)| self.heap.ended(ordinal, instance));
        if !quiet {
            self.waiting = retired;
        }
    }

    /// Brings the recording up to date, `end` for the last time.
    fn write(&mut self, end: bool) {
        let metrics = self.metrics();
        let Some(recorder) = &mut self.recorder else { return };
        let spans = self.spans.take_recorded();
        recorder.spans(&SpanBatch { resource: self.shared.resource.clone(), spans });
        for figures in self.shared.all_figures() {
            self.traps.risen(&figures, end).iter().for_each(|trap| recorder.trap(trap));
        }
        recorder.metrics(&metrics);
        for (ordinal, locks) in self.locks.changed() {
            if let Some(figures) = self.shared.all_figures().get(ordinal as usize) {
                recorder.locks(figures.id(), locks);
            }
        }
        for (ordinal, sites, live_known) in self.heap.changed() {
            if let Some(figures) = self.shared.all_figures().get(ordinal as usize) {
                recorder.heap(figures.id(), sites, live_known);
            }
        }
        if let Some(calls) = self.blocked.changed(&self.shared.all_figures()) {
            recorder.blocked(calls);
        }
        recorder.cold_starts(end, usize::from(self.flight.is_some()));
        recorder.flush();
        self.wrote = Instant::now();
        self.next_record = self.wrote + RECORD;
        if let Some(reason) = recorder.take_failure() {
            let path = recorder.path().to_owned();
            (self.settings.on_warning)(&Warning::Recording { path, reason });
        }
    }

    async fn finish(&mut self) {
        self.settle();
        // Nothing new can refer to retired code: no call is active any more.
        self.waiting.clear();
        self.finish_flight();
        self.write(true);
        if let Some(recorder) = self.recorder.take()
            && let Err((path, reason)) = recorder.finish()
        {
            (self.settings.on_warning)(&Warning::Recording { path, reason });
        }
        let last = async {
            if !self.exporter.as_ref().is_none_or(Exporter::is_idle) {
                let done = Exporter::finished(&mut self.exporter).await;
                self.exported(done);
            }
            if self.exporter.is_some() {
                self.export();
                while self.exporter.as_ref().is_some_and(|exporter| !exporter.is_idle()) {
                    let done = Exporter::finished(&mut self.exporter).await;
                    let reached = done.failure.is_none();
                    self.exported(done);
                    if !reached {
                        return;
                    }
                }
            }
            agent::finish(self.agent.take(), self.agent_done.take()).await;
        };
        // Past the deadline the collector is slow or gone; the process's end does not wait for it.
        let _ = tokio::time::timeout(LAST_EXPORT, last).await;
    }
}

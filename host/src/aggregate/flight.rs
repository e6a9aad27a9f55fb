//! The aggregator's part of the flight recorder: feeds it with what was settled, and gives it what is known beside
//! that when a recording is made.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sandscope_model::WorkloadId;
use sandscope_proto::recording::{Blocked, Trap};
use sandscope_recording::ModuleInfo;
use tokio::time::Instant;

use super::record::{heap_message, locks_message};
use super::{Aggregator, LAST_EXPORT, NewCode};
use crate::agent::Given;
use crate::cold::Start;
use crate::flight::{Capture, Flight, Listener, News, Present};
use crate::sampler::{self, Drained, Kind};
use crate::scope::{Builder, Shared, Warning};
use crate::workload::Figures;

/// Modules that recordings can name; beyond, those loaded first are forgotten.
const MAX_MODULES: usize = 4096;

/// What was loaded, for recordings that are made later.
#[derive(Default)]
pub(super) struct Modules(Vec<(ModuleInfo, Arc<Start>)>);

impl Modules {
    pub(super) fn add(&mut self, code: &NewCode) {
        if self.0.len() >= MAX_MODULES {
            let gone = self.0.iter().position(|(_, start)| Arc::strong_count(start) == 1);
            self.0.remove(gone.unwrap_or(0));
        }
        let (id, workload, name) = (code.id.clone(), code.workload.clone(), code.name.clone());
        self.0.push((ModuleInfo { id, workload, name }, Arc::clone(&code.start)));
    }
}

/// Starts what the settings ask for. On a runtime.
pub(super) fn start(settings: &Builder, shared: &Arc<Shared>) -> Option<Flight> {
    if settings.recordings.is_none() && settings.socket.is_none() && settings.otlp.is_none() {
        return None;
    }
    let warn = |warning: &Warning| (settings.on_warning)(warning);
    let recordings = settings.recordings.as_ref();
    let beside_socket = settings.socket.as_deref().and_then(Path::parent);
    let kept = || recordings.map(|recordings| recordings.directory.clone());
    let folder = beside_socket.map(Path::to_owned).or_else(kept).or_else(|| Some(temporary(shared)));
    let directory = recordings.map(|recordings| recordings.directory.clone()).unwrap_or_default();
    let flight = match Flight::start(recordings, folder, &shared.resource, shared.rate.usual()) {
        Ok((flight, None)) => flight,
        Ok((flight, Some(error))) => {
            warn(&Warning::Recordings { directory, reason: error.to_string() });
            flight
        }
        Err(error) => {
            warn(&Warning::Recordings { directory, reason: error.to_string() });
            return None;
        }
    };
    if let Some(path) = &settings.socket {
        match Listener::bind(path) {
            Ok(listener) => drop(tokio::spawn(listener.serve(Arc::clone(shared)))),
            Err(error) => warn(&Warning::Socket { path: path.clone(), reason: error.to_string() }),
        }
    }
    Some(flight)
}

/// Where captures are put together if the host has no folder of its own: made when it is needed.
fn temporary(shared: &Shared) -> PathBuf {
    std::env::temp_dir().join(format!("sandscope-{}", shared.resource.instance))
}

/// Shows the recorder what came out of a ring.
pub(super) fn see(flight: &mut Flight, all: &[Arc<Figures>], record: &Drained<'_>) {
    let Some(figures) = all.get(record.workload as usize) else { return };
    match record.kind {
        Kind::Wait => flight.waited(record.workload, figures.id(), record.values[0]),
        Kind::Collect => flight.stalled(record.workload, figures.id(), record.values[0]),
        _ => {}
    }
}

fn ordinal(all: &[Arc<Figures>], id: &WorkloadId) -> Option<u32> {
    all.iter().find(|figures| figures.id() == id).map(|figures| figures.ordinal)
}

impl Aggregator {
    /// Tells the recorder of a trap.
    pub(super) fn flight_trap(&mut self, id: &WorkloadId, trap: &Trap) {
        let owner = ordinal(&self.shared.all_figures(), id);
        if let (Some(flight), Some(owner)) = (&mut self.flight, owner) {
            flight.trap(owner, id, trap);
        }
    }

    /// Begins a capture.
    pub(super) fn capture(&mut self, capture: Capture) {
        // What was sampled before is not what was asked for.
        self.settle();
        let all = self.shared.all_figures();
        let known: Vec<&WorkloadId> = all.iter().map(|figures| figures.id()).collect();
        if let Some(flight) = &mut self.flight {
            flight.capture(capture, &known);
        }
        self.follow_rate();
    }

    /// Samples as often as captures want, and as usual without one. Right after [`Self::settle`].
    fn follow_rate(&mut self) {
        let rate = &self.shared.rate;
        let hz = self.flight.as_ref().map_or(rate.usual(), Flight::hz);
        if hz.to_bits() != rate.now().to_bits() {
            sampler::set_rate(self.shared.scope, rate, hz);
            self.pace.set_hz(hz);
        }
    }

    /// When the recorder's next step is; any time if there is none.
    pub(super) fn next_step(&self) -> Instant {
        self.flight.as_ref().map_or_else(Instant::now, |flight| Instant::from_std(flight.next_step()))
    }

    /// A step of the recorder, `end` for the last ones.
    pub(super) fn step(&mut self, end: bool) {
        self.settle();
        let metrics = self.flight.as_ref().is_some_and(Flight::wants_metrics).then(|| self.metrics());
        let Some(flight) = &mut self.flight else { return };
        let all = self.shared.all_figures();
        if let Some(metrics) = metrics {
            flight.metrics(metrics, |id| ordinal(&all, id));
        }
        let place = |owner: u32, trap: &Trap| {
            let offset = trap.frames.first()?.offset;
            Some((&all.get(owner as usize)?.places, offset))
        };
        flight.follow(
            |owner, trap| place(owner, trap).map_or(0, |(places, at)| places.times(&trap.code, at)),
            |owner, trap| {
                if let Some((places, at)) = place(owner, trap) {
                    places.forget(&trap.code, at);
                    self.shared.dumps.forget(owner, &trap.code, at);
                }
            },
        );
        if let Some(due) = flight.due(end, !end && self.shared.dumps.under_way()) {
            let present = self.present(&due.owners, &all);
            if let Some(flight) = &mut self.flight {
                flight.write(due, present);
            }
        }
        self.follow_rate();
        self.tell_news(Duration::ZERO);
    }

    /// Writes what is left, within [`LAST_EXPORT`].
    pub(super) fn finish_flight(&mut self) {
        let until = Instant::now() + LAST_EXPORT;
        while self.flight.as_ref().is_some_and(Flight::is_awake) {
            self.step(true);
            if !self.flight.as_ref().is_some_and(Flight::is_open) {
                break;
            }
            let left = until.saturating_duration_since(Instant::now());
            self.tell_news(left);
            if left.is_zero() {
                break;
            }
        }
        // Mostly there is none, and one with something in it stays.
        let _ = std::fs::remove_dir(temporary(&self.shared));
    }

    fn tell_news(&mut self, within: Duration) {
        let Some(flight) = &mut self.flight else { return };
        for news in flight.news(within) {
            match news {
                News::Written { path, workload, trigger } => {
                    (self.settings.on_recording)(&path, &trigger);
                    if let Some(agent) = self.agent.as_ref().filter(|_| self.settings.upload) {
                        let given = Given::Recording { path, workload, trigger };
                        // Without room it stays here.
                        if agent.try_send(given).is_err() {
                            self.shared.lost_commands.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                News::Failed { directory, reason } => {
                    (self.settings.on_warning)(&Warning::Recordings { directory, reason });
                }
                News::Suppressed { trigger } => {
                    (self.settings.on_warning)(&Warning::RecordingsSuppressed { trigger });
                }
            }
        }
    }

    /// What is known of some workloads besides what the recorder keeps.
    fn present(&self, owners: &[u32], all: &[Arc<Figures>]) -> Present {
        let ids = || owners.iter().filter_map(|&owner| Some((owner, all.get(owner as usize)?.id())));
        let is_own =
            |name: &str, version: &str| ids().any(|(_, id)| (&*id.name, &*id.version) == (name, version));
        let locks = ids().map(|(owner, id)| locks_message(id, self.locks.of(owner)));
        let heaps = ids().filter_map(|(owner, id)| {
            let (sites, live_known) = self.heap.of(owner)?;
            Some(heap_message(id, sites, live_known))
        });
        let mut calls = self.blocked.calls(all);
        calls.retain(|call| is_own(&call.workload, &call.workload_version));
        let own = || {
            let modules = self.modules.0.iter();
            modules.filter(|(info, _)| is_own(&info.workload.name, &info.workload.version))
        };
        Present {
            locks: locks.filter(|locks| !locks.locks.is_empty()).collect(),
            heaps: heaps.collect(),
            blocked: Blocked { version: sandscope_proto::stacks::VERSION, calls },
            starts: own().map(|(_, start)| start.so_far().message()).collect(),
            traps: Vec::new(),
            modules: own().map(|(info, _)| (info.clone(), self.shelf.get(&info.id).cloned())).collect(),
        }
    }
}

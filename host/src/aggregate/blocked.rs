//! Calls of host functions that do not return, as far as one can see from outside: what is in flight at one look
//! and still is a second later.
//!
//! # Accuracy
//! A call's time counts from the first look that saw it, up to half a second after it began. Of an async
//! function's calls 1024 are shown at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandscope_proto::metric::Metric;
use sandscope_proto::otlp::{Point, PointValue};
use sandscope_proto::recording::{BlockedCall, TrapFrame};

use super::fold::frame;
use crate::code::{CodeRegistry, CodeView, instructions};
use crate::engine::Memory;
use crate::hostcall;
use crate::sampler::{self, InFlight};
use crate::workload::Figures;

/// Time between looks.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// How long a call may take before it is told of.
const PATIENCE: Duration = Duration::from_secs(1);
/// Calls that are told of.
const MAX_TOLD: usize = 64;

/// What was in flight at the last look.
#[derive(Default)]
pub(super) struct Blocked {
    calls: HashMap<(usize, u64), Call>,
    /// Workloads that ever had a blocked call.
    known: HashSet<u32>,
    told: bool,
}

struct Call {
    flight: InFlight,
    since: Instant,
    /// `None` while nobody asked.
    stack: Option<Vec<TrapFrame>>,
}

impl Blocked {
    /// Looks at what is in flight now.
    pub(super) fn look(&mut self, scope: u64, codes: &CodeRegistry) {
        let now = Instant::now();
        let flights = sampler::in_flight(scope);
        let mut before = std::mem::take(&mut self.calls);
        self.calls = flights
            .into_iter()
            .map(|flight| {
                let identity = flight.identity();
                (identity, before.remove(&identity).unwrap_or(Call { flight, since: now, stack: None }))
            })
            .collect();
        let late: Vec<&mut Call> = self
            .calls
            .values_mut()
            .filter(|call| call.stack.is_none() && now - call.since >= PATIENCE)
            .take(MAX_TOLD)
            .collect();
        if late.is_empty() {
            return;
        }
        // Held until the stacks are resolved: it keeps the code where it is.
        let codes = CodeView::new(codes.all());
        let memory = Memory::open();
        for call in late {
            self.known.insert(call.flight.workload);
            let pcs = memory.as_ref().map(|memory| call.flight.stack(memory, |pc| codes.holds(pc)));
            let pcs = pcs.filter(|_| sampler::in_flight(scope).contains(&call.flight)).unwrap_or_default();
            codes.prepare(instructions(&pcs, true));
            call.stack = Some(instructions(&pcs, true).filter_map(|at| frame(&codes, at)).collect());
        }
    }

    /// The calls that are told of, longest first.
    fn late(&self) -> Vec<&Call> {
        let mut late: Vec<&Call> = self.calls.values().filter(|call| call.stack.is_some()).collect();
        late.sort_by_key(|call| call.since);
        late
    }

    /// For recordings; `None` while there is nothing new to say.
    pub(super) fn changed(&mut self, all: &[Arc<Figures>]) -> Option<Vec<BlockedCall>> {
        let calls = self.calls(all);
        let told = std::mem::replace(&mut self.told, !calls.is_empty());
        (told || !calls.is_empty()).then_some(calls)
    }

    /// The calls that are told of, longest first.
    pub(super) fn calls(&self, all: &[Arc<Figures>]) -> Vec<BlockedCall> {
        let now = Instant::now();
        self.late()
            .into_iter()
            .take(MAX_TOLD)
            .filter_map(|call| {
                let id = all.get(call.flight.workload as usize)?.id();
                Some(BlockedCall {
                    workload: id.name.to_string(),
                    workload_version: id.version.to_string(),
                    name: hostcall::name(call.flight.function())?.to_string(),
                    since_ns: (now - call.since).as_nanos() as u64,
                    stack: call.stack.clone().unwrap_or_default(),
                })
            })
            .collect()
    }

    pub(super) fn points(&self, all: &[Arc<Figures>], out: &mut Vec<Point>) {
        let now = Instant::now();
        let late = self.late();
        for &workload in &self.known {
            let Some(figures) = all.get(workload as usize) else { continue };
            let mut own = late.iter().filter(|call| call.flight.workload == workload).peekable();
            let oldest = own.peek().map_or(Duration::ZERO, |call| now - call.since);
            let gauge = |metric, value| Point::of(metric, Some(figures.id()), PointValue::Gauge(value));
            out.push(gauge(Metric::HostCallsBlocked, own.count() as f64));
            out.push(gauge(Metric::HostCallOldest, oldest.as_secs_f64()));
        }
    }
}

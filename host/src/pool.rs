//! Pooling allocators of the engines that guests were loaded into: how many of their slots are in use.
//!
//! # Accuracy
//! The engine does not tell how many slots there are, only how many are taken; instantiations that found none
//! are counted per workload, where they failed.
//!
//! # Cost
//! Nothing but reading six counters per engine and export.
//!
//! # Security
//! Slots of all workloads of the process in one sum: they tell of load, not of whose it is.

use std::sync::{Mutex, PoisonError};

use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::{Point, PointValue};
use wasmtime::{Engine, EngineWeak};

/// Engines that are watched at most.
const ENGINES: usize = 64;

/// Engines with pooling allocators. They are not kept alive.
#[derive(Default)]
pub(crate) struct Pools(Mutex<Vec<EngineWeak>>);

impl Pools {
    /// Watches an engine, if it allocates from a pool. Once is enough, more do no harm.
    pub(crate) fn watch(&self, engine: &Engine) {
        if engine.pooling_allocator_metrics().is_none() {
            return;
        }
        let mut engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain(|known| known.upgrade().is_some());
        let known = engines.iter().filter_map(EngineWeak::upgrade).any(|known| Engine::same(&known, engine));
        if !known && engines.len() < ENGINES {
            engines.push(engine.weak());
        }
    }

    /// Slots in use of all engines, by kind; nothing if no engine has a pool.
    pub(crate) fn points(&self, out: &mut Vec<Point>) {
        let engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pools: Vec<_> = engines
            .iter()
            .filter_map(EngineWeak::upgrade)
            .filter_map(|engine| engine.pooling_allocator_metrics())
            .collect();
        if pools.is_empty() {
            return;
        }
        let mut used = [
            ("core_instance", 0),
            ("component_instance", 0),
            ("memory", 0),
            ("table", 0),
            ("stack", 0),
            ("gc_heap", 0),
        ];
        for pool in &pools {
            let of_pool = [
                pool.core_instances(),
                pool.component_instances(),
                pool.memories() as u64,
                pool.tables() as u64,
                pool.stacks() as u64,
                pool.gc_heaps() as u64,
            ];
            used.iter_mut().zip(of_pool).for_each(|((_, sum), slots)| *sum += slots);
        }
        out.extend(used.map(|(kind, slots)| {
            Point::of(Metric::PoolSlots, None, PointValue::Gauge(slots as f64))
                .with(attribute::POOL_KIND, kind)
        }));
    }
}

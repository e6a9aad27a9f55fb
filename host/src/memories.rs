//! Linear memories whose place is known: how large each is, how much of it is in physical memory, and how deep
//! the stack went that guests of LLVM keep in it.
//!
//! The engine tells a store's limiter of growths without a memory's identity, and the hook of `memory.grow` of
//! memories without their store. Here both meet: the limiter, asked inside the growth, hands its store over to
//! the hook around it.
//!
//! # Accuracy
//! A memory is known from its first growth by the guest, or from when the embedder names it
//! ([`crate::StoreProbe::follow`]), and its size is exact from there on, unless it is the embedder that grows
//! it. Others are only in the sum over their store.
//! Memories of all stores of a workload are told apart by their index and by the order in which the instances
//! of their store first grew one; beyond [`INSTANCES`] and [`INDICES`] they are only in the sum. What is
//! resident is looked at once per export or second, up to [`ROUND`] bytes per round, and at the end of a store
//! that lived long enough not to notice, or by chance; see [`crate::pages`] for what it counts. The stack is exact to a page
//! and over the life of a store; memories out of a pool keep pages of earlier guests, so there it is unknown. A
//! probe that outlives its store (`Store::into_data`) may look at what has taken the memory's place.
//!
//! # Cost
//! Nothing but at growths (some ten nanoseconds of one to two microseconds); `mincore` by the aggregator, and
//! at the end of stores for a thousandth of their life, and of one in sixty-four of any.
//!
//! # Security
//! Sizes and which pages exist, never contents.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sandscope_proto::metric::{Metric, attribute};
use sandscope_proto::otlp::PointValue;
use wasmtime::SharedMemory;

use crate::clock::Moment;
use crate::hooks::random;
use crate::pages;
use crate::workload::Figures;

/// Instances of a store whose memories are told apart.
const INSTANCES: usize = 4;
/// Memories of an instance that are told apart.
const INDICES: usize = 4;
const PLACES: usize = INSTANCES * INDICES;
/// Live stores of a workload that are looked at; what further ones have resident is not counted.
const STORES: usize = 4096;
/// In place of an instance: a memory that stores share has none of theirs.
const SHARED: usize = usize::MAX;
/// In place of an instance: one that the embedder named and that has not grown.
const FOLLOWED: usize = usize::MAX - 1;
/// Bytes that one round of looking at memories may cover: a few milliseconds.
pub(crate) const ROUND: usize = 4 << 30;
/// Bytes that may be looked at per millisecond that a store lived: a thousandth of its life.
const PER_MS: u64 = 1 << 20;
/// One in so many stores is looked at however short it lived.
const ONE_IN: u64 = 64;

/// What is known of one memory over all stores of a workload.
#[derive(Default)]
struct Sums {
    seen: AtomicBool,
    size: AtomicI64,
    peak: AtomicU64,
    grows: AtomicU64,
    refused: AtomicU64,
    /// Bytes, and whether they are known.
    resident: AtomicU64,
    resident_known: AtomicBool,
    resident_peak: AtomicU64,
}

/// The memories of a workload.
#[derive(Default)]
pub(crate) struct Memories {
    sums: [Sums; PLACES],
    stores: Mutex<Vec<Weak<StoreMemories>>>,
}

/// The memories of one store.
pub(crate) struct StoreMemories {
    figures: Arc<Figures>,
    since: Moment,
    /// Contexts of the instances that grew a memory.
    instances: [AtomicUsize; INSTANCES],
    /// Base and length of each memory; base 0 where none is known.
    known: [(AtomicUsize, AtomicUsize); PLACES],
    /// The memory at place 0, if it is one that stores share.
    shared: Mutex<Option<SharedMemory>>,
    /// Set once the stack in the memory went past its mark.
    deep: AtomicBool,
}

thread_local! {
    /// Instance whose growth the engine is about to ask the limiter for; 0 for none.
    static ASKED: Cell<usize> = const { Cell::new(0) };
    /// The answer: that instance and its store's memories.
    static ANSWER: RefCell<Option<(usize, Arc<StoreMemories>)>> = const { RefCell::new(None) };
}

/// Before a growth: asks the store's limiter to say which store it is. 0 takes the question back.
#[inline(never)] // thread-locals must be looked up after the growth
pub(crate) fn ask(instance: usize) {
    ASKED.set(instance);
    let _ = ANSWER.try_with(RefCell::take);
}

/// After a growth: the store of an instance, if its limiter is ours and was asked on this thread.
#[inline(never)]
pub(crate) fn answered(instance: usize) -> Option<Arc<StoreMemories>> {
    ASKED.set(0);
    let (who, store) = ANSWER.try_with(RefCell::take).ok().flatten()?;
    (who == instance).then_some(store)
}

/// The instance that wants to know which store it is in. For the limiter, before anything else runs.
pub(crate) fn asked() -> Option<usize> {
    Some(ASKED.replace(0)).filter(|instance| *instance != 0)
}

/// Tells the instance that asked.
pub(crate) fn answer(instance: usize, store: &Arc<StoreMemories>) {
    let _ = ANSWER.try_with(|answer| answer.replace(Some((instance, Arc::clone(store)))));
}

impl StoreMemories {
    pub(crate) fn new(figures: &Arc<Figures>) -> Arc<Self> {
        let store = Arc::new(Self {
            figures: Arc::clone(figures),
            since: Moment::now(),
            instances: Default::default(),
            known: Default::default(),
            shared: Mutex::default(),
            deep: AtomicBool::new(false),
        });
        let mut stores = figures.memories.stores();
        if stores.len() < STORES {
            stores.push(Arc::downgrade(&store));
        }
        store
    }

    /// Names a memory that the store shares with others.
    pub(crate) fn share(&self, memory: SharedMemory) {
        // Nothing has grown: the place of the first instance is free.
        self.instances[0].store(SHARED, Relaxed);
        *self.shared() = Some(memory);
        self.look_at_shared();
    }

    /// Threads grow a shared memory without a word to a limiter.
    fn look_at_shared(&self) {
        // Locked to its end: the store may take its memory back meanwhile.
        let shared = self.shared();
        let Some(data) = shared.as_ref().map(SharedMemory::data) else { return };
        let growth = self.sized(0, data.as_ptr() as usize, data.len());
        self.figures.shared_resized(growth, data.len() as i64);
    }

    fn shared(&self) -> MutexGuard<'_, Option<SharedMemory>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names the only memory of an instance, that has not grown yet.
    pub(crate) fn follow(&self, base: usize, length: usize) {
        let free = self.instances.iter().position(|instance| instance.load(Relaxed) == 0);
        if let Some(nth) = free {
            self.instances[nth].store(FOLLOWED, Relaxed);
            self.sized(nth * INDICES, base, length);
        }
    }

    /// Recognizes an instance that was followed by where its memory lies before it grows.
    pub(crate) fn recognize(&self, instance: usize, base: usize) {
        let followed = self
            .instances
            .iter()
            .zip(self.known.iter().step_by(INDICES))
            .find(|(nth, known)| nth.load(Relaxed) == FOLLOWED && known.0.load(Relaxed) == base);
        if let Some((nth, _)) = followed {
            nth.store(instance, Relaxed);
        }
    }

    fn place(&self, instance: usize, index: u32) -> Option<usize> {
        let index = usize::try_from(index).ok().filter(|index| *index < INDICES)?;
        // The store runs on one thread at a time: nobody else claims a place meanwhile.
        let nth = self.instances.iter().position(|at| [0, instance].contains(&at.load(Relaxed)))?;
        self.instances[nth].store(instance, Relaxed);
        Some(nth * INDICES + index)
    }

    /// A growth of a memory that lies at `base` now and is `length` bytes long.
    pub(crate) fn grew(&self, instance: usize, index: u32, base: usize, length: usize) {
        let Some(place) = self.place(instance, index) else { return };
        self.sized(place, base, length);
        self.figures.memories.sums[place].grows.fetch_add(1, Relaxed);
    }

    /// Returns by how much it grew.
    fn sized(&self, place: usize, base: usize, length: usize) -> i64 {
        let sums = &self.figures.memories.sums[place];
        let (known_base, known_length) = &self.known[place];
        let growth = length as i64 - known_length.swap(length, Relaxed) as i64;
        known_base.store(base, Relaxed);
        sums.seen.store(true, Relaxed);
        sums.size.fetch_add(growth, Relaxed);
        sums.peak.fetch_max(length as u64, Relaxed);
        growth
    }

    /// A growth that was refused or failed.
    pub(crate) fn refused(&self, instance: usize, index: u32) {
        let Some(place) = self.place(instance, index) else { return };
        let sums = &self.figures.memories.sums[place];
        sums.seen.store(true, Relaxed);
        sums.refused.fetch_add(1, Relaxed);
    }

    /// The store's end, before its memories go.
    pub(crate) fn end(&self) {
        let lived_ms = self.since.elapsed_ns() / 1_000_000;
        let chosen = random::below(ONE_IN) == 0;
        let mut room = if chosen { ROUND } else { lived_ms.saturating_mul(PER_MS) as usize };
        self.look_at_shared();
        let shared = self.shared().take().is_some();
        for (place, (base, length)) in self.known.iter().enumerate() {
            self.look(place, &mut room);
            base.store(0, Relaxed);
            let length = length.swap(0, Relaxed) as i64;
            self.figures.memories.sums[place].size.fetch_sub(length, Relaxed);
            if shared && place == 0 {
                self.figures.shared_resized(-length, 0);
            }
        }
    }

    /// Bytes of a memory that are resident: 0 if there is no such memory, `None` if it cannot be told.
    fn look(&self, place: usize, room: &mut usize) -> Option<u64> {
        let (base, length) = &self.known[place];
        let (at, length) = (base.load(Relaxed), length.load(Relaxed));
        if at == 0 {
            return Some(0);
        }
        let memories = &self.figures.memories;
        if place == 0 {
            self.look_at_stack(at, length, room);
        }
        *room = room.checked_sub(length)?;
        let resident = pages::resident(at, length)? as u64;
        // A store that ended meanwhile may have left its memory to others.
        if base.load(Relaxed) != at {
            return Some(0);
        }
        memories.sums[place].resident_peak.fetch_max(resident, Relaxed);
        Some(resident)
    }

    fn look_at_stack(&self, base: usize, length: usize, room: &mut usize) {
        let stack = &self.figures.runtime.stack;
        let Some(size) = stack.shadow_size().filter(|size| *size <= length && *size <= *room) else { return };
        let Some(lowest) = pages::lowest(base, size) else { return };
        if self.known[0].0.load(Relaxed) == base
            && stack.shadow((size - lowest) as u64)
            && !self.deep.swap(true, Relaxed)
        {
            stack.shadow_deep();
        }
    }
}

impl Memories {
    fn stores(&self) -> MutexGuard<'_, Vec<Weak<StoreMemories>>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets stores that ended.
    pub(crate) fn prune(&self) {
        self.stores().retain(|store| store.strong_count() > 0);
    }

    /// Looks at what is resident, at no more than `room` bytes. What is beyond is unknown.
    pub(crate) fn look(&self, room: &mut usize) {
        let stores: Vec<_> = self.stores().iter().filter_map(Weak::upgrade).collect();
        stores.iter().for_each(|store| store.look_at_shared());
        for (place, sums) in self.sums.iter().enumerate().filter(|(_, sums)| sums.seen.load(Relaxed)) {
            let resident: Option<u64> = stores.iter().map(|store| store.look(place, room)).sum();
            sums.resident.store(resident.unwrap_or(0), Relaxed);
            sums.resident_known.store(resident.is_some() && stores.len() < STORES, Relaxed);
        }
    }

    /// The metric points of this moment.
    pub(crate) fn points(&self, mut push: impl FnMut(Metric, PointValue, &[(&'static str, &str)])) {
        for (place, sums) in self.sums.iter().enumerate().filter(|(_, sums)| sums.seen.load(Relaxed)) {
            let (instance, index) = ((place / INDICES).to_string(), (place % INDICES).to_string());
            let of = [(attribute::MEMORY_INSTANCE, &*instance), (attribute::MEMORY_INDEX, &*index)];
            let gauge = |value: &AtomicU64| PointValue::Gauge(value.load(Relaxed) as f64);
            push(Metric::LinearSize, PointValue::Gauge(sums.size.load(Relaxed) as f64), &of);
            push(Metric::LinearPeak, gauge(&sums.peak), &of);
            for (outcome, count) in [("ok", &sums.grows), ("refused", &sums.refused)] {
                let count = PointValue::Counter(count.load(Relaxed) as f64);
                push(Metric::LinearGrows, count, &[of[0], of[1], (attribute::GROW_OUTCOME, outcome)]);
            }
            if sums.resident_known.load(Relaxed) {
                push(Metric::MemoryResident, gauge(&sums.resident), &of);
            }
            if sums.resident_peak.load(Relaxed) > 0 {
                push(Metric::MemoryResidentPeak, gauge(&sums.resident_peak), &of);
            }
        }
    }
}

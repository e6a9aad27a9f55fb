//! A log's life on a disk that fails, decided by a seed: no clock, no thread. After every restart a ledger is drawn up:
//! what was acknowledged can be read, batches with a key stand in one place, and what is missing was counted.
//!
//! `SANDSCOPE_SEEDS` says how many lives of each kind; `SANDSCOPE_SEED` is one to live again.

mod disk;
mod recorded;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::cursors::Cursors;
use super::entry::{Entry, Key, Kind, Prepared};
use super::error::OpenError;
use super::open::open;
use super::position::{Extent, Lost, Position};
use super::read::read;
use super::settings::{Settings, WhenFull};
use super::store::Store;
use disk::{Random, SimDisk, SimFile, Sync};

const STEPS: u32 = 150;
const HOUR: u64 = 3_600_000_000_000;
const CONSUMER: &str = "history";

/// What a life has to endure.
#[derive(Clone, Copy, Debug)]
struct Life {
    when_full: WhenFull,
    /// Bits flip, too.
    damage: bool,
    ignore: Option<Sync>,
}

/// What one batch has in it, by its number: of many sizes, some compressible.
fn payload(id: u64) -> Bytes {
    let mut random = Random(id);
    let length = random.below(if id.is_multiple_of(5) { 6000 } else { 300 }) as usize;
    let mut bytes = id.to_le_bytes().to_vec();
    let noise = id.is_multiple_of(2);
    bytes.extend((0..length).map(|_| if noise { random.next() as u8 } else { b'x' }));
    bytes.into()
}

/// Two of three batches have keys, as those of our hosts.
fn key(id: u64) -> Option<Key> {
    (!id.is_multiple_of(3))
        .then(|| Key::new("node", if id % 3 == 1 { "boot-1" } else { "boot-2" }, id).unwrap())
}

#[derive(Default)]
struct Ledger {
    /// How often each batch was sent.
    sent: BTreeMap<u64, u32>,
    acked: BTreeSet<u64>,
    /// What the consumer holds, by position: it may be told again.
    consumed: BTreeMap<Position, u64>,
    /// What is before this was trimmed: a restart forgets its keys.
    floor: Position,
    /// What the consumer was told is durable.
    cursor: Option<Position>,
    lost: Lost,
    torn: u64,
    dropped: u64,
}

impl Ledger {
    fn trimmed(&mut self, store: &Store<SimDisk>) {
        let oldest = store.index().lock().front().map_or(self.floor, Extent::start);
        self.floor = self.floor.max(oldest);
    }

    fn take(&self, at: Position, entry: &Entry, into: &mut BTreeMap<Position, u64>) -> Result<(), String> {
        let id = entry.payload.first_chunk().map(|id| u64::from_le_bytes(*id)).unwrap_or_default();
        if !self.sent.contains_key(&id) || entry.payload != payload(id) || entry.key != key(id) {
            return Err(format!("{at:?} holds what nobody sent"));
        }
        match into.insert(at, id).filter(|before| *before != id) {
            Some(before) => Err(format!("{at:?} held {before} and holds {id}")),
            None => Ok(()),
        }
    }
}

struct World {
    life: Life,
    disk: SimDisk,
    settings: Settings,
    random: Random,
    now: u64,
    ledger: Ledger,
    /// `None` until it is open.
    log: Option<(Store<SimDisk>, Cursors<SimFile>)>,
    next: u64,
}

impl World {
    fn new(seed: u64, life: Life) -> Self {
        let mut settings = Settings::new(96 << 10, Duration::from_secs(3600), life.when_full);
        settings.segment_bytes = 12 << 10;
        let mut random = Random(seed);
        let disk = SimDisk::new(random.next(), life.ignore);
        let (now, ledger, log, next) = (500_000 * HOUR, Ledger::default(), None, 1);
        Self { life, disk, settings, random, now, ledger, log, next }
    }

    /// Opens the log, as often as it takes.
    fn reopen(&mut self, power_cut: bool) -> Result<(), String> {
        if let Some((store, _)) = self.log.take() {
            self.ledger.dropped += store.dropped();
            self.ledger.trimmed(&store);
        }
        self.stopped(power_cut);
        let mut why = String::new();
        for _ in 0..10 {
            match self.open() {
                Ok(()) => {
                    self.disk.leave(None);
                    return self.check();
                }
                Err(OpenError::Newer { .. }) => return Err("the log became one of a later release".into()),
                Err(_) if self.disk.is_dead() => {
                    let power_cut = self.random.one_in(2);
                    self.stopped(power_cut);
                }
                // A sync or a write that was told to fail.
                Err(error) => why = format!("{error:?}"),
            }
        }
        Err(format!("the log does not open: {why}"))
    }

    fn stopped(&mut self, power_cut: bool) {
        if power_cut {
            self.disk.cut_power();
        } else {
            self.disk.go_on();
        }
    }

    fn open(&mut self) -> Result<(), OpenError> {
        let cursors = Cursors::open(&self.disk).map_err(|source| OpenError::Cursors { source })?;
        let opened = open(&self.disk, self.settings.boots)?;
        self.ledger.lost.add(opened.recovery.lost);
        self.ledger.torn += opened.recovery.torn;
        let (above, released) = (cursors.last_segment(), cursors.slowest());
        let disk = Arc::new(self.disk.clone());
        let seed = self.random.next();
        let store = Store::new(disk, self.settings.clone(), opened, above, released, seed);
        self.log = Some((store, cursors));
        Ok(())
    }

    /// The ledger, with all that can be read now.
    fn check(&mut self) -> Result<(), String> {
        let Some((store, cursors)) = &mut self.log else { return Ok(()) };
        let mut readable = self.ledger.consumed.clone();
        let cursor = cursors.get(CONSUMER);
        if cursor < self.ledger.cursor {
            return Err(format!("the cursor went back to {cursor:?}"));
        }
        let mut from = cursor.unwrap_or_default();
        loop {
            let page = read(&self.disk, &store.index(), from, 4000).map_err(|error| error.to_string())?;
            self.ledger.lost.add(page.lost);
            for stored in &page.records {
                self.ledger.take(stored.position, &stored.entry, &mut readable)?;
            }
            if page.next == from {
                break;
            }
            from = page.next;
        }
        let mut places: BTreeMap<u64, u32> = BTreeMap::new();
        for (at, id) in &readable {
            *places.entry(*id).or_default() += u32::from(*at >= self.ledger.floor || key(*id).is_none());
        }
        let missing = self.ledger.acked.iter().filter(|id| !places.contains_key(id)).count() as u64;
        let dropped = self.ledger.dropped + store.dropped();
        // The end of the last segment cannot say whether it was cut or flipped: a record has 64 bytes at least.
        let lost = if self.life.damage { self.ledger.lost.records + self.ledger.torn / 64 } else { 0 };
        if missing > dropped + lost {
            return Err(format!("{missing} acknowledged batches are missing, {dropped} were dropped"));
        }
        for (id, places) in places {
            let most = match key(id) {
                // A damaged record takes its key with it.
                Some(_) if !self.life.damage => 1,
                _ => self.ledger.sent.get(&id).copied().unwrap_or(0),
            };
            if places > most {
                let at: Vec<&Position> =
                    readable.iter().filter(|(_, of)| **of == id).map(|(at, _)| at).collect();
                let floor = self.ledger.floor;
                return Err(format!(
                    "batch {id} stands in {places} places: {at:?}, trimmed before {floor:?}"
                ));
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        match self.random.below(100) {
            0..45 => self.send(),
            45..65 => self.consume()?,
            65..70 => self.disk.fail_next_sync(Sync::File),
            70..73 => self.disk.fail_next_sync(Sync::Directory),
            73..76 => self.disk.fail_next_write(),
            76..79 => self.disk.leave(Some(self.random.below(10_000) as usize)),
            79..82 => self.disk.leave(None),
            82..84 => self.now = self.now.saturating_add(24 * HOUR),
            84..86 => self.now = self.now.saturating_sub(24 * HOUR),
            86..88 => self.reopen(false)?,
            88..91 => self.reopen(true)?,
            91..97 => self.disk.stop_after(1 + self.random.below(8)),
            _ if self.life.damage => self.disk.damage(),
            _ => {}
        }
        self.now += self.random.below(60_000_000_000);
        if self.disk.is_dead() {
            let power_cut = self.random.one_in(2);
            self.reopen(power_cut)
        } else {
            Ok(())
        }
    }

    /// A group of new batches, and of some that come again, acknowledged or not.
    fn send(&mut self) {
        let Some((store, _)) = &mut self.log else { return };
        let mut ids = Vec::new();
        for _ in 0..1 + self.random.below(6) {
            let again = self.random.one_in(4);
            let id = if again { self.next.saturating_sub(self.random.below(8)).max(1) } else { self.next };
            self.next += u64::from(id == self.next);
            // Who is no host of ours does not send again what was acknowledged.
            if key(id).is_some() || !self.ledger.acked.contains(&id) {
                ids.push(id);
            }
        }
        let entry = |id: u64| Entry::new(Kind::Metrics, self.now, key(id), payload(id));
        let group = ids.iter().map(|id| Prepared::new(entry(*id)).unwrap()).collect();
        for id in &ids {
            *self.ledger.sent.entry(*id).or_default() += 1;
        }
        for (id, result) in ids.into_iter().zip(store.commit(self.now, group)) {
            if result.is_ok() {
                self.ledger.acked.insert(id);
            }
        }
    }

    fn consume(&mut self) -> Result<(), String> {
        let Some((store, cursors)) = &mut self.log else { return Ok(()) };
        let from = cursors.get(CONSUMER).unwrap_or_default();
        // Only a disk without power cannot be read.
        let Ok(page) = read(&self.disk, &store.index(), from, self.random.below(20_000) as usize) else {
            return Ok(());
        };
        let mut consumed = self.ledger.consumed.clone();
        for stored in &page.records {
            self.ledger.take(stored.position, &stored.entry, &mut consumed)?;
        }
        self.ledger.consumed = consumed;
        self.ledger.lost.add(page.lost);
        if cursors.set(CONSUMER, page.next).is_ok() {
            store.release(cursors.slowest());
            self.ledger.cursor = Some(page.next);
        }
        Ok(())
    }
}

/// How many batches were acknowledged in a life, or what was wrong.
fn live(seed: u64, life: Life) -> Result<usize, String> {
    let mut world = World::new(seed, life);
    if world.random.one_in(4) {
        world.disk.stop_after(1 + world.random.below(6));
    }
    world.reopen(false)?;
    if let Some((store, cursors)) = &mut world.log {
        cursors.set(CONSUMER, Position::OLDEST).map_err(|error| error.to_string())?;
        store.release(cursors.slowest());
        world.ledger.cursor = Some(Position::OLDEST);
    }
    for step in 0..STEPS {
        world.step().map_err(|error| format!("step {step}: {error}"))?;
    }
    world.reopen(true)?;
    Ok(world.ledger.acked.len())
}

/// Lives that once went wrong.
const FOUND: [u64; 1] = [5800];

fn seeds() -> Vec<u64> {
    let number = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    match number("SANDSCOPE_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("SANDSCOPE_SEEDS").unwrap_or(50)).chain(FOUND).collect(),
    }
}

fn all_live(life: Life) {
    let mut acked = 0;
    for seed in seeds() {
        match live(seed, life) {
            Ok(batches) => acked += batches,
            Err(error) => panic!("SANDSCOPE_SEED={seed} {life:?}: {error}"),
        }
    }
    assert!(acked > 0, "nothing was ever acknowledged");
}

const PLAIN: Life = Life { when_full: WhenFull::Refuse, damage: false, ignore: None };

/// Killed, without power, with failing syncs, on a full disk, under stepping clocks: what was acknowledged is there,
/// once.
#[test]
fn nothing_acknowledged_is_lost() {
    all_live(PLAIN);
}

/// Told to drop the oldest, the log loses what it counted and nothing else.
#[test]
fn what_is_dropped_is_counted() {
    all_live(Life { when_full: WhenFull::DropOldest, ..PLAIN });
}

/// Bits flip and sectors vanish, too: what cannot be read was counted, and all else is read.
#[test]
fn what_is_damaged_is_counted() {
    all_live(Life { damage: true, ..PLAIN });
}

/// However many wait, they wait for one sync.
#[test]
fn a_group_shares_a_sync() {
    let mut world = World::new(1, PLAIN);
    world.reopen(false).unwrap();
    let (store, _) = world.log.as_mut().unwrap();
    let group = |ids: std::ops::Range<u64>| {
        ids.map(|id| Prepared::new(Entry::new(Kind::Logs, 1, None, payload(id))).unwrap()).collect()
    };
    store.commit(1, group(0..1));
    let before = world.disk.syncs();
    assert!(store.commit(1, group(1..51)).iter().all(Result::is_ok));
    assert_eq!(world.disk.syncs() - before, 1);
}

/// The proof that the ledger sees what it should: without one kind of sync it does not add up.
#[test]
fn each_kind_of_sync_is_needed() {
    for ignore in [Sync::File, Sync::Directory] {
        let life = Life { ignore: Some(ignore), ..PLAIN };
        let failed = (0..50).filter(|seed| live(*seed, life).is_err()).count();
        assert!(failed > 0, "nobody misses {ignore:?}");
    }
}

//! Who sends: each boot of each host, when it was heard, what it runs on, and how its clock differs from ours.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sandscope_proto::otlp::Resource;
use sandscope_proto::query::{self as wire, HostRow};

use super::presence::Presence;
use super::{MAX_LABEL, Selected, Sender, cut};

/// Minutes over which the smallest delay is looked for.
const SKEW_MINUTES: usize = 5;
/// Estimated bytes of a host, without its texts.
const HOST_BYTES: usize = 640;

/// Bytes of a host with the longest texts.
pub(super) const MOST_BYTES: usize = HOST_BYTES + size_of::<Source>() + 8 * MAX_LABEL;

/// What a sender says of itself. Kept once per sender, however much it sends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    pub host: Box<str>,
    pub instance: Box<str>,
    pub arch: Box<str>,
    engine: Box<str>,
    engine_version: Box<str>,
}

impl Source {
    fn of(resource: &Resource) -> Self {
        Self {
            host: cut(&resource.host).into(),
            instance: cut(&resource.instance).into(),
            arch: cut(&resource.arch).into(),
            engine: cut(&resource.engine).into(),
            engine_version: cut(&resource.engine_version).into(),
        }
    }

    fn is(&self, resource: &Resource) -> bool {
        let Self { host, instance, arch, engine, engine_version } = self;
        let own = [host, instance, arch, engine, engine_version];
        let Resource { host, instance, arch, engine, engine_version, .. } = resource;
        own.into_iter().zip([host, instance, arch, engine, engine_version]).all(|(a, b)| **a == *cut(b))
    }

    pub(super) fn bytes(&self) -> usize {
        let Self { host, instance, arch, engine, engine_version } = self;
        size_of::<Self>() + host.len() + instance.len() + arch.len() + engine.len() + engine_version.len()
    }

    /// Name and version of the engine.
    pub(super) fn engine(&self) -> String {
        format!("{} {}", self.engine, self.engine_version).trim().to_owned()
    }

    /// Name and version of the engine, apart.
    pub(super) fn engine_parts(&self) -> (&str, &str) {
        (&self.engine, &self.engine_version)
    }

    /// Whether it is the engine that somebody asks for by name, by version, or by both.
    pub(super) fn runs(&self, engine: &str) -> bool {
        engine.is_empty()
            || *self.engine == *engine
            || *self.engine_version == *engine
            || self.engine() == engine
    }

    pub(super) fn to_wire(&self) -> wire::Source {
        wire::Source {
            host: self.host.to_string(),
            instance: self.instance.to_string(),
            arch: self.arch.to_string(),
            engine: self.engine(),
        }
    }
}

/// Smallest delay per minute, newest last.
#[derive(Default)]
struct Skew([Option<(u64, i64)>; SKEW_MINUTES]);

impl Skew {
    fn saw(&mut self, now: Duration, delay: i64) {
        let minute = now.as_secs() / 60;
        let [.., last] = &mut self.0;
        match last {
            Some((newest, least)) if *newest == minute => *least = delay.min(*least),
            _ => {
                self.0.rotate_left(1);
                let [.., last] = &mut self.0;
                *last = Some((minute, delay));
            }
        }
    }

    fn least(&self, now: Duration) -> Option<i64> {
        let first = (now.as_secs() / 60).saturating_sub(SKEW_MINUTES as u64 - 1);
        self.0.iter().flatten().filter(|(minute, _)| *minute >= first).map(|(_, delay)| *delay).min()
    }
}

struct Host {
    presence: Presence,
    source: Arc<Source>,
    skew: Skew,
}

/// All senders that are known.
pub(super) struct Hosts {
    senders: HashMap<Sender, Host>,
    max: usize,
    used: usize,
}

/// When something was sent and received, ns since the epoch.
#[derive(Clone, Copy)]
pub(super) struct Times {
    /// 0 if it is not known.
    pub sent: u64,
    pub received: u64,
}

impl Hosts {
    pub(super) fn new(max: usize) -> Self {
        Self { senders: HashMap::new(), max, used: 0 }
    }

    /// Estimated size in memory.
    pub(super) fn bytes(&self) -> usize {
        self.used
    }

    /// Notes that a sender was heard; what it says of itself, and whether that is kept here.
    pub(super) fn heard(
        &mut self,
        now: Duration,
        sender: &Sender,
        resource: &Resource,
        times: Times,
    ) -> (Arc<Source>, bool) {
        let full = self.senders.len() >= self.max;
        if full && !self.senders.contains_key(sender) {
            return (Arc::new(Source::of(resource)), false);
        }
        let mut used = self.used;
        let host = self.senders.entry(sender.clone()).or_insert_with(|| {
            let source = Arc::new(Source::of(resource));
            used += bytes(sender, &source);
            Host { presence: Presence::new(now), source, skew: Skew::default() }
        });
        host.presence.heard(now);
        if !host.source.is(resource) {
            used -= host.source.bytes();
            host.source = Arc::new(Source::of(resource));
            used += host.source.bytes();
        }
        self.used = used;
        if times.sent > 0 {
            let delay = i128::from(times.received) - i128::from(times.sent);
            let delay = delay.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
            host.skew.saw(now, i64::try_from(delay).unwrap_or(0));
        }
        (host.source.clone(), true)
    }

    /// Forgets those that are not live and were silent for so long.
    pub(super) fn forget(&mut self, now: Duration, silence: Duration) {
        self.senders.retain(|_, host| host.presence.is_live(now) || host.presence.silence(now) <= silence);
        self.used = self.senders.iter().map(|(sender, host)| bytes(sender, &host.source)).sum();
    }

    /// Senders that are live.
    pub(super) fn live(&self, now: Duration) -> usize {
        self.senders.values().filter(|host| host.presence.is_live(now)).count()
    }

    /// Hosts of a selection in order, at most `max`; and how many more there are.
    pub(super) fn find(&self, now: Duration, selected: &Selected, max: usize) -> (Vec<HostRow>, u64) {
        let matches =
            |sender: &Sender, host: &Host| selected.is_sent_by(sender) && selected.is_from(&host.source);
        let mut found: Vec<(&Sender, &Host)> =
            self.senders.iter().filter(|(sender, host)| matches(sender, host)).collect();
        found.sort_unstable_by(|(a, x), (b, y)| {
            (&a.region, &a.service, &x.source.host, &a.boot).cmp(&(
                &b.region,
                &b.service,
                &y.source.host,
                &b.boot,
            ))
        });
        let truncated = found.len().saturating_sub(max) as u64;
        (found.into_iter().take(max).map(|(sender, host)| host.row(now, sender)).collect(), truncated)
    }
}

fn bytes(sender: &Sender, source: &Source) -> usize {
    HOST_BYTES + sender.region.len() + sender.service.len() + sender.boot.len() + source.bytes()
}

impl Host {
    fn row(&self, now: Duration, sender: &Sender) -> HostRow {
        HostRow {
            region: sender.region.to_string(),
            service: sender.service.to_string(),
            source: Some(self.source.to_wire()),
            age_s: self.presence.silence(now).as_secs_f64(),
            live: self.presence.is_live(now),
            interval_s: self.presence.interval().map(|interval| interval.as_secs_f64()),
            clock_skew_s: self.skew.least(now).map(|delay| delay as f64 * 1e-9),
            connected: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that is ahead shows, whatever the delays of single reports are, and a clock that was set right is
    /// seen to be right after some minutes.
    #[test]
    fn the_smallest_delay_tells_the_clock() {
        let mut skew = Skew::default();
        let at = Duration::from_secs;
        for second in 0..60 {
            skew.saw(at(second), -3_000_000_000 + (second as i64 % 7) * 400_000_000);
        }
        assert_eq!(skew.least(at(60)), Some(-3_000_000_000));
        for second in 60..400 {
            skew.saw(at(second), 20_000_000);
        }
        assert_eq!(skew.least(at(400)), Some(20_000_000));
        assert_eq!(skew.least(at(4000)), None);
    }
}

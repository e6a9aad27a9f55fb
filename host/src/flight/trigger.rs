//! What makes a recording besides a trap: conditions as users write them.
//!
//! # Accuracy
//! Calls are compared when their span is kept: every slow or failed one up to the rate of its kind, a sample of
//! the usual. Memory is what all live instances of a workload have of what they may have, looked at with each drain
//! (50 to 200 ms); without a limit there is no share of it. Other metrics are looked at every 10 s, and the highest of a
//! workload's streams counts; histograms never meet a condition. Waits and stalls of a millisecond or more are all
//! seen.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use sandscope_proto::metric::Metric;

/// Units of a metric's limit.
const UNITS: [(&str, f64); 9] = [
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
    ("ms", 1e-3),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("s", 1.0),
    ("m", 60.0),
    ("", 1.0),
];

/// A condition that makes a recording of the workload that meets it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trigger {
    /// A call took longer: `call>2s`.
    Call(Duration),
    /// A call took longer than so many times the workload's 99th percentile: `call>p99*5`.
    CallOverP99(f64),
    /// A share of the memory that its instances may have, over 0 and up to 1: `memory>90%`.
    Memory(f64),
    /// A stall in the allocator of garbage-collected objects took longer: `gc>100ms`.
    Gc(Duration),
    /// A wait for a word of shared memory took longer: `lock>100ms`.
    Lock(Duration),
    /// A counter or a gauge is higher, in its own unit: `wasm.memory.size>100MiB`.
    Metric(Metric, f64),
}

/// Why a text is no [`Trigger`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TriggerError {
    /// No condition that is known.
    #[error(
        "{text:?} is no trigger; write call>2s, call>p99*5, memory>90%, gc>100ms, lock>100ms or wasm.memory.size>100MiB"
    )]
    Unknown {
        /// As given.
        text: String,
    },
    /// The number or its unit makes no sense.
    #[error("{text:?} is no {what} over 0")]
    Value {
        /// As given.
        text: String,
        /// `time`, `factor`, `share`, `amount`.
        what: &'static str,
    },
}

impl FromStr for Trigger {
    type Err = TriggerError;

    fn from_str(text: &str) -> Result<Self, TriggerError> {
        let unknown = || TriggerError::Unknown { text: text.to_owned() };
        let (what, limit) = text.split_once('>').ok_or_else(unknown)?;
        let limit = limit.trim();
        match (what.trim(), limit.strip_prefix("p99*"), limit.strip_suffix('%')) {
            ("call", Some(times), _) => number(times, "factor", 1e6).map(Self::CallOverP99),
            ("call", None, _) => time(limit).map(Self::Call),
            ("memory", None, Some(percent)) => {
                number(percent, "share", 100.0).map(|percent| Self::Memory(percent / 100.0))
            }
            ("gc", None, _) => time(limit).map(Self::Gc),
            ("lock", None, _) => time(limit).map(Self::Lock),
            (what, None, None) => {
                let metric = Metric::parse(what).ok_or_else(unknown)?;
                amount(limit).map(|limit| Self::Metric(metric, limit))
            }
            _ => Err(unknown()),
        }
    }
}

fn amount(text: &str) -> Result<f64, TriggerError> {
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (digits, factor) = unit.unwrap_or((text, &1.0));
    let failed = || TriggerError::Value { text: text.to_owned(), what: "amount" };
    Ok(number(digits, "amount", 1e18).map_err(|_| failed())? * factor)
}

fn number(text: &str, what: &'static str, most: f64) -> Result<f64, TriggerError> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && *number <= most);
    number.ok_or_else(|| TriggerError::Value { text: text.to_owned(), what })
}

fn time(text: &str) -> Result<Duration, TriggerError> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("s", 1.0), ("m", 60.0)];
    let unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
    let (digits, factor) = unit.unwrap_or((text, &1.0));
    let failed = || TriggerError::Value { text: text.to_owned(), what: "time" };
    let seconds = number(digits, "time", 1e6).map_err(|_| failed())? * factor;
    Duration::try_from_secs_f64(seconds).map_err(|_| failed())
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(limit) => write!(f, "call>{limit:?}"),
            Self::CallOverP99(times) => write!(f, "call>p99*{times}"),
            Self::Memory(share) => write!(f, "memory>{}%", share * 100.0),
            Self::Gc(limit) => write!(f, "gc>{limit:?}"),
            Self::Lock(limit) => write!(f, "lock>{limit:?}"),
            Self::Metric(metric, limit) => write!(f, "{}>{limit}", metric.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What can be written is understood, and says the same again.
    #[test]
    fn triggers_parse() {
        let known = [
            ("call>2s", Trigger::Call(Duration::from_secs(2))),
            ("call>p99*5", Trigger::CallOverP99(5.0)),
            ("memory>90%", Trigger::Memory(0.9)),
            ("gc>100ms", Trigger::Gc(Duration::from_millis(100))),
            ("lock>1.5ms", Trigger::Lock(Duration::from_micros(1500))),
            ("wasm.memory.size>1048576", Trigger::Metric(Metric::MemorySize, 1_048_576.0)),
        ];
        for (text, trigger) in known {
            assert_eq!(text.parse(), Ok(trigger));
            assert_eq!(trigger.to_string(), text);
        }
        assert_eq!("wasm.memory.size>1MiB".parse(), Ok(Trigger::Metric(Metric::MemorySize, 1_048_576.0)));
        for text in [
            "",
            "call",
            "call>",
            "call>-1s",
            "call>5 parsecs",
            "memory>0%",
            "memory>101%",
            "gc>p99*2",
            "wasm.x>1",
        ] {
            assert!(text.parse::<Trigger>().is_err(), "{text}");
        }
    }
}

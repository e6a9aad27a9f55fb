//! Cold starts on the wire: the phases of a start, and what the cache of compiled modules had to say.

use crate::metric::attribute;
use crate::otlp::Point;

/// Version of the `ColdStart` message that this code writes and the largest that it reads.
pub const VERSION: u32 = 1;

/// What of a start takes time, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Reading or fetching the file.
    Read,
    /// Validating and compiling.
    Compile,
    /// Reading and checking what was compiled before.
    Deserialize,
    /// Resolving imports.
    Link,
    /// Instantiating, start function included.
    Instantiate,
    /// The first call.
    FirstCall,
}

impl Phase {
    /// All phases, in order.
    pub const ALL: [Self; 6] =
        [Self::Read, Self::Compile, Self::Deserialize, Self::Link, Self::Instantiate, Self::FirstCall];

    /// Value of the attribute `wasm.start.phase`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Compile => "compile",
            Self::Deserialize => "deserialize",
            Self::Link => "link",
            Self::Instantiate => "instantiate",
            Self::FirstCall => "first_call",
        }
    }

    /// The phase that a point of `wasm.instantiation.duration` is about. Hosts that know no phases send
    /// instantiations alone.
    pub fn of(point: &Point) -> Option<Self> {
        match point.attribute(attribute::START_PHASE) {
            Some(name) => Self::ALL.into_iter().find(|phase| phase.name() == name),
            None => Some(Self::Instantiate),
        }
    }
}

/// What the cache of compiled modules had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cache {
    /// The compiled module.
    Hit,
    /// Nothing, or nothing of use: the module was compiled.
    Miss,
    /// It was not asked: there is none, or the module came compiled.
    None,
}

impl Cache {
    /// All answers.
    pub const ALL: [Self; 3] = [Self::Hit, Self::Miss, Self::None];

    /// Value of the attribute `wasm.start.cache`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::None => "none",
        }
    }

    /// The answer of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cache| cache.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metric;
    use crate::otlp::PointValue;

    /// Points of hosts from before there were phases count as instantiations, those of phases that a later
    /// release adds do not.
    #[test]
    fn phases_of_older_and_later_hosts() {
        let point = || Point::of(Metric::InstantiationDuration, None, PointValue::Counter(1.0));
        assert_eq!(Phase::of(&point()), Some(Phase::Instantiate));
        assert_eq!(Phase::of(&point().with(attribute::START_PHASE, "link")), Some(Phase::Link));
        assert_eq!(Phase::of(&point().with(attribute::START_PHASE, "warm_up")), None);
    }
}

//! Where a request comes from: W3C Trace Context (<https://www.w3.org/TR/trace-context/>), parsed without trust.

use std::sync::Arc;

use sandscope_proto::otlp::traces::MAX_TRACE_STATE;

/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// Flags that are known: sampled, and random trace id (level 2).
const KNOWN_FLAGS: u8 = 3;

/// The span of another process that caused a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    pub(crate) flags: u8,
    pub(crate) state: Option<Arc<str>>,
}

impl TraceParent {
    /// Parses the header `traceparent`. `None` for what the specification tells to ignore: upper case, ids of
    /// zeros, version ff, wrong lengths. Of a later version its known beginning is read.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let (known, rest) = traceparent.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let mut field = |length| parts.next().filter(|part| part.len() == length).and_then(hex);
        let (version, trace_id, span_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let flags = match version {
            0 if rest.is_empty() => flags as u8 & KNOWN_FLAGS,
            // Of a version that we do not know, only the sampled flag means what it meant.
            1..0xff if rest.is_empty() || rest.starts_with('-') => flags as u8 & super::SAMPLED,
            _ => return None,
        };
        let span_id = u64::try_from(span_id).ok()?;
        (trace_id != 0 && span_id != 0).then_some(Self { trace_id, span_id, flags, state: None })
    }

    /// Carries the header `tracestate` along: at most 512 bytes of it, whole entries from the left.
    pub fn with_state(mut self, tracestate: &str) -> Self {
        let mut state = tracestate.trim();
        while state.len() > MAX_TRACE_STATE {
            state = state.rsplit_once(',').map_or("", |(before, _)| before);
        }
        let printable = state.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
        self.state = (printable && !state.is_empty()).then(|| state.into());
        self
    }

    /// The trace, never 0.
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The caller's span, never 0.
    pub fn span_id(&self) -> u64 {
        self.span_id
    }
}

/// Lower-case hexadecimal digits only, no sign.
fn hex(digits: &str) -> Option<u128> {
    let lower = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    u128::from_str_radix(digits, 16).ok().filter(|_| lower)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[track_caller]
    fn refused(text: &str) {
        assert_eq!(TraceParent::parse(text), None, "{text}");
    }

    #[test]
    fn a_parent_is_read() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!(parent.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((parent.span_id(), parent.flags), (0x00f0_67aa_0ba9_02b7, 1));
        // Flags that this version does not define are not passed on.
        assert_eq!(TraceParent::parse(&GOOD.replace("-01", "-ff")).unwrap().flags, 3);
    }

    /// A version of the future may append fields behind a dash, and only there.
    #[test]
    fn later_versions_are_read_as_far_as_known() {
        for text in
            [GOOD.replace("00-4", "cc-4"), format!("{}-what-the-future-holds", GOOD.replace("00-4", "01-4"))]
        {
            assert_eq!(TraceParent::parse(&text).map(|parent| parent.flags), Some(1), "{text}");
        }
        refused(&format!("{}.x", GOOD.replace("00-4", "01-4")));
        refused(&format!("{GOOD}-x"));
        refused(&GOOD.replace("00-4", "ff-4"));
    }

    #[test]
    fn what_is_invalid_is_ignored() {
        refused("");
        refused(&GOOD.to_uppercase());
        refused(&GOOD[..LENGTH - 1]);
        refused(&GOOD.replace('-', "_"));
        refused("00-00000000000000000000000000000000-00f067aa0ba902b7-01");
        refused("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01");
        refused("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b-+01");
        refused(&"é".repeat(40));
    }

    #[test]
    fn state_is_carried_within_bounds() {
        let with = |state: &str| TraceParent::parse(GOOD).unwrap().with_state(state).state;
        assert_eq!(with("a=1,b=2").as_deref(), Some("a=1,b=2"));
        let long = format!("a=1,b={}", "x".repeat(600));
        assert_eq!(with(&long).as_deref(), Some("a=1"));
        assert_eq!(with(&"x".repeat(600)), None);
        assert_eq!(with("a=\u{1b}[2J"), None);
        assert_eq!(with(" "), None);
    }
}

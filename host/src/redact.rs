//! What recordings must not hold although a policy lets it in: what matches a pattern is overwritten with `*`, byte
//! for byte.
//!
//! # Accuracy
//! Bytes are searched, as the guest holds them: text in UTF-16, compressed or in pieces is not found. In core dumps a
//! match is seen whole with up to 4 KiB on either side of what is kept, so that none is cut in two; of lines of output
//! the first 4 KiB are searched, which is what is kept of them.
//!
//! # Cost
//! Nothing without patterns. With them, time in proportion to the bytes of a core dump, on the thread of the call that
//! trapped, and of lines, on the aggregator's.
//!
//! # Security
//! A net under a policy, not a policy: what must not leave a guest is best not asked for ([`crate::DumpedMemory`]).

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};

/// What stands in place of a byte that matched.
const MASK: u8 = b'*';
/// Largest compiled pattern, in bytes.
const MAX_PATTERN: usize = 1 << 20;

/// Patterns of what recordings must not hold.
#[derive(Clone, Debug, Default)]
pub struct Redaction(Vec<Regex>);

/// Why a pattern cannot be used. Completes "failed to …".
#[derive(Debug, thiserror::Error)]
#[error("read the pattern {pattern:?}: {reason}")]
pub struct RedactionError {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it, in a line.
    pub reason: String,
}

impl Redaction {
    /// Patterns in the syntax of the `regex` crate, over bytes: `.`, `\w` and the like are of ASCII.
    ///
    /// # Errors
    /// A pattern that does not parse, or is too large.
    pub fn new<P: AsRef<str>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, RedactionError> {
        let compiled = patterns.into_iter().map(|pattern| {
            let pattern = pattern.as_ref();
            let regex = RegexBuilder::new(pattern).unicode(false).size_limit(MAX_PATTERN).build();
            regex.map_err(|error| {
                // The lines before the last draw the pattern.
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                RedactionError { pattern: pattern.to_owned(), reason }
            })
        });
        compiled.collect::<Result<_, _>>().map(Self)
    }

    /// Whether there is nothing to look for.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Overwrites the matches that begin or end in a part of what is given.
    pub(crate) fn mask(&self, around: &mut [u8], part: &Range<usize>) {
        for pattern in &self.0 {
            let found: Vec<Range<usize>> = pattern.find_iter(around).map(|found| found.range()).collect();
            for found in found {
                let range = found.start.max(part.start)..found.end.min(part.end);
                if let Some(found) = around.get_mut(range) {
                    found.fill(MASK);
                }
            }
        }
    }

    /// Overwrites the matches in a line.
    pub(crate) fn line(&self, text: String) -> String {
        if self.is_empty() {
            return text;
        }
        let mut bytes = text.into_bytes();
        let all = 0..bytes.len();
        self.mask(&mut bytes, &all);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What matches is covered, however it lies to the part; nothing else is.
    #[test]
    fn matches_are_covered() {
        let redaction = Redaction::new(["token=[a-z]+", "[0-9]{4}"]).unwrap();
        assert_eq!(redaction.line("a token=abc, é 1234 123".to_owned()), "a *********, é **** 123");
        let mut bytes = b"..token=abcdef..".to_vec();
        redaction.mask(&mut bytes, &(9..16));
        assert_eq!(bytes, b"..token=a*****..".to_vec());
        assert_eq!(Redaction::default().line("1234".to_owned()), "1234");
    }

    /// A pattern that is none is an error that names it.
    #[test]
    fn bad_patterns_are_named() {
        for pattern in ["(", "a{1000}{1000}"] {
            let error = Redaction::new(["fine", pattern]).unwrap_err();
            assert_eq!(error.pattern, pattern);
        }
    }
}

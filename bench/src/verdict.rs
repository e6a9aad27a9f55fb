//! Bounds that hold or are broken, as a list for people and a number for exit codes.

use std::fmt;

/// Checked bounds, in order.
#[derive(Default)]
pub struct Verdict(Vec<(bool, String)>);

impl Verdict {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn add(&mut self, holds: bool, what: String) {
        self.0.push((holds, what));
    }

    /// How many are broken.
    pub fn broken(&self) -> usize {
        self.0.iter().filter(|(holds, _)| !holds).count()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (holds, what)) in self.0.iter().enumerate() {
            let end = if index + 1 < self.0.len() { "\n" } else { "" };
            write!(f, "- {what}: {}{end}", if *holds { "within its bound" } else { "**BROKEN**" })?;
        }
        Ok(())
    }
}

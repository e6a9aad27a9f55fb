//! What a person reads when a command fails: what happened and why in one sentence, and the next step.

use std::fmt::Display;
use std::io::Write;

use sandscope_host::runner::RunError;
use sandscope_model::text::visible;

use crate::store::StoreError;

/// A failure of a command.
#[derive(Debug)]
pub struct Problem {
    what: String,
    next: Option<String>,
    code: u8,
}

impl Problem {
    /// The user's input cannot be used as it is: exit code 2.
    pub fn usage(what: impl Display) -> Self {
        Self { what: what.to_string(), next: None, code: 2 }
    }

    /// Sandscope or the machine is at fault: exit code 70.
    pub fn internal(what: impl Display) -> Self {
        Self { what: what.to_string(), next: None, code: crate::INTERNAL }
    }

    /// With the next step to try, a sentence.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// The process's exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// To stderr, if somebody is there: a terminal that hung up is no reason to panic.
    pub fn print(&self) {
        let mut text = format!("sandscope: failed to {}\n", visible(&self.what));
        if let Some(next) = &self.next {
            text.push_str(&format!("  {}\n", visible(next)));
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

impl From<RunError> for Problem {
    fn from(error: RunError) -> Self {
        let code =
            if matches!(error, RunError::Engine(_) | RunError::Thread(_)) { crate::INTERNAL } else { 2 };
        Self { what: error.to_string(), next: error.hint(), code }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let next = match &error {
            StoreError::OtherId { .. } => "Push the debug file of this very build.",
            StoreError::Connection { .. } => {
                "Is it the HTTP address of a collector? `sandscope collect` prints it."
            }
            StoreError::Disk { .. } => "Choose another directory with --to or --from.",
            StoreError::Nameless { .. } => {
                "Split debug info is found beside its module, or named with --debug."
            }
            StoreError::TooLarge { .. }
            | StoreError::NotWasm { .. }
            | StoreError::Address { .. }
            | StoreError::Refused { .. } => return Self::usage(chain(&error)),
        };
        Self::usage(chain(&error)).next(next)
    }
}

/// An error with its causes, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

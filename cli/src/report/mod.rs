//! What a recording tells, for a ticket or a script: [`Report`] and its two forms. Folding and symbolizing
//! happen here and below; reading files and printing do not.
//!
//! ```text
//! recording --symbols--> frames of places --functions--> self and total --build--> json::Document
//!                                                                        text <----/      \----> JSON
//! ```

mod build;
mod events;
mod functions;
mod json;
mod memory;
mod runtime;
mod starts;
mod symbols;
#[cfg(test)]
mod tests;
mod text;
mod variables;

pub use json::encode;
pub use symbols::Symbols;
pub use text::SourceLine;

use sandscope_recording::Recording;

use crate::lookup::Lookup;

/// The report of one recording.
#[derive(Debug)]
pub struct Report {
    name: String,
    document: json::Document,
}

impl Report {
    /// Folds and symbolizes a recording with the debug info inside it, or what `lookup` finds where it has none;
    /// lists the `top` functions.
    pub fn new(recording: &Recording, top: usize, lookup: &Lookup) -> Self {
        Self { name: recording.name().to_owned(), document: build::document(recording, top, lookup) }
    }

    /// For scripts: `report --json`, one line of a promised shape. Characters that a terminal might obey are
    /// escaped, so it can be printed.
    ///
    /// # Errors
    /// None is known; the encoder's type has one.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        encode(&self.document)
    }

    /// For people: one screen, safe to print, with the lines of a trap's stack that `source` has.
    pub fn text(&self, source: &SourceLine<'_>) -> String {
        text::render(&self.name, &self.document, source)
    }
}

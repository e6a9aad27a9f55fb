//! The variables of a stopped guest: which are in scope, where they are, and what they were, as text. Nothing here
//! guesses: what the debug info does not place is `<optimized out>`, what was not recorded says so.

mod aggregate;
mod entries;
mod location;
mod object;
mod print;
mod scalar;
mod scope;
mod statics;
mod stopped;
mod types;
mod unwind;
mod well_known;

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use gimli::AttributeValue;
use sandscope_frames::FrameTable;
use sandscope_model::SourceFrame;

use entries::{Entries, Entry};
use location::{Context, Frame};
use object::{Memory, Missing, Object};
use print::Printer;
pub use statics::DataSymbol;
pub(crate) use statics::Statics;
pub use stopped::{Stopped, StoppedFrame};
use types::{Language, type_name};
pub use unwind::FrameGap;
use unwind::Place;
pub(crate) use unwind::places;

use crate::error::Note;
use crate::file::{FrameRef, SymbolFile, Symbols};
use crate::limits::{MAX_FRAMES, MAX_STACK_TEXT, MAX_STACK_WORK, MAX_VALUE, MAX_VARIABLE_WORK};
use crate::symbolizer::size;

/// A frame of the source and its variables.
#[derive(Clone, Debug)]
pub struct FrameVariables {
    /// As [`SymbolFile::lookup`] has it.
    pub frame: SourceFrame,
    /// Parameters first, then locals from the outermost block inward: of two with one name, the later hides the
    /// other.
    pub variables: Vec<Variable>,
    /// Why variables in the frame's memory are not recorded.
    pub gap: Option<FrameGap>,
}

/// A variable of a stopped guest. Name, type and value are text of the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// As its source has it.
    pub name: String,
    /// The name of its type.
    pub ty: String,
    /// What it was.
    pub value: Value,
    /// Whether it is a parameter of the function.
    pub is_parameter: bool,
}

/// What a variable was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// As its language writes it, cut with `…` where it is long. Parts of it may be unknown, and say so.
    Known(String),
    /// The compiler kept it nowhere at this place.
    OptimizedOut,
    /// It was where nothing was recorded: in a wasm local, in memory that is not in the core dump, or in a frame whose
    /// place is unknown.
    NotRecorded,
}

impl Value {
    /// The text of a known value.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Known(text) => Some(text),
            Self::OptimizedOut | Self::NotRecorded => None,
        }
    }

    /// What reports call its state: `ok`, `optimized-out` or `not-recorded`.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Known(_) => "ok",
            Self::OptimizedOut => "optimized-out",
            Self::NotRecorded => "not-recorded",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known(text) => text,
            Self::OptimizedOut => Missing::OptimizedOut.text(),
            Self::NotRecorded => Missing::NotRecorded.text(),
        })
    }
}

impl From<Missing> for Value {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::OptimizedOut => Self::OptimizedOut,
            Missing::NotRecorded => Self::NotRecorded,
        }
    }
}

impl SymbolFile {
    /// The variables of a stack's frames, which all belong to this file; `frames` and the answer have the innermost
    /// first, and each wasm frame has what was inlined into it before itself. `table` was read from the same module's
    /// code, and may be empty: then nothing in frames is recorded.
    pub fn variables(
        &self,
        table: &FrameTable,
        stopped: &dyn Stopped,
        frames: &[StoppedFrame],
    ) -> Vec<Vec<FrameVariables>> {
        let work = Rc::new(Cell::new(MAX_STACK_WORK));
        let mut modules = HashMap::new();
        let (mut left, mut text_left) = (MAX_FRAMES, MAX_STACK_TEXT);
        let places = places(self, table, stopped, frames);
        let mut out = Vec::new();
        for (frame, place) in frames.iter().zip(places) {
            let mut found: Vec<FrameVariables> = self
                .lookup(frame.offset)
                .frames()
                .take(left)
                .map(FrameRef::into_frame)
                .take_while(|frame| {
                    text_left = text_left.saturating_sub(size(frame));
                    text_left > 0
                })
                .map(|frame| FrameVariables { frame, variables: Vec::new(), gap: place.base.err() })
                .collect();
            left -= found.len();
            if left == 0 {
                self.note(Note::Limit { what: "frames of a stack", limit: MAX_FRAMES });
            }
            if text_left == 0 {
                self.note(Note::Limit { what: "bytes of text in a stack", limit: MAX_STACK_TEXT });
            }
            if let Some((symbols, address)) = self.module_at(frame.offset) {
                let entries = modules
                    .entry(symbols.module.code_start)
                    .or_insert_with(|| Entries::new(symbols, Rc::clone(&work)));
                let memory = Memory {
                    stopped,
                    instance: frame.instance,
                    is_missing: stopped.is_ambiguous(frame.instance),
                };
                fill(&mut found, symbols, address, entries, memory, (frame, place));
            }
            out.push(found);
        }
        if work.get() == 0 {
            self.note(Note::Limit { what: "entries for the variables of a stack", limit: MAX_STACK_WORK });
        }
        out
    }
}

/// The variables of a wasm frame and of what was inlined into it.
fn fill<'a>(
    found: &mut [FrameVariables],
    symbols: &'a Symbols,
    address: u32,
    entries: &Entries<'a>,
    memory: Memory<'_>,
    (frame, place): (&StoppedFrame, Place),
) {
    let mut scopes = Vec::new();
    if let Some(at) = symbols.dwarf.find(address).filter(|at| !symbols.dwarf.is_split(*at)) {
        let mut scope = at.scope();
        while let Some(step) = symbols.dwarf.step(at, scope)
            && scopes.len() < found.len()
        {
            let Some(entry) = entries.read(step.entry) else { return };
            scopes.push(entry);
            scope = step.next;
        }
    }
    // The function around them all says where the frame is.
    let Some(function) = scopes.last() else { return };
    let address = u64::from(address);
    let base = entries.expression(function, gimli::DW_AT_frame_base, Some(address));
    let base = base.map(|expression| (expression, Rc::clone(&function.unit)));
    let language = Language::of(entries, function);
    let context = Context { entries, memory, frame: Some(Frame { stopped: frame, place, base }) };
    for (found, scope) in found.iter_mut().zip(&scopes) {
        for variable in scope::variables(entries, scope, address) {
            let entry = &variable.entry;
            let Some(name) = entries.inherited(entry, |entry| entries.name(entry)) else { continue };
            let ty = entries.inherited(entry, |entry| entry.reference(gimli::DW_AT_type));
            let value =
                entries.with_limit(MAX_VARIABLE_WORK, || print(&context, entry, ty, language, Some(address)));
            found.variables.push(Variable {
                name: name.into_owned(),
                ty: type_name(entries, ty, language),
                value,
                is_parameter: variable.is_parameter,
            });
        }
    }
}

/// A variable's value.
fn print<'a>(
    context: &Context<'_, 'a>,
    entry: &Entry<'a>,
    ty: Option<u32>,
    language: Language,
    address: Option<u64>,
) -> Value {
    let object = if entry.value(gimli::DW_AT_location).is_some() {
        let expression = context.entries.expression(entry, gimli::DW_AT_location, address);
        expression.ok_or(Missing::OptimizedOut).and_then(|expression| context.locate(expression, entry))
    } else {
        constant(context.entries, entry).map(Object::bytes).ok_or(Missing::OptimizedOut)
    };
    let (ty, object) = match (ty, object) {
        (Some(ty), Ok(object)) => (ty, object),
        // Nothing more is read: that is no statement about the variable.
        _ if context.entries.is_exhausted() => return Value::Known("…".to_owned()),
        (None, Ok(_)) => return Value::OptimizedOut,
        (_, Err(missing)) => return missing.into(),
    };
    let mut printer = Printer::new(context.entries, context.memory, language);
    match printer.print(ty, &object) {
        Err(missing) => missing.into(),
        Ok(()) => {
            let mut text = printer.out;
            if text.len() > MAX_VALUE {
                text.truncate(text.floor_char_boundary(MAX_VALUE));
                text.push('…');
            }
            Value::Known(text)
        }
    }
}

/// The value of a variable that never changes.
fn constant<'a>(entries: &Entries<'a>, entry: &Entry<'a>) -> Option<Vec<u8>> {
    let of = |entry: &Entry<'a>| match entry.value(gimli::DW_AT_const_value)? {
        AttributeValue::Block(bytes) => Some(bytes.slice().to_vec()),
        AttributeValue::String(text) => Some(text.slice().to_vec()),
        AttributeValue::Data16(value) => Some(value.to_le_bytes().to_vec()),
        _ => Some(entry.bits(gimli::DW_AT_const_value)?.to_le_bytes().to_vec()),
    };
    entries.inherited(entry, of)
}

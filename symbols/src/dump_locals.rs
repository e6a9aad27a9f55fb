//! Wasm locals for core dumps, which engines leave out: the ones whose value follows from what was recorded, and a dump
//! with them in the fields that the tool conventions have for locals.

use sandscope_frames::FrameTable;
use wasmparser::{BinaryReader, Parser, Payload};

use crate::dump::CoreDump;
use crate::error::SymbolError;
use crate::file::SymbolFile;
use crate::limits::MAX_FRAMES;
use crate::variables::{StoppedFrame, places};

/// Bytes before the first section.
const PREAMBLE: usize = 8;

/// A wasm local of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// Its value was not recorded and cannot be derived.
    Unknown,
    /// An `i32`, by its bits.
    I32(u32),
    /// An `i64`, by its bits.
    I64(u64),
}

impl SymbolFile {
    /// The wasm locals of a stack's frames that can be told: the one that holds the frame's place in linear memory,
    /// which debuggers find variables by. `frames` are of one stack, innermost first; a frame of which nothing can be
    /// told has no locals.
    pub fn derived_locals(
        &self,
        table: &FrameTable,
        dump: &CoreDump<'_>,
        frames: &[StoppedFrame],
    ) -> Vec<Vec<Local>> {
        let places = places(self, table, dump, frames);
        let locals = frames.iter().zip(places).map(|(frame, place)| {
            let (Ok(Some(base)), Some(index)) = (place.base, place.local) else { return Vec::new() };
            let local = match u32::try_from(base) {
                Ok(base) if !dump.is_64(frame.instance) => Local::I32(base),
                _ => Local::I64(base),
            };
            let unknown = std::iter::repeat_n(Local::Unknown, index as usize);
            unknown.chain([local]).collect()
        });
        locals.collect()
    }
}

/// The same dump with these locals in the frames of its first stack, innermost first. Frames that have locals keep
/// them.
///
/// # Errors
/// The dump cannot be read to its end.
pub fn with_locals(dump: &[u8], locals: &[Vec<Local>]) -> Result<Vec<u8>, SymbolError> {
    rewritten(dump, locals).map_err(|error| SymbolError::BrokenDump { offset: error.offset() as u64 })
}

fn rewritten(dump: &[u8], locals: &[Vec<Local>]) -> wasmparser::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(dump.len());
    let (mut copied, mut end) = (0, PREAMBLE);
    let mut is_done = false;
    for payload in Parser::new(0).parse_all(dump) {
        let payload = payload?;
        let Some((_, range)) = payload.as_section() else { continue };
        // Its id and size stand between the section before and its range.
        let start = std::mem::replace(&mut end, range.end);
        let Payload::CustomSection(section) = payload else { continue };
        if section.name() != "corestack" || std::mem::replace(&mut is_done, true) {
            continue;
        }
        let mut body = Vec::new();
        leb(&mut body, section.name().len() as u64);
        body.extend(section.name().as_bytes());
        stack(&mut body, section.data(), section.data_offset(), locals)?;
        out.extend(dump.get(copied..start).unwrap_or_default());
        out.push(0);
        leb(&mut out, body.len() as u64);
        out.extend(body);
        copied = end;
    }
    out.extend(dump.get(copied..).unwrap_or_default());
    Ok(out)
}

/// Copies what a stack's section holds, adding locals.
fn stack(out: &mut Vec<u8>, data: &[u8], offset: usize, locals: &[Vec<Local>]) -> wasmparser::Result<()> {
    let mut reader = BinaryReader::new(data, offset);
    let mut copied = 0;
    reader.read_u8()?;
    reader.read_string()?;
    let count = reader.read_var_u32()? as usize;
    for nth in 0..count.min(MAX_FRAMES) {
        reader.read_u8()?;
        for _ in 0..3 {
            reader.read_var_u32()?;
        }
        let at = reader.original_position() - offset;
        let own = skip_values(&mut reader)?;
        if let Some(known) = locals.get(nth).filter(|known| own == 0 && !known.is_empty()) {
            out.extend(data.get(copied..at).unwrap_or_default());
            values(out, known);
            copied = reader.original_position() - offset;
        }
        skip_values(&mut reader)?;
    }
    out.extend(data.get(copied..).unwrap_or_default());
    Ok(())
}

/// How many values a list has.
fn skip_values(reader: &mut BinaryReader<'_>) -> wasmparser::Result<u32> {
    let count = reader.read_var_u32()?;
    for _ in 0..count {
        match reader.read_u8()? {
            0x7f => drop(reader.read_var_i32()?),
            0x7e => drop(reader.read_var_i64()?),
            0x7d => drop(reader.read_f32()?),
            0x7c => drop(reader.read_f64()?),
            _ => {}
        }
    }
    Ok(count)
}

fn values(out: &mut Vec<u8>, locals: &[Local]) {
    leb(out, locals.len() as u64);
    for local in locals {
        match *local {
            Local::Unknown => out.push(0x01),
            Local::I32(bits) => {
                out.push(0x7f);
                signed_leb(out, bits.cast_signed().into());
            }
            Local::I64(bits) => {
                out.push(0x7e);
                signed_leb(out, bits.cast_signed());
            }
        }
    }
}

fn leb(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn signed_leb(out: &mut Vec<u8>, mut value: i64) {
    while !(-0x40..0x40).contains(&value) {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8 & 0x7f);
}

//! Line tables: the program is run once and its rows are kept by address. Its own reader, for the library's takes
//! the header's word for how many files there are. Files and paths are in `files.rs`.
//!
//! A table is a list of sequences (a function, usually), each a list of rows that hold from their address to the
//! next row's. The last row of a sequence only ends it.

use gimli::Reader as _;

use super::budget::Budget;
use super::files::Files;
use super::sections::{Slice, StrRef};
use super::tree::Position;
use super::unit::live;
use crate::error::{Note, Notes};
use crate::limits::{MAX_FILES, MAX_ROWS};

/// One line table.
#[derive(Default)]
pub(crate) struct Lines {
    pub files: Files,
    /// By ascending end.
    sequences: Box<[Sequence]>,
    addresses: Box<[u32]>,
    /// Beside `addresses`.
    positions: Box<[Position]>,
}

struct Sequence {
    begin: u32,
    end: u32,
    /// Its rows: positions in [`Lines::addresses`].
    first: u32,
    past: u32,
}

impl Lines {
    /// The row that holds at an address.
    pub fn find(&self, address: u32) -> Option<Position> {
        let at = self.sequences.partition_point(|sequence| sequence.end <= address);
        let sequence = self.sequences.get(at).filter(|sequence| sequence.begin <= address)?;
        let (first, past) = (sequence.first as usize, sequence.past as usize);
        let row = self.addresses.get(first..past)?.partition_point(|row| *row <= address).checked_sub(1)?;
        self.positions.get(first + row).copied()
    }

    /// Runs the program at an offset of `.debug_line`. A broken one ends where it breaks; `work` pays for its bytes,
    /// as programs may overlap.
    pub fn read(
        section: &[u8],
        offset: u32,
        comp_dir: StrRef,
        (work, retained): (&Budget, &Budget),
        notes: &Notes,
    ) -> Self {
        let mut program =
            Program { work, retained, cut: None, files: Files::default(), rows: Rows::default() };
        if let Err(error) = program.run(section, offset as usize, comp_dir) {
            let reason = error.to_string();
            notes.add(Note::BadDwarf { part: "line table", offset: offset as usize, reason });
        }
        if let Some(note) = program.cut.take() {
            notes.add(note);
        }
        program.finish()
    }
}

/// What a program has made so far. The rows of the open sequence are the last ones, from `open` on.
#[derive(Default)]
struct Rows {
    sequences: Vec<Sequence>,
    addresses: Vec<u32>,
    /// Beside `addresses`.
    positions: Vec<Position>,
    open: usize,
}

struct Program<'p> {
    work: &'p Budget,
    retained: &'p Budget,
    cut: Option<Note>,
    files: Files,
    rows: Rows,
}

/// The registers of the machine that line programs are for. What symbolizing has no use for is left out.
#[derive(Clone, Copy)]
struct Registers {
    address: u64,
    file: u64,
    line: u64,
    column: u64,
    /// Whether the code was removed by the linker, which says so by an impossible address.
    removed: bool,
}

const START: Registers = Registers { address: 0, file: 1, line: 1, column: 0, removed: false };

#[derive(Clone, Copy)]
struct Header<'a> {
    program: Slice<'a>,
    min_instruction: u64,
    line_base: i8,
    line_range: u8,
    opcode_base: u8,
    operands: Slice<'a>,
}

impl Program<'_> {
    fn run(&mut self, section: &[u8], offset: usize, comp_dir: StrRef) -> gimli::Result<()> {
        let mut input = Slice::new(section, gimli::LittleEndian);
        input.skip(offset)?;
        let (length, format) = input.read_initial_length()?;
        let unit = input.split(length)?;
        if !self.work.take(unit.len()) {
            self.cut = Some(Note::Limit { what: "bytes of overlapping line tables", limit: section.len() });
            return Ok(());
        }
        let header = self.header(unit, format, comp_dir, section)?;
        self.execute(header)
    }

    fn header<'a>(
        &mut self,
        mut unit: Slice<'a>,
        format: gimli::Format,
        comp_dir: StrRef,
        section: &'a [u8],
    ) -> gimli::Result<Header<'a>> {
        let version = unit.read_u16()?;
        if !(2..=5).contains(&version) {
            return Err(gimli::Error::UnknownVersion(u64::from(version)));
        }
        if version >= 5 {
            // Address and segment selector size: what is set says its own length.
            unit.skip(2)?;
        }
        let length = unit.read_length(format)?;
        let mut rest = unit.split(length)?;
        let min_instruction = u64::from(rest.read_u8()?);
        if version >= 4 {
            // Operations per instruction, for machines that wasm is not.
            rest.skip(1)?;
        }
        rest.skip(1)?;
        let line_base = rest.read_i8()?;
        let line_range = rest.read_u8()?;
        let opcode_base = rest.read_u8()?;
        if line_range == 0 {
            return Err(gimli::Error::LineRangeZero);
        }
        if opcode_base == 0 {
            return Err(gimli::Error::OpcodeBaseZero);
        }
        let operands = rest.split(usize::from(opcode_base) - 1)?;
        let whole = Slice::new(section, gimli::LittleEndian);
        let at = |slice: &Slice<'a>| slice.offset_from(whole) as u64;
        let (files, cut) = Files::read(&mut rest, version, format, comp_dir, &at)?;
        if cut {
            self.cut = Some(Note::Limit { what: "files of one line table", limit: MAX_FILES });
        }
        if self.retained.take(files.size()) {
            self.files = files;
        } else {
            self.cut = Some(Note::Memory);
        }
        Ok(Header { program: unit, min_instruction, line_base, line_range, opcode_base, operands })
    }

    fn execute(&mut self, header: Header<'_>) -> gimli::Result<()> {
        let Header { mut program, min_instruction, line_base, line_range, opcode_base, operands } = header;
        let mut now = START;
        let advance = |by: u64| by.wrapping_mul(min_instruction);
        while !program.is_empty() {
            let opcode = program.read_u8()?;
            if opcode >= opcode_base {
                let adjusted = opcode - opcode_base;
                now.address = now.address.wrapping_add(advance(u64::from(adjusted / line_range)));
                let step = i64::from(line_base) + i64::from(adjusted % line_range);
                now.line = now.line.wrapping_add_signed(step);
                if !self.row(now) {
                    return Ok(());
                }
                continue;
            }
            match gimli::DwLns(opcode) {
                gimli::DwLns(0) => {
                    let len = program.read_uleb128()?;
                    let mut body = program.split(usize::try_from(len).unwrap_or(usize::MAX))?;
                    if body.is_empty() {
                        continue;
                    }
                    match gimli::DwLne(body.read_u8()?) {
                        gimli::DW_LNE_end_sequence => {
                            if !self.end_sequence(now.address) {
                                return Ok(());
                            }
                            now = START;
                        }
                        gimli::DW_LNE_set_address => {
                            now.address = match body.len() {
                                4 => u64::from(body.read_u32()?),
                                8 => body.read_u64()?,
                                _ => u64::MAX,
                            };
                            now.removed = live(now.address, u64::from(u32::MAX)).is_none();
                        }
                        _ => {}
                    }
                }
                gimli::DW_LNS_copy => {
                    if !self.row(now) {
                        return Ok(());
                    }
                }
                gimli::DW_LNS_advance_pc => {
                    now.address = now.address.wrapping_add(advance(program.read_uleb128()?));
                }
                gimli::DW_LNS_advance_line => {
                    now.line = now.line.wrapping_add_signed(program.read_sleb128()?);
                }
                gimli::DW_LNS_set_file => now.file = program.read_uleb128()?,
                gimli::DW_LNS_set_column => now.column = program.read_uleb128()?,
                gimli::DW_LNS_const_add_pc => {
                    let by = (u8::MAX - opcode_base) / line_range;
                    now.address = now.address.wrapping_add(advance(u64::from(by)));
                }
                gimli::DW_LNS_fixed_advance_pc => {
                    now.address = now.address.wrapping_add(u64::from(program.read_u16()?));
                }
                // Flags that nobody asks for, and opcodes of the future: the header says how many operands.
                _ => {
                    let count = operands.slice().get(usize::from(opcode) - 1).copied().unwrap_or(0);
                    for _ in 0..count {
                        program.read_uleb128()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Appends a row to the open sequence; `false` when there are too many.
    fn row(&mut self, now: Registers) -> bool {
        if now.removed {
            return true;
        }
        let position = Position {
            line: u32::try_from(now.line).unwrap_or(0),
            file: u16::try_from(now.file).unwrap_or(u16::MAX),
            column: u16::try_from(now.column).unwrap_or(0),
        };
        // Addresses beyond 32 bits stay beyond the end of any code.
        let address = u32::try_from(now.address).unwrap_or(u32::MAX);
        let rows = &mut self.rows;
        let last = if rows.addresses.len() > rows.open {
            rows.addresses.last().copied().zip(rows.positions.last_mut())
        } else {
            None
        };
        match last {
            // Of rows at one address the last one holds.
            Some((at, last)) if at == address => *last = position,
            Some((at, last)) if *last == position && at < address => {}
            _ => {
                let size = size_of::<u32>() + size_of::<Position>();
                if rows.addresses.len() >= MAX_ROWS || !self.retained.take(size) {
                    self.cut = Some(Note::Memory);
                    return false;
                }
                rows.addresses.push(address);
                rows.positions.push(position);
            }
        }
        true
    }

    /// Ends the open sequence at an address, and keeps it if its code is still there.
    fn end_sequence(&mut self, end: u64) -> bool {
        let rows = &mut self.rows;
        rows.sort_open();
        let begin = rows.addresses.get(rows.open).map_or(0, |address| u64::from(*address));
        let Some((begin, end)) = live(begin, end) else {
            rows.addresses.truncate(rows.open);
            rows.positions.truncate(rows.open);
            return true;
        };
        if !self.retained.take(size_of::<Sequence>()) {
            self.cut = Some(Note::Memory);
            return false;
        }
        // There are at most MAX_ROWS rows: 32 bits count them.
        let (first, past) = (rows.open as u32, rows.addresses.len() as u32);
        rows.sequences.push(Sequence { begin, end, first, past });
        rows.open = rows.addresses.len();
        true
    }

    fn finish(self) -> Lines {
        let Rows { mut sequences, mut addresses, mut positions, open } = self.rows;
        // Rows of a sequence that was not ended hold nowhere.
        addresses.truncate(open);
        positions.truncate(open);
        sequences.sort_by_key(|sequence| sequence.end);
        Lines {
            files: self.files,
            sequences: sequences.into(),
            addresses: addresses.into(),
            positions: positions.into(),
        }
    }
}

impl Rows {
    /// Rows of the open sequence by ascending address. Compilers write them so; others have to be believed too.
    fn sort_open(&mut self) {
        let (Some(addresses), Some(positions)) =
            (self.addresses.get_mut(self.open..), self.positions.get_mut(self.open..))
        else {
            return;
        };
        if addresses.is_sorted() {
            return;
        }
        let mut rows: Vec<(u32, Position)> =
            addresses.iter().copied().zip(positions.iter().copied()).collect();
        rows.sort_by_key(|(address, _)| *address);
        for ((address, position), row) in addresses.iter_mut().zip(positions).zip(rows) {
            (*address, *position) = row;
        }
    }
}

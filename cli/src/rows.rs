//! Rows of answers to people and programs. What a terminal gets is harmless, what a program gets is true.

use std::io::{self, IsTerminal, Write};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::json::writer::{JsonArray, LineDelimited};
use arrow::json::{self, WriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sandscope_model::text::visible;

use crate::args::Format;

/// Widest column of a table, in characters.
const WIDEST: usize = 60;
/// Characters that are made visible at once: fewer than are cut.
const AT_ONCE: usize = 1000;

/// Where rows go.
pub struct Screen {
    out: Box<dyn Write>,
    is_terminal: bool,
    /// The start of a character whose end has yet to come.
    held: Vec<u8>,
}

impl Screen {
    /// Standard output.
    pub fn stdout() -> Self {
        let out = io::stdout();
        Self { is_terminal: out.is_terminal(), out: Box::new(io::BufWriter::new(out)), held: Vec::new() }
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_terminal {
            return self.out.write(bytes);
        }
        self.held.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.held) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Ok(_) | Err(_) => self.held.len(),
        };
        let held = self.held.split_off(whole);
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held = held;
        for line in text.split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            let mut rest = line;
            while !rest.is_empty() {
                let at = rest.char_indices().nth(AT_ONCE).map_or(rest.len(), |(at, _)| at);
                let (piece, after) = rest.split_at(at);
                self.out.write_all(visible(piece).as_bytes())?;
                rest = after;
            }
            self.out.write_all(end.as_bytes())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes batches of one answer.
pub enum Writer {
    Table { out: Screen, widths: Vec<usize> },
    Json(json::Writer<Screen, JsonArray>),
    Ndjson(json::Writer<Screen, LineDelimited>),
    Csv(Box<csv::Writer<Screen>>),
}

impl Writer {
    pub fn new(format: Format, out: Screen) -> Self {
        // What is unknown is null, so that every row has every field.
        let json = WriterBuilder::new().with_explicit_nulls(true);
        match format {
            Format::Table => Self::Table { out, widths: Vec::new() },
            Format::Json => Self::Json(json.build(out)),
            Format::Ndjson => Self::Ndjson(json.build(out)),
            Format::Csv => Self::Csv(Box::new(csv::Writer::new(out))),
        }
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        match self {
            Self::Table { out, widths } => table(out, widths, batch),
            Self::Json(writer) => Ok(writer.write(batch)?),
            Self::Ndjson(writer) => {
                writer.write(batch)?;
                Ok(writer.get_mut().flush()?)
            }
            Self::Csv(writer) => Ok(writer.write(&flat(batch)?)?),
        }
    }

    /// The end of the answer.
    pub fn finish(self) -> Result<(), ArrowError> {
        let mut out = match self {
            Self::Table { out, .. } => out,
            Self::Json(mut writer) => {
                writer.finish()?;
                let mut out = writer.into_inner();
                out.write_all(b"\n")?;
                out
            }
            Self::Ndjson(mut writer) => {
                writer.finish()?;
                writer.into_inner()
            }
            Self::Csv(writer) => writer.into_inner(),
        };
        Ok(out.flush()?)
    }
}

/// A batch as columns with fixed widths: those that the first batch needs.
fn table(out: &mut Screen, widths: &mut Vec<usize>, batch: &RecordBatch) -> Result<(), ArrowError> {
    let options = FormatOptions::default();
    let columns = formatters(batch, &options)?;
    let schema = batch.schema();
    let is_first = widths.is_empty();
    let mut rows = Vec::new();
    for row in 0..batch.num_rows() {
        let mut cells = Vec::new();
        for column in &columns {
            cells.push(visible(&column.value(row).try_to_string()?).into_owned());
        }
        rows.push(cells);
    }
    if is_first {
        let names: Vec<String> =
            schema.fields().iter().map(|field| visible(field.name()).into_owned()).collect();
        let width = |column: usize| {
            let cells = rows.iter().chain([&names]).filter_map(|cells| cells.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).min(WIDEST)
        };
        *widths = (0..names.len()).map(width).collect();
        line(out, widths, &names)?;
        let rules: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        line(out, widths, &rules)?;
    }
    for cells in &rows {
        line(out, widths, cells)?;
    }
    Ok(out.flush()?)
}

/// One line of a table; what is too wide ends with an ellipsis, but for the last column, which may go on.
fn line(out: &mut Screen, widths: &[usize], cells: &[String]) -> io::Result<()> {
    let mut text = String::new();
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let is_last = at + 1 == cells.len();
        let length = cell.chars().count();
        if length > *width && !is_last {
            text.extend(cell.chars().take(width.saturating_sub(1)));
            text.push('…');
        } else {
            text.push_str(cell);
            if !is_last {
                text.extend(std::iter::repeat_n(' ', width - length));
            }
        }
        if !is_last {
            text.push_str("  ");
        }
    }
    text.push('\n');
    out.write_all(text.as_bytes())
}

fn formatters<'a>(
    batch: &'a RecordBatch,
    options: &'a FormatOptions<'a>,
) -> Result<Vec<ArrayFormatter<'a>>, ArrowError> {
    batch.columns().iter().map(|column| ArrayFormatter::try_new(column, options)).collect()
}

/// The batch with text in place of what nests.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let options = FormatOptions::default();
    let texts = formatters(batch, &options)?;
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for ((field, column), text) in batch.schema().fields().iter().zip(batch.columns()).zip(texts) {
        if !column.data_type().is_nested() {
            fields.push(field.clone());
            columns.push(column.clone());
            continue;
        }
        let cells = (0..column.len()).map(|row| text.value(row).try_to_string().map(Some));
        let cells: StringArray = cells.collect::<Result<Vec<_>, _>>()?.into_iter().collect();
        fields.push(Field::new(field.name(), DataType::Utf8, true).into());
        columns.push(std::sync::Arc::new(cells));
    }
    RecordBatch::try_new(std::sync::Arc::new(Schema::new(fields)), columns)
}

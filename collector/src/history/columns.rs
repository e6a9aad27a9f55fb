//! Columns that grow row by row, and the macro that makes a table of them. Unknown is null.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    ArrayBuilder as _, ArrayRef, Float64Builder, Int64Builder, ListArray, MapBuilder, MapFieldNames,
    StringBuilder, StringViewBuilder, StructArray, TimestampNanosecondBuilder, UInt64Builder,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

/// Longest name that is kept, in bytes.
const MAX_NAME: usize = 1024;

/// One column.
pub(super) trait Column: Default {
    /// Its type in Arrow; Parquet's follows from it.
    fn data_type() -> DataType;

    /// What was pushed; empty afterwards.
    fn finish(&mut self) -> ArrayRef;
}

/// Text of which much is the same: each is held once.
pub(super) struct Names(StringViewBuilder);

impl Default for Names {
    fn default() -> Self {
        Self(StringViewBuilder::with_capacity(0).with_deduplicate_strings())
    }
}

impl Names {
    /// Empty is unknown; what is longer than 1 KiB is cut, because files may hold it once per row.
    pub(super) fn push(&mut self, text: &str) {
        let text = &text[..text.floor_char_boundary(MAX_NAME)];
        self.0.append_option((!text.is_empty()).then_some(text));
    }
}

impl Column for Names {
    fn data_type() -> DataType {
        DataType::Utf8View
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

/// Text that is hardly ever the same.
pub(super) struct Texts(StringViewBuilder);

impl Default for Texts {
    fn default() -> Self {
        Self(StringViewBuilder::with_capacity(0))
    }
}

impl Texts {
    /// Empty is unknown.
    pub(super) fn push(&mut self, text: &str) {
        self.0.append_option((!text.is_empty()).then_some(text));
    }
}

impl Column for Texts {
    fn data_type() -> DataType {
        DataType::Utf8View
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

/// Moments.
pub(super) struct Times(TimestampNanosecondBuilder);

impl Default for Times {
    fn default() -> Self {
        Self(TimestampNanosecondBuilder::with_capacity(0).with_timezone("UTC"))
    }
}

impl Times {
    /// Nanoseconds since the epoch; 0, and what is beyond the year 2262, is unknown.
    pub(super) fn push(&mut self, unix_nano: u64) {
        self.0.append_option(known(unix_nano));
    }
}

/// A moment of a sender, if it is one.
pub(super) fn known(unix_nano: u64) -> Option<i64> {
    i64::try_from(unix_nano).ok().filter(|nanos| *nanos != 0)
}

impl Column for Times {
    fn data_type() -> DataType {
        DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()))
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

/// Numbers.
pub(super) struct Floats(Float64Builder);

impl Default for Floats {
    fn default() -> Self {
        Self(Float64Builder::with_capacity(0))
    }
}

impl Floats {
    pub(super) fn push(&mut self, value: Option<f64>) {
        self.0.append_option(value);
    }
}

impl Column for Floats {
    fn data_type() -> DataType {
        DataType::Float64
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

/// Counts.
pub(super) struct Counts(UInt64Builder);

impl Default for Counts {
    fn default() -> Self {
        Self(UInt64Builder::with_capacity(0))
    }
}

impl Counts {
    pub(super) fn push(&mut self, value: Option<u64>) {
        self.0.append_option(value);
    }
}

impl Column for Counts {
    fn data_type() -> DataType {
        DataType::UInt64
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

/// Whole numbers.
pub(super) struct Ints(Int64Builder);

impl Default for Ints {
    fn default() -> Self {
        Self(Int64Builder::with_capacity(0))
    }
}

impl Ints {
    pub(super) fn push(&mut self, value: i64) {
        self.0.append_value(value);
    }
}

impl Column for Ints {
    fn data_type() -> DataType {
        DataType::Int64
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

/// Attributes: text by key.
pub(super) struct Maps(MapBuilder<StringBuilder, StringBuilder>);

impl Default for Maps {
    fn default() -> Self {
        // Parquet's own names (LogicalTypes.md, Maps).
        let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
        let text = || StringBuilder::with_capacity(0, 0);
        Self(MapBuilder::with_capacity(Some(names), text(), text(), 0))
    }
}

impl Maps {
    /// The first of equal keys counts: readers of Parquet refuse maps that have one twice.
    pub(super) fn push<'a>(&mut self, entries: impl IntoIterator<Item = (&'a str, Option<String>)>) {
        let mut seen = HashSet::new();
        for (key, value) in entries {
            if seen.insert(key) {
                self.0.keys().append_value(key);
                self.0.values().append_option(value);
            }
        }
        // Fails only if there are more keys than values, and there are not.
        let _ = self.0.append(true);
    }
}

impl Column for Maps {
    fn data_type() -> DataType {
        let fields =
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Utf8, true)];
        let entries = Field::new("key_value", DataType::Struct(fields.into()), false);
        DataType::Map(Arc::new(entries), false)
    }

    fn finish(&mut self) -> ArrayRef {
        Arc::new(self.0.finish())
    }
}

/// The name of a list's field in Parquet (LogicalTypes.md, Lists).
const ELEMENT: &str = "element";

fn list_of(fields: Fields) -> DataType {
    DataType::List(Arc::new(Field::new(ELEMENT, DataType::Struct(fields), false)))
}

fn finish_list(
    ends: &mut Vec<usize>,
    fields: Fields,
    columns: Vec<ArrayRef>,
    nulls: Option<NullBuffer>,
) -> ArrayRef {
    let lengths = ends.iter().scan(0, |before, end| Some(end - std::mem::replace(before, *end)));
    let offsets = OffsetBuffer::from_lengths(lengths);
    ends.clear();
    let element = Arc::new(Field::new(ELEMENT, DataType::Struct(fields.clone()), false));
    let entries = StructArray::new(fields, columns, None);
    Arc::new(ListArray::new(element, offsets, Arc::new(entries), nulls))
}

/// Buckets of histograms: how many values are at most `upper`, and above the bucket before.
pub(super) struct Buckets {
    ends: Vec<usize>,
    known: Vec<bool>,
    upper: Float64Builder,
    count: UInt64Builder,
}

impl Default for Buckets {
    fn default() -> Self {
        Self {
            ends: Vec::new(),
            known: Vec::new(),
            upper: Float64Builder::with_capacity(0),
            count: UInt64Builder::with_capacity(0),
        }
    }
}

impl Buckets {
    /// By upper bound, ascending; `None` if there are none.
    pub(super) fn push(&mut self, buckets: Option<&[(f64, u64)]>) {
        self.known.push(buckets.is_some());
        for (upper, count) in buckets.unwrap_or_default() {
            self.upper.append_value(*upper);
            self.count.append_value(*count);
        }
        self.ends.push(self.upper.len());
    }

    fn fields() -> Fields {
        vec![Field::new("upper", DataType::Float64, false), Field::new("count", DataType::UInt64, false)]
            .into()
    }
}

impl Column for Buckets {
    fn data_type() -> DataType {
        list_of(Self::fields())
    }

    fn finish(&mut self) -> ArrayRef {
        let known = NullBuffer::from(std::mem::take(&mut self.known));
        let columns: Vec<ArrayRef> = vec![Arc::new(self.upper.finish()), Arc::new(self.count.finish())];
        finish_list(&mut self.ends, Self::fields(), columns, Some(known))
    }
}

/// One frame of a stack, as it was sent. Empty is unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrameRow<'a> {
    pub module: &'a str,
    pub offset: Option<u64>,
    pub name: &'a str,
}

/// Frames of stacks, leaf first.
pub(super) struct Frames {
    ends: Vec<usize>,
    module: StringBuilder,
    offset: UInt64Builder,
    name: StringBuilder,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            ends: Vec::new(),
            module: StringBuilder::with_capacity(0, 0),
            offset: UInt64Builder::with_capacity(0),
            name: StringBuilder::with_capacity(0, 0),
        }
    }
}

impl Frames {
    pub(super) fn push(&mut self, frames: &[FrameRow<'_>]) {
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        for frame in frames {
            self.module.append_option(known(frame.module));
            self.offset.append_option(frame.offset);
            self.name.append_option(known(frame.name));
        }
        self.ends.push(self.offset.len());
    }

    fn fields() -> Fields {
        vec![
            Field::new("module", DataType::Utf8, true),
            Field::new("offset", DataType::UInt64, true),
            Field::new("name", DataType::Utf8, true),
        ]
        .into()
    }
}

impl Column for Frames {
    fn data_type() -> DataType {
        list_of(Self::fields())
    }

    fn finish(&mut self) -> ArrayRef {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.module.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.name.finish()),
        ];
        finish_list(&mut self.ends, Self::fields(), columns, None)
    }
}

/// A table as a struct of columns: their names and order are those of the table.
macro_rules! table {
    ($(#[$doc:meta])* $table:ident { $($column:ident: $kind:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(in crate::history) struct $table { $(pub $column: $crate::history::columns::$kind,)+ }

        impl $table {
            pub(in crate::history) fn fields() -> Vec<arrow::datatypes::Field> {
                vec![$(arrow::datatypes::Field::new(
                    stringify!($column).trim_start_matches("r#"),
                    <$crate::history::columns::$kind as $crate::history::columns::Column>::data_type(),
                    true,
                ),)+]
            }

            pub(in crate::history) fn finish(&mut self) -> Vec<arrow::array::ArrayRef> {
                vec![$($crate::history::columns::Column::finish(&mut self.$column),)+]
            }
        }
    };
}

pub(super) use table;

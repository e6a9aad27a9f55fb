//! Texts that queries put together, of a bounded size: what the engine's own functions make of texts may be of any size,
//! and its pool does not see it.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array as _, ArrayRef, AsArray as _, StringViewArray, StringViewBuilder};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::DataType;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;

/// Largest query, in bytes: a literal stands in every row of a batch.
pub(super) const MAX_SQL: usize = 32 << 10;
/// Largest text that is put together, in bytes, and largest sum of those of one batch.
const MAX_TEXT: usize = 32 << 10;
const MAX_BATCH: usize = 16 << 20;

/// The engine's functions that are left out: their result may be of any size, or, as with `levenshtein`, their time.
pub(super) const UNBOUNDED: [&str; 7] =
    ["repeat", "lpad", "rpad", "replace", "overlay", "concat_ws", "levenshtein"];

/// `a || b`, null if either is.
pub(super) static OPERATOR: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(Join::new("||", true).into()));
/// `concat(a, …)`, without those that are null.
pub(super) static CONCAT: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(Join::new("concat", false).into()));

/// A function that puts texts together.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Join {
    name: &'static str,
    /// Whether one null makes the whole null.
    is_strict: bool,
    signature: Signature,
}

impl Join {
    fn new(name: &'static str, is_strict: bool) -> Self {
        Self { name, is_strict, signature: Signature::variadic_any(Volatility::Immutable) }
    }

    /// The text of a row.
    fn row(&self, pieces: &[Piece], row: usize) -> Result<Option<String>> {
        let mut text = String::new();
        for piece in pieces {
            match piece.at(row) {
                Some(piece) if text.len() + piece.len() > MAX_TEXT => return Err(too_large()),
                Some(piece) => text.push_str(piece),
                None if self.is_strict => return Ok(None),
                None => {}
            }
        }
        Ok(Some(text))
    }
}

impl ScalarUDFImpl for Join {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let pieces: Vec<Piece> = arguments.args.iter().map(Piece::new).collect::<Result<_>>()?;
        if pieces.iter().all(|piece| matches!(piece, Piece::Same(_))) {
            return Ok(ColumnarValue::Scalar(ScalarValue::Utf8View(self.row(&pieces, 0)?)));
        }
        let mut texts = StringViewBuilder::with_capacity(arguments.number_rows);
        let mut bytes = 0;
        for row in 0..arguments.number_rows {
            let text = self.row(&pieces, row)?;
            bytes += text.as_ref().map_or(0, String::len);
            if bytes > MAX_BATCH {
                return Err(too_large());
            }
            texts.append_option(text);
        }
        let texts: ArrayRef = Arc::new(texts.finish());
        Ok(ColumnarValue::Array(texts))
    }
}

/// An argument: one text for all rows, or one for each, which are views, so that nothing is copied.
enum Piece {
    Same(Option<String>),
    Each(StringViewArray),
}

impl Piece {
    fn new(value: &ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Scalar(value) => {
                let text = views(&value.to_array()?)?;
                Self::Same(text.is_valid(0).then(|| text.value(0).to_owned()))
            }
            ColumnarValue::Array(array) => Self::Each(views(array)?),
        })
    }

    fn at(&self, row: usize) -> Option<&str> {
        match self {
            Self::Same(text) => text.as_deref(),
            Self::Each(texts) => texts.is_valid(row).then(|| texts.value(row)),
        }
    }
}

fn views(array: &ArrayRef) -> Result<StringViewArray> {
    let views = if can_cast_types(array.data_type(), &DataType::Utf8View) {
        cast(array, &DataType::Utf8View)?
    } else {
        cast(&cast(array, &DataType::Utf8)?, &DataType::Utf8View)?
    };
    Ok(views.as_string_view().clone())
}

fn too_large() -> DataFusionError {
    DataFusionError::ResourcesExhausted(format!(
        "texts may be put together up to {} KiB each, {} MiB at once",
        MAX_TEXT >> 10,
        MAX_BATCH >> 20
    ))
}

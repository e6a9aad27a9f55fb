//! Attributes with plain values.

use std::borrow::Cow;

use super::wire::{Fields, Unusual};

/// A value that is a text, a number or a truth.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plain<'a> {
    Text(&'a str),
    Bool(bool),
    Int(i64),
    Float(f64),
}

impl<'a> Plain<'a> {
    /// As a label has it, uncut.
    pub(super) fn text(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Bool(value) => value.to_string().into(),
            Self::Int(number) => number.to_string().into(),
            Self::Float(number) => number.to_string().into(),
        }
    }
}

/// A `KeyValue`; no value for one that has none or an empty one.
pub(super) fn attribute(message: &[u8]) -> Result<(&str, Option<Plain<'_>>), Unusual> {
    let (mut key, mut content) = ("", None);
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => key = value.text()?,
            // A second one would be merged into the first.
            2 if content.is_none() => content = Some(plain(value.bytes()?)?),
            _ => return Err(Unusual),
        }
    }
    Ok((key, content.flatten()))
}

fn plain(message: &[u8]) -> Result<Option<Plain<'_>>, Unusual> {
    let mut found = None;
    let mut fields = Fields(message);
    while let Some((number, value)) = fields.next()? {
        found = Some(match number {
            1 => Plain::Text(value.text()?),
            2 => Plain::Bool(value.varint()? != 0),
            3 => Plain::Int(value.varint()?.cast_signed()),
            4 => Plain::Float(f64::from_bits(value.fixed64()?)),
            _ => return Err(Unusual),
        });
    }
    Ok(found)
}

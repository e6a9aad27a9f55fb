//! Numbers, characters and strings as text.

use gimli::AttributeValue;

use super::entries::Entry;
use super::object::{Missing, Object};
use super::print::Printer;
use super::types::Language;
use crate::limits::MAX_STRING;

impl<'a> Printer<'_, 'a> {
    /// A little-endian number.
    pub fn number(&self, object: &Object, size: u64) -> Result<u128, Missing> {
        let bytes = object.read(size.min(16), &self.memory)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | u128::from(*byte)))
    }

    pub(super) fn base(&mut self, ty: &Entry<'a>, object: &Object) -> Result<(), Missing> {
        let name = self.entries.name(ty).unwrap_or_default();
        let size = ty.number(gimli::DW_AT_byte_size).ok_or(Missing::OptimizedOut)?;
        if size == 0 {
            self.out.push_str(&name);
            return Ok(());
        }
        let encoding = match ty.value(gimli::DW_AT_encoding) {
            Some(AttributeValue::Encoding(encoding)) => encoding,
            _ => gimli::DW_ATE_unsigned,
        };
        let bits = self.number(object, size)?;
        let unused = 128 - 8 * u32::try_from(size.min(16)).unwrap_or(16);
        let signed = (bits << unused).cast_signed() >> unused;
        match (encoding, size) {
            (gimli::DW_ATE_boolean, _) if bits <= 1 => self.put(if bits == 1 { "true" } else { "false" }),
            (gimli::DW_ATE_float, 4) => self.put(format_args!("{:?}", f32::from_bits(bits as u32))),
            (gimli::DW_ATE_float, 8) => self.put(format_args!("{:?}", f64::from_bits(bits as u64))),
            (gimli::DW_ATE_float, _) => self.put(format_args!("{bits:#x}")),
            (gimli::DW_ATE_UTF, _) => self.character(bits),
            (gimli::DW_ATE_signed_char | gimli::DW_ATE_unsigned_char, 1) if name == "char" => {
                self.character(bits);
            }
            (gimli::DW_ATE_signed | gimli::DW_ATE_signed_char, _) => self.put(signed),
            (gimli::DW_ATE_address, _) => self.put(format_args!("{bits:#x}")),
            _ => self.put(bits),
        }
        Ok(())
    }

    fn character(&mut self, bits: u128) {
        match u32::try_from(bits).ok().and_then(char::from_u32) {
            Some(character) if self.language == Language::Rust || matches!(bits, 0x20..0x7f) => {
                self.put(format_args!("{character:?}"));
            }
            _ => self.put(format_args!("'\\x{bits:02x}'")),
        }
    }

    /// Text of so many bytes, in quotes.
    pub fn string(&mut self, object: &Object, len: u64) -> Result<(), Missing> {
        if let Some(last) = len.checked_sub(1) {
            object.at(last).read(1, &self.memory)?;
        }
        let shown = object.read(len.min(MAX_STRING as u64), &self.memory)?;
        self.entries.spend(shown.len() / 16);
        self.quote(&shown);
        if len > MAX_STRING as u64 {
            self.cut();
        }
        Ok(())
    }

    pub(super) fn quote(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        if self.language == Language::Rust {
            return self.put(format_args!("{text:?}"));
        }
        self.out.push('"');
        for character in text.chars() {
            match u32::from(character) {
                code if character.is_control() && !"\n\r\t".contains(character) => {
                    self.put(format_args!("\\x{code:02x}"));
                }
                _ => self.put(character.escape_debug()),
            }
        }
        self.out.push('"');
    }

    /// Text that ends with a zero, in quotes.
    pub(super) fn c_string(&mut self, address: u64) -> Result<(), Missing> {
        let mut bytes = Vec::new();
        let mut is_cut = true;
        while bytes.len() < MAX_STRING {
            if bytes.len().is_multiple_of(16) && !self.entries.spend(1) {
                break;
            }
            let mut byte = [0];
            if !self.memory.read(address.saturating_add(bytes.len() as u64), &mut byte) {
                return Err(Missing::NotRecorded);
            }
            let [byte] = byte;
            if byte == 0 {
                is_cut = false;
                break;
            }
            bytes.push(byte);
        }
        self.quote(&bytes);
        if is_cut {
            self.cut();
        }
        Ok(())
    }
}

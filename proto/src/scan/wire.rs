//! Fields of protobuf messages, one after the other, without a copy.

/// A message that is not plain: malformed, or with something that only a full decoder knows how to read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unusual;

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    #[inline]
    pub(super) fn bytes(self) -> Result<&'a [u8], Unusual> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(Unusual) }
    }

    #[inline]
    pub(super) fn text(self) -> Result<&'a str, Unusual> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Unusual)
    }

    #[inline]
    pub(super) fn varint(self) -> Result<u64, Unusual> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(Unusual) }
    }

    #[inline]
    pub(super) fn fixed64(self) -> Result<u64, Unusual> {
        if let Self::Fixed64(number) = self { Ok(number) } else { Err(Unusual) }
    }

    #[inline]
    pub(super) fn fixed32(self) -> Result<u32, Unusual> {
        if let Self::Fixed32(number) = self { Ok(number) } else { Err(Unusual) }
    }
}

/// What is left of a message.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// The next field's number and value; `None` at the end.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, Unusual> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| Unusual)?;
        // Groups are somebody else's, and no field has the number 0.
        let value = match key & 7 {
            _ if number == 0 => return Err(Unusual),
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| Unusual)?;
                Value::Bytes(self.take(length)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Unusual),
        };
        Ok(Some((number, value)))
    }

    #[inline]
    pub(super) fn varint(&mut self) -> Result<u64, Unusual> {
        // Nearly all are of one byte.
        if let Some((&byte, rest)) = self.0.split_first().filter(|(byte, _)| **byte < 0x80) {
            self.0 = rest;
            return Ok(byte.into());
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, Unusual> {
        let mut number = 0;
        for (at, &byte) in self.0.iter().take(10).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                // Of the tenth byte one bit has a place.
                if at == 9 && byte > 1 {
                    return Err(Unusual);
                }
                self.0 = &self.0[at + 1..];
                return Ok(number);
            }
        }
        Err(Unusual)
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], Unusual> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Unusual)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unusual> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Unusual)?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<(u32, Value<'_>)>, Unusual> {
        let mut fields = Fields(bytes);
        let mut out = Vec::new();
        while let Some(field) = fields.next()? {
            out.push(field);
        }
        Ok(out)
    }

    #[test]
    fn fields_of_every_kind_are_read() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 2, b'h', b'i', 0x1d, 1, 0, 0, 0, 0x21, 2, 0, 0, 0, 0, 0, 0, 0];
        let fields = [
            (1, Value::Varint(150)),
            (2, Value::Bytes(b"hi")),
            (3, Value::Fixed32(1)),
            (4, Value::Fixed64(2)),
        ];
        assert_eq!(all(&bytes), Ok(fields.to_vec()));
    }

    #[test]
    fn what_is_cut_or_odd_is_unusual() {
        for bytes in [
            &[0x08][..],
            &[0x08, 0x80],
            &[0x12, 3, b'h', b'i'],
            &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x1d, 1, 0, 0],
            &[0x00, 1],
            &[0x0b, 0x0c],
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert_eq!(all(bytes), Err(Unusual), "{bytes:02x?}");
        }
    }
}

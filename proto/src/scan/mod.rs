//! Requests as the collector takes them in: looked at as the bytes that came, without making anything of each item that
//! nobody may ever ask for. What is not plain is decoded in full, so that nothing is understood otherwise than by a full
//! decoder, and nothing is accepted that one would refuse; a fuzz target and a test hold both to that.

mod attributes;
mod points;
mod spans;
mod wire;

pub use points::{Points, points};
pub use spans::{SpanRow, SpanRows, Spans, spans};

use bytes::Buf as _;
use prost::encoding::encode_varint;
use prost::{DecodeError, Message};

use wire::Unusual;

/// Decodes a message as the only content of the messages around it, whose fields are named from the outermost in: so a full
/// decoder counts how deep it is as it would in the whole request.
fn inside<M: Message + Default>(fields: &[u8], message: &[u8]) -> Result<M, DecodeError> {
    let mut heads = Vec::new();
    for field in fields.iter().rev() {
        let mut head = vec![field << 3 | 2];
        encode_varint((heads.len() + message.len()) as u64, &mut head);
        head.append(&mut heads);
        heads = head;
    }
    M::decode(heads.chain(message))
}

/// Why a request cannot be read on.
enum Stop {
    Unusual,
    Malformed(DecodeError),
}

impl From<Unusual> for Stop {
    fn from(_: Unusual) -> Self {
        Self::Unusual
    }
}

impl From<DecodeError> for Stop {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

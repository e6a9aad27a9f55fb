//! Bodies of requests, unpacked piece by piece and never beyond a limit.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use http::{HeaderMap, header};
use zstd::stream::raw::{DParameter, Decoder};
use zstd::stream::zio;

/// Largest window of zstd that is honoured, as a power of two: 8 MiB, what the format asks of every decoder.
const WINDOW_LOG: u32 = 23;

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    Plain,
    Gzip,
    Zstd,
}

impl Coding {
    /// What the headers say; `None` if it is unknown here, or more than one.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let Some(coding) = headers.get(header::CONTENT_ENCODING) else { return Some(Self::Plain) };
        match coding.to_str().ok()?.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Plain),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Why a body cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    /// There is more than the limit.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// Bytes, unpacked.
        limit: usize,
    },
    /// It is not what it claims to be, or cut.
    #[error("the body cannot be unpacked: {0}")]
    Malformed(io::Error),
}

/// Unpacks a body.
pub(crate) struct Unpack {
    decoder: Packed,
    limit: usize,
}

enum Packed {
    Plain(Bounded),
    Gzip(Box<MultiGzDecoder<Bounded>>),
    Zstd(Box<zio::Writer<Bounded, Decoder<'static>>>),
}

impl Unpack {
    /// For a body that may have `limit` bytes.
    pub(crate) fn new(coding: Coding, limit: usize) -> Result<Self, UnpackError> {
        let out = Bounded { data: Vec::new(), limit, full: false };
        let decoder = match coding {
            Coding::Plain => Packed::Plain(out),
            Coding::Gzip => Packed::Gzip(Box::new(MultiGzDecoder::new(out))),
            Coding::Zstd => {
                let mut decoder = Decoder::new().map_err(UnpackError::Malformed)?;
                let window = DParameter::WindowLogMax(WINDOW_LOG);
                decoder.set_parameter(window).map_err(UnpackError::Malformed)?;
                Packed::Zstd(Box::new(zio::Writer::new(out, decoder)))
            }
        };
        Ok(Self { decoder, limit })
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), UnpackError> {
        let pushed = match &mut self.decoder {
            Packed::Plain(out) => out.write_all(piece),
            Packed::Gzip(decoder) => decoder.write_all(piece),
            Packed::Zstd(decoder) => decoder.write_all(piece),
        };
        pushed.map_err(|error| self.because(error))
    }

    /// All of it.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, UnpackError> {
        let finished = match &mut self.decoder {
            Packed::Plain(_) => Ok(()),
            Packed::Gzip(decoder) => decoder.try_finish(),
            Packed::Zstd(decoder) => decoder.finish(),
        };
        finished.map_err(|error| self.because(error))?;
        Ok(match self.decoder {
            Packed::Plain(out) => out.data,
            Packed::Gzip(mut decoder) => std::mem::take(&mut decoder.get_mut().data),
            Packed::Zstd(decoder) => decoder.into_inner().0.data,
        })
    }

    fn because(&self, error: io::Error) -> UnpackError {
        let out = match &self.decoder {
            Packed::Plain(out) => out,
            Packed::Gzip(decoder) => decoder.get_ref(),
            Packed::Zstd(decoder) => decoder.writer(),
        };
        if out.full { UnpackError::TooLarge { limit: self.limit } } else { UnpackError::Malformed(error) }
    }
}

/// Memory that refuses to grow beyond its limit.
struct Bounded {
    data: Vec<u8>,
    limit: usize,
    full: bool,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if piece.len() > self.limit.saturating_sub(self.data.len()) {
            self.full = true;
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.data.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(coding: Coding, body: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
        let mut unpack = Unpack::new(coding, limit)?;
        for piece in body.chunks(7) {
            unpack.push(piece)?;
        }
        unpack.finish()
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    /// Whatever the coding, a body comes out as it was; one byte beyond the limit, or a bomb, does not.
    #[test]
    fn limits_hold_while_unpacking() {
        let body = b"the same again, the same again, the same again".repeat(10);
        let bomb = vec![0; 64 << 20];
        for (coding, packed, bomb) in [
            (Coding::Plain, body.clone(), bomb.clone()),
            (Coding::Gzip, gzip(&body), gzip(&bomb)),
            (Coding::Zstd, zstd::bulk::compress(&body, 3).unwrap(), zstd::bulk::compress(&bomb, 3).unwrap()),
        ] {
            assert_eq!(unpacked(coding, &packed, body.len()).unwrap(), body, "{coding:?}");
            for (packed, limit) in [(&packed, body.len() - 1), (&bomb, 1 << 20)] {
                let refused = unpacked(coding, packed, limit);
                assert!(matches!(refused, Err(UnpackError::TooLarge { .. })), "{coding:?}");
            }
        }
    }

    /// A body that is cut, or is something else, is an error.
    #[test]
    fn cut_bodies_are_refused() {
        let body = b"some text that is long enough".repeat(50);
        for (coding, packed) in
            [(Coding::Gzip, gzip(&body)), (Coding::Zstd, zstd::bulk::compress(&body, 3).unwrap())]
        {
            for cut in [1, packed.len() / 2, packed.len() - 1] {
                assert!(unpacked(coding, &packed[..cut], 1 << 20).is_err(), "{coding:?} cut at {cut}");
            }
            assert!(unpacked(coding, b"no such thing, really", 1 << 20).is_err(), "{coding:?}");
        }
    }
}

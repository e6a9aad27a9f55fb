//! Recordings on their way to the collector, one at a time: what is announced, where the collector wants to go on, what
//! the next piece is. A core: the stream is `agent`'s.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use sandscope_proto::agent::{Piece, Upload};

/// Recordings that may wait.
const MAX_WAITING: usize = 8;
/// Bytes of a piece: small, so that other messages find room between.
const PIECE: u64 = 256 << 10;

/// Recordings that wait, the first of them on its way.
#[derive(Default)]
pub(crate) struct Uploads {
    waiting: VecDeque<(Upload, File)>,
    last: u64,
    /// Where the next piece begins; `None` until the collector has said so, and when all was sent.
    next: Option<u64>,
}

impl Uploads {
    /// Adds a recording; whether it is the first, so that it has to be announced now.
    ///
    /// # Errors
    /// There is no room, or the file cannot be used: a sentence for whoever asked.
    pub(crate) fn push(
        &mut self,
        capture_id: String,
        workload: String,
        trigger: String,
        file: File,
    ) -> Result<bool, String> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(format!("{MAX_WAITING} recordings wait for the collector"));
        }
        let size = file.metadata().map_err(|error| error.to_string())?.len();
        self.last += 1;
        let upload = Upload { number: self.last, capture_id, workload, trigger, size };
        self.waiting.push_back((upload, file));
        Ok(self.waiting.len() == 1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= MAX_WAITING
    }

    /// Whether [`Self::piece`] has one.
    pub(crate) fn is_sending(&self) -> bool {
        self.next.is_some()
    }

    /// What to announce: on a new stream, and when another one is first. Its pieces wait for the answer.
    pub(crate) fn announce(&mut self) -> Option<Upload> {
        self.next = None;
        self.waiting.front().map(|(upload, _)| upload.clone())
    }

    /// The collector says where to go on.
    pub(crate) fn resume(&mut self, number: u64, offset: u64) {
        let first = self.waiting.front().map(|(upload, _)| upload);
        if let Some(upload) = first.filter(|upload| upload.number == number) {
            self.next = Some(offset).filter(|offset| *offset < upload.size);
        }
    }

    /// The collector has it, or will not take it; whether that ended the one that was on its way.
    pub(crate) fn stored(&mut self, number: u64) -> bool {
        let ended = self.waiting.front().is_some_and(|(upload, _)| upload.number == number);
        if ended {
            self.waiting.pop_front();
            self.next = None;
        }
        ended
    }

    /// The next piece.
    ///
    /// # Errors
    /// The device lost it; it is given up.
    pub(crate) fn piece(&mut self) -> io::Result<Option<Piece>> {
        let Some((offset, (upload, file))) = self.next.zip(self.waiting.front_mut()) else { return Ok(None) };
        let length = PIECE.min(upload.size.saturating_sub(offset));
        let mut data = Vec::new();
        let read =
            file.seek(SeekFrom::Start(offset))
                .and_then(|_| file.by_ref().take(length).read_to_end(&mut data))
                .and_then(|read| {
                    if read as u64 == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
                });
        let number = upload.number;
        self.next = Some(offset + length).filter(|next| *next < upload.size);
        if let Err(error) = read {
            self.stored(number);
            return Err(error);
        }
        Ok(Some(Piece { number, offset, data }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(size: usize) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![9; size]).unwrap();
        file
    }

    /// Pieces begin where the collector says, wait for it on every new stream, and end with the file.
    #[test]
    fn pieces_follow_the_collector() {
        let mut uploads = Uploads::default();
        let size = PIECE as usize * 2 + 5;
        assert_eq!(uploads.push("c".into(), "w".into(), "capture".into(), file(size)), Ok(true));
        assert_eq!(uploads.push(String::new(), "w".into(), "trap".into(), file(3)), Ok(false));
        let first = uploads.announce().unwrap();
        assert_eq!((first.size, uploads.piece().unwrap()), (size as u64, None));
        uploads.resume(first.number, 0);
        assert_eq!(uploads.piece().unwrap().unwrap().data.len(), PIECE as usize);
        // The stream breaks; the collector has nothing of it.
        assert_eq!(uploads.announce(), Some(first.clone()));
        assert!(!uploads.is_sending());
        uploads.resume(first.number, 100);
        let mut offsets = Vec::new();
        while let Some(piece) = uploads.piece().unwrap() {
            offsets.push((piece.offset, piece.data.len() as u64));
        }
        assert_eq!(offsets, [(100, PIECE), (100 + PIECE, PIECE - 95)]);
        assert!(!uploads.stored(first.number + 1) && uploads.stored(first.number));
        assert_eq!(uploads.announce().unwrap().trigger, "trap");
        (0..MAX_WAITING - 1).for_each(|_| {
            uploads.push(String::new(), String::new(), String::new(), file(1)).unwrap();
        });
        assert!(
            uploads.is_full() && uploads.push(String::new(), String::new(), String::new(), file(1)).is_err()
        );
    }
}

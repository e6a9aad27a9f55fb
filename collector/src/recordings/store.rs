//! The directory of recordings: bounded in bytes, and resumable. All names in it are made here.
//!
//! ```text
//! <id>.meta   what it is, with the number that its host gave the upload
//! <id>.part   what has arrived of it
//! <id>.mcap   all of it, synced
//! ```
//! A collector that was killed in the middle of an upload finds the part and says to its host where to go on. After a
//! power cut a part may have less than what was announced as arrived, never anything else: it is only appended to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use prost::Message as _;
use sandscope_proto::agent::Upload;
use sandscope_proto::query::RecordingInfo;

/// Recordings that are kept, however small they are.
const MAX_FILES: usize = 10_000;
/// Largest recording, in bytes.
const MAX_SIZE: u64 = 1 << 30;
/// Longest text that is kept of what a host says, in bytes.
const MAX_TEXT: usize = 256;
/// How a recording begins.
const MAGIC: &[u8] = b"\x89MCAP0\r\n";
/// Time after which nobody goes on with an upload, in ns.
const ABANDONED: u64 = 24 * 3600 * 1_000_000_000;

/// Why a recording is not taken. Fragments that complete "failed to …".
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("keep {size} bytes: a recording may have {most}")]
    TooLarge { size: u64, most: u64 },
    #[error("find room beside the uploads that are under way")]
    NoRoom,
    #[error("take a piece at byte {offset}: {received} of {size} have arrived")]
    Misplaced { offset: u64, received: u64, size: u64 },
    #[error("take what is no recording")]
    NoRecording,
    #[error("find this upload")]
    Unknown,
    #[error("write to the directory of recordings")]
    Disk(#[from] io::Error),
}

/// What `<id>.meta` holds.
#[derive(Clone, PartialEq, prost::Message)]
struct Meta {
    #[prost(message, optional, tag = "1")]
    info: Option<RecordingInfo>,
    /// Of its host's boot.
    #[prost(uint64, tag = "2")]
    number: u64,
}

struct Known {
    info: RecordingInfo,
    number: u64,
}

/// Who uploads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sender {
    pub region: String,
    pub service: String,
    pub host: String,
    pub instance: String,
}

/// The open directory.
pub(crate) struct Store {
    directory: PathBuf,
    max_bytes: u64,
    /// By id, which rises with time.
    known: BTreeMap<String, Known>,
    last: u64,
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default().to_owned()
}

impl Store {
    /// Opens the directory, made for this user alone if it is not there, and finds what it holds.
    pub(crate) fn open(directory: &Path, max_bytes: u64) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(directory)?;
        let mut store = Self { directory: directory.to_owned(), max_bytes, known: BTreeMap::new(), last: 0 };
        for entry in fs::read_dir(directory)?.flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".meta")).filter(|id| is_id(id));
            let Some(id) = id else { continue };
            let meta = fs::read(entry.path()).ok().and_then(|data| Meta::decode(&*data).ok());
            let Some(Meta { info: Some(mut info), number }) =
                meta.filter(|meta| meta.info.as_ref().is_some_and(|info| info.id == id))
            else {
                store.remove(id);
                continue;
            };
            let length = |kind| fs::metadata(store.path(id, kind)).map(|metadata| metadata.len()).ok();
            info.complete = length("mcap") == Some(info.size);
            info.received = length(if info.complete { "mcap" } else { "part" }).unwrap_or(0).min(info.size);
            store.last = store.last.max(u64::from_str_radix(id, 16).unwrap_or(0));
            store.known.insert(id.to_owned(), Known { info, number });
        }
        Ok(store)
    }

    fn path(&self, id: &str, kind: &str) -> PathBuf {
        self.directory.join(format!("{id}.{kind}"))
    }

    fn remove(&mut self, id: &str) {
        // What cannot be removed now is found again at the next start.
        for kind in ["mcap", "part", "meta"] {
            let _ = fs::remove_file(self.path(id, kind));
        }
        self.known.remove(id);
    }

    fn of(&self, sender: &Sender, number: u64) -> Option<&Known> {
        let is = |known: &&Known| known.number == number && known.info.instance == sender.instance;
        self.known.values().rev().find(is)
    }

    /// Takes a host's word that it has a recording: what is known of it, and where to go on.
    pub(crate) fn announce(
        &mut self,
        now: u64,
        sender: &Sender,
        upload: &Upload,
    ) -> Result<RecordingInfo, StoreError> {
        if let Some(known) = self.of(sender, upload.number).filter(|known| known.info.size == upload.size) {
            return Ok(known.info.clone());
        }
        let most = MAX_SIZE.min(self.max_bytes);
        if upload.size > most || upload.size < MAGIC.len() as u64 {
            return Err(StoreError::TooLarge { size: upload.size, most });
        }
        // A host has one upload at a time, so it has given up what it had begun before.
        let given_up = |info: &RecordingInfo| {
            info.instance == sender.instance || info.time_unix_nano.saturating_add(ABANDONED) < now
        };
        let unfinished = self.known.iter().filter(|(_, known)| !known.info.complete && given_up(&known.info));
        let unfinished: Vec<String> = unfinished.map(|(id, _)| id.clone()).collect();
        unfinished.iter().for_each(|id| self.remove(id));
        self.make_room(upload.size)?;
        self.last = now.max(self.last + 1);
        let id = format!("{:016x}", self.last);
        let info = RecordingInfo {
            id: id.clone(),
            capture_id: cut(&upload.capture_id),
            region: cut(&sender.region),
            service: cut(&sender.service),
            host: cut(&sender.host),
            instance: sender.instance.clone(),
            workload: cut(&upload.workload),
            trigger: cut(&upload.trigger),
            time_unix_nano: now,
            size: upload.size,
            received: 0,
            complete: false,
        };
        let meta = Meta { info: Some(info.clone()), number: upload.number };
        let mut file = create(&self.path(&id, "meta"))?;
        file.write_all(&meta.encode_to_vec())?;
        file.sync_all()?;
        create(&self.path(&id, "part"))?;
        self.known.insert(id, Known { info: info.clone(), number: upload.number });
        Ok(info)
    }

    /// Removes the oldest that are complete until so many bytes more find room.
    fn make_room(&mut self, size: u64) -> Result<(), StoreError> {
        loop {
            let used = self.known.values().fold(size, |sum, known| sum.saturating_add(known.info.size));
            if used <= self.max_bytes && self.known.len() < MAX_FILES {
                return Ok(());
            }
            let oldest = self.known.iter().find(|(_, known)| known.info.complete).map(|(id, _)| id.clone());
            let Some(id) = oldest else { return Err(StoreError::NoRoom) };
            self.remove(&id);
        }
    }

    /// Appends a piece; what is known of the recording then.
    pub(crate) fn piece(
        &mut self,
        sender: &Sender,
        number: u64,
        offset: u64,
        data: &[u8],
    ) -> Result<RecordingInfo, StoreError> {
        let known = self.of(sender, number).ok_or(StoreError::Unknown)?;
        let RecordingInfo { id, received, size, complete, .. } = known.info.clone();
        let end = offset.saturating_add(data.len() as u64);
        if offset != received || end > size || complete {
            return Err(StoreError::Misplaced { offset, received, size });
        }
        let begins = data.get(..MAGIC.len());
        if offset == 0 && begins != Some(MAGIC) {
            self.remove(&id);
            return Err(StoreError::NoRecording);
        }
        let mut file = File::options().append(true).open(self.path(&id, "part"))?;
        file.write_all(data)?;
        if end == size {
            file.sync_all()?;
            fs::rename(self.path(&id, "part"), self.path(&id, "mcap"))?;
            File::open(&self.directory)?.sync_all()?;
        }
        let known = self.known.get_mut(&id).ok_or(StoreError::Unknown)?;
        (known.info.received, known.info.complete) = (end, end == size);
        Ok(known.info.clone())
    }

    /// Gives up an upload that failed, so that its bytes are not kept.
    pub(crate) fn give_up(&mut self, sender: &Sender, number: u64) {
        let unfinished = self.of(sender, number).filter(|known| !known.info.complete);
        if let Some(id) = unfinished.map(|known| known.info.id.clone()) {
            self.remove(&id);
        }
    }

    /// What there is, newest first.
    pub(crate) fn list(&self) -> impl Iterator<Item = &RecordingInfo> {
        self.known.values().rev().map(|known| &known.info)
    }

    /// A recording that is complete, from a byte on.
    pub(crate) fn read(&self, id: &str, offset: u64) -> Result<impl Read + use<>, StoreError> {
        let known = self.known.get(id).filter(|known| known.info.complete).ok_or(StoreError::Unknown)?;
        let mut file = File::open(self.path(id, "mcap"))?;
        file.seek(SeekFrom::Start(offset.min(known.info.size)))?;
        Ok(file)
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A new file for this user alone.
fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(number: u64, size: u64) -> Upload {
        Upload { number, size, capture_id: format!("c{number}"), ..Upload::default() }
    }

    fn host(instance: &str) -> Sender {
        Sender { instance: instance.into(), ..Sender::default() }
    }

    fn body(size: usize) -> Vec<u8> {
        let mut body = MAGIC.to_vec();
        body.resize(size, 7);
        body
    }

    fn ids(store: &Store) -> Vec<&str> {
        store.list().map(|info| info.capture_id.as_str()).collect()
    }

    /// What arrived before the collector was killed is not sent again, and what comes after fits.
    #[test]
    fn an_upload_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, path) = (body(3000), folder.path().join("recordings"));
        let mut store = Store::open(&path, 10_000).unwrap();
        assert_eq!(store.announce(5, &host("../a"), &upload(1, 3000)).unwrap().received, 0);
        store.piece(&host("../a"), 1, 0, &whole[..1000]).unwrap();
        assert!(store.piece(&host("b"), 1, 1000, &whole[1000..]).is_err(), "of somebody else");
        assert!(store.piece(&host("../a"), 1, 500, &whole[500..]).is_err(), "not the next");
        assert!(store.piece(&host("../a"), 1, 1000, &body(5000)).is_err(), "too much");
        let mut store = Store::open(&path, 10_000).unwrap();
        let info = store.announce(9, &host("../a"), &upload(1, 3000)).unwrap();
        assert_eq!((info.received, info.complete), (1000, false));
        assert!(store.read(&info.id, 0).is_err(), "not before it is whole");
        assert!(store.piece(&host("../a"), 1, 1000, &whole[1000..]).unwrap().complete);
        let store = Store::open(&path, 10_000).unwrap();
        let mut read = Vec::new();
        store.read(&info.id, 2).unwrap().read_to_end(&mut read).unwrap();
        assert_eq!(read, whole[2..]);
        assert!(store.read("../../etc/passwd", 0).is_err());
    }

    /// The directory stays within its bytes: the oldest go, never those that are on their way; what is no recording is
    /// refused, and a host that begins another upload has given up the one before.
    #[test]
    fn the_oldest_make_room() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path(), 2500).unwrap();
        for number in 1..=3 {
            store.announce(number, &host("a"), &upload(number, 1000)).unwrap();
            store.piece(&host("a"), number, 0, &body(1000)).unwrap();
        }
        assert_eq!(ids(&store), ["c3", "c2"]);
        assert!(store.announce(4, &host("a"), &upload(4, 2600)).is_err());
        store.announce(5, &host("b"), &upload(5, 2000)).unwrap();
        assert_eq!(ids(&store), ["c5"]);
        assert!(matches!(store.announce(6, &host("a"), &upload(6, 1000)), Err(StoreError::NoRoom)));
        assert!(matches!(store.piece(&host("b"), 5, 0, b"something else"), Err(StoreError::NoRecording)));
        store.announce(7, &host("b"), &upload(7, 1000)).unwrap();
        store.announce(8, &host("b"), &upload(8, 1200)).unwrap();
        assert_eq!(ids(&store), ["c8"]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}

//! What is appended and read: a request as it was received, with who sent it.

use std::cell::RefCell;

use bytes::Bytes;

use super::format::Frame;

/// Smallest payload that compression is tried on, in bytes.
const WORTH_A_TRY: usize = 512;
/// Longest host or boot of a key, in bytes.
const MAX_NAME: usize = 256;
/// Largest payload, in bytes: more than any request may have.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// Which signal a request carries; the payload is OTLP's `Export…ServiceRequest` of that signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `ExportMetricsServiceRequest`.
    Metrics,
    /// `ExportTraceServiceRequest`.
    Traces,
    /// `ExportLogsServiceRequest`.
    Logs,
    /// `ExportProfilesServiceRequest`, v1development.
    Profiles,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Metrics => 1,
            Self::Traces => 2,
            Self::Logs => 3,
            Self::Profiles => 4,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Metrics, Self::Traces, Self::Logs, Self::Profiles].into_iter().find(|kind| kind.code() == code)
    }
}

/// What makes a request of one of our hosts the same request when it comes again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Name of the host.
    pub host: Box<str>,
    /// Its boot: `service.instance.id`.
    pub boot: Box<str>,
    /// Number of the request in that boot, across signals.
    pub sequence: u64,
}

impl Key {
    /// `None` if a name is empty or longer than 256 bytes.
    pub fn new(host: &str, boot: &str, sequence: u64) -> Option<Self> {
        let fits = |name: &str| (1..=MAX_NAME).contains(&name.len());
        (fits(host) && fits(boot)).then(|| Self { host: host.into(), boot: boot.into(), sequence })
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its signal.
    pub kind: Kind,
    /// When it arrived by this machine's clock, in ns since the epoch. A stepped clock shows here; order is
    /// [`super::Position`]'s.
    pub received_unix_nano: u64,
    /// Given by our hosts; others send none.
    pub key: Option<Key>,
    /// The region of what names none: the only one that the sender's credential allows. Empty without.
    pub region: Box<str>,
    /// The tenant of all of it: the only one that the sender's credential allows. Empty without.
    pub tenant: Box<str>,
    /// Protobuf.
    pub payload: Bytes,
}

impl Entry {
    /// A request without claims.
    pub fn new(kind: Kind, received_unix_nano: u64, key: Option<Key>, payload: Bytes) -> Self {
        Self { kind, received_unix_nano, key, region: "".into(), tenant: "".into(), payload }
    }
}

/// An entry as it will stand in a segment, all but what depends on the segment. Made by the sender's task, because
/// compression takes the most time of all and the log's thread serves everybody.
pub(super) struct Prepared {
    pub key: Option<Key>,
    /// CRC, segment and ordinal are yet to be filled in.
    pub frame: Frame,
    pub body: Vec<u8>,
}

thread_local! {
    /// Making one for each payload took longer than compressing many of them.
    static PACKER: RefCell<Option<zstd::bulk::Compressor<'static>>> =
        RefCell::new(zstd::bulk::Compressor::new(1).ok());
}

fn pack(payload: &[u8]) -> Option<Vec<u8>> {
    PACKER.with_borrow_mut(|packer| packer.as_mut()?.compress(payload).ok())
}

impl Prepared {
    /// `None` if it is too large.
    pub(super) fn new(entry: Entry) -> Option<Self> {
        let payload = &entry.payload;
        if payload.len() > MAX_PAYLOAD {
            return None;
        }
        let packed = if payload.len() >= WORTH_A_TRY { pack(payload) } else { None };
        let packed = packed.filter(|packed| packed.len() < payload.len() / 8 * 7);
        let (host, boot, sequence) =
            entry.key.as_ref().map_or(("", "", 0), |key| (&*key.host, &*key.boot, key.sequence));
        let mut names = [0; 4];
        let mut body = Vec::new();
        for (length, name) in names.iter_mut().zip([host, boot, &*entry.region, &*entry.tenant]) {
            *length = u16::try_from(name.len()).ok()?;
            body.extend(name.as_bytes());
        }
        body.extend(packed.as_deref().unwrap_or(payload));
        let frame = Frame {
            body_crc: 0,
            body: u32::try_from(body.len()).ok()?,
            segment: 0,
            ordinal: 0,
            kind: entry.kind.code(),
            coding: u8::from(packed.is_some()),
            plain: u32::try_from(payload.len()).ok()?,
            received: entry.received_unix_nano,
            sequence,
            names,
        };
        Some(Self { key: entry.key, frame, body })
    }
}

/// The key of a record whose body is intact.
pub(super) fn key(frame: &Frame, body: &[u8]) -> Option<Key> {
    let [host, boot, _, _] = frame.names.map(usize::from);
    let text = |from, length| std::str::from_utf8(body.get(from..from + length)?).ok();
    Key::new(text(0, host)?, text(host, boot)?, frame.sequence)
}

/// The entry of a record whose body is intact; `None` if a writer made it that this release does not understand.
pub(super) fn entry(frame: &Frame, body: &[u8]) -> Option<Entry> {
    let [host, boot, region, tenant] = frame.names.map(usize::from);
    let text = |from, length| std::str::from_utf8(body.get(from..from + length)?).ok();
    let stored = body.get(host + boot + region + tenant..)?;
    let plain = usize::try_from(frame.plain).ok().filter(|plain| *plain <= MAX_PAYLOAD)?;
    let payload = match frame.coding {
        0 => Bytes::copy_from_slice(stored),
        1 => Bytes::from(zstd::bulk::decompress(stored, plain).ok()?),
        _ => return None,
    };
    Some(Entry {
        kind: Kind::of(frame.kind)?,
        received_unix_nano: frame.received,
        key: key(frame, body),
        region: text(host + boot, region)?.into(),
        tenant: text(host + boot + region, tenant)?.into(),
        payload,
    })
}

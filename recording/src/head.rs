//! What a recording says about itself: the metadata record `sandscope`, to and from [`Head`].
//!
//! MCAP protects chunks and attachments by CRC but not metadata, so the record carries its own: a flipped
//! bit must not move a recording into another region.

use std::collections::BTreeMap;

use sandscope_model::WorkloadId;
use sandscope_proto::metric::attribute;
use sandscope_proto::otlp::Resource;

/// Format version that this release writes and the largest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Name of the metadata record.
pub(crate) const METADATA: &str = "sandscope";

const CRC: &str = "crc32";
const CAUSE_WORKLOAD: &str = "trigger.workload";
const CAUSE_VERSION: &str = "trigger.workload_version";
const CAUSE_TIME: &str = "trigger.unix_nano";
const CAUSE_SUPPRESSED: &str = "trigger.suppressed";
const ANCHOR_WALL: &str = "clock.unix_nano";
const ANCHOR_MONOTONIC: &str = "clock.monotonic_nano";
const RECOVERED: &str = "recovered";
const BYTES_LOST: &str = "recovered.bytes_lost";
const SAMPLES_LOST: &str = "recovered.samples_lost";

/// Longest text that is taken from a file, in bytes.
const MAX_TEXT: usize = 1024;

/// Who was recorded, since when and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// The host.
    pub resource: Resource,
    /// When recording began, in nanoseconds since 1970; 0 if the file lost it.
    pub started_unix_nano: u64,
    /// Samples per second and thread that the sampler was set to; 0 if it was off.
    pub hz: f64,
    /// Why there is a recording: `run`, `capture`, `trap: unreachable`, `call>2s: a call took 3.1 s`.
    pub trigger: String,
    /// Who brought it about and when, if that was no person.
    pub cause: Option<Cause>,
    /// How the host's clocks stood; `None` if it did not say.
    pub anchor: Option<ClockAnchor>,
}

/// What a trigger was about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Whose trap, call or memory it was.
    pub workload: WorkloadId,
    /// When, in nanoseconds since 1970.
    pub unix_nano: u64,
    /// Triggers on this host since the recording before that made none, because there were enough.
    pub suppressed: u64,
}

/// One moment on two clocks of the host: with it, times of its kernel's log and of other tools can be put beside those
/// of the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockAnchor {
    /// Nanoseconds since 1970.
    pub unix_nano: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub monotonic_nano: u64,
}

/// What is known of the recording that this one was recovered from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// What was missing there, as the end of a sentence.
    pub missing: String,
    /// Bytes of it that could not be used.
    pub bytes_lost: u64,
    /// Samples that were there and whose stacks could not be told.
    pub samples_lost: u64,
}

/// What a metadata record of a recording turned out to be.
#[derive(Debug, PartialEq)]
pub(crate) enum Reading {
    Head(Box<Head>, Option<Recovered>),
    Later { found: u32, written_by: String },
    Damaged,
}

impl Head {
    pub(crate) fn to_metadata(&self, recovered: Option<&Recovered>) -> mcap::records::Metadata {
        let mut metadata: BTreeMap<String, String> = [
            ("format_version", FORMAT_VERSION.to_string()),
            ("written_by", env!("CARGO_PKG_VERSION").to_owned()),
            ("started_unix_nano", self.started_unix_nano.to_string()),
            ("hz", self.hz.to_string()),
            ("trigger", self.trigger.clone()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        let mut add = |key: &str, value: &str| metadata.insert(key.to_owned(), cut(value).to_owned());
        if let Some(Cause { workload, unix_nano, suppressed }) = &self.cause {
            add(CAUSE_WORKLOAD, &workload.name);
            add(CAUSE_VERSION, &workload.version);
            add(CAUSE_TIME, &unix_nano.to_string());
            add(CAUSE_SUPPRESSED, &suppressed.to_string());
        }
        if let Some(anchor) = self.anchor {
            add(ANCHOR_WALL, &anchor.unix_nano.to_string());
            add(ANCHOR_MONOTONIC, &anchor.monotonic_nano.to_string());
        }
        let attributes = self.resource.attributes();
        metadata.extend(attributes.map(|(key, value)| (key.to_owned(), cut(value).to_owned())));
        if let Some(Recovered { missing, bytes_lost, samples_lost }) = recovered {
            metadata.insert(RECOVERED.to_owned(), cut(missing).to_owned());
            metadata.insert(BYTES_LOST.to_owned(), bytes_lost.to_string());
            metadata.insert(SAMPLES_LOST.to_owned(), samples_lost.to_string());
        }
        let crc = checksum(metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        metadata.insert(CRC.to_owned(), format!("{crc:08x}"));
        mcap::records::Metadata { name: METADATA.to_owned(), metadata }
    }

    /// Reads the entries of a metadata record.
    pub(crate) fn read(metadata: &BTreeMap<&str, &str>) -> Reading {
        let text = |key: &str| metadata.get(key).map(|value| cut(value).to_owned()).unwrap_or_default();
        let entries = metadata.iter().filter(|(key, _)| **key != CRC).map(|(key, value)| (*key, *value));
        if metadata.get(CRC) != Some(&format!("{:08x}", checksum(entries)).as_str()) {
            return Reading::Damaged;
        }
        let Ok(found) = text("format_version").parse() else { return Reading::Damaged };
        if found > FORMAT_VERSION {
            return Reading::Later { found, written_by: text("written_by") };
        }
        let recovered = metadata.contains_key(RECOVERED).then(|| Recovered {
            missing: text(RECOVERED),
            bytes_lost: text(BYTES_LOST).parse().unwrap_or(0),
            samples_lost: text(SAMPLES_LOST).parse().unwrap_or(0),
        });
        let number = |key: &str| text(key).parse::<u64>().ok();
        let anchor = number(ANCHOR_WALL).zip(number(ANCHOR_MONOTONIC));
        let head = Self {
            resource: Resource {
                service: text(attribute::SERVICE_NAME),
                instance: text(attribute::SERVICE_INSTANCE),
                host: text(attribute::HOST_NAME),
                arch: text(attribute::HOST_ARCH),
                region: text(attribute::REGION),
                engine: text(attribute::ENGINE_NAME),
                engine_version: text(attribute::ENGINE_VERSION),
            },
            started_unix_nano: text("started_unix_nano").parse().unwrap_or(0),
            hz: text("hz").parse().ok().filter(|hz: &f64| hz.is_finite() && *hz > 0.0).unwrap_or(0.0),
            trigger: text("trigger"),
            cause: metadata.contains_key(CAUSE_WORKLOAD).then(|| Cause {
                workload: WorkloadId::new(&text(CAUSE_WORKLOAD), &text(CAUSE_VERSION)),
                unix_nano: number(CAUSE_TIME).unwrap_or(0),
                suppressed: number(CAUSE_SUPPRESSED).unwrap_or(0),
            }),
            anchor: anchor.map(|(unix_nano, monotonic_nano)| ClockAnchor { unix_nano, monotonic_nano }),
        };
        Reading::Head(Box::new(head), recovered)
    }
}

/// CRC-32 over `key=value` lines in the order of their keys.
fn checksum<'a>(entries: impl Iterator<Item = (&'a str, &'a str)>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for (key, value) in entries {
        for part in [key, "=", value, "\n"] {
            hasher.update(part.as_bytes());
        }
    }
    hasher.finalize()
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(metadata: &BTreeMap<String, String>) -> Reading {
        Head::read(&metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect())
    }

    #[test]
    fn a_changed_entry_is_noticed_and_a_later_version_named() {
        let head = Head {
            resource: Resource { region: "eu-1".into(), ..Resource::default() },
            started_unix_nano: 7,
            hz: 99.0,
            trigger: "trap: unreachable".into(),
            cause: Some(Cause { workload: WorkloadId::new("w", "1"), unix_nano: 9, suppressed: 3 }),
            anchor: Some(ClockAnchor { unix_nano: 8, monotonic_nano: 5 }),
        };
        let mut metadata = head.to_metadata(None).metadata;
        assert_eq!(read(&metadata), Reading::Head(Box::new(head), None));

        metadata.insert(attribute::REGION.to_owned(), "eu-2".to_owned());
        assert_eq!(read(&metadata), Reading::Damaged);

        metadata.remove(CRC);
        metadata.insert("format_version".to_owned(), "2".to_owned());
        metadata.insert("written_by".to_owned(), "0.9.0".to_owned());
        let crc = checksum(metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        metadata.insert(CRC.to_owned(), format!("{crc:08x}"));
        assert_eq!(read(&metadata), Reading::Later { found: 2, written_by: "0.9.0".into() });
    }
}

//! Where a file lies and what its name says.
//!
//! ```text
//! spans/region=eu%2Dwest/hour=2026-11-24T10/
//!   5f0c…-00000001000000400000000000000001…00000007-00000001…00000009-00-178…-179….parquet
//!   writer  first position                           behind the last      level oldest newest time
//! ```
//! Writers are the collectors that share a store. Positions are those of the writer's log; of two files of one
//! writer in one folder either none or one holds what the other holds, and then the higher level is the one that
//! was merged. Times are the least and the greatest of the column `time`, so that queries skip files unopened.

use std::fmt::Write as _;

use object_store::path::Path;

use super::table::Table;
use crate::log::Position;

/// Nanoseconds of an hour.
const HOUR: u64 = 3_600_000_000_000;
/// What Hive's readers take for null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
/// For regions whose names are no folder's name, and for those beyond the most. The column has the true name.
const OTHER: &str = "%28other%29";
/// Longest name of a region that names a folder, in bytes as they are written.
const MAX_REGION: usize = 120;

/// What the rows of a folder have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Partition {
    /// The folder's text: see [`folder`].
    pub region: String,
    /// Hours since the epoch at which the rows were received.
    pub hour: u64,
}

impl Partition {
    pub(super) fn new(region: &str, received_unix_nano: u64) -> Self {
        Self { region: folder(region), hour: received_unix_nano / HOUR }
    }

    /// The folder for regions beyond the most.
    pub(super) fn overflow(&self) -> Self {
        Self { region: OTHER.to_owned(), hour: self.hour }
    }

    /// The region of every row; `None` if that is not known from the folder. Unknown is empty.
    pub(super) fn region(&self) -> Option<String> {
        match self.region.as_str() {
            OTHER => None,
            NULL => Some(String::new()),
            text => decode(text),
        }
    }

    /// First and behind the last nanosecond.
    pub(super) fn received(&self) -> (u64, u64) {
        let start = self.hour.saturating_mul(HOUR);
        (start, start.saturating_add(HOUR))
    }
}

/// The name of a region's folder: letters, digits, `-` and `_` as they are, the rest as percent and two digits.
fn folder(region: &str) -> String {
    if region.is_empty() {
        return NULL.to_owned();
    }
    let mut out = String::with_capacity(region.len());
    for byte in region.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    if out.len() > MAX_REGION || out == NULL { OTHER.to_owned() } else { out }
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// What the name of a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub table: Table,
    pub partition: Partition,
    /// Who wrote it: 16 hexadecimal digits.
    pub writer: String,
    /// Its first record may be here.
    pub from: Position,
    /// Its last record is before this.
    pub to: Position,
    /// How often its rows were merged.
    pub level: u8,
    /// Least and greatest time of its rows, ns since the epoch; 0 and 0 if none is known.
    pub times: (i64, i64),
}

impl Name {
    pub(super) fn path(&self) -> Path {
        let Self { table, partition, writer, from, to, level, times: (oldest, newest) } = self;
        let table = table.name();
        let (region, hour) = (&partition.region, hour_text(partition.hour));
        let text = format!(
            "{table}/region={region}/hour={hour}/{writer}-{from}-{to}-{level:02x}-{oldest:016x}-{newest:016x}.parquet"
        );
        // Made of what folders and files may be called; were it not, the escaped name would be as good.
        Path::parse(&text).unwrap_or_else(|_| Path::from(text))
    }

    /// `None` for files that are not of the history, or of a later release.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let mut parts = path.as_ref().split('/');
        let table = Table::parse(parts.next()?)?;
        let region = parts.next()?.strip_prefix("region=")?.to_owned();
        let hour = parse_hour(parts.next()?.strip_prefix("hour=")?)?;
        let mut words = parts.next()?.strip_suffix(".parquet")?.split('-');
        let name = Self {
            table,
            partition: Partition { region, hour },
            writer: words.next()?.to_owned(),
            from: Position::parse(words.next()?)?,
            to: Position::parse(words.next()?)?,
            level: u8::from_str_radix(words.next()?, 16).ok()?,
            times: (
                i64::from_str_radix(words.next()?, 16).ok()?,
                i64::from_str_radix(words.next()?, 16).ok()?,
            ),
        };
        (name.path() == *path).then_some(name)
    }

    /// Whether the other file's rows are in this one, which was merged from it.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        self.writer == other.writer
            && self.table == other.table
            && self.partition == other.partition
            && self.level > other.level
            && self.from <= other.from
            && other.to <= self.to
    }
}

/// `2026-11-24T10`; days by the algorithm for the proleptic Gregorian calendar.
fn hour_text(hour: u64) -> String {
    let days = hour / 24 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}", hour % 24)
}

fn parse_hour(text: &str) -> Option<u64> {
    let (date, hour) = text.split_once('T')?;
    let mut parts = date.split('-').map(|part| part.parse::<u64>().ok().filter(|part| *part < 10_000));
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let hour: u64 = hour.parse().ok().filter(|hour| *hour < 24)?;
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day = (year % 400) * 365 + (year % 400) / 4 - (year % 400) / 100 + day_of_year;
    ((year / 400) * 146_097 + day).checked_sub(719_468).map(|days| days * 24 + hour)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names lead back to what they were made of, whatever a region is called, and never out of their folder.
    #[test]
    fn names_come_back() {
        for region in ["eu-1", "", "..", "a/b", "ü . %", NULL, "(other)", &"x".repeat(500), "\u{1b}[31m"] {
            let partition = Partition::new(region, 1_796_119_200_000_000_000);
            let name = Name {
                table: Table::Logs,
                partition,
                writer: "0123456789abcdef".into(),
                from: Position::OLDEST,
                to: Position::END,
                level: 3,
                times: (1, i64::MAX),
            };
            let path = name.path();
            assert_eq!(path.as_ref().split('/').count(), 4, "{path}");
            assert!(path.as_ref().split('/').all(|part| part.len() < 200), "{path}");
            assert_eq!(Name::parse(&path), Some(name), "{path}");
        }
        assert_eq!(Partition::new("ü/", 0).region(), Some("ü/".into()));
        assert_eq!(Partition::new("", 0).region(), Some(String::new()));
        assert_eq!(Partition::new(NULL, 0).region(), None);
        for foreign in ["spans/a.parquet", "spans/region=a/hour=2026-13-01T00/x.parquet", "_state/0123"] {
            assert_eq!(Name::parse(&Path::parse(foreign).unwrap()), None, "{foreign}");
        }
    }

    #[test]
    fn hours_are_those_of_the_calendar() {
        for (hour, text) in [(0, "1970-01-01T00"), (264_108, "2000-02-17T12"), (498_922, "2026-12-01T10")] {
            assert_eq!((hour_text(hour).as_str(), parse_hour(text)), (text, Some(hour)));
        }
        for hour in (0..1_000_000).step_by(977) {
            assert_eq!(parse_hour(&hour_text(hour)), Some(hour));
        }
    }
}

//! The table's columns: what they show, how they sort, and which ones fit. How cells are drawn is the
//! view's business.

use std::cmp::Ordering;

use sandscope_model::units;

use crate::data::Row;

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Column {
    /// Region.
    Region,
    /// Workload.
    Workload,
    /// Version.
    Version,
    /// Hosts.
    Hosts,
    /// Calls since start.
    Calls,
    /// Calls per second.
    Rate,
    /// Median call.
    P50,
    /// 95th percentile.
    P95,
    /// 99th percentile.
    P99,
    /// Linear memory.
    Memory,
    /// CPU.
    Cpu,
    /// Traps.
    Traps,
    /// Samples.
    Samples,
    /// Cold starts.
    ColdStarts,
    /// Age of the newest point.
    Age,
}

/// A column that fits, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which.
    pub column: Column,
    /// First cell.
    pub x: u16,
    /// Cells.
    pub width: u16,
}

/// Widest texts among the rows, in cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextWidths {
    /// Regions.
    pub region: u16,
    /// Workloads.
    pub workload: u16,
    /// Versions.
    pub version: u16,
}

/// Cells between columns.
const GAP: u16 = 2;

impl Column {
    /// All columns, left to right.
    pub const ALL: [Self; 15] = [
        Self::Region,
        Self::Workload,
        Self::Version,
        Self::Hosts,
        Self::Calls,
        Self::Rate,
        Self::P50,
        Self::P95,
        Self::P99,
        Self::Memory,
        Self::Cpu,
        Self::Traps,
        Self::Samples,
        Self::ColdStarts,
        Self::Age,
    ];

    /// Columns in the order in which they leave as the terminal narrows. Workload, calls/s and p95 stay.
    pub const LEAVING: [Self; 12] = [
        Self::ColdStarts,
        Self::P50,
        Self::Age,
        Self::P99,
        Self::Hosts,
        Self::Samples,
        Self::Calls,
        Self::Version,
        Self::Cpu,
        Self::Traps,
        Self::Memory,
        Self::Region,
    ];

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Region => "region",
            Self::Workload => "workload",
            Self::Version => "version",
            Self::Hosts => "hosts",
            Self::Calls => "calls",
            Self::Rate => "calls/s",
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Traps => "traps",
            Self::Samples => "samples",
            Self::ColdStarts => "cold",
            Self::Age => "age",
        }
    }

    /// Whether it holds text, which stands left and sorts upwards at first.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Region | Self::Workload | Self::Version)
    }

    fn width(self, texts: TextWidths) -> u16 {
        // A heading needs room for the arrow of the sort order too.
        let heading = self.title().len() as u16 + 1;
        let content = match self {
            Self::Region => texts.region.min(24),
            Self::Workload => texts.workload.min(32),
            Self::Version => texts.version.min(16),
            Self::P50 | Self::P95 | Self::P99 | Self::Memory => 8,
            Self::Calls | Self::Samples | Self::Age | Self::Cpu => 6,
            Self::Hosts | Self::Rate | Self::Traps | Self::ColdStarts => 5,
        };
        heading.max(content)
    }

    /// Its cell of a row; `idle_s` are the seconds since the row arrived.
    pub fn cell(self, row: &Row, idle_s: f64) -> String {
        let text = match self {
            Self::Region => Some(row.region.to_string()),
            Self::Workload => Some(row.workload.to_string()),
            Self::Version => Some(row.version.to_string()),
            Self::Hosts => Some(row.hosts.to_string()),
            Self::Calls => row.calls.map(units::count),
            Self::Rate => row.calls_per_second.map(rate),
            Self::P50 => row.p50.map(units::duration),
            Self::P95 => row.p95.map(units::duration),
            Self::P99 => row.p99.map(units::duration),
            Self::Memory => row.memory.map(units::bytes),
            Self::Cpu => row.cpu.map(|cpu| format!("{:.0} %", cpu * 100.0)),
            Self::Traps => row.traps.map(units::count),
            Self::Samples => row.samples.map(units::count),
            Self::ColdStarts => row.cold_starts.map(units::count),
            Self::Age => row.age.map(|age| seconds(age + idle_s)),
        };
        text.unwrap_or_else(|| "–".to_owned())
    }

    /// Order of two rows by this column. Unknown values come last whichever way it is sorted.
    pub fn compare(self, a: &Row, b: &Row, descending: bool) -> Ordering {
        let number = |row: &Row| match self {
            Self::Region | Self::Workload | Self::Version => None,
            Self::Hosts => Some(f64::from(row.hosts)),
            Self::Calls => row.calls.map(|n| n as f64),
            Self::Rate => row.calls_per_second,
            Self::P50 => row.p50,
            Self::P95 => row.p95,
            Self::P99 => row.p99,
            Self::Memory => row.memory.map(|n| n as f64),
            Self::Cpu => row.cpu,
            Self::Traps => row.traps.map(|n| n as f64),
            Self::Samples => row.samples.map(|n| n as f64),
            Self::ColdStarts => row.cold_starts.map(|n| n as f64),
            Self::Age => row.age,
        };
        let turn = |ordering: Ordering| if descending { ordering.reverse() } else { ordering };
        match self {
            Self::Region => turn(a.region.cmp(&b.region)),
            Self::Workload => turn(a.workload.cmp(&b.workload)),
            Self::Version => turn(a.version.cmp(&b.version)),
            _ => match (number(a), number(b)) {
                (Some(a), Some(b)) => turn(a.total_cmp(&b)),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => Ordering::Equal,
            },
        }
    }
}

/// The columns that fit into a width, and where they stand.
pub fn place(width: u16, texts: TextWidths) -> Vec<Placed> {
    let mut columns: Vec<Column> = Column::ALL.to_vec();
    let needs = |columns: &[Column]| {
        columns.iter().map(|column| column.width(texts) + GAP).sum::<u16>().saturating_sub(GAP)
    };
    for leaving in Column::LEAVING {
        if needs(&columns) <= width {
            break;
        }
        columns.retain(|&column| column != leaving);
    }
    let mut excess = needs(&columns).saturating_sub(width);
    let mut x = 0;
    let mut out = Vec::with_capacity(columns.len());
    for column in columns {
        let mut cells = column.width(texts);
        if column.is_text() {
            let taken = excess.min(cells.saturating_sub(6));
            excess -= taken;
            cells -= taken;
        }
        let cells = cells.min(width.saturating_sub(x));
        if cells > 0 {
            out.push(Placed { column, x, width: cells });
        }
        x = x.saturating_add(cells + GAP);
    }
    out
}

/// Whole seconds, minutes or hours; under a second is now.
pub fn seconds(age: f64) -> String {
    if age < 1.0 {
        "now".to_owned()
    } else {
        units::duration(age.floor()).replace(".00", "").replace(".0 ", " ")
    }
}

fn rate(per_second: f64) -> String {
    if per_second < 100.0 { format!("{per_second:.1}") } else { units::count(per_second.round() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::RowKey;

    const TEXTS: TextWidths = TextWidths { region: 10, workload: 9, version: 12 };

    #[test]
    fn columns_leave_in_the_documented_order() {
        let mut before = Column::ALL.len();
        for width in (20..200).rev() {
            let placed = place(width, TEXTS);
            assert!(placed.len() <= before);
            before = placed.len();
            let gone = Column::ALL.len() - placed.len();
            assert!(Column::LEAVING[..gone].iter().all(|c| placed.iter().all(|p| p.column != *c)), "{width}");
            assert!(placed.iter().all(|p| p.x + p.width <= width));
        }
        let shown: Vec<Column> = place(80, TEXTS).iter().map(|p| p.column).collect();
        assert!(shown.contains(&Column::Region) && shown.contains(&Column::Memory), "{shown:?}");
    }

    /// A row without a value never hides one with a value.
    #[test]
    fn unknown_sorts_last_both_ways() {
        let key = |name: &str| RowKey {
            region: "r".into(),
            workload: name.into(),
            version: "1".into(),
            service: "s".into(),
        };
        let (mut known, unknown) = (Row::new(key("a")), Row::new(key("b")));
        known.p95 = Some(0.0);
        for descending in [true, false] {
            assert_eq!(Column::P95.compare(&known, &unknown, descending), Ordering::Less);
        }
    }

    #[test]
    fn ages_are_whole() {
        assert_eq!(
            [0.4, 3.0, 3.9, 59.0, 180.0].map(seconds),
            ["now", "3 s", "3 s", "59 s", "3 min"].map(str::to_owned)
        );
    }
}

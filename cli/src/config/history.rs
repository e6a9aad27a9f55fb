//! The section `[history]`, and the flags that win over it.

use std::path::Path;
use std::time::Duration;

use sandscope_collector::history::{Keep, Place, Queries, Settings, Table};
use serde::Deserialize;

use super::Chooser;
use super::file::{Size, Time};
use crate::args::{CollectArgs, HistoryAt};
use crate::values;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistorySection {
    pub place: Option<PlaceText>,
    pub keep: Option<Time>,
    pub keep_spans: Option<Time>,
    pub keep_metrics: Option<Time>,
    pub keep_logs: Option<Time>,
    pub keep_samples: Option<Time>,
    pub keep_events: Option<Time>,
    pub query_memory: Option<Size>,
    pub query_time: Option<Time>,
    pub queries: Option<usize>,
}

/// A place, or `off`.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct PlaceText(HistoryAt);

impl TryFrom<String> for PlaceText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        values::history(&text).map(Self)
    }
}

/// What is kept; nothing if it is off, or if nobody says where and there is no data directory.
pub(super) fn history_of(
    args: &CollectArgs,
    file: &HistorySection,
    directory: &Path,
    data: Option<&Path>,
    chooser: &mut Chooser,
) -> Option<Settings> {
    let place = place(args, file.place.clone(), directory, data, chooser);
    let keep = keep(args, &file_keeps(file), file.keep, chooser);
    let defaults = Queries::default();
    let memory = Size(defaults.memory as u64);
    let memory = chooser.choose("history.query_memory", None, file.query_memory, memory).0;
    let deadline = chooser.choose("history.query_time", None, file.query_time, Time(defaults.deadline)).0;
    let at_once = chooser.choose("history.queries", None, file.queries, defaults.at_once);
    let queries = Queries { memory: usize::try_from(memory).unwrap_or(usize::MAX), deadline, at_once };
    Some(Settings { keep, queries, ..Settings::new(place?) })
}

fn place(
    args: &CollectArgs,
    file: Option<PlaceText>,
    directory: &Path,
    data: Option<&Path>,
    chooser: &mut Chooser,
) -> Option<Place> {
    let (chosen, source) = match (&args.history, file) {
        (Some(flag), _) => (flag.clone(), "flag"),
        (None, Some(PlaceText(HistoryAt::Place(Place::Directory(path))))) => {
            (HistoryAt::Place(Place::Directory(directory.join(path))), "file")
        }
        (None, Some(PlaceText(place))) => (place, "file"),
        (None, None) => {
            let beside = data.map(|data| HistoryAt::Place(Place::Directory(data.join("history"))));
            (beside.unwrap_or(HistoryAt::Off), "default")
        }
    };
    match chosen {
        HistoryAt::Off => {
            chooser.note("history.place", "off", source);
            None
        }
        HistoryAt::Place(place) => {
            chooser.note("history.place", &place, source);
            Some(place)
        }
    }
}

fn file_keeps(file: &HistorySection) -> [(Table, Option<Time>); 5] {
    let HistorySection { keep_spans, keep_metrics, keep_logs, keep_samples, keep_events, .. } = file;
    [
        (Table::Spans, *keep_spans),
        (Table::Metrics, *keep_metrics),
        (Table::Logs, *keep_logs),
        (Table::Samples, *keep_samples),
        (Table::Events, *keep_events),
    ]
}

/// A table's own time wins over that of all, and a flag over the file for the same table, or for all.
fn keep(
    args: &CollectArgs,
    tables: &[(Table, Option<Time>)],
    all: Option<Time>,
    chooser: &mut Chooser,
) -> Keep {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    let flag = |table: Option<Table>| {
        let said = args.history_keep.iter().filter(|(of, _)| *of == table);
        said.map(|(_, time)| Time(*time)).next_back()
    };
    let mut keep = Keep::all(chooser.choose("history.keep", flag(None), all, Time(WEEK)).0);
    for &(table, file) in tables {
        let flag = flag(Some(table));
        if flag.or(file).is_some() {
            let name = format!("history.keep_{}", table.name());
            keep.set(table, chooser.choose(&name, flag, file, Time(WEEK)).0);
        }
    }
    keep
}

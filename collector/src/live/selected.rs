//! What a question is about.

use sandscope_proto::query::Selection;

use super::hosts::Source;
use super::{Key, Sender};

/// Which rows, spans, hosts and so on are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selected {
    asked: Selection,
    /// Regions that the one who asks may see; `None` is all.
    regions: Option<Vec<String>>,
}

/// What an answer can be told by, beside the fields of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tells {
    /// By nothing else.
    Rows,
    /// By what hosts run on.
    Platforms,
    /// By hosts, and what they run on.
    Hosts,
}

fn is(wanted: &str, found: &str) -> bool {
    wanted.is_empty() || wanted == found
}

impl Selected {
    pub(crate) fn new(selection: Option<Selection>) -> Self {
        Self { asked: selection.unwrap_or_default(), regions: None }
    }

    /// Of these regions only.
    pub(crate) fn within(self, regions: Option<Vec<String>>) -> Self {
        Self { regions, ..self }
    }

    /// Whether it is everything.
    pub(crate) fn is_all(&self) -> bool {
        self.asked == Selection::default()
    }

    /// The workload, if it names one.
    pub(crate) fn workload(&self) -> Option<&str> {
        Some(self.asked.workload.as_str()).filter(|workload| !workload.is_empty())
    }

    /// The first field that is not empty and that an answer cannot be told by.
    pub(crate) fn unknown(&self, tells: Tells) -> Option<&'static str> {
        let Selection { host, arch, engine, tenant, .. } = &self.asked;
        let platforms = tells != Tells::Rows;
        let fields = [
            ("host", host, tells == Tells::Hosts),
            ("arch", arch, platforms),
            ("engine", engine, platforms),
            ("tenant", tenant, false),
        ];
        fields.into_iter().find(|(_, value, known)| !known && !value.is_empty()).map(|(name, ..)| name)
    }

    /// Whether the one who asks may see a row, whatever was asked for.
    pub(super) fn may_see(&self, key: &Key) -> bool {
        self.may_see_region(&key.region)
    }

    fn may_see_region(&self, region: &str) -> bool {
        self.regions.as_ref().is_none_or(|regions| regions.iter().any(|one| one == region))
    }

    fn is_region(&self, region: &str) -> bool {
        is(&self.asked.region, region) && self.may_see_region(region)
    }

    pub(crate) fn matches(&self, key: &Key) -> bool {
        self.is_region(&key.region)
            && is(&self.asked.service, &key.service)
            && is(&self.asked.workload, &key.workload)
            && is(&self.asked.version, &key.version)
    }

    pub(super) fn is_sent_by(&self, sender: &Sender) -> bool {
        self.is_region(&sender.region) && is(&self.asked.service, &sender.service)
    }

    pub(super) fn is_from(&self, source: &Source) -> bool {
        (is(&self.asked.host, &source.host) || self.asked.host == *source.instance)
            && self.is_platform(source)
    }

    pub(super) fn is_platform(&self, source: &Source) -> bool {
        is(&self.asked.arch, &source.arch) && source.runs(&self.asked.engine)
    }

    /// Whether a host that is connected is meant.
    pub(crate) fn is_host(&self, region: &str, service: &str, host: &str, instance: &str) -> bool {
        let Selection { service: s, host: h, .. } = &self.asked;
        self.is_region(region) && is(s, service) && (is(h, host) || h == instance)
    }
}

//! What a question is about.

use sandscope_proto::query::Selection;

use super::hosts::Source;
use super::{Key, Sender};

/// Which rows, spans, hosts and so on are asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selected(Selection);

fn is(wanted: &str, found: &str) -> bool {
    wanted.is_empty() || wanted == found
}

impl Selected {
    pub(crate) fn new(selection: Option<Selection>) -> Self {
        Self(selection.unwrap_or_default())
    }

    /// Whether it is everything.
    pub(crate) fn is_all(&self) -> bool {
        self.0 == Selection::default()
    }

    /// The workload, if it names one.
    pub(crate) fn workload(&self) -> Option<&str> {
        Some(self.0.workload.as_str()).filter(|workload| !workload.is_empty())
    }

    /// The first field that is not empty and that a method cannot tell by, if it can tell by hosts, and by what hosts run
    /// on.
    pub(crate) fn unknown(&self, hosts: bool, platforms: bool) -> Option<&'static str> {
        let Selection { host, arch, engine, tenant, .. } = &self.0;
        let fields = [
            ("host", host, hosts),
            ("arch", arch, platforms),
            ("engine", engine, platforms),
            ("tenant", tenant, false),
        ];
        fields.into_iter().find(|(_, value, known)| !known && !value.is_empty()).map(|(name, ..)| name)
    }

    pub(crate) fn matches(&self, key: &Key) -> bool {
        is(&self.0.region, &key.region)
            && is(&self.0.service, &key.service)
            && is(&self.0.workload, &key.workload)
            && is(&self.0.version, &key.version)
    }

    pub(super) fn is_sent_by(&self, sender: &Sender) -> bool {
        is(&self.0.region, &sender.region) && is(&self.0.service, &sender.service)
    }

    pub(super) fn is_from(&self, source: &Source) -> bool {
        (is(&self.0.host, &source.host) || self.0.host == *source.instance) && self.is_platform(source)
    }

    pub(super) fn is_platform(&self, source: &Source) -> bool {
        is(&self.0.arch, &source.arch) && source.runs(&self.0.engine)
    }

    /// Whether a host that is connected is meant.
    pub(crate) fn is_host(&self, region: &str, service: &str, host: &str, instance: &str) -> bool {
        let Selection { region: r, service: s, host: h, .. } = &self.0;
        is(r, region) && is(s, service) && (is(h, host) || h == instance)
    }
}

//! The collector's own figures, as `/metrics` tells them. The names are a promise.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::account::{Account, Dropped};
use crate::exposition::Form;
use crate::exposition::Page;
use crate::exposition::Type::{Counter, Gauge};
use crate::health::Health;
use crate::history;
use crate::log::Log;

/// Where they come from.
pub(crate) struct Figures {
    pub(crate) account: Arc<Account>,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) health: Arc<Health>,
    pub(crate) watchers: Arc<AtomicUsize>,
    /// `None` where no history is kept.
    pub(crate) history: Option<Arc<history::Figures>>,
}

impl Figures {
    pub(crate) fn write(&self, form: Form) -> String {
        let mut page = Page::new(form);
        let Self { account, log, health, watchers, history } = self;
        for (name, help, value) in [
            (
                "sandscope_requests_acked",
                "Requests that are durable and were answered with success.",
                account.acked(),
            ),
            (
                "sandscope_requests_duplicate",
                "Requests that came again and were known.",
                account.duplicates(),
            ),
            ("sandscope_requests_refused", "Requests that the log did not take.", account.refused_requests()),
            (
                "sandscope_requests_pushed_back",
                "Requests that came while too much memory was taken.",
                account.pushed_back(),
            ),
            (
                "sandscope_requests_denied",
                "Requests that their senders may not make.",
                account.denied_requests(),
            ),
            (
                "sandscope_requests_out_of_scope",
                "Requests with data of a region that is not their sender's.",
                account.out_of_scope(),
            ),
            (
                "sandscope_items_delivered",
                "Data points and samples that reached the live state.",
                account.delivered(),
            ),
            ("sandscope_spans", "Spans that came in.", account.spans()),
            ("sandscope_log_records", "Log records that came in.", account.log_records()),
            (
                "sandscope_modules_refused",
                "Uploads of debug info that were not what they should be.",
                account.modules_refused(),
            ),
            ("sandscope_guest_data_reads", "Reads of debug info and captures.", account.guest_data_reads()),
            (
                "sandscope_audit_lines_lost",
                "Lines that the audit log should have and could not be written.",
                account.audit_lines_lost(),
            ),
            (
                "sandscope_log_dropped_records",
                "Records that made room before every consumer had read them.",
                log.dropped(),
            ),
        ] {
            page.family(name, Counter, help, [(None, value)]);
        }
        let dropped = Dropped::ALL.map(|reason| (Some(("reason", reason.name())), account.dropped(reason)));
        let help = "Data points and samples that did not reach the live state, or left it early.";
        page.family("sandscope_items_dropped", Counter, help, dropped);
        let refused = account.connections_refused().map(|(reason, count)| (Some(("reason", reason)), count));
        let help = "Connections that ended before they were served.";
        page.family("sandscope_connections_refused", Counter, help, refused);
        let held = log.figures();
        for (name, help, value) in [
            ("sandscope_connections", "Connections that are open.", account.connections()),
            ("sandscope_watchers", "Streams of rows that are open.", watchers.load(Relaxed) as u64),
            ("sandscope_log_held_bytes", "Size of the log.", held.bytes),
            ("sandscope_log_held_records", "Records in the log.", held.records),
            ("sandscope_memory_resident_bytes", "Resident memory.", health.memory.resident()),
            (
                "sandscope_memory_limit_bytes",
                "Resident memory above which new data is pushed back.",
                health.memory.limit,
            ),
            ("sandscope_ready", "Whether it takes data: 1 or 0.", health.ready().is_ok().into()),
        ] {
            page.family(name, Gauge, help, [(None, value)]);
        }
        let lag = held.lag.iter().map(|(consumer, records)| (Some(("consumer", &**consumer)), *records));
        page.family("sandscope_log_lag_records", Gauge, "Records that a consumer has yet to read.", lag);
        if let Some(history) = history {
            of_history(&mut page, history);
        }
        page.finish()
    }
}

fn of_history(page: &mut Page, history: &history::Figures) {
    for (name, help, value) in [
        ("sandscope_history_rows", "Rows that are in files.", history.rows()),
        ("sandscope_history_files", "Files that were written, merged ones included.", history.files()),
        ("sandscope_history_merged_files", "Files whose rows are in larger ones now.", history.merged()),
        ("sandscope_history_removed_files", "Files that were too old.", history.removed()),
        (
            "sandscope_history_skipped",
            "Requests, points and samples without rows: not understood, or lost by the log.",
            history.skipped(),
        ),
        ("sandscope_history_failures", "Steps that failed and were tried again.", history.failures()),
        ("sandscope_queries", "Queries that were asked.", history.queries()),
    ] {
        page.family(name, Counter, help, [(None, value)]);
    }
    let help = "Whether history falls behind because a step fails: 1 or 0.";
    page.family("sandscope_history_failing", Gauge, help, [(None, history.failure().is_some().into())]);
}

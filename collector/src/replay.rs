//! What the live state knew before a restart, brought back from the log.

use std::time::Duration;

use crate::decode::decode;
use crate::log::{Log, now};
use crate::state::Handle;

/// Bytes that are read at once.
const PAGE: usize = 4 << 20;

/// Hands the state everything that arrived within `past`. Nothing of it is booked: it was before the restart. What
/// cannot be read is skipped, because the view is better incomplete than absent; opening the log has counted it.
pub(crate) async fn replay(log: &dyn Log, state: &Handle, past: Duration) {
    let past = u64::try_from(past.as_nanos()).unwrap_or(u64::MAX);
    let started = now();
    let mut from = log.since(started.saturating_sub(past));
    while let Ok(page) = log.read(from, PAGE).await {
        for stored in page.records {
            // By a clock that was stepped back since, some arrive in the future.
            let age = started.saturating_sub(stored.entry.received_unix_nano);
            if age > past {
                continue;
            }
            let Ok(mut decoded) = decode(stored.entry.kind, &stored.entry.payload) else { continue };
            decoded.place(&stored.entry.region);
            let Some(batch) = decoded.batch else { continue };
            if state.bring_back(batch, Duration::from_nanos(age)).await.is_err() {
                return;
            }
        }
        if page.next == from {
            return;
        }
        from = page.next;
    }
}

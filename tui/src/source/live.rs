//! The live source: watches a collector, keeps one flame graph fresh while a screen asks for it, fetches
//! debug info once per module. When the connection breaks it says so and tries again by itself.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use sandscope_model::ModuleId;
use sandscope_proto::connect::Credentials;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::collector::{Collector, QueryError, decompress, delta};
use super::names::Book;
use super::{Ends, Handle};
use crate::data::{Delta, FlameQuery, Link, Shown};
use crate::error::TuiError;

/// How often a flame graph that is shown is asked for.
const REFRESH: Duration = Duration::from_secs(2);

/// Longest wait between two attempts to connect.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Starts watching the collector at a URL.
///
/// # Errors
/// If that is no URL. A collector that is not there is no error: the source says so and tries again.
pub fn start(url: &str, credentials: &Credentials) -> Result<Handle, TuiError> {
    let collector = Collector::new(url, credentials)?;
    Ok(Handle::start(|tasks, ends| {
        tasks.spawn(rows(collector.clone(), ends.clone()));
        tasks.spawn(flames(collector, ends));
    }))
}

/// Rows, for ever; ends when nobody listens.
async fn rows(collector: Collector, ends: Ends) {
    let mut failures = 0;
    loop {
        let failed = match watch(&collector, &ends, &mut failures).await {
            Ok(()) => return,
            Err(error) => error.to_string(),
        };
        let wait = backoff(failures);
        failures += 1;
        let link = Link::Waiting { reason: Shown::new(&failed), retry_s: wait.as_secs_f64() };
        if ends.deltas.send(Delta::Link(link)).await.is_err() {
            return;
        }
        sleep(wait).await;
    }
}

/// Rows of one connection. `Ok` if nobody listens any more.
async fn watch(collector: &Collector, ends: &Ends, failures: &mut u32) -> Result<(), QueryError> {
    let mut updates = collector.watch().await?;
    if ends.deltas.send(Delta::Link(Link::Connected)).await.is_err() {
        return Ok(());
    }
    while let Some(update) = updates.message().await? {
        *failures = 0;
        if ends.deltas.send(delta(update)).await.is_err() {
            return Ok(());
        }
    }
    Err(QueryError::Call(tonic::Status::unavailable("the collector ended the connection")))
}

/// Flame graphs, one at a time, for ever; ends when nobody listens.
async fn flames(collector: Collector, mut ends: Ends) {
    let book = Book::default();
    loop {
        let asked = ends.asked.borrow_and_update().clone();
        let done = match asked {
            None => ends.asked.changed().await.is_ok(),
            Some(query) => {
                let deltas = ends.deltas.clone();
                let refresh = async {
                    let answer = flame(&collector, &book, &query, &deltas).await;
                    if let Err(error) = answer {
                        let reason = Shown::new(&error.to_string());
                        let _ = deltas.send(Delta::FlameFailed { query: query.clone(), reason }).await;
                    }
                    sleep(REFRESH).await;
                };
                tokio::select! {
                    () = refresh => true,
                    // Another question is more urgent than this one's answer.
                    changed = ends.asked.changed() => changed.is_ok(),
                }
            }
        };
        if !done {
            return;
        }
    }
}

/// Sends one flame graph: at once with the names there are, and again after each module's symbols came.
async fn flame(
    collector: &Collector,
    book: &Book,
    query: &FlameQuery,
    deltas: &mpsc::Sender<Delta>,
) -> Result<(), QueryError> {
    let (profile, truncated) = collector.stacks(&query.key, query.kind).await?;
    let profile = Arc::new(profile);
    let mut lacking = book.lacking(&profile).into_iter();
    loop {
        let (book_, profile_, kind, order) = (book.clone(), Arc::clone(&profile), query.kind, query.order);
        if let Ok(mut flame) = spawn_blocking(move || book_.fold(&profile_, kind, order)).await {
            flame.truncated = truncated;
            let _ = deltas.send(Delta::Flame { query: query.clone(), flame: Arc::new(flame) }).await;
        }
        let Some(module) = lacking.next() else { return Ok(()) };
        learn(collector, book, &module).await;
    }
}

/// Fetches a module's debug info. A failure leaves it absent for a while: names lack, nothing else does.
pub async fn learn(collector: &Collector, book: &Book, module: &ModuleId) {
    match collector.debug_info(module).await {
        Ok(Some(compressed)) => {
            let (book_, module_) = (book.clone(), module.clone());
            let read = spawn_blocking(move || match decompress(&compressed) {
                Ok(bytes) => book_.add(&module_, &bytes),
                Err(_) => book_.absent(&module_),
            });
            if read.await.is_err() {
                book.absent(module);
            }
        }
        Ok(None) | Err(_) => book.absent(module),
    }
}

/// Full jitter: anywhere up to a limit that doubles, so that many clients do not come back at once.
fn backoff(failures: u32) -> Duration {
    let limit = Duration::from_millis(500).saturating_mul(1 << failures.min(10)).min(MAX_WAIT);
    let random = RandomState::new().hash_one(failures) as u32;
    let jittered = limit.mul_f64(f64::from(random) / f64::from(u32::MAX));
    jittered.max(Duration::from_millis(100))
}

#[cfg(test)]
mod tests;

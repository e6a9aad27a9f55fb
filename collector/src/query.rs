//! The query service: rows as they change, stacks, series, debug info. What is answered comes from the state;
//! here is how it travels.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use prost::Message as _;
use sandscope_model::{ModuleId, Profile};
use sandscope_proto::query::query_server::Query;
use sandscope_proto::query::{
    CaptureRequest, CaptureUpdate, DebugInfoChunk, DebugInfoRequest, EventsRequest, EventsResponse,
    FlameDiffRequest, FlameDiffResponse, FlameRequest, FlameResponse, HostsRequest, HostsResponse,
    LinesRequest, LinesResponse, Pipeline, RecordingChunk, RecordingRequest, RecordingsRequest,
    RecordingsResponse, Selection, SeriesRequest, SeriesResponse, SqlChunk, SqlRequest, TraceRequest,
    TraceResponse, TracesRequest, TracesResponse, WatchRequest, WatchUpdate, WorkloadRow,
};
use sandscope_proto::recording::Samples;
use sandscope_proto::stacks::StackEncoder;
use sandscope_proto::{DEBUG_INFO_CHUNK, MAX_MESSAGE};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::access::{Access, Grant, granted};
use crate::account::Account;
use crate::agent::DebugInfo;
use crate::history::History;
use crate::live::{FoldSpan, Folded, Key, Selected, Tells};
use crate::query_recent::{self, kind_of};
use crate::query_recordings;
use crate::recordings::Fleet;
use crate::state::{Handle, Snapshot, Stopped};
use crate::state_recent::Question;

/// Time between updates of rows.
const UPDATE: Duration = Duration::from_secs(1);
/// Time between renewals of the leases of hosts that somebody watches: a third of a lease.
const RENEWAL: Duration = Duration::from_secs(10);
/// Rows in one update, so that it stays under gRPC's default limit of 4 MiB: a key has at most 1 KiB.
const ROWS_PER_UPDATE: usize = 2000;
/// Stacks in one answer.
pub(crate) const MAX_STACKS: usize = 50_000;
/// Encoded size of one answer of stacks, with room for the rest of the message.
pub(crate) const MAX_FLAME: usize = MAX_MESSAGE / 4 * 3;

/// The service `sandscope.query.v1.Query`.
pub(crate) struct QueryService {
    pub(crate) state: Handle,
    pub(crate) debug: Arc<DebugInfo>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) account: Arc<Account>,
    pub(crate) access: Arc<Access>,
    pub(crate) watchers: Arc<AtomicUsize>,
    pub(crate) max_watchers: usize,
    pub(crate) history: Option<Arc<History>>,
    /// Becomes true, or is dropped, when the collector stops.
    pub(crate) stop: watch::Receiver<bool>,
}

impl QueryService {
    /// What is asked for, as far as the one who asks may see it. What is live is not told apart by tenant.
    fn selected(
        &self,
        selection: Option<Selection>,
        grant: &Grant,
        tells: Tells,
    ) -> Result<Selected, Status> {
        let scope = grant.scope();
        if scope.tenants.is_some() {
            let reason = "live data is of all tenants, and this credential is limited to some";
            self.access.refuse(grant, "live data", reason);
            return Err(Status::permission_denied(reason));
        }
        let selected = Selected::new(selection).within(scope.regions);
        match selected.unknown(tells) {
            Some(field) => Err(Status::invalid_argument(format!("this cannot be told by {field}"))),
            None => Ok(selected),
        }
    }
}

pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Query for QueryService {
    type WatchStream = Answers<WatchUpdate>;
    type DebugInfoStream = Answers<DebugInfoChunk>;
    type CaptureStream = Answers<CaptureUpdate>;
    type RecordingStream = Answers<RecordingChunk>;
    type SqlStream = Answers<SqlChunk>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (request, grant) = asked(request)?;
        let selected = self.selected(request.selection, &grant, Tells::Rows)?;
        let place = Place::take(&self.watchers, self.max_watchers)
            .ok_or_else(|| Status::resource_exhausted("too many streams of rows are open"))?;
        // One update waits while one is on its way; a slow reader then gets the sum of what it missed.
        let (updates, answers) = mpsc::channel(1);
        let watcher = Watcher {
            selected,
            state: self.state.clone(),
            debug: self.debug.clone(),
            fleet: self.fleet.clone(),
            account: self.account.clone(),
            sent: None,
        };
        let mut stop = self.stop.clone();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                ended = watcher.run(&updates) => if ended.is_ok() { return },
                _ = stop.wait_for(|stop| *stop) => {}
            }
            // The reader may be gone or slow; then the end of the stream says enough.
            let _ = updates.try_send(Err(Stopped.into()));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn flame(&self, request: Request<FlameRequest>) -> Result<Response<FlameResponse>, Status> {
        let (request, grant) = asked(request)?;
        let kind = kind_of(&request.kind)?;
        let selection = request.selection.clone().unwrap_or_default();
        let selected = self.selected(request.selection, &grant, Tells::Platforms)?;
        let span = FoldSpan { seconds: request.seconds, age: 0.0 };
        let Folded { profile, hz } = self.state.fold(selected, kind, span).await?;
        let (mut samples, truncated) = encode(&profile);
        kind.name().clone_into(&mut samples.kind);
        samples.hz = hz;
        samples.workload = selection.workload;
        samples.workload_version = selection.version;
        Ok(Response::new(FlameResponse { samples: Some(samples), truncated }))
    }

    async fn debug_info(
        &self,
        request: Request<DebugInfoRequest>,
    ) -> Result<Response<Self::DebugInfoStream>, Status> {
        let id = ModuleId::parse(&request.get_ref().module_id)
            .ok_or_else(|| Status::invalid_argument("the module id is malformed"))?;
        let mut stop = self.stop.clone();
        let found = tokio::select! {
            found = self.debug.fetch(&id) => found,
            _ = stop.wait_for(|stop| *stop) => return Err(Stopped.into()),
        };
        let (data, size) = found.ok_or_else(|| Status::not_found("no host has sent this debug info"))?;
        self.access.reads(&granted(&request)?, id.as_str());
        let pieces = (0..data.len().div_ceil(DEBUG_INFO_CHUNK)).map(move |i| {
            let start = i * DEBUG_INFO_CHUNK;
            let piece = data.slice(start..data.len().min(start + DEBUG_INFO_CHUNK));
            Ok(DebugInfoChunk { data: piece.to_vec(), size: if i == 0 { size } else { 0 } })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }

    async fn series(&self, request: Request<SeriesRequest>) -> Result<Response<SeriesResponse>, Status> {
        let (request, grant) = asked(request)?;
        let selected = self.selected(request.selection, &grant, Tells::Rows)?;
        let mut response = self.state.series(request.name, selected).await?;
        while response.encoded_len() > MAX_FLAME {
            let half = response.points.len() / 2;
            response.truncated += (response.points.len() - half) as u64;
            response.points.truncate(half);
        }
        Ok(Response::new(response))
    }

    async fn flame_diff(
        &self,
        request: Request<FlameDiffRequest>,
    ) -> Result<Response<FlameDiffResponse>, Status> {
        let (mut request, grant) = asked(request)?;
        let side = |selection| self.selected(selection, &grant, Tells::Platforms);
        let (base, candidate) = (side(request.base.take())?, side(request.candidate.take())?);
        query_recent::flame_diff(&self.state, &request, base, candidate).await.map(Response::new)
    }

    async fn traces(&self, request: Request<TracesRequest>) -> Result<Response<TracesResponse>, Status> {
        let (mut request, grant) = asked(request)?;
        let selected = self.selected(request.selection.take(), &grant, Tells::Hosts)?;
        Ok(Response::new(self.state.recent(|reply| Question::Traces(request, selected, reply)).await?))
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<TraceResponse>, Status> {
        let (request, grant) = asked(request)?;
        let selected = self.selected(None, &grant, Tells::Hosts)?;
        query_recent::trace(&self.state, &request, selected).await.map(Response::new)
    }

    async fn events(&self, request: Request<EventsRequest>) -> Result<Response<EventsResponse>, Status> {
        let (mut request, grant) = asked(request)?;
        let selected = self.selected(request.selection.take(), &grant, Tells::Hosts)?;
        Ok(Response::new(self.state.recent(|reply| Question::Events(request, selected, reply)).await?))
    }

    async fn lines(&self, request: Request<LinesRequest>) -> Result<Response<LinesResponse>, Status> {
        let (mut request, grant) = asked(request)?;
        let selected = self.selected(request.selection.take(), &grant, Tells::Hosts)?;
        self.access.reads(&grant, "lines that guests wrote");
        query_recent::lines(&self.state, request, selected).await.map(Response::new)
    }

    async fn hosts(&self, request: Request<HostsRequest>) -> Result<Response<HostsResponse>, Status> {
        let (request, grant) = asked(request)?;
        let selected = self.selected(request.selection, &grant, Tells::Hosts)?;
        query_recent::hosts(&self.state, &self.fleet, selected).await.map(Response::new)
    }

    async fn capture(
        &self,
        request: Request<CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        let (mut request, grant) = asked(request)?;
        let selection = request.selection.take().unwrap_or_default();
        let workload = std::mem::take(&mut request.workload);
        let selection = Selection { workload, version: String::new(), ..selection };
        let selected = self.selected(Some(selection), &grant, Tells::Hosts)?;
        query_recordings::capture(&self.state, &self.fleet, &request, selected).await.map(Response::new)
    }

    async fn recordings(
        &self,
        request: Request<RecordingsRequest>,
    ) -> Result<Response<RecordingsResponse>, Status> {
        let (request, grant) = asked(request)?;
        let selected = self.selected(request.selection, &grant, Tells::Hosts)?;
        Ok(Response::new(query_recordings::list(&self.fleet, &selected, &request.capture_id)))
    }

    async fn recording(
        &self,
        request: Request<RecordingRequest>,
    ) -> Result<Response<Self::RecordingStream>, Status> {
        let (request, grant) = asked(request)?;
        let selected = self.selected(None, &grant, Tells::Hosts)?;
        let answer = query_recordings::fetch(&self.fleet, &request, &selected)?;
        self.access.reads(&grant, &format!("recording {}", request.id));
        Ok(Response::new(answer))
    }

    async fn sql(&self, request: Request<SqlRequest>) -> Result<Response<Self::SqlStream>, Status> {
        let history = self.history.as_ref();
        let history = history.ok_or_else(|| Status::unimplemented("this collector keeps no history"))?;
        let (request, grant) = asked(request)?;
        // Lines and attributes of guests are among it.
        self.access.reads(&grant, "history");
        Ok(Response::new(Box::pin(history.sql(request.sql, self.stop.clone())?)))
    }
}

/// What is asked, and what the one who asks was granted.
fn asked<T>(request: Request<T>) -> Result<(T, Grant), Status> {
    let grant = granted(&request)?;
    Ok((request.into_inner(), grant))
}

/// The heaviest stacks of a profile that is sorted by weight, as many as an answer holds; and how many are
/// left out.
fn encode(profile: &Profile) -> (Samples, u64) {
    let mut most = MAX_STACKS.min(profile.stacks.len());
    loop {
        let mut encoder = StackEncoder::default();
        let samples = if most == profile.stacks.len() {
            encoder.profile(profile)
        } else {
            let mut part = profile.clone();
            part.stacks.truncate(most);
            part.weights.truncate(most);
            encoder.profile(&part)
        };
        if samples.encoded_len() <= MAX_FLAME || most == 0 {
            return (samples, (profile.stacks.len() - most) as u64);
        }
        most /= 2;
    }
}

/// A place among the watchers, given back when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let taken = count.fetch_update(Relaxed, Relaxed, |n| (n < most).then_some(n + 1));
        taken.is_ok().then(|| Self(count.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// One stream of rows.
struct Watcher {
    selected: Selected,
    state: Handle,
    debug: Arc<DebugInfo>,
    fleet: Arc<Fleet>,
    account: Arc<Account>,
    /// What the reader has; `None` before the first update.
    sent: Option<HashMap<Key, WorkloadRow>>,
}

impl Watcher {
    /// Sends updates until nobody reads them.
    async fn run(mut self, updates: &mpsc::Sender<Result<WatchUpdate, Status>>) -> Result<(), Stopped> {
        let mut ticks = tokio::time::interval(UPDATE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewals = tokio::time::interval(RENEWAL);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = renewals.tick(), if !self.selected.is_all() => {
                    let asked = self.selected.clone();
                    let boots = self.state.recent(|reply| Question::Boots(asked, reply)).await?;
                    self.fleet.lease(&self.selected, &boots);
                    continue;
                }
                () = updates.closed() => return Ok(()),
            }
            // Room first: a reader that is behind gets what is true then, not what was true when it fell behind.
            if updates.reserve().await.is_err() {
                return Ok(());
            }
            let snapshot = self.state.rows().await?;
            for update in self.updates(&snapshot) {
                if updates.send(Ok(update)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// What changed since the last call; everything in the first. Never empty: it carries the time as well.
    fn updates(&mut self, snapshot: &Snapshot) -> Vec<WatchUpdate> {
        let first = self.sent.is_none();
        let sent = self.sent.get_or_insert_default();
        let selected = || snapshot.rows.iter().filter(|(key, _)| self.selected.matches(key));
        let current: HashMap<&Key, ()> = selected().map(|(key, _)| (key, ())).collect();
        let gone: Vec<Key> = sent.keys().filter(|key| !current.contains_key(key)).cloned().collect();
        for key in &gone {
            sent.remove(key);
        }
        let mut rows = Vec::new();
        for (key, row) in selected() {
            if sent.get(key).is_none_or(|known| is_news(known, row)) {
                sent.insert(key.clone(), row.clone());
                rows.push(row.clone());
            }
        }
        let pipeline = Pipeline {
            acked: self.account.acked(),
            delivered: self.account.delivered(),
            dropped: self.account.dropped_in_all(),
            hosts: snapshot.hosts,
            modules: self.debug.modules(),
            live_bytes: snapshot.bytes[0] as u64,
            live_bytes_limit: snapshot.bytes[1] as u64,
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let update = |snapshot| WatchUpdate {
            snapshot,
            pipeline: Some(pipeline),
            time_unix_nano: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            ..WatchUpdate::default()
        };
        let mut out: Vec<WatchUpdate> = vec![update(first)];
        for rows in rows.chunks(ROWS_PER_UPDATE) {
            push(&mut out, &update, |last| last.rows.is_empty(), |last| last.rows = rows.to_vec());
        }
        for keys in gone.chunks(ROWS_PER_UPDATE) {
            let removed = || keys.iter().map(Key::to_wire).collect();
            push(&mut out, &update, |last| last.removed.is_empty(), |last| last.removed = removed());
        }
        out
    }
}

/// Fills the last update, or a new one if that one is full.
fn push(
    out: &mut Vec<WatchUpdate>,
    new: &impl Fn(bool) -> WatchUpdate,
    has_room: impl Fn(&WatchUpdate) -> bool,
    fill: impl FnOnce(&mut WatchUpdate),
) {
    if !out.last().is_some_and(has_room) {
        out.push(new(false));
    }
    if let Some(last) = out.last_mut() {
        fill(last);
    }
}

/// Whether a row differs by more than the passing of time. A row that goes silent is sent again now and then, so
/// that its age is seen to grow.
fn is_news(known: &WorkloadRow, row: &WorkloadRow) -> bool {
    let step = |age: f64| if age < 60.0 { (age / 10.0) as u64 } else { 6 + (age / 60.0) as u64 };
    let timeless = |row: &WorkloadRow| WorkloadRow { age_s: 0.0, ..row.clone() };
    step(known.age_s) != step(row.age_s) || timeless(known) != timeless(row)
}

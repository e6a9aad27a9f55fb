//! Listening, serving and stopping: puts the parts together.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use sandscope_proto::MAX_MESSAGE;
use sandscope_proto::agent::agent_server::AgentServer;
use sandscope_proto::query::query_server::QueryServer;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding::Zstd;
use tonic::transport::Server;

use crate::accept::{Connection, Door};
use crate::access::{Access, Guarded, Speaks};
use crate::account::Account;
use crate::agent::{AgentService, DebugInfo};
use crate::config::{BindError, Config, ServeError, check};
use crate::debug::Shelf;
use crate::figures::Figures;
use crate::health::Health;
use crate::history::{self, History};
use crate::intake::Intake;
use crate::log::{Log, OpenError, Recovery, SegmentLog, Settings};
use crate::otlp_grpc::{Logs, Metrics, OtlpServer, Profiles, Traces};
use crate::query::QueryService;
use crate::recordings::{Fleet, Store};
use crate::replay::replay;
use crate::state;

/// Requests of one connection that are worked on at the same time.
const CONCURRENT: usize = 16;
/// Connections of one gRPC port.
const CONNECTIONS: usize = 8192;
/// Streams that one connection may open.
const STREAMS: u32 = 128;
/// A connection without traffic is asked after this time whether it is still there, and given up after as long.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Time for open requests after the signal to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Most of a log in memory, in bytes.
const IN_MEMORY: u64 = 64 << 20;

/// A collector that listens and is not serving yet.
pub struct Collector {
    config: Config,
    otlp: (TcpListener, SocketAddr),
    otlp_http: (TcpListener, SocketAddr),
    query: (TcpListener, SocketAddr),
    http: (TcpListener, SocketAddr),
    log: Arc<SegmentLog>,
    fleet: Arc<Fleet>,
    debug: Arc<DebugInfo>,
    history: Option<Arc<History>>,
    account: Arc<Account>,
    access: Arc<Access>,
}

impl Collector {
    /// Opens the log and takes all addresses. Connections wait from now on and are served by [`Self::run`].
    ///
    /// # Errors
    /// An address that is taken, or not of this machine; a log that cannot be opened.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let Config { otlp, otlp_http, query, http, .. } = config;
        check(&config)?;
        let account: Arc<Account> = Arc::default();
        let access = Arc::new(Access::open(&config.access, account.clone())?);
        let otlp = listen(otlp).await.map_err(|source| BindError::Otlp { addr: otlp, source })?;
        let otlp_http =
            listen(otlp_http).await.map_err(|source| BindError::OtlpHttp { addr: otlp_http, source })?;
        let query = listen(query).await.map_err(|source| BindError::Query { addr: query, source })?;
        let http = listen(http).await.map_err(|source| BindError::Http { addr: http, source })?;
        let (data, settings) = (config.data.clone(), config.log.clone());
        let log = tokio::task::spawn_blocking(move || open(data.as_deref(), settings)).await;
        let log = Arc::new(log.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?);
        let history = history::follow(config.history.clone(), config.data.as_deref(), log.clone()).await?;
        let recordings = config.data.as_ref().map(|data| data.join("recordings"));
        let store = recordings.map(|path| Store::open(&path, config.limits.recordings_bytes)).transpose();
        let fleet = Arc::new(Fleet::new(store.map_err(BindError::Recordings)?));
        let debug = debug_info(&config, &account).map_err(BindError::DebugInfo)?;
        Ok(Self { config, otlp, otlp_http, query, http, log, fleet, debug, history, account, access })
    }

    /// What the log had when it was opened.
    pub fn recovery(&self) -> Recovery {
        self.log.recovery()
    }

    /// Where OTLP and agents are taken in.
    pub fn otlp_addr(&self) -> SocketAddr {
        self.otlp.1
    }

    /// Where OTLP over HTTP is taken in.
    pub fn otlp_http_addr(&self) -> SocketAddr {
        self.otlp_http.1
    }

    /// Where queries are answered.
    pub fn query_addr(&self) -> SocketAddr {
        self.query.1
    }

    /// Where debug info is served over HTTP.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.1
    }

    /// Who may: to be told of new credentials and certificates while it runs.
    pub fn access(&self) -> Arc<Access> {
        self.access.clone()
    }

    /// The collector's counters, to be read while it runs and after.
    pub fn account(&self) -> Arc<Account> {
        self.account.clone()
    }

    /// What the history did, to be read while it runs and after; `None` if there is none.
    pub fn history(&self) -> Option<Arc<history::Figures>> {
        self.history.as_ref().map(|history| history.figures())
    }

    /// Brings back what the log has of the last minutes, then serves until `shutdown` resolves. Streams then end at once, other requests have two seconds.
    ///
    /// # Errors
    /// A server that failed before.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let (log, history) = (self.log.clone(), self.history.clone());
        let result = self.serve(shutdown).await;
        if let Some(history) = history {
            history.stop().await;
        }
        log.stop().await;
        result
    }

    async fn serve(self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let Self { config, otlp, otlp_http, query, http, log, fleet, debug, history, account, access } = self;
        let limits = config.limits;
        let health = Arc::new(Health::new(config.memory_limit));
        let watchers = Arc::new(AtomicUsize::new(0));
        let (stopping, stop) = watch::channel(false);
        let (state, task) = state::new(&limits);
        // Dropped at the end of this function, and with it the tasks.
        let mut tasks = JoinSet::new();
        tasks.spawn(task);
        tasks.spawn(debug.clone().watch_over());
        tasks.spawn(health.clone().watch_over());
        let served = crate::http::Served {
            debug: debug.clone(),
            access: access.clone(),
            health: health.clone(),
            figures: Figures {
                account: account.clone(),
                log: log.clone(),
                health: health.clone(),
                watchers: watchers.clone(),
                history: history.as_ref().map(|history| history.figures()),
            },
        };
        tasks.spawn(crate::http::serve(http.0, served, stop.clone()));

        tokio::pin!(shutdown);
        tokio::select! {
            () = replay(&*log, &state, limits.retention) => {}
            () = &mut shutdown => return Ok(()),
        }
        health.replayed();
        let intake =
            Intake { log, state: state.clone(), account: account.clone(), access: access.clone(), health };
        tasks.spawn(crate::otlp_http::serve(otlp_http.0, intake.clone(), stop.clone()));
        let agent = AgentService {
            debug: debug.clone(),
            fleet: fleet.clone(),
            access: access.clone(),
            stop: stop.clone(),
        };
        let mut incoming = |listener| {
            let (access, account) = (access.clone(), account.clone());
            let door = Door { listener, speaks: Speaks::Http2, most: CONNECTIONS, access, account };
            let (connections, keep) = door.open(stop.clone());
            tasks.spawn(keep);
            ReceiverStream::new(connections).map(Ok::<Connection, Infallible>)
        };
        let (otlp_connections, query_connections) = (incoming(otlp.0), incoming(query.0));
        let queries = QueryService {
            state,
            debug,
            fleet,
            account: account.clone(),
            access: access.clone(),
            watchers,
            max_watchers: limits.watchers,
            history,
            stop: stop.clone(),
        };
        let agents = AgentServer::new(agent).accept_compressed(Zstd).max_decoding_message_size(MAX_MESSAGE);
        let otlp_server = builder()
            .add_service(Guarded::new(OtlpServer::<Metrics>::new(intake.clone()), &access))
            .add_service(Guarded::new(OtlpServer::<Traces>::new(intake.clone()), &access))
            .add_service(Guarded::new(OtlpServer::<Logs>::new(intake.clone()), &access))
            .add_service(Guarded::new(OtlpServer::<Profiles>::new(intake), &access))
            .add_service(Guarded::new(agents, &access))
            .serve_with_incoming_shutdown(otlp_connections, stopped(stop.clone()));
        let queries = QueryServer::new(queries).accept_compressed(Zstd).send_compressed(Zstd);
        let query_server = builder()
            .add_service(Guarded::new(queries, &access))
            .serve_with_incoming_shutdown(query_connections, stopped(stop));
        let servers = async {
            tokio::try_join!(
                async { otlp_server.await.map_err(|source| ServeError::Otlp { addr: otlp.1, source }) },
                async { query_server.await.map_err(|source| ServeError::Query { addr: query.1, source }) },
            )
        };
        tokio::pin!(servers);
        tokio::select! {
            result = &mut servers => return result.map(drop),
            () = &mut shutdown => {}
        }
        stopping.send_replace(true);
        // A peer that neither reads nor leaves does not keep us.
        tokio::time::timeout(GRACE, servers).await.map_or(Ok(()), |result| result.map(drop))
    }
}

fn open(data: Option<&Path>, settings: Settings) -> Result<SegmentLog, OpenError> {
    match data {
        Some(directory) => SegmentLog::open(directory, settings),
        None => {
            let Settings { max_bytes, max_age, when_full, .. } = settings;
            SegmentLog::in_memory(Settings::new(max_bytes.min(IN_MEMORY), max_age, when_full))
        }
    }
}

/// On disk beside the log, else in a quarter of the memory: what only makes names must not push data back.
fn debug_info(config: &Config, account: &Arc<Account>) -> std::io::Result<Arc<DebugInfo>> {
    let Config { data, limits, memory_limit, .. } = config;
    let shelf = data.as_ref().map(|data| Shelf::open(&data.join("debug"))).transpose()?;
    let most =
        if shelf.is_some() { limits.debug_info_bytes } else { limits.debug_info_bytes.min(memory_limit / 4) };
    DebugInfo::new(shelf, most, limits.agents, account.clone())
}

async fn listen(addr: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(addr).await?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

fn builder() -> Server {
    Server::builder()
        .concurrency_limit_per_connection(CONCURRENT)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A dropped sender is a stop as well.
    let _ = stop.wait_for(|stop| *stop).await;
}

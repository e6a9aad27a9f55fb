//! Who may, on every port; and connections that only cost.

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::pki::{Ca, Issued, write};
use common::{Host, PATIENCE};
use prost::Message as _;
use sandscope_collector::access::{
    Access, AccessError, AuditSettings, Credential, Proof, Role, Scope, Settings, Tls,
};
use sandscope_collector::{Account, BindError, Collector, Config, ServeError};
use sandscope_proto::agent::agent_client::AgentClient;
use sandscope_proto::agent::{Hello, HostMessage, collector_message, host_message};
use sandscope_proto::connect::{Connection, Credentials, connect, endpoint};
use sandscope_proto::otel::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use sandscope_proto::query::query_client::QueryClient;
use sandscope_proto::query::{DebugInfoRequest, FlameRequest, SeriesRequest, WatchRequest, WorkloadRow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

const READER: &str = "token-of-the-reader";
const SENDER: &str = "token-of-the-sender";
const PUSHER: &str = "token-of-the-pusher";
const EU_SENDER: &str = "token-of-europes-sender";
const EU_READER: &str = "token-of-europes-reader";
const TENANT: &str = "token-of-a-tenants-reader";

struct Running {
    otlp: SocketAddr,
    otlp_http: SocketAddr,
    query: SocketAddr,
    http: SocketAddr,
    scheme: &'static str,
    account: Arc<Account>,
    access: Arc<Access>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

async fn start(config: Config) -> Running {
    let any = ([127, 0, 0, 1], 0).into();
    let scheme = if config.access.tls.is_some() { "https" } else { "http" };
    let config = Config { otlp: any, otlp_http: any, query: any, http: any, ..config };
    let collector = Collector::bind(config).await.unwrap();
    let (stop, stopped) = oneshot::channel();
    Running {
        otlp: collector.otlp_addr(),
        otlp_http: collector.otlp_http_addr(),
        query: collector.query_addr(),
        http: collector.http_addr(),
        scheme,
        account: collector.account(),
        access: collector.access(),
        stop,
        task: tokio::spawn(collector.run(async {
            let _ = stopped.await;
        })),
    }
}

impl Running {
    fn connection(&self, to: SocketAddr, credentials: &Credentials) -> Connection {
        let url = format!("{}://{to}", self.scheme);
        let endpoint = endpoint(&url, credentials).unwrap().connect_timeout(PATIENCE);
        connect(&endpoint, credentials)
    }

    async fn export(&self, region: &str, credentials: &Credentials) -> Result<(), Status> {
        let mut client = MetricsServiceClient::new(self.connection(self.otlp, credentials));
        let host = Host::new(region, "boot-1", "guest");
        client.export(host.batch(1).to_otlp()).await.map(drop)
    }

    async fn hello(&self, region: &str, credentials: &Credentials) -> Result<(), Status> {
        let hello = Hello { protocol: 1, region: region.into(), ..Hello::default() };
        let hello = HostMessage { message: Some(host_message::Message::Hello(hello)) };
        let mut client = AgentClient::new(self.connection(self.otlp, credentials));
        let said = tokio_stream::StreamExt::chain(tokio_stream::once(hello), tokio_stream::pending());
        let answer = client.connect(said).await?.into_inner().message().await?.unwrap();
        assert!(matches!(answer.message, Some(collector_message::Message::Welcome(_))));
        Ok(())
    }

    fn queries(&self, credentials: &Credentials) -> QueryClient<Connection> {
        QueryClient::new(self.connection(self.query, credentials))
    }

    async fn rows(&self, credentials: &Credentials) -> Result<Vec<WorkloadRow>, Status> {
        let mut updates = self.queries(credentials).watch(WatchRequest::default()).await?.into_inner();
        Ok(updates.message().await?.unwrap().rows)
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it ends soon").unwrap().unwrap();
    }
}

/// Status and the rest of an answer over a plain connection.
async fn http(to: SocketAddr, line: &str, headers: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server may have said no before it read everything.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

fn shows(token: &str) -> Credentials {
    Credentials::default().with_token(token).unwrap()
}

fn credential(directory: &Path, token: &str, role: Role, scope: Scope) -> Credential {
    let path = write(directory, token, &format!("# tokens\n\n{token}\n"));
    Credential { name: format!("has {token}"), proof: Proof::TokenFile(path), roles: vec![role], scope }
}

fn all(directory: &Path) -> Vec<Credential> {
    let eu = || Scope { regions: Some(vec!["eu".into()]), tenants: None };
    let tenant = Scope { regions: None, tenants: Some(vec!["t1".into()]) };
    [
        (READER, Role::Read, Scope::default()),
        (SENDER, Role::Write, Scope::default()),
        (PUSHER, Role::SymbolsPush, Scope::default()),
        (EU_SENDER, Role::Write, eu()),
        (EU_READER, Role::Read, eu()),
        (TENANT, Role::Read, tenant),
    ]
    .map(|(token, role, scope)| credential(directory, token, role, scope))
    .into()
}

fn config(access: Settings) -> Config {
    Config { access, ..Config::default() }
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// Nothing is readable or writable on any port without a token, with one that is not known, or with one of another role;
/// each refusal is counted and in the audit log.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_role_every_port_says_no() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.jsonl");
    let audit = Some(AuditSettings { file: file.clone(), size: 1 << 20 });
    let access = Settings { credentials: all(directory.path()), audit, ..Settings::default() };
    let running = start(config(access)).await;
    let unknown = shows("token-that-nobody-gave");
    let cases = [
        (Credentials::default(), Code::Unauthenticated, Code::Unauthenticated),
        (unknown, Code::Unauthenticated, Code::Unauthenticated),
        (shows(READER), Code::PermissionDenied, Code::Ok),
        (shows(SENDER), Code::Ok, Code::PermissionDenied),
        (shows(PUSHER), Code::PermissionDenied, Code::PermissionDenied),
        (shows(TENANT), Code::PermissionDenied, Code::PermissionDenied),
    ];
    for (credentials, writing, reading) in cases {
        assert_eq!(code(running.export("eu", &credentials).await), writing);
        assert_eq!(code(running.hello("eu", &credentials).await), writing);
        assert_eq!(code(running.rows(&credentials).await), reading);
        let mut client = running.queries(&credentials);
        let flame = FlameRequest { kind: "cpu".into(), ..FlameRequest::default() };
        assert_eq!(code(client.flame(flame).await), reading);
        assert_eq!(code(client.series(SeriesRequest::default()).await), reading);
        let is_tenants = credentials.headers().authorization().is_some_and(|shown| shown.contains(TENANT));
        let found = client.debug_info(DebugInfoRequest { module_id: "aa".into() }).await;
        // Debug info has no tenant: whoever may read may read it.
        let wanted = if is_tenants || reading == Code::Ok { Code::NotFound } else { reading };
        assert_eq!(code(found), wanted);
    }
    let body = Host::new("eu", "boot-1", "guest").batch(1).to_otlp().encode_to_vec();
    let form = "content-type: application/x-protobuf\r\n";
    for (token, writing, reading, pushing) in [
        ("", 401, 401, 401),
        ("token-that-nobody-gave", 401, 401, 401),
        (READER, 403, 200, 403),
        (SENDER, 200, 403, 403),
        (PUSHER, 403, 403, 422),
    ] {
        let shown =
            if token.is_empty() { String::new() } else { format!("authorization: bearer {token}\r\n") };
        let post = http(running.otlp_http, "POST /v1/metrics", &format!("{form}{shown}"), &body).await;
        assert_eq!(post.0, writing, "{token}");
        for path in ["/buildid", "/metrics"] {
            let (status, answer) = http(running.http, &format!("GET {path}"), &shown, b"").await;
            assert_eq!(status, reading, "{token} {path}");
            assert_eq!(status == 401, answer.to_lowercase().contains("www-authenticate: bearer"), "{answer}");
        }
        let put = http(running.http, "PUT /buildid/aa/debuginfo", &shown, b"no module").await;
        assert_eq!(put.0, pushing, "{token}");
        for path in ["/healthz", "/readyz"] {
            assert_eq!(http(running.http, &format!("GET {path}"), &shown, b"").await.0, 200);
        }
    }
    let lines = std::fs::read_to_string(file).unwrap();
    let denied = lines.lines().filter(|line| line.contains("\"outcome\":\"denied\"")).count();
    assert_eq!(denied as u64, running.account.denied_requests());
    assert!(lines.contains("has token-of-the-pusher") && !lines.contains("nobody-gave"), "{lines}");
    running.stop().await;
}

/// A sender's data is taken for its own regions only; what names no region stands under its only one; a reader sees
/// their regions and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn regions_are_kept_apart() {
    let directory = tempfile::tempdir().unwrap();
    let access = Settings { credentials: all(directory.path()), ..Settings::default() };
    let running = start(config(access)).await;
    running.export("us", &shows(SENDER)).await.unwrap();
    assert_eq!(code(running.export("us", &shows(EU_SENDER)).await), Code::PermissionDenied);
    assert_eq!(code(running.hello("us", &shows(EU_SENDER)).await), Code::PermissionDenied);
    assert_eq!(running.account.out_of_scope(), 1);
    running.export("", &shows(EU_SENDER)).await.unwrap();
    let regions = |rows: Vec<WorkloadRow>| {
        let mut regions: Vec<String> = rows.into_iter().map(|row| row.key.unwrap().region).collect();
        regions.sort();
        regions
    };
    assert_eq!(regions(running.rows(&shows(READER)).await.unwrap()), ["eu", "us"]);
    assert_eq!(regions(running.rows(&shows(EU_READER)).await.unwrap()), ["eu"]);
    let body = Host::new("us", "boot-2", "guest").batch(1).to_otlp().encode_to_vec();
    let headers = format!("content-type: application/x-protobuf\r\nauthorization: Bearer {EU_SENDER}\r\n");
    assert_eq!(http(running.otlp_http, "POST /v1/metrics", &headers, &body).await.0, 403);
    running.stop().await;
}

struct Secured {
    directory: tempfile::TempDir,
    ca: Ca,
    settings: Settings,
}

impl Secured {
    fn new(clients: &Ca) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let ca = Ca::new();
        let Issued { certificate, key } = ca.server();
        let tls = Tls {
            certificate: write(at, "server.pem", &certificate),
            key: write(at, "server.key", &key),
            client_ca: Some(write(at, "clients.pem", &clients.pem())),
        };
        let named = |name: &str| Credential {
            name: name.into(),
            proof: Proof::Certificate(name.into()),
            roles: vec![Role::Write],
            scope: Scope::default(),
        };
        let mut credentials = vec![named("edge-1"), named("spiffe://fleet/edge-2")];
        credentials.push(credential(at, READER, Role::Read, Scope::default()));
        let settings = Settings { credentials, tls: Some(tls), ..Settings::default() };
        Self { directory, ca, settings }
    }

    fn trusting(&self, shown: Option<Issued>) -> Credentials {
        let mut credentials = Credentials::default();
        credentials.ca = Some(self.ca.pem().into());
        credentials.identity = shown.map(|shown| (shown.certificate.into(), shown.key.into()));
        credentials
    }
}

/// A certificate that the CA issued and that has a name that is known may; without one, with an expired one, one of
/// somebody else's, or one of a name that is not known, nothing goes.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_say_who_sends() {
    let clients = Ca::new();
    let secured = Secured::new(&clients);
    let running = start(config(secured.settings.clone())).await;
    let export = async |shown| code(running.export("eu", &secured.trusting(shown)).await);
    assert_eq!(export(Some(clients.client("edge-1", "x:y", 2100))).await, Code::Ok);
    assert_eq!(export(Some(clients.client("?", "spiffe://fleet/edge-2", 2100))).await, Code::Ok);
    assert_eq!(export(None).await, Code::Unauthenticated);
    assert_eq!(export(Some(clients.client("edge-3", "x:y", 2100))).await, Code::Unauthenticated);
    // These do not get through the handshake.
    assert_ne!(export(Some(clients.client("edge-1", "x:y", 2001))).await, Code::Ok);
    assert_ne!(export(Some(Ca::new().client("edge-1", "x:y", 2100))).await, Code::Ok);
    assert_eq!(running.account.acked(), 2);
    let token = secured.trusting(None).with_token(READER).unwrap();
    assert_eq!(running.rows(&token).await.unwrap().len(), 1);
    // A client that trusts somebody else does not even show its token.
    let mut stranger = shows(READER);
    stranger.ca = Some(Ca::new().pem().into());
    assert_eq!(code(running.rows(&stranger).await), Code::Unavailable);
    assert_eq!(running.account.connections_refused()[0].0, "failed");
    // The other end counts when it has seen the end of the handshake.
    let counted = async {
        while running.account.connections_refused()[0].1 < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.expect("three that failed");
    running.stop().await;
}

/// New files count for the next request and the next connection; files that are broken change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_tokens_and_certificates() {
    let clients = Ca::new();
    let secured = Secured::new(&clients);
    let running = start(config(secured.settings.clone())).await;
    let at = secured.directory.path();
    let before = secured.trusting(None).with_token(READER).unwrap();
    running.rows(&before).await.unwrap();

    write(at, "server.key", "no key");
    write(at, READER, "token-of-another-reader\n");
    let failed = running.access.reload(&secured.settings).unwrap_err();
    assert!(matches!(&failed, AccessError::Pem { path, .. } if path.ends_with("server.key")), "{failed}");
    running.rows(&before).await.unwrap();

    let other = Ca::new();
    let Issued { certificate, key } = other.server();
    write(at, "server.pem", &certificate);
    write(at, "server.key", &key);
    running.access.reload(&secured.settings).unwrap();
    assert_eq!(code(running.rows(&before).await), Code::Unavailable, "the new certificate is of another CA");
    let mut after = shows("token-of-another-reader");
    after.ca = Some(other.pem().into());
    running.rows(&after).await.unwrap();
    let mut old = shows(READER);
    old.ca = Some(other.pem().into());
    assert_eq!(code(running.rows(&old).await), Code::Unauthenticated);
    running.stop().await;
}

/// Beyond this machine a collector starts with TLS and credentials, or because it was told to be open.
#[tokio::test]
async fn listeners_beyond_this_machine_need_protection() {
    let beyond = ([0, 0, 0, 0], 0).into();
    let directory = tempfile::tempdir().unwrap();
    let credentials = all(directory.path());
    let any = ([127, 0, 0, 1], 0).into();
    let bind = async |access| {
        Collector::bind(Config {
            otlp: any,
            otlp_http: any,
            query: any,
            http: beyond,
            access,
            ..Config::default()
        })
        .await
        .map(drop)
    };
    for access in [Settings::default(), Settings { credentials: credentials.clone(), ..Settings::default() }]
    {
        let refused = bind(access).await.unwrap_err();
        assert!(matches!(refused, BindError::Access(AccessError::Exposed { .. })), "{refused}");
    }
    bind(Settings { insecure: true, ..Settings::default() }).await.unwrap();
    let secured = Secured::new(&Ca::new());
    bind(secured.settings).await.unwrap();
    // A token that can be guessed is no protection.
    let path = write(directory.path(), "short", "1234\n");
    let proof = Proof::TokenFile(path);
    let short = Credential { name: "x".into(), proof, roles: vec![Role::Read], scope: Scope::default() };
    let refused = bind(Settings { credentials: vec![short], ..Settings::default() }).await.unwrap_err();
    assert!(matches!(refused, BindError::Access(AccessError::Exposed { .. } | AccessError::Token { .. })));
}

/// 2,000 connections that say nothing, on every port, with and without TLS: they wait in a pool that is bounded, and an
/// honest sender is served while they are there.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_harm_nobody() {
    for is_tls in [false, true] {
        let clients = Ca::new();
        let secured = Secured::new(&clients);
        let settings = if is_tls { secured.settings.clone() } else { Settings::default() };
        let running = start(config(settings)).await;
        let shown = is_tls.then(|| clients.client("edge-1", "x:y", 2100));
        let honest = secured.trusting(shown);
        let mut silent = Vec::new();
        for number in 0..2000 {
            let to = [running.otlp, running.otlp_http, running.query, running.http][number % 4];
            // Without descriptors for more, fewer have to do.
            let Ok(stream) = TcpStream::connect(to).await else { break };
            silent.push(stream);
            if number % 400 == 399 {
                let sent = tokio::time::timeout(PATIENCE, running.export("eu", &honest));
                sent.await.expect("it is served").unwrap();
            }
        }
        assert!(silent.len() >= 1200, "only {} connections could be made", silent.len());
        let waited = tokio::time::timeout(PATIENCE, async {
            while running.account.connections_refused()[2].1 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        waited.await.expect("the oldest had to go");
        assert!(running.account.connections() < 100, "they hold places");
        running.stop().await;
    }
}

/// Above the limit, senders are told to come again and when, on both ports; the collector says that it is not ready.
#[tokio::test(flavor = "multi_thread")]
async fn too_much_memory_pushes_back() {
    let running = start(Config { memory_limit: 1, ..Config::default() }).await;
    let pressed = tokio::time::timeout(PATIENCE, async {
        while http(running.http, "GET /readyz", "", b"").await.0 != 503 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    pressed.await.expect("it is seen");
    let refused = running.export("eu", &Credentials::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(tonic_types::StatusExt::get_details_retry_info(&refused).is_some());
    let form = "content-type: application/x-protobuf\r\n";
    let (status, answer) = http(running.otlp_http, "POST /v1/metrics", form, b"").await;
    assert!(status == 429 && answer.to_lowercase().contains("retry-after:"), "{answer}");
    assert_eq!((running.account.pushed_back(), running.account.acked()), (2, 0));
    assert_eq!(http(running.http, "GET /healthz", "", b"").await.0, 200);
    running.stop().await;
}

/// Figures are there in both forms, with what happened in them.
#[tokio::test(flavor = "multi_thread")]
async fn its_own_figures_are_served() {
    let running = start(Config::default()).await;
    running.export("eu", &Credentials::default()).await.unwrap();
    let (status, text) = http(running.http, "GET /metrics", "", b"").await;
    assert_eq!(status, 200);
    for line in [
        "# TYPE sandscope_requests_acked_total counter",
        "sandscope_requests_acked_total 1",
        "sandscope_items_dropped_total{reason=\"too_many_series\"} 0",
        "sandscope_log_held_records 1",
        "sandscope_ready 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
    }
    let accept = "accept: application/openmetrics-text; version=1.0.0\r\n";
    let (_, text) = http(running.http, "GET /metrics", accept, b"").await;
    assert!(
        text.contains("# TYPE sandscope_requests_acked counter\n") && text.ends_with("# EOF\n"),
        "{text}"
    );
    running.stop().await;
}

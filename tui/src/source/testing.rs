//! For tests of the sources: a real guest with stacks through its code, and a collector's query service that
//! serves it.

use std::net::SocketAddr;
use std::pin::Pin;

use sandscope_model::profile::Weight;
use sandscope_model::{Frame, ModuleId, NameSource, Profile};
use sandscope_proto::query as wire;
use sandscope_proto::query::query_server::{Query, QueryServer};
use sandscope_proto::stacks::StackEncoder;
use sandscope_symbols::SymbolFile;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::data::RowKey;

/// Name and version of the workload.
pub const WORKLOAD: (&str, &str) = ("pricing", "1.0.0");

/// A guest of this repository, as hosts see it.
#[derive(Clone)]
pub struct Guest {
    /// Its id.
    pub id: ModuleId,
    /// Its bytes, compressed with zstd.
    pub compressed: Vec<u8>,
    /// Stacks through code that its debug info names, 3 samples each.
    pub profile: Profile,
}

/// Reads the guest.
pub fn guest() -> Guest {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests/pricing.wasm")).unwrap();
    let file = SymbolFile::parse(&bytes).unwrap();
    let id = ModuleId::of(&bytes);
    let mut profile = Profile::new();
    let module = profile.module(&id);
    let named = |offset: &u64| {
        let frames = file.lookup(*offset).to_frames();
        frames.first().is_some_and(|f| f.source == NameSource::Dwarf && f.line.is_some())
    };
    let offsets: Vec<u64> = (0..bytes.len() as u64).step_by(211).filter(named).take(40).collect();
    assert!(offsets.len() > 10, "the guest has debug info");
    for pair in offsets.windows(2) {
        let stack: Vec<u32> =
            pair.iter().map(|&offset| profile.frame(Frame::Guest { module, offset })).collect();
        profile.add(&stack, Weight { samples: 3, value: 30 });
    }
    Guest { id, compressed: zstd::stream::encode_all(&bytes[..], 1).unwrap(), profile }
}

/// The key of the guest's only row.
pub fn key() -> RowKey {
    RowKey {
        region: "eu-central".into(),
        workload: WORKLOAD.0.into(),
        version: WORKLOAD.1.into(),
        service: "edge".into(),
    }
}

/// A collector's query service with one row. It ends, connections included, when this is dropped.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    /// Starts it; port 0 is any.
    pub fn start(port: u16, guest: Guest) -> Self {
        let runtime = Runtime::new().unwrap();
        let (told, address) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            told.send(listener.local_addr().unwrap()).unwrap();
            let server = tonic::transport::Server::builder().add_service(QueryServer::new(Service { guest }));
            server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address: address.recv().unwrap(), runtime: Some(runtime) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Service {
    guest: Guest,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Query for Service {
    type WatchStream = Answers<wire::WatchUpdate>;

    async fn watch(&self, _: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let key = key();
        let row = wire::WorkloadRow {
            key: Some(wire::RowKey {
                region: key.region.to_string(),
                service: key.service.to_string(),
                workload: key.workload.to_string(),
                version: key.version.to_string(),
            }),
            hosts: 2,
            calls: Some(77),
            ..wire::WorkloadRow::default()
        };
        let pipeline = wire::Pipeline { acked: 5, ..wire::Pipeline::default() };
        let first = wire::WatchUpdate {
            snapshot: true,
            rows: vec![row],
            pipeline: Some(pipeline),
            ..wire::WatchUpdate::default()
        };
        let updates = tokio_stream::once(Ok(first)).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(updates)))
    }

    async fn flame(
        &self,
        request: Request<wire::FlameRequest>,
    ) -> Result<Response<wire::FlameResponse>, Status> {
        let selection = request.into_inner().selection.unwrap_or_default();
        assert_eq!((selection.workload.as_str(), selection.version.as_str()), WORKLOAD);
        let samples = Some(StackEncoder::default().profile(&self.guest.profile));
        Ok(Response::new(wire::FlameResponse { samples, truncated: 2 }))
    }

    type DebugInfoStream = Answers<wire::DebugInfoChunk>;

    async fn debug_info(
        &self,
        request: Request<wire::DebugInfoRequest>,
    ) -> Result<Response<Self::DebugInfoStream>, Status> {
        if request.into_inner().module_id != self.guest.id.as_str() {
            return Err(Status::not_found("no such module"));
        }
        let chunks: Vec<_> = self.guest.compressed.chunks(100_000).map(<[u8]>::to_vec).collect();
        let chunks = chunks.into_iter().map(|data| Ok(wire::DebugInfoChunk { data, size: 0 }));
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn series(
        &self,
        _: Request<wire::SeriesRequest>,
    ) -> Result<Response<wire::SeriesResponse>, Status> {
        Ok(Response::new(wire::SeriesResponse::default()))
    }

    type CaptureStream = Answers<wire::CaptureUpdate>;
    type RecordingStream = Answers<wire::RecordingChunk>;

    async fn flame_diff(
        &self,
        _: Request<wire::FlameDiffRequest>,
    ) -> Result<Response<wire::FlameDiffResponse>, Status> {
        Ok(Response::new(wire::FlameDiffResponse::default()))
    }

    async fn traces(
        &self,
        _: Request<wire::TracesRequest>,
    ) -> Result<Response<wire::TracesResponse>, Status> {
        Ok(Response::new(wire::TracesResponse::default()))
    }

    async fn trace(&self, _: Request<wire::TraceRequest>) -> Result<Response<wire::TraceResponse>, Status> {
        Ok(Response::new(wire::TraceResponse::default()))
    }

    async fn events(
        &self,
        _: Request<wire::EventsRequest>,
    ) -> Result<Response<wire::EventsResponse>, Status> {
        Ok(Response::new(wire::EventsResponse::default()))
    }

    async fn lines(&self, _: Request<wire::LinesRequest>) -> Result<Response<wire::LinesResponse>, Status> {
        Ok(Response::new(wire::LinesResponse::default()))
    }

    async fn hosts(&self, _: Request<wire::HostsRequest>) -> Result<Response<wire::HostsResponse>, Status> {
        Ok(Response::new(wire::HostsResponse::default()))
    }

    async fn recordings(
        &self,
        _: Request<wire::RecordingsRequest>,
    ) -> Result<Response<wire::RecordingsResponse>, Status> {
        Ok(Response::new(wire::RecordingsResponse::default()))
    }

    async fn capture(
        &self,
        _: Request<wire::CaptureRequest>,
    ) -> Result<Response<Self::CaptureStream>, Status> {
        Err(Status::unimplemented("capture"))
    }

    async fn recording(
        &self,
        _: Request<wire::RecordingRequest>,
    ) -> Result<Response<Self::RecordingStream>, Status> {
        Err(Status::unimplemented("recording"))
    }

    type SqlStream = Answers<wire::SqlChunk>;

    async fn sql(&self, _: Request<wire::SqlRequest>) -> Result<Response<Self::SqlStream>, Status> {
        Err(Status::unimplemented("no history"))
    }
}

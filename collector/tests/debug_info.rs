//! Debug info from hosts to readers: offered, wanted, sent in chunks, checked, handed out by id.

mod common;

use common::{PATIENCE, Running, start, start_with};
use sandscope_collector::{Config, Limits};
use sandscope_model::ModuleId;
use sandscope_proto::DEBUG_INFO_CHUNK;
use sandscope_proto::agent::{
    Chunk, CollectorMessage, Hello, HostMessage, Offer, collector_message, host_message,
};
use sandscope_proto::query::{DebugInfoRequest, Selection};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// A guest of the test suite, with its DWARF.
fn guest() -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests/session.wasm")).unwrap()
}

/// A host's end of an agent stream.
struct Agent {
    outbox: mpsc::Sender<HostMessage>,
    incoming: Streaming<CollectorMessage>,
}

#[derive(Debug, PartialEq)]
enum Said {
    Want(String),
    Have(String),
}

impl Agent {
    async fn connect(to: &Running) -> Self {
        let (outbox, messages) = mpsc::channel(64);
        let hello = Hello {
            protocol: 1,
            region: "eu-1".into(),
            service: "edge".into(),
            instance: "a".into(),
            ..Hello::default()
        };
        outbox.send(HostMessage { message: Some(host_message::Message::Hello(hello)) }).await.unwrap();
        let incoming = to.agent().connect(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let mut agent = Self { outbox, incoming };
        let welcome = agent.incoming.message().await.unwrap().unwrap().message.unwrap();
        assert!(matches!(welcome, collector_message::Message::Welcome(_)), "{welcome:?}");
        agent
    }

    async fn offer(&self, id: &ModuleId, size: u64) {
        let offer = Offer {
            module_id: id.as_str().to_owned(),
            workload: "session".into(),
            workload_version: "1".into(),
            size,
        };
        let message = Some(host_message::Message::Offer(offer));
        self.outbox.send(HostMessage { message }).await.unwrap();
    }

    async fn chunk(&self, id: &ModuleId, data: &[u8], last: bool) {
        let chunk = Chunk { module_id: id.as_str().to_owned(), data: data.to_vec(), last };
        let message = Some(host_message::Message::Chunk(chunk));
        self.outbox.send(HostMessage { message }).await.unwrap();
    }

    /// Everything, in pieces.
    async fn upload(&self, id: &ModuleId, data: &[u8], piece: usize) {
        let pieces: Vec<&[u8]> = data.chunks(piece).collect();
        for (i, piece) in pieces.iter().enumerate() {
            self.chunk(id, piece, i + 1 == pieces.len()).await;
        }
    }

    /// What the collector says next.
    async fn hears(&mut self) -> Said {
        let message = tokio::time::timeout(PATIENCE, self.incoming.message()).await.expect("an answer comes");
        match message.unwrap().unwrap().message.unwrap() {
            collector_message::Message::Want(want) => Said::Want(want.module_id),
            collector_message::Message::Have(have) => Said::Have(have.module_id),
            other => panic!("{other:?}"),
        }
    }
}

fn want(id: &ModuleId) -> Said {
    Said::Want(id.as_str().to_owned())
}

fn have(id: &ModuleId) -> Said {
    Said::Have(id.as_str().to_owned())
}

/// The debug info of a module, and the size that the first chunk announces.
async fn read(from: &Running, id: &ModuleId) -> Result<(Vec<u8>, u64), Status> {
    let request = DebugInfoRequest { module_id: id.as_str().to_owned() };
    let mut chunks = from.query().debug_info(request).await?.into_inner();
    let (mut data, mut size) = (Vec::new(), 0);
    while let Some(chunk) = chunks.message().await? {
        assert!(chunk.data.len() <= DEBUG_INFO_CHUNK);
        size += chunk.size;
        data.extend_from_slice(&chunk.data);
    }
    Ok((data, size))
}

/// What a host sends is what a reader gets, bit for bit; the second host that has it sends nothing.
#[tokio::test]
async fn debug_info_travels_from_host_to_reader() {
    let collector = start(Limits::default()).await;
    let module = guest();
    let id = ModuleId::of(&module);
    let compressed = zstd::bulk::compress(&module, 1).unwrap();
    assert_eq!(read(&collector, &id).await.unwrap_err().code(), Code::NotFound);

    let mut host = Agent::connect(&collector).await;
    host.offer(&id, module.len() as u64).await;
    assert_eq!(host.hears().await, want(&id));
    // A reader that asks while it is on its way waits for it.
    let (found, ()) = tokio::join!(read(&collector, &id), host.upload(&id, &compressed, DEBUG_INFO_CHUNK));
    let (data, size) = found.unwrap();
    assert!(data == compressed && size == module.len() as u64);
    assert_eq!(host.hears().await, have(&id));

    let mut second = Agent::connect(&collector).await;
    second.offer(&id, module.len() as u64).await;
    assert_eq!(second.hears().await, have(&id));
    let mut rows = collector.watch(Selection::default()).await;
    assert_eq!(rows.next().await.pipeline.unwrap().modules, 1);
    let malformed = DebugInfoRequest { module_id: "../../etc/passwd".into() };
    let refused = collector.query().debug_info(malformed).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

/// Where there is a data directory, debug info outlives the collector; what somebody removed there is not found, and
/// taken again.
#[tokio::test]
async fn debug_info_is_there_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let config = || Config { data: Some(data.path().to_owned()), ..Config::default() };
    let module = guest();
    let id = ModuleId::of(&module);
    let compressed = zstd::bulk::compress(&module, 1).unwrap();
    let collector = start_with(config()).await;
    let mut host = Agent::connect(&collector).await;
    host.offer(&id, module.len() as u64).await;
    assert_eq!(host.hears().await, want(&id));
    host.upload(&id, &compressed, DEBUG_INFO_CHUNK).await;
    assert_eq!(host.hears().await, have(&id));
    assert!(read(&collector, &id).await.unwrap().0 == compressed);
    drop(host);
    collector.stop().await.unwrap();

    let collector = start_with(config()).await;
    assert!(read(&collector, &id).await.unwrap() == (compressed.clone(), module.len() as u64));
    let mut host = Agent::connect(&collector).await;
    host.offer(&id, module.len() as u64).await;
    assert_eq!(host.hears().await, have(&id), "nobody has to send it again");
    drop(host);
    for file in std::fs::read_dir(data.path().join("debug")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert_eq!(read(&collector, &id).await.unwrap_err().code(), Code::NotFound);
    let mut host = Agent::connect(&collector).await;
    host.offer(&id, module.len() as u64).await;
    assert_eq!(host.hears().await, want(&id));
    collector.stop().await.unwrap();
}

/// A host that dies in the middle of an upload costs nothing: the next one that has the module is asked.
#[tokio::test]
async fn a_cut_upload_is_taken_from_another_host() {
    let collector = start(Limits::default()).await;
    let module = guest();
    let id = ModuleId::of(&module);
    let compressed = zstd::bulk::compress(&module, 1).unwrap();
    let mut dying = Agent::connect(&collector).await;
    let mut other = Agent::connect(&collector).await;
    dying.offer(&id, module.len() as u64).await;
    assert_eq!(dying.hears().await, want(&id));
    other.offer(&id, module.len() as u64).await;
    dying.chunk(&id, &compressed[..compressed.len() / 2], false).await;
    drop(dying);
    assert_eq!(other.hears().await, want(&id));
    other.upload(&id, &compressed, 100_000).await;
    assert_eq!(other.hears().await, have(&id));
    assert!(read(&collector, &id).await.unwrap().0 == compressed);
}

/// Bombs, rubbish and the debug info of another module are not kept, and do not stop an honest host.
#[tokio::test]
async fn what_does_not_hold_up_is_not_kept() {
    let collector = start(Limits::default()).await;
    let mut with_id = guest();
    with_id.extend_from_slice(b"\0\x0d\x08build_id\x03\xab\xcd\xef");
    let id = ModuleId::parse("abcdef").unwrap();
    let honest = zstd::bulk::compress(&with_id, 1).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 100 << 20], 1).unwrap();
    let other_module = zstd::bulk::compress(&guest(), 1).unwrap();
    let size = with_id.len() as u64;
    for (what, data, size) in [
        ("a bomb", bomb.as_slice(), size),
        ("rubbish", b"rubbish".as_slice(), size),
        ("another module", other_module.as_slice(), guest().len() as u64),
        ("twice the same", &[honest.as_slice(), honest.as_slice()].concat(), size),
    ] {
        let mut host = Agent::connect(&collector).await;
        host.offer(&id, size).await;
        assert_eq!(host.hears().await, want(&id), "{what}");
        host.upload(&id, data, DEBUG_INFO_CHUNK).await;
        assert_eq!(host.hears().await, have(&id), "{what}");
        assert_eq!(read(&collector, &id).await.unwrap_err().code(), Code::NotFound, "{what}");
    }
    let mut host = Agent::connect(&collector).await;
    host.offer(&id, size).await;
    assert_eq!(host.hears().await, want(&id));
    host.upload(&id, &honest, DEBUG_INFO_CHUNK).await;
    assert_eq!(host.hears().await, have(&id));
    assert!(read(&collector, &id).await.unwrap().0 == honest);
    assert_eq!(collector.account.modules_refused(), 4);
}

/// A stream that does not begin with who it is, or that names no module, ends with a reason.
#[tokio::test]
async fn a_stream_that_breaks_the_rules_ends() {
    let collector = start(Limits::default()).await;
    let (outbox, messages) = mpsc::channel(4);
    let chunk = host_message::Message::Chunk(Chunk::default());
    outbox.send(HostMessage { message: Some(chunk) }).await.unwrap();
    let mut incoming = collector.agent().connect(ReceiverStream::new(messages)).await.unwrap().into_inner();
    assert_eq!(incoming.message().await.unwrap_err().code(), Code::InvalidArgument);

    let mut host = Agent::connect(&collector).await;
    let offer = Offer { module_id: "\u{1b}[2J".into(), size: 5, ..Offer::default() };
    let message = Some(host_message::Message::Offer(offer));
    host.outbox.send(HostMessage { message }).await.unwrap();
    assert_eq!(host.incoming.message().await.unwrap_err().code(), Code::InvalidArgument);
}

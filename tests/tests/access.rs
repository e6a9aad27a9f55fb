//! TLS, tokens and settings from end to end: the real collector, a real host, certificates of an authority of its own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sandscope_tests::{Background, guest, output, sandscope, stderr, stdout};

const PATIENCE: Duration = Duration::from_secs(60);
const WRITER: &str = "token-of-the-hosts-here";
const READER: &str = "token-of-the-readers-here";

/// A collector with all that it says.
struct Collector {
    process: Background,
    lines: Receiver<String>,
    otlp: SocketAddr,
    http: SocketAddr,
}

impl Collector {
    fn start(flags: &[&str]) -> Self {
        let ports = ["--otlp-listen", "--otlp-http-listen", "--query-listen", "--http-listen"];
        let ports = ports.iter().flat_map(|flag| [*flag, "127.0.0.1:0"]);
        let args: Vec<&str> = std::iter::once("collect").chain(ports).chain(flags.iter().copied()).collect();
        let mut command = sandscope(&args);
        let mut process = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(process.stderr.take().unwrap()).lines();
        let (send, lines) = channel();
        std::thread::spawn(move || said.map_while(Result::ok).for_each(|line| drop(send.send(line))));
        let process = Background(process);
        let address = |line: &str, after: &str| -> SocketAddr {
            let rest = line.split(after).nth(1).unwrap();
            rest.split([',', ' ', '/']).next().unwrap().parse().unwrap()
        };
        let (mut otlp, mut http) = (None, None);
        loop {
            let line = lines.recv_timeout(PATIENCE).expect("it starts");
            if line.contains("OTLP/gRPC on ") {
                otlp = Some(address(&line, "OTLP/gRPC on "));
            } else if line.contains("symbols push") {
                http = Some(address(&line, "://"));
            } else if line.contains("log: ") {
                return Self { process, lines, otlp: otlp.unwrap(), http: http.unwrap() };
            }
        }
    }

    /// Tells it to read credentials again; what it says then, up to a line that holds `last`.
    fn reload(&self, last: &str) -> String {
        let pid = self.process.0.id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
        let mut said = String::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {last:?}: {said}"));
            said += &line;
            if line.contains(last) {
                return said;
            }
        }
    }
}

/// Settings with a certificate, a CA and two tokens, in a directory.
struct Setup {
    directory: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        let setup = Self { directory };
        setup.write("ca.pem", &ca.pem());
        setup.write("server.pem", &certificate.pem());
        setup.write("server.key", &key.serialize_pem());
        setup.write("writers", &format!("{WRITER}\n"));
        setup.write("readers", &format!("{READER}\n"));
        setup.write(
            "collector.toml",
            "[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n\
             [audit]\nfile = \"audit.jsonl\"\n\
             [[credential]]\nname = \"hosts\"\ntoken_file = \"writers\"\nroles = [\"write\"]\nregions = [\"eu\"]\n\
             [[credential]]\nname = \"people\"\ntoken_file = \"readers\"\nroles = [\"read\"]\n",
        );
        setup
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs a guest that sends to the collector; standard error.
    fn run(&self, collector: &Collector, region: &str, token_file: &str) -> String {
        let (url, ca, token) =
            (format!("https://{}", collector.otlp), self.path("ca.pem"), self.path(token_file));
        let crash = guest("crash");
        let flags = ["run", "--otlp", &url, "--ca", &ca, "--token-file", &token, "--region", region];
        let flags = flags.iter().copied().chain(["--", crash.to_str().unwrap(), "unreachable"]);
        let ran = sandscope(&flags.collect::<Vec<_>>()).stdin(Stdio::null()).output().unwrap();
        assert_eq!(ran.status.code(), Some(134), "{}", stderr(&ran));
        stderr(&ran)
    }

    /// Ids of the debug info that the collector has, as a reader sees them.
    fn list(&self, collector: &Collector, flags: &[&str]) -> Result<String, String> {
        let url = format!("https://{}", collector.http);
        let args = [&["symbols", "list", "--from", &url][..], flags].concat();
        let listed = output(&args);
        if listed.status.success() { Ok(stdout(&listed)) } else { Err(stderr(&listed)) }
    }
}

/// A host with a token delivers over TLS, debug info included, and only as its region; what a reader may see needs
/// another token; SIGHUP changes tokens, and a file that is broken changes nothing.
#[test]
fn a_host_with_a_token_delivers_over_tls() {
    let setup = Setup::new();
    let collector = Collector::start(&["--config", &setup.path("collector.toml")]);
    let (ca, readers, writers) = (setup.path("ca.pem"), setup.path("readers"), setup.path("writers"));
    let reading = ["--ca", &ca, "--token-file", &readers];

    // Nothing before: another's token, another's region.
    assert!(setup.run(&collector, "eu", "readers").contains("the role write is needed"));
    assert!(setup.run(&collector, "us", "writers").contains("\"us\" is not this sender's"));
    assert_eq!(setup.list(&collector, &reading).unwrap(), "");

    let said = setup.run(&collector, "eu", "writers");
    assert!(!said.contains("collector"), "{said}");
    assert_eq!(setup.list(&collector, &reading).unwrap().lines().count(), 1);

    // Neither without a token, nor with a sender's, nor where the certificate is nobody's that is known.
    let refused = setup.list(&collector, &["--ca", &ca]).unwrap_err();
    assert!(refused.contains("401"), "{refused}");
    let refused = setup.list(&collector, &["--ca", &ca, "--token-file", &writers]).unwrap_err();
    assert!(refused.contains("403"), "{refused}");
    let refused = setup.list(&collector, &["--token-file", &readers]).unwrap_err();
    assert!(refused.contains("talk to"), "{refused}");

    setup.write("readers", "token-of-other-readers\n");
    collector.reload("are read again");
    setup.list(&collector, &reading).unwrap();
    let old = setup.write("old", READER);
    let refused = setup.list(&collector, &["--ca", &ca, "--token-file", old.to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("401"), "{refused}");

    setup.write("server.pem", "no certificate");
    let said = collector.reload("stay as they were");
    assert!(said.contains("collector.toml:2:16, tls.certificate: "), "{said}");
    setup.list(&collector, &reading).unwrap();

    let audit = std::fs::read_to_string(setup.directory.path().join("audit.jsonl")).unwrap();
    assert!(audit.contains("\"who\":\"people\"") && audit.contains("\"outcome\":\"denied\""), "{audit}");
}

/// `--check` says what is in force and where it comes from, or what is wrong and where; a collector that would be open to
/// everybody does not start.
#[test]
fn settings_are_checked() {
    let setup = Setup::new();
    let config = setup.path("collector.toml");
    let checked = output(&["collect", "--config", &config, "--check", "--memory-limit", "64MiB"]);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    for line in ["memory_limit = 64MiB  (flag)", "log.age = 24h  (default)", "insecure = false  (default)"] {
        assert!(stdout(&checked).lines().any(|found| found == line), "{line}: {}", stdout(&checked));
    }
    setup.write("readers", "short\n");
    let checked = output(&["collect", "--config", &config, "--check"]);
    assert_eq!(checked.status.code(), Some(2));
    assert!(
        stderr(&checked).contains("collector.toml:13:15, credential.token_file: "),
        "{}",
        stderr(&checked)
    );
    let mistaken = setup.write("mistaken.toml", "[log]\nsize = \"much\"\n");
    let checked = output(&["collect", "--config", mistaken.to_str().unwrap(), "--check"]);
    assert_eq!(checked.status.code(), Some(2));
    assert!(stderr(&checked).contains("mistaken.toml:2:8, log.size: "), "{}", stderr(&checked));

    let open = output(&["collect", "--http-listen", "0.0.0.0:0"]);
    assert_eq!(open.status.code(), Some(2));
    assert!(stderr(&open).contains("needs TLS and credentials"), "{}", stderr(&open));
}

/// Prometheus' own tool finds nothing to say about `/metrics`.
#[test]
#[allow(clippy::print_stderr, reason = "a test says what it skips")]
fn promtool_reads_the_figures() {
    let mut tool = Command::new("promtool");
    tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let spawned = tool.spawn();
    let Ok(mut promtool) = spawned else {
        eprintln!("skipped: promtool (Debian package prometheus) is not installed");
        return;
    };
    let collector = Collector::start(&[]);
    let mut stream = TcpStream::connect(collector.http).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, text) = answer.split_once("\r\n\r\n").unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    assert!(checked.status.success(), "{}{}\n{text}", stdout(&checked), stderr(&checked));
    assert_eq!((stdout(&checked), stderr(&checked)), (String::new(), String::new()));
}

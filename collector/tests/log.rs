//! The log behind a collector and on real files: restarts, requests that come again, no room, and old versions.

mod common;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use common::{Host, NoNames, row, start_with};
use sandscope_collector::log::{
    AppendError, Appended, Entry, Key, Kind, Log as _, Page, Position, SegmentLog, Settings, WhenFull,
};
use sandscope_collector::{Config, Limits};
use sandscope_model::ModuleId;
use sandscope_proto::dedup;
use sandscope_proto::otlp::profiles;
use sandscope_proto::query::Selection;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn settings(bytes: u64, when_full: WhenFull) -> Settings {
    Settings::new(bytes, DAY, when_full)
}

/// A log that is opened right after another of the same process was stopped.
fn open(directory: &Path, settings: Settings) -> SegmentLog {
    SegmentLog::open(directory, settings).unwrap()
}

fn entry(sequence: u64, payload: impl Into<Bytes>) -> Entry {
    let key = Key::new("node-1", "boot-1", sequence);
    Entry::new(Kind::Traces, 1_800_000_000_000_000_000 + sequence, key, payload.into())
}

/// Bytes that do not compress.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

async fn everything(log: &SegmentLog) -> Page {
    log.read(Position::OLDEST, usize::MAX).await.unwrap()
}

/// After a restart the rows of the last minutes are back, and counters go on where they were.
#[tokio::test]
async fn a_restart_remembers() {
    let data = tempfile::tempdir().unwrap();
    let config = || Config { data: Some(data.path().to_owned()), ..Config::default() };
    let mut host = Host::new("eu-1", "boot-1", "image");
    let module = ModuleId::parse("ab").unwrap();
    let collector = start_with(config()).await;
    host.call(7);
    host.report(&collector, 10).await;
    host.call(1);
    host.report(&collector, 20).await;
    host.send_profile(&collector, host.profile(&module, &[(&[1, 2], 3)])).await;
    collector.stop().await.unwrap();

    let collector = start_with(config()).await;
    let mut rows = collector.watch(Selection::default()).await;
    rows.until(|rows| row(rows, "eu-1", "image").is_some_and(|row| row.samples == Some(3))).await;
    assert_eq!(row(&rows.rows, "eu-1", "image").unwrap().calls, Some(8));
    host.call(2);
    host.report(&collector, 30).await;
    rows.until(|rows| row(rows, "eu-1", "image").is_some_and(|row| row.calls == Some(10))).await;
    collector.stop().await.unwrap();
}

/// A request of a host of ours that comes again, before or after a restart, is answered with success and counted once.
#[tokio::test]
async fn a_request_counts_once() {
    let data = tempfile::tempdir().unwrap();
    let config = || Config { data: Some(data.path().to_owned()), ..Config::default() };
    let host = Host::new("eu-1", "boot-1", "image");
    let batch = host.profile(&ModuleId::parse("ab").unwrap(), &[(&[1, 2], 3)]);
    let request = || {
        let mut request =
            Request::new(profiles::to_otlp(&host.resource, std::slice::from_ref(&batch), &NoNames));
        request.metadata_mut().insert(dedup::HOST, "node-1".parse().unwrap());
        request.metadata_mut().insert(dedup::BOOT, "boot-1".parse().unwrap());
        request.metadata_mut().insert(dedup::SEQUENCE, 5.into());
        request
    };
    let collector = start_with(config()).await;
    collector.profiles().export(request()).await.unwrap();
    collector.profiles().export(request()).await.unwrap();
    assert_eq!((collector.account.acked(), collector.account.duplicates()), (2, 1));
    collector.stop().await.unwrap();
    let collector = start_with(config()).await;
    collector.profiles().export(request()).await.unwrap();
    assert_eq!(collector.account.duplicates(), 1);
    let mut rows = collector.watch(Selection::default()).await;
    rows.until(|rows| row(rows, "eu-1", "image").is_some_and(|row| row.samples == Some(3))).await;
    collector.stop().await.unwrap();
}

/// A log that is full of what a consumer has yet to read tells senders to come again, says when, and takes their
/// requests when the consumer has read.
#[tokio::test]
async fn a_full_log_pushes_back() {
    let data = tempfile::tempdir().unwrap();
    let small = || settings(64 << 10, WhenFull::Refuse);
    let log = open(data.path(), small());
    log.cursor("follower", Position::OLDEST).await.unwrap();
    log.stop().await;
    drop(log);
    let config = || Config { data: Some(data.path().to_owned()), log: small(), ..Config::default() };
    let collector = start_with(Config { limits: Limits::default(), ..config() }).await;
    let mut host = Host::new("eu-1", "boot-1", "image");
    let refused = async {
        loop {
            host.call(1);
            if let Err(status) = collector.metrics().export(host.batch(10).to_otlp()).await {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(common::PATIENCE, refused).await.expect("it becomes full");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let retry = status.get_error_details().retry_info().and_then(|info| info.retry_delay);
    assert!(retry.is_some_and(|delay| !delay.is_zero()), "{status:?}");
    let acked = collector.account.acked();
    assert!(acked > 10 && collector.account.refused_requests() > 0);
    collector.stop().await.unwrap();

    let log = open(data.path(), small());
    let page = everything(&log).await;
    assert_eq!((page.records.len() as u64, log.dropped()), (acked, 0));
    log.advance("follower", page.next).await.unwrap();
    let again = log.append(entry(1, "room")).await.unwrap();
    assert!(matches!(again, Appended::Stored(_)));
    log.stop().await;
}

/// What no log of this size ever has room for is refused for good: its sender would come again for ever.
#[tokio::test]
async fn what_never_fits_is_refused_for_good() {
    let data = tempfile::tempdir().unwrap();
    let log = open(data.path(), settings(64 << 10, WhenFull::Refuse));
    let refused = log.append(entry(1, noise(65 << 10, 1))).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{refused:?}");
    log.append(entry(2, noise(1 << 10, 2))).await.unwrap();
    log.stop().await;
}

/// Told to drop the oldest, it goes on, and what is not there was counted.
#[tokio::test]
async fn the_oldest_is_dropped_where_that_is_wanted() {
    let data = tempfile::tempdir().unwrap();
    let log = open(data.path(), settings(64 << 10, WhenFull::DropOldest));
    log.cursor("history", Position::OLDEST).await.unwrap();
    for sequence in 1..=100 {
        log.append(entry(sequence, noise(2000, sequence))).await.unwrap();
    }
    let page = everything(&log).await;
    assert!(log.dropped() > 0 && page.lost.records == 0);
    assert_eq!(page.records.len() as u64 + log.dropped(), 100);
    let sizes = std::fs::read_dir(data.path()).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    let cursors = 8 << 10;
    assert!(sizes.sum::<u64>() <= (64 << 10) + cursors);
    log.stop().await;
}

/// Bytes of another log inside a request are never taken for records, also where the log is searched for them.
#[tokio::test]
async fn a_payload_is_no_record() {
    let (other, data) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let segment = Path::new("0000000001.segment");
    let log = open(other.path(), settings(1 << 20, WhenFull::Refuse));
    for sequence in 1..=3 {
        log.append(entry(sequence, noise(3000, sequence))).await.unwrap();
    }
    log.stop().await;
    let forged = std::fs::read(other.path().join(segment)).unwrap();
    let log = open(data.path(), settings(1 << 20, WhenFull::Refuse));
    log.append(entry(10, forged)).await.unwrap();
    log.append(entry(11, "honest")).await.unwrap();
    log.stop().await;
    drop(log);
    let mut bytes = std::fs::read(data.path().join(segment)).unwrap();
    bytes[4096 + 20] ^= 1;
    std::fs::write(data.path().join(segment), bytes).unwrap();
    let log = open(data.path(), settings(1 << 20, WhenFull::Refuse));
    assert_eq!((log.recovery().records, log.recovery().lost.records), (1, 1));
    let page = everything(&log).await;
    assert_eq!(
        page.records.iter().map(|stored| stored.entry.clone()).collect::<Vec<_>>(),
        [entry(11, "honest")]
    );
    log.stop().await;
}

/// A directory has one collector at a time.
#[tokio::test]
async fn two_collectors_do_not_share_a_log() {
    let data = tempfile::tempdir().unwrap();
    let _first = open(data.path(), Settings::default());
    let second = SegmentLog::open(data.path(), Settings::default()).map(drop).unwrap_err();
    assert!(format!("{second:?}").contains("another collector"), "{second:?}");
}

/// What the samples of each version hold.
fn sample() -> Vec<Entry> {
    let plain = Entry::new(Kind::Metrics, 1_800_000_000_000_000_000, None, Bytes::from_static(b"plain"));
    let packed = Entry { kind: Kind::Profiles, ..entry(7, vec![b'x'; 2000]) };
    let claimed =
        Entry { region: "eu-1".into(), tenant: "acme".into(), kind: Kind::Logs, ..entry(8, "claimed") };
    vec![plain, packed, claimed, entry(9, "after a restart")]
}

/// Whatever changes, the logs of earlier releases open with what is in them. `BLESS=1` writes that of the present
/// version if it is not there; it never changes one that is.
#[tokio::test]
async fn logs_of_every_version_open() {
    let versions = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let present = versions.join("log-v1");
    if std::env::var_os("BLESS").is_some() && !present.exists() {
        let (first, last) = (&sample()[..3], &sample()[3..]);
        for entries in [first, last] {
            let log = open(&present, Settings::default());
            for entry in entries {
                log.append(entry.clone()).await.unwrap();
            }
            let second = everything(&log).await.records[1].position;
            log.cursor("history", second).await.unwrap();
            log.stop().await;
        }
    }
    let kept = std::fs::read_dir(versions).unwrap().map(Result::unwrap);
    for version in kept.filter(|version| version.file_name().to_string_lossy().starts_with("log-")) {
        let data = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(version.path()).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), data.path().join(file.file_name())).unwrap();
        }
        let log = open(data.path(), Settings::default());
        assert_eq!((log.recovery().records, log.recovery().lost.records), (4, 0));
        let entries: Vec<Entry> =
            everything(&log).await.records.into_iter().map(|stored| stored.entry).collect();
        assert_eq!(entries, sample());
        let unread = log.cursor("history", Position::OLDEST).await.unwrap();
        assert_eq!(log.read(unread, usize::MAX).await.unwrap().records.len(), 3);
        assert_eq!(log.append(entry(8, "claimed")).await.unwrap(), Appended::Duplicate);
        assert!(matches!(log.append(entry(10, "new")).await.unwrap(), Appended::Stored(_)));
        log.stop().await;
    }
}

/// A small file system that is unmounted when the test ends.
#[cfg(target_os = "linux")]
struct Tmpfs(tempfile::TempDir);

#[cfg(target_os = "linux")]
impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "sandscope-test"]).arg(folder.path());
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).status();
    }
}

/// A disk that is full refuses, and takes again what was refused when there is space: nothing acknowledged is missing.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_recovers() {
    let Some(disk) = Tmpfs::mount("1m") else {
        #[allow(clippy::print_stderr, reason = "tests say what they skip")]
        {
            eprintln!("SKIPPED: mounting a file system takes root");
        }
        return;
    };
    let (filler, data) = (disk.0.path().join("filler"), disk.0.path().join("data"));
    std::fs::write(&filler, vec![0; 600 << 10]).unwrap();
    let log = open(&data, Settings::default());
    let mut acked = Vec::new();
    let mut refused = 0;
    for sequence in 1..=200 {
        match log.append(entry(sequence, noise(4000, sequence))).await {
            Ok(_) => acked.push(sequence),
            Err(AppendError::Disk { source }) if source.kind() == std::io::ErrorKind::StorageFull => {
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0 && acked.len() > 20, "{refused} refused, {} acknowledged", acked.len());
    std::fs::remove_file(&filler).unwrap();
    let last = 300;
    for sequence in 201..=last {
        log.append(entry(sequence, noise(1000, sequence))).await.unwrap();
        acked.push(sequence);
    }
    log.stop().await;
    drop(log);
    let log = open(&data, Settings::default());
    let page = everything(&log).await;
    let found: Vec<Entry> = page.records.into_iter().map(|stored| stored.entry).collect();
    let size = |sequence| if sequence > 200 { 1000 } else { 4000 };
    let expected: Vec<Entry> = acked.iter().map(|&n| entry(n, noise(size(n), n))).collect();
    assert_eq!((found == expected, page.lost.records), (true, 0));
    log.stop().await;
}

//! The audit log: a line of JSON for each denied request and each read of guests' data. A line is in the file before
//! the request is answered. At a size the file gets the suffix `.1`, in place of the one that had it, and a new one
//! begins.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sandscope_model::text::visible;

use super::AccessError;

/// Longest text of a peer in a line, in bytes.
const MAX_TEXT: usize = 256;

/// Where it is, and how large it may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// The file.
    pub file: PathBuf,
    /// Bytes after which a new one begins; both files together may have twice as many.
    pub size: u64,
}

pub(super) struct Audit(Option<Mutex<Log>>);

struct Log {
    settings: AuditSettings,
    file: File,
    written: u64,
}

impl Audit {
    pub(super) fn open(settings: Option<&AuditSettings>) -> Result<Self, AccessError> {
        let Some(settings) = settings.cloned() else { return Ok(Self(None)) };
        let open = || {
            let file = append(&settings.file)?;
            let written = file.metadata()?.len();
            Ok((file, written))
        };
        let (file, written) =
            open().map_err(|source| AccessError::Audit { path: settings.file.clone(), source })?;
        Ok(Self(Some(Mutex::new(Log { settings, file, written }))))
    }

    /// Writes a line; false if it could not be written. Without a file there is nothing to write.
    pub(super) fn write(
        &self,
        who: Option<&str>,
        peer: SocketAddr,
        what: &str,
        outcome: &str,
        reason: &str,
    ) -> bool {
        let Some(log) = &self.0 else { return true };
        let cut = |text: &str| visible(&text[..text.floor_char_boundary(MAX_TEXT)]).to_string();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = serde_json::json!({
            "time": time.as_secs_f64(),
            "outcome": outcome,
            "who": who.map(cut),
            "peer": peer.to_string(),
            "what": cut(what),
            "reason": (!reason.is_empty()).then(|| cut(reason)),
        });
        // A panic between two writes leaves a file that is as good as any.
        log.lock().unwrap_or_else(PoisonError::into_inner).write(&format!("{line}\n")).is_ok()
    }
}

impl Log {
    fn write(&mut self, line: &str) -> io::Result<()> {
        if self.written > 0 && self.written + line.len() as u64 > self.settings.size {
            let mut old = self.settings.file.clone().into_os_string();
            old.push(".1");
            std::fs::rename(&self.settings.file, old)?;
            self.file = append(&self.settings.file)?;
            self.written = 0;
        }
        self.file.write_all(line.as_bytes())?;
        self.written += line.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However much is denied, two files of the size are all that there is, and the latest lines are in them.
    #[test]
    fn it_is_bounded_and_its_lines_are_json() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("audit.log");
        let audit = Audit::open(Some(&AuditSettings { file: file.clone(), size: 2000 })).unwrap();
        let peer = "127.0.0.1:1".parse().unwrap();
        for number in 0..100 {
            assert!(audit.write(None, peer, &format!("GET /{number}\u{1b}[2J"), "denied", "no"));
        }
        let mut names: Vec<_> =
            directory.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["audit.log", "audit.log.1"]);
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.len() <= 2000 && !text.contains('\u{1b}'), "{text}");
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert!(last["what"].as_str().unwrap().starts_with("GET /99"), "{last}");
        assert_eq!((&last["who"], &last["outcome"]), (&serde_json::Value::Null, &"denied".into()));
    }
}

//! A store in a directory. A file with several ids is one file with several names, where the file system can.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use sandscope_model::{FileIds, ModuleId};
use sandscope_proto::MAX_DEBUG_INFO;

use super::{Held, StoreError, check};
use crate::values::user_directory;

/// A directory with debug info by id.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Nothing is created or read yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// The user's: `sandscope/symbols` in `XDG_DATA_HOME`, by default `~/.local/share`; without a home, in the
    /// current directory.
    pub fn of_user() -> Self {
        let data = user_directory("XDG_DATA_HOME", ".local/share");
        Self::new(data.unwrap_or_default().join("sandscope/symbols"))
    }

    fn path(&self, id: &ModuleId) -> PathBuf {
        // An id is hex digits with at most a prefix and a colon: never a path.
        self.root.join("buildid").join(id.as_str()).join("debuginfo")
    }

    /// Stores a file under each of its ids. What is there stays whole until what comes is whole.
    ///
    /// # Errors
    /// A disk that is full or not writable.
    pub fn push(&self, ids: &FileIds, bytes: &[u8]) -> Result<(), StoreError> {
        let first = self.path(&ids.module);
        self.replace(&first, |file| {
            let mut file = fs::File::create_new(file)?;
            file.write_all(bytes)?;
            file.sync_all()
        })?;
        for other in ids.all().skip(1) {
            self.replace(&self.path(other), |file| {
                fs::hard_link(&first, file).or_else(|_| fs::copy(&first, file).map(drop))
            })?;
        }
        Ok(())
    }

    /// Makes a file beside its place and moves it there.
    fn replace(
        &self,
        path: &Path,
        make: impl FnOnce(&Path) -> std::io::Result<()>,
    ) -> Result<(), StoreError> {
        let error = |source| StoreError::Disk { what: "write to", path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(error)?;
        }
        let new = path.with_extension(format!("{}.new", std::process::id()));
        // One of a process with our number that was killed.
        let _ = fs::remove_file(&new);
        make(&new).and_then(|()| fs::rename(&new, path)).map_err(|source| {
            let _ = fs::remove_file(&new);
            error(source)
        })?;
        // Renaming a name of a file onto another name of it leaves both.
        let _ = fs::remove_file(&new);
        Ok(())
    }

    /// The debug info of an id; `None` if it is not here.
    ///
    /// # Errors
    /// A file that cannot be read, is too large, or has another id.
    pub fn fetch(&self, id: &ModuleId) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(id);
        let error = |source| StoreError::Disk { what: "read", path: path.clone(), source };
        let place = || path.display().to_string();
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(none) if none.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(error(source)),
        };
        let size = file.metadata().map_err(error)?.len();
        if size > MAX_DEBUG_INFO {
            return Err(StoreError::TooLarge { place: place(), size });
        }
        let mut bytes = Vec::new();
        file.take(MAX_DEBUG_INFO).read_to_end(&mut bytes).map_err(error)?;
        check(place(), id, &bytes)?;
        Ok(Some(bytes))
    }

    /// What is here, by id, each file once. An empty list if the directory does not exist.
    ///
    /// # Errors
    /// A directory that cannot be read.
    pub fn list(&self) -> Result<Vec<Held>, StoreError> {
        let folder = self.root.join("buildid");
        let error = |source| StoreError::Disk { what: "read", path: folder.clone(), source };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(none) if none.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(error(source)),
        };
        let mut out = Vec::new();
        for entry in entries {
            let name = entry.map_err(error)?.file_name();
            let Some(id) = name.to_str().and_then(ModuleId::parse) else { continue };
            // The other name of a file that is listed already.
            if id.as_str().starts_with("code:") {
                continue;
            }
            if let Ok(file) = fs::metadata(self.path(&id)) {
                out.push(Held { id, size: file.len() });
            }
        }
        out.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(out)
    }
}

//! What the log needs of a file system, and the real one. Small on purpose: every call here is one that the
//! simulation can lose, tear or reorder.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// One flat directory of files.
pub(crate) trait Disk: Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;
    /// Names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new, empty file; an error if there is one. It may be gone after a power cut until [`Self::sync`].
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// A file that exists, to read and write.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Takes a name away.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes durable which names there are. Says nothing of what the files hold.
    fn sync(&self) -> io::Result<()>;
}

/// A file of a [`Disk`].
pub(crate) trait DiskFile: Send {
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads from an offset; fewer bytes than asked for only at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of it, or fails with any part of it written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts it to this size.
    fn truncate(&mut self, size: u64) -> io::Result<()>;
    /// Makes durable what it holds. After a failure nobody knows what of it is.
    fn sync(&mut self) -> io::Result<()>;
}

/// Name of the file whose lock says that a directory is in use.
const LOCK: &str = "lock";

/// A directory of a file system, held by one process at a time.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: fs::File,
}

impl Directory {
    /// Takes a directory, made if it does not exist. Nobody else may read it: it holds telemetry of all tenants.
    pub(crate) fn take(path: &Path) -> io::Result<Self> {
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(path)?;
        // The directory's own name is in the one above; where that may not be opened, it was not made just now.
        if let Some(Ok(parent)) = path.canonicalize()?.parent().map(fs::File::open) {
            parent.sync_all()?;
        }
        let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::other("another collector uses it"),
            fs::TryLockError::Error(error) => error,
        })?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

impl Disk for Directory {
    type File = fs::File;

    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn create(&self, name: &str) -> io::Result<fs::File> {
        fs::OpenOptions::new().create_new(true).read(true).write(true).open(self.path.join(name))
    }

    fn open(&self, name: &str) -> io::Result<fs::File> {
        fs::OpenOptions::new().read(true).write(true).open(self.path.join(name))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        #[cfg(unix)]
        fs::File::open(&self.path)?.sync_all()?;
        Ok(())
    }
}

impl DiskFile for fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = self;
        file.seek(SeekFrom::Start(offset))?;
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        self.write_all(bytes)
    }

    fn truncate(&mut self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

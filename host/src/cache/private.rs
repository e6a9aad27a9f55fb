//! Files that only this user can have written: how they are opened, and what is refused.
//!
//! # Security
//! Owner and mode are read from the open descriptor, so nothing can be exchanged between the check and the
//! use. Access lists that let others write show in the mode's group bits.

use std::fs::File;
use std::path::Path;

use super::CacheError;

/// What is at a path.
pub(crate) enum Found {
    /// A regular file of this user that nobody else can write to.
    File(File),
    /// Something else.
    Untrusted,
    /// No file, or one that cannot be opened now.
    Nothing,
}

#[cfg(unix)]
mod system {
    use std::fs::{DirBuilder, OpenOptions};
    use std::io;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};

    use super::{CacheError, File, Found, Path};

    pub(super) fn directory(path: &Path) -> Result<(), CacheError> {
        let failed = |source| CacheError::Directory { path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let mut options = OpenOptions::new();
        let opened = options.read(true).custom_flags(libc::O_DIRECTORY).open(path).map_err(failed)?;
        let metadata = opened.metadata().map_err(failed)?;
        if metadata.uid() != user() {
            return Err(CacheError::Foreign { path: path.to_owned() });
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(CacheError::Open { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
        }
        Ok(())
    }

    pub(super) fn open(path: &Path) -> Found {
        // A link could lead to anything, and a pipe would wait for a writer.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Found::Untrusted,
            Err(_) => return Found::Nothing,
        };
        let Ok(metadata) = file.metadata() else { return Found::Nothing };
        let private = metadata.is_file() && metadata.uid() == user() && metadata.mode() & 0o022 == 0;
        if private { Found::File(file) } else { Found::Untrusted }
    }

    pub(super) fn create(path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    }

    fn user() -> u32 {
        // SAFETY: reads an id of the process; it has no preconditions and cannot fail.
        unsafe { libc::geteuid() }
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;

    use super::{CacheError, File, Found, Path};

    pub(super) fn directory(path: &Path) -> Result<(), CacheError> {
        Err(CacheError::Directory { path: path.to_owned(), source: io::ErrorKind::Unsupported.into() })
    }

    pub(super) fn open(_: &Path) -> Found {
        Found::Nothing
    }

    pub(super) fn create(_: &Path) -> io::Result<File> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Creates the directory with mode 0700 if it is not there, and refuses one that others can write to.
pub(crate) fn directory(path: &Path) -> Result<(), CacheError> {
    system::directory(path)
}

/// Opens a file, if it is one that only this user can have written.
pub(crate) fn open(path: &Path) -> Found {
    system::open(path)
}

/// Creates a file with mode 0600 that was not there before.
pub(crate) fn create(path: &Path) -> std::io::Result<File> {
    system::create(path)
}

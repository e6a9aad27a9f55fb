//! Systems without sockets in the file system: nobody can ask for a capture.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::scope::Shared;

/// Never there.
pub(crate) struct Listener(Infallible);

impl Listener {
    pub(crate) fn bind(_: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[expect(clippy::unused_async, reason = "as on systems that have them")]
    pub(crate) async fn serve(self, _: Arc<Shared>) {
        match self.0 {}
    }
}

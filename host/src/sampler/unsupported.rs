//! In place of the sampler where there is none: it says so, and the rest works without samples.

use super::Unavailable;
use super::thread::ThreadState;

/// A timer, of which there are none.
pub(super) enum Timer {}

impl Timer {
    pub(super) fn start(_hz: f64, _cookie: *const ThreadState) -> Option<Self> {
        None
    }

    pub(super) fn set(&self, _hz: f64) -> bool {
        match *self {}
    }
}

pub(super) fn install() -> Result<(), Unavailable> {
    Err(Unavailable::Platform { os: std::env::consts::OS, arch: std::env::consts::ARCH })
}

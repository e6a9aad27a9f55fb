//! In place of `stack.rs` where the engine takes no stacks of ours: nothing is measured.

/// A stack, of which there are none.
pub(crate) enum Made {}

impl Made {
    pub(crate) fn forget() {}

    pub(crate) fn take() -> Option<Self> {
        None
    }

    pub(crate) fn used(&self) -> Option<u64> {
        match *self {}
    }
}

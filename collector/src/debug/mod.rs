//! Debug info by module id: what is held, what is wanted of whom, and whether an upload is what it says.

mod store;
mod verify;

pub(crate) use store::{Candidate, Effect, HostId, Input, Message, Store};
pub(crate) use verify::verify;

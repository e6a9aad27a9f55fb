//! Debug info by module id: what is held, what is wanted of whom, whether an upload is what it says, and the directory
//! that it is kept in.

mod shelf;
mod store;
mod verify;

pub(crate) use shelf::{Shelf, Stored};
pub(crate) use store::{Candidate, Effect, Found, HostId, Input, Message, Store};
pub(crate) use verify::verify;

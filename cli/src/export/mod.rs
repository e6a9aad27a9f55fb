//! Formats of tools on a desktop, which nothing but the command needs; `sandscope_recording::export` has those
//! that travel.

pub mod firefox;
pub mod otlp;
pub mod perfetto;

//! One file per command; what they share about hosts and guests is here.

pub mod addr2line;
pub mod capture;
mod capture_remote;
pub mod collect;
pub mod diff;
pub mod export;
pub mod query;
pub mod recording;
pub mod report;
pub mod run;
pub mod serve;
pub mod symbolize;
pub mod symbols;
pub mod trap;
pub mod ui;

use std::path::PathBuf;

use sandscope_host::runner::{Grants, Stdio};
use sandscope_host::{Recordings, Redaction, Sandscope, SpoolSettings};
use sandscope_model::text::visible;

use crate::args::{Clock, Flight, Given, Identity, Memory, ModuleCache};
use crate::problem::{Problem, chain};

/// What of guests' memory goes into the recording of the run, and into those of the flight recorder.
#[derive(Clone, Copy, Debug)]
pub struct Dumped {
    pub record: Memory,
    pub recordings: Memory,
}

/// Starts the instrumented host that the flags describe. Warnings go to stderr, each once.
pub fn scope(
    identity: &Identity,
    cache: &ModuleCache,
    dumped: Dumped,
    flight: &Flight,
) -> Result<Sandscope, Problem> {
    let redaction = Redaction::new(&flight.redact).map_err(|error| Problem::usage(chain(&error)))?;
    let mut builder = Sandscope::builder()
        .service(&identity.service)
        .region(&identity.region)
        .hz(identity.hz)
        .allocations(identity.alloc)
        .clock(match identity.clock {
            Clock::Cpu => sandscope_host::Clock::Cpu,
            Clock::Wall => sandscope_host::Clock::Wall,
        })
        .dumped_memory(dumped.record.into())
        .guest_output(flight.record_output)
        .redact(redaction)
        .spool(SpoolSettings { directory: identity.spool.clone(), limit: identity.spool_size as u64 })
        .interval(identity.interval)
        .metrics_facade(true)
        .upload_recordings(flight.upload_recordings)
        .on_recording(|path, why| {
            eprintln!("recording of {}: {1}  (sandscope open {1})", visible(why), path.display());
        })
        .on_warning(|warning| eprintln!("sandscope: {}", visible(&warning.to_string())));
    if let Some(url) = &identity.otlp {
        builder = builder.otlp(url).credentials(identity.reach.credentials()?);
    }
    if let Some(path) = &identity.record {
        builder = builder.record(path);
    }
    if let Some(directory) = cache.cache.as_ref().filter(|_| !cache.no_cache) {
        builder = builder.module_cache(directory);
    }
    if let Some(directory) = &flight.recordings {
        builder = builder.recordings(Recordings {
            directory: directory.clone(),
            window: flight.recorder_window,
            memory: flight.recorder_size,
            directory_limit: flight.recordings_limit as u64,
            triggers: flight.triggers.clone(),
            dumped_memory: dumped.recordings.into(),
        });
    } else if !flight.triggers.is_empty() {
        return Err(Problem::usage("record what triggers are met")
            .next("Say where recordings go with --recordings DIR."));
    }
    if let Some(socket) = &flight.socket {
        builder = builder.capture_socket(socket);
    }
    builder.build().map_err(|error| Problem::usage(chain(&error)))
}

/// What the flags give to the guest, `args` its arguments with its name first.
pub fn grants(given: &Given, args: Vec<String>) -> Grants {
    let dirs = given
        .dirs
        .iter()
        .map(|dir| match dir.split_once("::") {
            Some((host, guest)) => (PathBuf::from(host), guest.to_owned()),
            None => (PathBuf::from(dir), dir.clone()),
        })
        .collect();
    let env = given
        .env
        .iter()
        .filter_map(|entry| match entry.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            None => std::env::var(entry).ok().map(|value| (entry.clone(), value)),
        })
        .collect();
    Grants { args, env, dirs, stdio: Stdio::Inherit, max_memory: given.max_memory }
}

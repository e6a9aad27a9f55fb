//! `sandscope capture`: asks a running host of this machine for a recording; `capture_remote` asks a collector's.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sandscope_host::capture::{self, CaptureError};
use sandscope_model::text::visible;

use crate::args::{CaptureArgs, CaptureMemory};
use crate::problem::{Problem, chain};

/// Has a host record, and writes what it recorded.
pub fn capture(args: &CaptureArgs) -> Result<ExitCode, Problem> {
    if args.memory != CaptureMemory::None {
        return Err(Problem::usage("hold the memory of a guest that runs")
            .next("Memory is kept where a guest traps: `serve --recordings DIR --memory stack`."));
    }
    if let Some(url) = &args.connect {
        return super::capture_remote::capture(url, args);
    }
    let socket = socket(args)?;
    let host = capture::list(&socket).map_err(|error| Problem::usage(chain(&error)))?;
    if args.alloc && !host.alloc {
        return Err(Problem::usage(
            "record allocations: guests report them from their start on or not at all",
        )
        .next("Start the host with `serve --alloc`."));
    }
    if args.hz.is_some_and(|hz| hz < host.hz) {
        eprintln!("sandscope: the host takes {} samples a second anyway", host.hz);
    }
    eprintln!("sandscope: recording {} for {:?}", visible(&args.workload), args.duration);
    let bytes = written(
        &args.out,
        |file| capture::record(&socket, &args.workload, args.duration, args.hz.unwrap_or(0.0), file),
        CaptureError::Write,
    )
    .map_err(|error| {
        let problem = Problem::usage(chain(&error));
        match error {
            CaptureError::Refused { .. } => problem.next(format!("It has {}.", workloads(&host.workloads))),
            CaptureError::Write(_) => problem.next("Choose another file with -o."),
            _ => problem,
        }
    })?;
    eprintln!("recording: {0}, {bytes} bytes  (sandscope open {0})", args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// Writes a file beside its place, for this user alone, and puts it there when it is whole.
pub(super) fn written<E>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<u64, E>,
    failed: fn(std::io::Error) -> E,
) -> Result<u64, E> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let done = options.open(&part).map_err(failed).and_then(|mut file| {
        let bytes = write(&mut file)?;
        file.flush().and_then(|()| std::fs::rename(&part, path)).map_err(failed)?;
        Ok(bytes)
    });
    if done.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    done
}

/// The socket that the flags name, or that of the only host.
fn socket(args: &CaptureArgs) -> Result<PathBuf, Problem> {
    if let Some(socket) = &args.socket {
        return Ok(socket.clone());
    }
    let directory = capture::directory().ok_or_else(|| {
        Problem::usage("find hosts: XDG_RUNTIME_DIR is not set")
            .next("Name the socket of a host with --socket; `serve --socket PATH` says where it is.")
    })?;
    let mut found = capture::sockets(&directory);
    if let Some(pid) = args.pid {
        found.retain(|(other, _)| *other == pid);
    }
    let mut hosts: Vec<_> =
        found.into_iter().filter_map(|(pid, path)| Some((pid, capture::list(&path).ok()?, path))).collect();
    match hosts.len() {
        1 => Ok(hosts.swap_remove(0).2),
        0 => Err(Problem::usage(format!("find a host in {}", directory.display()))
            .next("Start one with `sandscope serve`, or name its socket with --socket.")),
        n => {
            let all: Vec<String> = hosts
                .iter()
                .map(|(pid, host, _)| format!("{pid} ({}: {})", host.region, workloads(&host.workloads)))
                .collect();
            let next = format!("Choose one with --pid: {}.", all.join(", "));
            Err(Problem::usage(format!("choose between {n} hosts")).next(next))
        }
    }
}

fn workloads(all: &[String]) -> String {
    if all.is_empty() { "no workload yet".to_owned() } else { all.join(", ") }
}

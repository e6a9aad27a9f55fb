//! `sandscope run`: a guest to its end; stdio and exit code are the guest's.

use std::path::Path;
use std::process::ExitCode;

use sandscope_host::runner::{Ended, GuestFile, RunError, Runner};

use super::trap;
use crate::args::{Memory, RunArgs};
use crate::problem::Problem;

/// Exit code for a trap: what a shell shows for SIGABRT, as the wasmtime CLI has it.
const TRAPPED: u8 = 134;
/// Exit code after Ctrl-C: what a shell shows for SIGINT.
const INTERRUPTED: u8 = 130;

/// Runs the guest; the process's exit code.
pub fn run(args: &RunArgs) -> Result<ExitCode, Problem> {
    let [module, guest_args @ ..] = args.guest.as_slice() else {
        return Err(Problem::usage("run nothing").next("Name a .wasm file."));
    };
    let file = GuestFile::read(
        Path::new(module),
        args.identity.workload.as_deref(),
        args.identity.workload_version.as_deref(),
    )?;
    let dumped = super::Dumped {
        record: args.memory.unwrap_or(Memory::Stack),
        recordings: args.memory.unwrap_or(Memory::None),
    };
    let scope = super::scope(&args.identity, &args.cache, dumped, &args.flight)?;
    let runner = Runner::new(&scope)?;
    let command = runner.command(&file)?;
    let grants = super::grants(&args.given, args.guest.clone());
    let (invoke, guest_args) = (args.invoke.clone(), guest_args.to_vec());
    let runtime = crate::runtime()?;
    let ended = runtime.block_on(async move {
        // The guest has a worker of its own, so that Ctrl-C is seen while it computes.
        let guest = tokio::spawn(async move {
            match &invoke {
                Some(function) => command.invoke(function, &guest_args, &grants).await,
                None => command.run(&grants).await,
            }
        });
        tokio::select! {
            ended = guest => Some(ended),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    // A guest that is still computing, or blocked in a read, is not waited for.
    runtime.shutdown_background();
    scope.shutdown();
    let ended: Result<Ended, RunError> = match ended {
        None => return Ok(ExitCode::from(INTERRUPTED)),
        Some(Ok(ended)) => ended,
        Some(Err(panic)) => return Err(Problem::internal(format!("run the guest: {panic}"))),
    };
    match ended? {
        Ended::Exit(code) => Ok(exit(code)),
        Ended::Returned(values) => {
            for value in values {
                println!("{value}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Ended::Trapped(report) => {
            trap::print(&report, &file);
            if let Some(path) = &args.identity.record {
                eprintln!("recording: {0}  (sandscope open {0})", path.display());
            }
            Ok(ExitCode::from(TRAPPED))
        }
    }
}

/// A guest's code as the process's: the low byte, as the operating system takes it, but never 0 for a failure.
fn exit(code: i32) -> ExitCode {
    let byte = (code & 0xff) as u8;
    ExitCode::from(if code != 0 && byte == 0 { 1 } else { byte })
}
